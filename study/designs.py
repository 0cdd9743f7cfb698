"""A study read as an experiment: one table with a row per completed trial, its factors, its blocks and its measures.

Seeds and teachers are blocks, never factors. What the table says about them, cells, differences and effects, is worked
out in `study.comparisons`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, isfinite, nan
from typing import Any

import numpy as np
import pandas as pd

from study.results import Results, declared
from study.survivors import Survivors

BLOCKS = ("seed", "teacher")
DESIGNED = frozenset({"grid", "qmc", "random"})
"""Samplers that fix their points before the first result; any other is taken for adaptive."""
SETTINGS = (
    *("arch", "dynamics", "damping", "damping_decay", "gain", "norm", "blocks", "solver", "horizon"),
    *("discretisation", "steps", "step_size", "evaluations", "rtol"),
    *("method", "temperature", "alpha", "ensemble", "generations", "repeat_teacher", "epochs"),
)
"""Settings that are columns of the table whether they were sampled or not."""
DISCRETISATIONS = ("steps", "step_size", "evaluations")
TRAINED = ("student", "distill", "train")
"""Sections of a trial's settings that describe its training; `evaluate` and `attack` have keys of the same names."""
_TRIAL = ("nfe", "training_seconds", "parameter_count", "agreement", "ensemble_accuracy")
_PROBED = {
    "ece": ("calibration", "ece"),
    "nll": ("calibration", "nll"),
    "path_length": ("trajectory", "path_length"),
    "growth": ("trajectory", "growth"),
    "teacher_agreement": ("teacher", "agreement"),
    "teacher_kl": ("teacher", "kl"),
    "agreement_attacked": ("teacher", "agreement_attacked"),
    "kl_attacked": ("teacher", "kl_attacked"),
    "transfer": ("teacher", "transfer"),
    "reconstruction_l1": ("reconstruction", "l1"),
}
MEASURES = ("accuracy", "robust_accuracy", "adversarial_accuracy", *_TRIAL, *_PROBED, "noise_accuracy")


@dataclass(frozen=True)
class Contrast:
    """The one question a study named before its first trial."""

    measure: str
    """accuracy or robust_accuracy."""
    factor: str
    levels: tuple[Any, Any]
    """The difference is the first less the second."""
    where: Mapping[str, Any]


@dataclass(frozen=True)
class Design:
    """The completed trials as an experiment."""

    table: pd.DataFrame
    """A row per completed trial: trial, on_front, distilled, arm, SETTINGS, sampled parameters, blocks, MEASURES.

    distilled: whether anything but the labels was learned from. arm: what is held while the horizon changes (S13).
    """
    sampled: tuple[str, ...]
    """Every sampled parameter that some trial holds, seed and teacher among them."""
    factors: tuple[str, ...]
    """Sampled parameters with two levels or more, seed and teacher left out."""
    levels: Mapping[str, tuple[Any, ...]]
    """Levels of each factor and block, in the order of the space."""
    blocks: tuple[str, ...]
    """Those of seed and teacher that vary."""
    measures: tuple[str, ...]
    """Measures that some trial has."""
    sampler: str
    accuracy_split: str
    """test where every completed trial was attacked there, else val_search: the two are never mixed."""
    epsilon: float | None
    """Of robust_accuracy; None where nothing was attacked."""
    contrast: Contrast | None

    @property
    def adaptive(self) -> bool:
        """Whether points were chosen in view of results."""
        return self.sampler not in DESIGNED

    @property
    def unit(self) -> str | None:
        """What is replicated: seeds, else teachers, else nothing."""
        return self.blocks[0] if self.blocks else None


def design(results: Results, epsilon: float | None = None) -> Design:
    """Read a study as an experiment.

    Args:
        results: The study, in whatever state.
        epsilon: Where robust accuracy is taken; by default the study's own where it was attacked there, otherwise the
            smallest that was.

    Returns:
        The design; without a completed trial its table is empty.
    """
    attacked = sorted({e for m in results.survivors.values() for e in m.epsilons})
    own = results.study.get("epsilon") if epsilon is None else epsilon
    at = next((e for e in attacked if own is not None and isclose(e, float(own), rel_tol=1e-9)), None)
    at = at if at is not None else (attacked[0] if attacked and epsilon is None else None)
    complete = records(results.trials[results.trials["state"] == "COMPLETE"])
    on_test = {int(row["trial"]): _on_test(results, int(row["trial"]), at) for row in complete}
    split = "test" if complete and all(test for test in on_test.values()) else "val_search"
    rows = [_row(results, row, on_test[int(row["trial"])], split) for row in complete]
    sampled = tuple(dict.fromkeys(name for row in complete for name in results.params(int(row["trial"]))))
    levels = {name: _levels(results, name, rows) for name in sampled}
    names = tuple(dict.fromkeys(["trial", "on_front", "distilled", "arm", *SETTINGS, *sampled, *BLOCKS, *MEASURES]))
    return Design(
        table=pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names}),
        sampled=sampled,
        factors=tuple(name for name in sampled if name not in BLOCKS and len(levels[name]) > 1),
        levels=levels,
        blocks=tuple(name for name in BLOCKS if len(levels.get(name, ())) > 1),
        measures=tuple(name for name in MEASURES if any(isfinite(row[name]) for row in rows)),
        sampler=str(((results.study.get("space") or {}).get("sampler") or {}).get("name", "unknown")),
        accuracy_split=split,
        epsilon=at,
        contrast=_contrast((results.study.get("space") or {}).get("contrast")),
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give the rows of a table as mappings."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def key(value: Any) -> Any:
    """Make a level comparable: 1 and 1.0 are one level, True is another; what is missing is None."""
    if value is None or value is pd.NA or isinstance(value, list | dict):
        return None if value is None or value is pd.NA else repr(value)
    if isinstance(value, bool | np.bool_):
        return f"{bool(value)}".lower()
    if isinstance(value, int | float | np.number):
        number = float(f"{float(value):.12g}")
        return None if math.isnan(number) else int(number) if number.is_integer() else number
    return str(value)


