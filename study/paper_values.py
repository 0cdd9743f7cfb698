"""The values of a run that stand beside a paper's, arm by arm, with what is behind them.

How trials are averaged over replicates and paired stands in `study.comparisons`; here it is said which trials make an
arm and where a number is found. What a run does not hold is an empty list, never a zero.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, nan
from typing import Any, final

import numpy as np
import pandas as pd

from study.comparisons import cells, gain
from study.designs import Design, design, key, natural_order
from study.effects import Mean, Paired, mean_interval
from study.frames import plain, rows_of
from study.ledger import Ledger
from study.report.wording import epsilon_text, value_text
from study.results import Results

LOGITS = ("temperature", "alpha", "kl_scale", "ensemble", "repeat_teacher", "generations")
FEATURES = (
    *("beta", "beta_reduction", "beta_divided", "feature_distance", "feature_normalise", "feature_times"),
    *("translator", "translator_shared"),
)
NETWORK = ("arch", "dynamics", "damping", "gain", "norm", "epochs")
DAMPING = ("dynamics", "damping", "damping_decay")
BY_METHOD = ("method", *LOGITS, *FEATURES, *NETWORK)
BY_HORIZON = ("method", "horizon", "discretisation", *BY_METHOD[1:])
BY_DYNAMICS = (*DAMPING, "norm", "arch", "gain", "horizon", "epochs")
"""Settings that tell arms apart, the most telling first; named where the run varies them, averaged over otherwise."""

TEACHING = ("method", *LOGITS, *FEATURES, "teacher")
"""Settings in which a student may differ from the undistilled one it is paired with."""

MANY = 16
"""A setting with more levels than this was searched, not compared: its trials are averaged, not listed."""


@final
@dataclass(frozen=True)
class Value:
    """The mean of one arm over its replicates."""

    arm: str
    mean: float | None
    low: float | None
    """Lower end of the 95 % interval; None without replicates that differ."""
    high: float | None
    models: int
    replicates: str
    """How many of what: `5 seeds`."""
    split: str
    """Where it was measured; empty where no images were."""
    unit: str
    """`rate` (a fraction) or `number`."""


@final
@dataclass(frozen=True)
class Difference:
    """One arm less the arm it is paired with, all other settings and the seed equal."""

    arm: str
    points: float | None
    """In points of a per cent."""
    low: float | None
    high: float | None
    relative_percent: float | None
    """In per cent of the arm it is paired with."""
    relative_low: float | None
    relative_high: float | None
    detectable_points: float | None
    """Smallest true difference that so many replicates find four times in five (S31)."""
    pairs: int
    replicates: str
    split: str


Entry = Value | Difference


def count(n: int, word: str) -> str:
    """Write a number of things."""
    return f"{n} {word}{'s' if n != 1 else ''}"


def _replicates(of: Design, n: int) -> str:
    return count(n, of.unit) if of.unit else "no replicates"


def _design(results: Results, epsilon: float | None = None) -> Design:
    """Read the run as an experiment; trials that say nothing of damping have none."""
    of = design(results, epsilon)
    return _with_column(of, "dynamics", [name or "plain" for name in of.table["dynamics"]])


def _armed(of: Design, keys: Sequence[str], base: Callable[[Mapping[str, Any]], bool] | None = None) -> Design:
    """Add the column `arm`; trials that `base` accepts are all of the arm BASE."""
    shown = [keys[0], *(name for name in keys[1:] if 1 < len(of.levels.get(name, ())) <= MANY)]
    rows = [(row, bool(base and base(row))) for row in rows_of(of.table)]
    names = [BASE if is_base else _name(row, shown) for row, is_base in rows]
    places = {name: [_place(of, n, row[n]) for n in shown] for name, (row, _) in zip(names, rows, strict=True)}
    order = tuple(sorted(places, key=lambda name: places[name]))
    return replace(_with_column(of, "arm", names), levels={**of.levels, "arm": order})


BASE = "\0base"
"""Arm of the trials that others are paired with; no arm is called so."""


def _place(of: Design, name: str, value: Any) -> tuple[int, tuple[int, float, str]]:
    """Order levels as the run declares them."""
    declared = [key(level) for level in of.levels.get(name, ())]
    return declared.index(key(value)) if key(value) in declared else -1, natural_order(key(value))


def _name(row: Mapping[str, Any], shown: Sequence[str]) -> str:
    rest = [f"{name} {value_text(key(row[name]))}" for name in shown[1:] if key(row[name]) is not None]
    return ", ".join([value_text(key(row[shown[0]])), *rest])


def _with_column(of: Design, name: str, values: Sequence[Any]) -> Design:
    return replace(of, table=of.table.assign(**{name: pd.Series(list(values), index=of.table.index, dtype=object)}))


def _values(of: Design, measure: str, split: str, unit: str = "rate", suffix: str = "") -> list[Entry]:
    """Average a column of the table over each arm; arms without a finite value are left out."""
    measured = replace(of, table=of.table[[isfinite(float(value)) for value in of.table[measure]]])
    found = [(cell, cell.means[measure]) for cell in cells(measured, ("arm",), (measure,))]
    return [_value(of, cell.levels["arm"] + suffix, mean, len(cell.trials), split, unit) for cell, mean in found]


def _value(of: Design, arm: str, mean: Mean, models: int, split: str, unit: str) -> Value:
    value, low, high = (plain(number) for number in mean[:3])
    return Value(arm, value, low, high, models, _replicates(of, mean.n), split, unit)


def _differences(of: Design, measure: str, split: str, free: Sequence[str], suffix: str = "") -> list[Entry]:
    """Pair each arm with BASE at equal sampled settings, those of `free` excepted."""
    held = replace(of, sampled=tuple(name for name in of.sampled if name not in free))
    found = [(name, gain(held, measure, "arm", (name, BASE))) for name in of.levels["arm"] if name != BASE]
    return [_difference(of, name + suffix, g.over_seeds, len(g.pairs), split) for name, g in found if g.pairs]


def _difference(of: Design, arm: str, paired: Paired, pairs: int, split: str) -> Difference:
    points, relative = paired.difference, paired.relative
    return Difference(
        arm=arm,
        points=_percent(points.value),
        low=_percent(points.low),
        high=_percent(points.high),
        relative_percent=_percent(relative.value),
        relative_low=_percent(relative.low),
        relative_high=_percent(relative.high),
        detectable_points=_percent(paired.detectable),
        pairs=pairs,
        replicates=_replicates(of, points.n),
        split=split,
    )


def _percent(fraction: float) -> float | None:
    return plain(100 * fraction)


def _is_undistilled(row: Mapping[str, Any]) -> bool:
    return not row["distilled"]


def _is_plain(row: Mapping[str, Any]) -> bool:
    return row["dynamics"] == "plain"


def _gain_of_teaching(results: Results) -> list[Entry]:
    of = _armed(_design(results), BY_METHOD, _is_undistilled)
    return _differences(of, "accuracy", of.accuracy_split, TEACHING)


def _gain_by_teacher(results: Results) -> list[Entry]:
    of = _design(results)
    of = _with_column(of, "teachers", [_teachers(results, int(trial)) for trial in of.table["trial"]])
    of = _armed(of, ("teachers", *BY_METHOD), _is_undistilled)
    return _differences(of, "accuracy", of.accuracy_split, TEACHING)


def _teachers(results: Results, trial: int) -> str:
    archs = {str(row["teacher"]): str(row["arch"]) for row in rows_of(results.teachers)}
    config = results.configs.get(trial, {})
    keys = [str(name).removeprefix("teachers/") for name in config.get("teachers") or [config.get("teacher")] if name]
    return "+".join(dict.fromkeys(archs.get(name, "unknown teacher") for name in keys)) or "no teacher"


def _gain_of_damping(results: Results) -> list[Entry]:
    of = _armed(_design(results), BY_DYNAMICS, _is_plain)
    return _differences(of, "accuracy", of.accuracy_split, DAMPING)


def _epsilons(results: Results) -> list[float]:
    rows = results.robustness[results.robustness["kind"] == "student"]
    return sorted({float(epsilon) for epsilon in rows["epsilon"]})


def _robust_gain(results: Results) -> list[Entry]:
    found: list[Entry] = []
    for epsilon in _epsilons(results):
        of = _armed(_design(results, epsilon), BY_METHOD, _is_undistilled)
        found += _differences(of, "robust_accuracy", "test", TEACHING, f", epsilon {epsilon_text(epsilon)}")
    return found


def _accuracy(results: Results, keys: Sequence[str]) -> list[Entry]:
    of = _armed(_design(results), keys)
    return _values(of, "accuracy", of.accuracy_split)


def _error(results: Results) -> list[Entry]:
    of = _design(results)
    of = _with_column(of, "error", [1 - value for value in of.table["accuracy"]])
    return _values(_armed(of, BY_METHOD), "error", of.accuracy_split)


def _robust(results: Results, keys: Sequence[str]) -> list[Entry]:
    found: list[Entry] = []
    for epsilon in _epsilons(results):
        of = _armed(_design(results, epsilon), keys)
        found += _values(of, "robust_accuracy", "test", suffix=f", epsilon {epsilon_text(epsilon)}")
    return found


def _by_horizon(results: Results, measure: Callable[[Results], list[Entry]]) -> list[Entry]:
    """Give a measure only where the run compares horizons."""
    return measure(results) if 1 < len(_design(results).levels.get("horizon", ())) <= MANY else []


def _teacher_rates(results: Results, *, error: bool) -> list[Entry]:
    rates: dict[str, list[float]] = {}
    for row in rows_of(results.teachers):
        rate = row["accuracy"]
        if rate is not None:
            rates.setdefault(str(row["arch"]), []).append(1 - rate if error else rate)
    return [_of_teachers(arch, mean_interval(known)) for arch, known in sorted(rates.items())]


def _of_teachers(arch: str, mean: Mean) -> Value:
    value, low, high = (plain(number) for number in mean[:3])
    return Value(arch, value, low, high, mean.n, count(mean.n, "teacher"), "val_search", "rate")


def _ensemble_error(results: Results) -> list[Entry]:
    """Give the error of the teachers' mean logits; students of the same teachers are no replicates."""
    rates: dict[tuple[str, ...], float] = {}
    for row in rows_of(_design(results).table):
        keys = tuple(dict.fromkeys(results.configs[row["trial"]].get("teachers") or ()))
        if row["ensemble_accuracy"] is not None and len(keys) > 1:
            rates[keys] = 1 - row["ensemble_accuracy"]
    teachers = [(f"{len(keys)} teachers", len(keys), rate) for keys, rate in sorted(rates.items())]
    return [Value(name, rate, None, None, n, "no replicates", "val_search", "rate") for name, n, rate in teachers]


def _metrics(results: Results, trial: int) -> dict[str, Any]:
    """Give all metrics of a completed trial, also those that are no column of a table."""
    return (Ledger(results.path).outcome(f"trials/{trial:06d}") or {}).get("metrics") or {}


def _by_generation(results: Results) -> list[Entry]:
    of = _armed(_design(results), BY_METHOD)
    chains = [_metrics(results, int(trial)).get("generations") or [] for trial in of.table["trial"]]
    found: list[Entry] = []
    for arm in of.levels["arm"]:
        own = [chain if name == arm else [] for chain, name in zip(chains, of.table["arm"], strict=True)]
        for place in range(max(map(len, own), default=0)):
            errors = [1 - float(chain[place]["accuracy"]) if place < len(chain) else nan for chain in own]
            found += _values(_with_column(of, "error", errors), "error", "val_search", suffix=f", network {place + 1}")
    return found


def _parameters(results: Results) -> list[Entry]:
    return _values(_armed(_design(results), BY_METHOD), "parameter_count", "", "number")


def _learned_damping(results: Results) -> list[Entry]:
    """Average the damping over a network's blocks; damping that was given is no finding and is left out."""
    of = _armed(_design(results), BY_DYNAMICS)
    found = []
    for row in rows_of(of.table):
        damping = _metrics(results, int(row["trial"])).get("damping") or []
        learned = row["damping"] in (None, "learned") and damping
        found.append(sum(damping) / len(damping) if learned else nan)
    return _values(_with_column(of, "learned", found), "learned", "", "number")