def same(first: Any, second: Any) -> bool:
    """Tell whether two values are one level."""
    return key(first) == key(second)


def _row(results: Results, row: Mapping[str, Any], test: tuple[float, float] | None, split: str) -> dict[str, Any]:
    trial = int(row["trial"])
    point, settings = results.params(trial), results.settings(trial)
    flat = {k: v for section in TRAINED for k, v in (settings.get(section) or {}).items()}
    known = {name: flat.get(name) for name in SETTINGS} | point
    known |= {"seed": point.get("seed", settings.get("seed")), "teacher": point.get("teacher")}
    known |= {"trial": trial, "on_front": bool(row["on_front"])}
    known["distilled"], known["arm"] = _distilled(known), _arm(known)
    probe = results.probes.get(f"student-{trial:06d}") or {}
    numbers = {name: _number(row.get(name)) for name in ("adversarial_accuracy", *_TRIAL)}
    numbers |= {name: _number((probe.get(part) or {}).get(entry)) for name, (part, entry) in _PROBED.items()}
    numbers["accuracy"] = test[0] if test and split == "test" else _number(row["accuracy"])
    numbers["robust_accuracy"] = test[1] if test else nan
    heard = [_number(entry.get("accuracy")) for entry in probe.get("noise") or []]
    return known | numbers | {"noise_accuracy": float(np.mean(heard)) if heard else nan}


def _distilled(row: Mapping[str, Any]) -> bool:
    """Tell whether anything but the labels was learned from."""
    alpha = row.get("alpha")
    return row.get("method") not in (None, "none") and not (alpha is not None and float(alpha) == 0)


def _arm(row: Mapping[str, Any]) -> str:
    """Tell what is held while the horizon changes: steps, step_size or evaluations; else the solver is adaptive."""
    held = row.get("discretisation") or next((n for n in DISCRETISATIONS if row.get(n) is not None), None)
    return str(held or "adaptive")


def _on_test(results: Results, trial: int, epsilon: float | None) -> tuple[float, float] | None:
    """Give accuracy and robust accuracy on test; None before all shards were attacked."""
    model = results.survivors.get(f"student-{trial:06d}")
    if model is None or epsilon is None or not _whole(model) or not model.attacked_at(epsilon):
        return None
    return float(model.clean_correct.mean()), float(model.robust(epsilon).mean())


def _whole(model: Survivors) -> bool:
    return model.n > 0 and model.shards >= model.shards_expected


def _levels(results: Results, name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """List the values a parameter took, in the order of the space's choices, otherwise by size."""
    found = {key(row.get(name)): row.get(name) for row in rows if key(row.get(name)) is not None}
    choices = [key(value) for value in declared(results.study).get(name, {}).get("choices") or []]
    in_order = all(isinstance(at, str) for at in found) or not all(isinstance(at, int | float) for at in found)
    order = {at: place for place, at in enumerate(choices)} if in_order else {}
    return tuple(found[at] for at in sorted(found, key=lambda at: (order.get(at, len(order)), *natural_order(at))))


def natural_order(level: Any) -> tuple[int, float, str]:
    """Give a sort key for levels (as of `key`): missing and `none` first, numbers by size, then words."""
    if level is None or level == "none":
        return 0, 0.0, ""
    return (1, float(level), "") if isinstance(level, int | float) else (2, 0.0, str(level))


def _number(value: Any) -> float:
    return nan if value is None or value is pd.NA else float(value)


def _contrast(stored: Any) -> Contrast | None:
    if not isinstance(stored, dict) or len(stored.get("levels") or ()) != 2:
        return None
    first, second = stored["levels"]
    measure, factor = str(stored.get("measure")), str(stored.get("factor"))
    return Contrast(measure, factor, (first, second), dict(stored.get("where") or {}))