def _probed(
    results: Results, name: str, read: Callable[[Any], float | None], keys: Sequence[str], unit: str, suffix: str = ""
) -> list[Entry]:
    """Average one number of a probe; students in whose probe it is missing count for nothing."""
    of = _armed(_design(results), keys)
    probes = [results.probes.get(f"student-{int(trial):06d}") or {} for trial in of.table["trial"]]
    numbers = [read(probe[name]) if probe.get(name) else None for probe in probes]
    split = "/".join(sorted({str(probe.get("split", "test")) for probe in probes if probe.get(name)}))
    of = _with_column(of, "probed", [nan if number is None else float(number) for number in numbers])
    return _values(of, "probed", split, unit, suffix)


def _under_noise(results: Results, kind: str) -> list[Entry]:
    def mean(entries: Sequence[Mapping[str, Any]]) -> float | None:
        rates = [float(entry["accuracy"]) for entry in entries if entry["noise"] == kind]
        return sum(rates) / len(rates) if rates else None

    return _probed(results, "noise", mean, BY_DYNAMICS, "rate")


def _under_attack(results: Results, name: str) -> list[Entry]:
    def rate(entries: Sequence[Mapping[str, Any]], epsilon: float) -> float | None:
        hits = [e["accuracy"] for e in entries if e["attack"] == name and float(e["epsilon"]) == epsilon]
        return hits[0] if hits else None

    tried = [entry for probe in results.probes.values() for entry in probe.get("published_attacks") or []]
    found: list[Entry] = []
    for epsilon in sorted({float(entry["epsilon"]) for entry in tried if entry["attack"] == name}):
        suffix = f", epsilon {epsilon_text(epsilon)}"
        found += _probed(results, "published_attacks", partial(rate, epsilon=epsilon), BY_DYNAMICS, "rate", suffix)
    return found


def _loss_rise(landscape: Mapping[str, Any]) -> float | None:
    distances, median = landscape["distances"], landscape["loss"]["median"]
    if min(distances) > 0 or max(distances) < 1:
        return None
    return float(np.interp(1, distances, median) - np.interp(0, distances, median))


def _l1(reconstruction: Mapping[str, Any]) -> float | None:
    return reconstruction.get("l1")


MEASURES: dict[str, Callable[[Results], list[Entry]]] = {
    "gain_of_teaching": _gain_of_teaching,
    "gain_by_teacher": _gain_by_teacher,
    "teacher_accuracy": partial(_teacher_rates, error=False),
    "accuracy_by_horizon": partial(_by_horizon, measure=partial(_accuracy, keys=BY_HORIZON)),
    "robust_gain": _robust_gain,
    "robust_by_horizon": partial(_by_horizon, measure=partial(_robust, keys=BY_HORIZON)),
    "clean_accuracy": partial(_accuracy, keys=BY_DYNAMICS),
    "gain_of_damping": _gain_of_damping,
    **{f"noise:{kind}": partial(_under_noise, kind=kind) for kind in ("impulse", "speckle", "gaussian", "shot")},
    **{f"attack:{name}": partial(_under_attack, name=name) for name in ("fgsm", "i-fgsm", "pgd", "pgd-legacy")},
    "learned_damping": _learned_damping,
    "landscape": partial(_probed, name="landscape", read=_loss_rise, keys=BY_DYNAMICS, unit="number"),
    "error": _error,
    "teacher_error": partial(_teacher_rates, error=True),
    "ensemble_error": _ensemble_error,
    "error_by_generation": _by_generation,
    "parameters": _parameters,
    "reconstruction": partial(_probed, name="reconstruction", read=_l1, keys=BY_METHOD, unit="number"),
}
"""The measures by the name that a row of a paper gives."""
