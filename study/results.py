"""Load a study from its files, whatever state it is in: running, complete, interrupted, or crashed half-way.

Gives data frames with numbers as numbers, and the summary that `study.show --json` prints. What cannot be read is left
out and named in `Results.problems`. The format of every file stands in results/README.md.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from study.durable import read_json, read_lines
from study.errors import EnvironmentFault
from study.frames import rows_of, storable
from study.fronts import hypervolume, non_dominated
from study.ledger import Ledger
from study.statistics import wilson
from study.survivors import CARRIED, Survivors, read_survivors

_COUNTS = ("parameter_count", "steps", "evaluations", "n", "n_adversarial", "solve_failures")
_MEASURES = ("nfe", "training_seconds", "step_size", "agreement", "teacher_entropy", "ensemble_accuracy")
_METRICS = ("accuracy", "adversarial_accuracy", *_MEASURES, *_COUNTS)
TRIAL_COLUMNS = ("trial", "state", "reason", *_METRICS, "seed", "teacher", "on_front", "seconds", "started", "settings")
HISTORY_COLUMNS = ("job", "trial", "epoch", "step", "loss", "train_accuracy", "accuracy", "nfe", "seconds")
FRONT_COLUMNS = ("trial", "accuracy", "n", "adversarial_accuracy", "survivors", "n_adversarial", "epsilon", "nfe")
_RATES = ("clean_accuracy", "robust_accuracy", "robust_accuracy_of_correct")
_MODEL = ("model", "kind", "trial", "norm", "epsilon", "split")
_TALLIES = ("n", "clean_correct", "survivors", "shards", "shards_expected")
ROBUSTNESS_COLUMNS = (*_MODEL, *_RATES, "low", "high", "nfe", "attacks", *_TALLIES)
_TEXT = {"state", "reason", "teacher", "started", "settings", "job", "model", "kind", "norm", "split", "attacks"}
_BITS = {"on_front", "attacked"}
_WHOLE = {"trial", "epoch", "step", "seed", *_COUNTS, *_TALLIES}


@dataclass(frozen=True)
class Results:
    """What a study has left behind so far. Frames are sorted; treat them as read-only."""

    path: Path
    study: dict[str, Any]
    """study.json."""
    state: str
    """running, complete or interrupted."""
    events: list[dict[str, Any]]
    trials: pd.DataFrame
    """One row per trial: TRIAL_COLUMNS, then one `params_<name>` per sampled parameter and `proxy_<column>`."""
    history: pd.DataFrame
    """One row per epoch of a trial, twin or anchor: HISTORY_COLUMNS."""
    front: pd.DataFrame
    """One row per candidate measured on val_front: FRONT_COLUMNS, on_front, attacked."""
    robustness: pd.DataFrame
    """One row per attacked model and epsilon on test: ROBUSTNESS_COLUMNS."""
    teachers: pd.DataFrame
    twins: pd.DataFrame
    """Alpha = 0 twins after training: trial and the metrics of a trial."""
    baselines: dict[str, dict[str, Any]]
    """Outcomes of the other baselines (anchor, classical, classical-test) by name."""
    selection: dict[str, Any]
    """front/selection.json, empty before the front stage has ended."""
    survivors: dict[str, Survivors]
    """Bits per attacked model."""
    probes: dict[str, dict[str, Any]]
    """Metrics of every complete job under `probes`, by model; a quantity that was not measured is absent."""
    configs: dict[int, dict[str, Any]]
    """config.json per trial; empty where it is missing or damaged."""
    problems: list[str]
    """One sentence for each thing that could not be read."""

    def params(self, trial: int) -> dict[str, Any]:
        """Give the sampled point of a trial; parameters that were inactive are absent."""
        return dict(self.configs.get(trial, {}).get("params") or {})

    def settings(self, trial: int) -> dict[str, Any]:
        """Give the complete settings of a trial by section, the sampled point laid over them."""
        return dict(self.configs.get(trial, {}).get("settings") or {})

    def summary(self) -> dict[str, Any]:
        """Give the object of `study.show DIR --json`: rates are fractions, what is not known is null."""
        states = self.trials["state"].value_counts()
        counts = {name.lower(): int(states.get(name, 0)) for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
        on_front = self.front[self.front["on_front"]] if len(self.front) else self.front
        return {
            "study": self.study.get("name", self.path.name),
            "state": self.state,
            "trials": {("failed" if name == "fail" else name): count for name, count in counts.items()},
            "teachers": [{"arch": row["arch"], "accuracy": row["accuracy"]} for row in rows_of(self.teachers)],
            "front": [self._front_point(row) for row in rows_of(on_front)],
            "hypervolume": self.hypervolume(),
            "robustness": [_robustness_entry(row) for row in rows_of(self.robustness)],
        }

    def hypervolume(self) -> float | None:
        """Give the area the front covers on val_front above the stored reference point; None without a front."""
        if self.front.empty:
            return None
        points = self.front[["accuracy", "adversarial_accuracy"]].to_numpy(float)
        return hypervolume(points, self.study.get("reference_point") or (0.0, 0.0))

    def _front_point(self, row: dict[str, Any]) -> dict[str, Any]:
        trial = row["trial"]
        of_trial = rows_of(self.trials[self.trials["trial"] == trial])
        return {
            "trial": trial,
            "params": self.params(trial),
            "parameter_count": of_trial[0]["parameter_count"] if of_trial else None,
            "accuracy": row["accuracy"],
            "adversarial_accuracy": row["adversarial_accuracy"],
            "nfe": row["nfe"],
        }


def load(path: Path | str, state: str | None = None) -> Results:
    """Read a study's folder.

    Args:
        path: The study's own folder.
        state: Overrules what the files say; for the driver, which writes its report before it lets the lock go.

    Returns:
        Everything found; missing stages are empty frames.

    Raises:
        EnvironmentFault: If the folder is not that of a study.
    """
    folder = Path(path)
    study = _identity(folder)
    ledger, problems = Ledger(folder), []
    events = sorted(ledger.events(), key=lambda event: event.get("seq", 0))
    state = state or _state(ledger, events)
    configs = _configs(ledger, problems)
    selection = _tolerant(lambda: read_json(folder / "front" / "selection.json"), problems) or {}
    survivors = _selected(_survivors(ledger, problems), selection)
    outcomes = {key.removeprefix("baselines/"): o for key, o in _outcomes(ledger, "baselines", problems)}
    twins = {name: outcome for name, outcome in outcomes.items() if name.startswith("twin-")}
    return Results(
        path=folder,
        study=study,
        state=state,
        events=events,
        trials=_trials(ledger, configs, state, problems),
        history=_history(ledger),
        front=_front(ledger, selection, study.get("epsilon"), problems),
        robustness=_robustness(survivors.values()),
        teachers=_teachers(ledger, problems),
        twins=_frame([_outcome_row(outcome) | {"trial": _number(name)} for name, outcome in twins.items()], ("trial",)),
        baselines={name: outcome for name, outcome in outcomes.items() if name not in twins},
        selection=selection,
        survivors=survivors,
        probes=_probes(ledger, problems),
        configs=configs,
        problems=problems,
    )


def write_snapshots(path: Path | str, results: Results | None = None) -> list[Path]:
    """Write trials.parquet, history.parquet and robustness.parquet into the study's folder, each at once or not at all.

    Args:
        path: The study's folder.
        results: What to write; read from the folder where it is not given.

    Returns:
        The files written.
    """
    folder = Path(path)
    results = results or load(folder)
    frames = {"trials": results.trials, "history": results.history, "robustness": results.robustness}
    written = []
    for name, frame in frames.items():
        target = folder / f"{name}.parquet"
        beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        storable(frame).to_parquet(beside, index=False)
        written.append(beside.replace(target))
    return written


def _identity(folder: Path) -> dict[str, Any]:
    study = read_json(folder / "study.json")
    if study is not None:
        return study
    inside = sorted(p.parent.name for p in folder.glob("*/study.json")) if folder.is_dir() else []
    got = "has none" if folder.is_dir() else "is no folder"
    do = f"Give one of its studies: {', '.join(inside)}." if inside else "Give the folder that study.launch printed."
    raise EnvironmentFault(f"A study's folder holds study.json, but {folder} {got}. {do}")


def _state(ledger: Ledger, events: Sequence[Mapping[str, Any]]) -> str:
    marks = [event["type"] for event in events if event.get("type") in ("launched", "interrupted", "finished")]
    if marks and marks[-1] == "finished":
        return "complete"
    return "running" if ledger.driver() is not None else "interrupted"


def _outcomes(ledger: Ledger, prefix: str, problems: list[str]) -> list[tuple[str, dict[str, Any]]]:
    keys = ledger.keys(prefix) if (ledger.root / prefix).is_dir() else []
    found = [(key, _tolerant(lambda key=key: ledger.outcome(key), problems)) for key in keys]
    return [(key, outcome) for key, outcome in found if outcome is not None]


def _tolerant(read: Any, problems: list[str]) -> dict[str, Any] | None:
    try:
        return read()
    except EnvironmentFault as fault:
        problems.append(str(fault))
        return None


def _configs(ledger: Ledger, problems: list[str]) -> dict[int, dict[str, Any]]:
    """Give the config of every trial by its number; empty where it is missing or damaged."""
    keys = ledger.keys("trials") if (ledger.root / "trials").is_dir() else []
    numbered = [(key, _number(key)) for key in keys]
    return {n: _tolerant(lambda key=key: ledger.config(key), problems) or {} for key, n in numbered if n is not None}


def _trials(ledger: Ledger, configs: Mapping[int, Mapping[str, Any]], state: str, problems: list[str]) -> pd.DataFrame:
    outcomes = {_number(key): outcome for key, outcome in _outcomes(ledger, "trials", problems)}
    unfinished = {"state": "RUNNING" if state == "running" else "UNFINISHED"}
    rows = []
    for trial, config in configs.items():
        row: dict[str, Any] = {"trial": trial, "seed": config.get("seed"), "teacher": config.get("teacher")}
        row |= {"settings": json.dumps(config.get("settings") or {})}
        row |= {f"params_{name}": value for name, value in (config.get("params") or {}).items()}
        outcome = outcomes.get(trial)
        rows.append(row | (_outcome_row(outcome) if outcome else unfinished))
    frame = _frame(rows, TRIAL_COLUMNS)
    complete = (frame["state"] == "COMPLETE").to_numpy(bool)
    points = frame[["accuracy", "adversarial_accuracy"]].to_numpy(float)
    return frame.assign(on_front=non_dominated(points, complete)).sort_values("trial", ignore_index=True)


def _outcome_row(outcome: Mapping[str, Any]) -> dict[str, Any]:
    metrics = dict(outcome.get("metrics") or {})
    row = {name: metrics.get(name) for name in _METRICS} | (outcome.get("values") or {})
    row |= {f"proxy_{column}": share for column, share in (metrics.get("proxy") or {}).items()}
    return row | {name: outcome.get(name) for name in ("state", "reason", "seconds", "started")}


def _history(ledger: Ledger) -> pd.DataFrame:
    rows = []
    for path in sorted([*ledger.root.glob("trials/*/history.jsonl"), *ledger.root.glob("baselines/*/history.jsonl")]):
        job = path.parent.relative_to(ledger.root).as_posix()
        rows += [{**line, "job": job, "trial": _number(job)} for line in read_lines(path)]
    return _frame(rows, HISTORY_COLUMNS)[list(HISTORY_COLUMNS)]


def _front(ledger: Ledger, selection: Mapping[str, Any], epsilon: float | None, problems: list[str]) -> pd.DataFrame:
    rows = []
    for key, outcome in _outcomes(ledger, "front", problems):
        if outcome.get("state") != "COMPLETE":
            continue
        metrics = dict(outcome.get("metrics") or {})
        at = _at_epsilon(metrics.pop("robust", None) or [], epsilon)
        row = {"trial": _number(key), **{name: metrics.get(name) for name in ("accuracy", "n", "nfe")}}
        row |= {"adversarial_accuracy": at.get("robust_accuracy"), "survivors": at.get("survivors")}
        rows.append(row | {"n_adversarial": at.get("n"), "epsilon": at.get("epsilon")})
    frame = _frame(rows, FRONT_COLUMNS).sort_values("trial", ignore_index=True)
    measured = non_dominated(frame[["accuracy", "adversarial_accuracy"]].to_numpy(float))
    chosen = frame["trial"].isin(selection["front"]).to_numpy(bool) if "front" in selection else measured
    return frame.assign(on_front=chosen, attacked=frame["trial"].isin(selection.get("attacked", [])).to_numpy(bool))


def _at_epsilon(entries: Sequence[Mapping[str, Any]], epsilon: float | None) -> Mapping[str, Any]:
    """Give the entry at the study's headline epsilon, or the only one there is."""
    for entry in entries:
        if epsilon is not None and math.isclose(float(entry["epsilon"]), epsilon, rel_tol=1e-9):
            return entry
    return entries[0] if len(entries) == 1 else {}


def _selected(survivors: dict[str, Survivors], selection: Mapping[str, Any]) -> dict[str, Survivors]:
    """Leave out students, and their twins, that val_front no longer chooses: test may not choose them either (S18)."""
    attacked = selection.get("attacked")
    if attacked is None:
        return survivors
    return {name: bits for name, bits in survivors.items() if bits.trial is None or bits.trial in attacked}


def _survivors(ledger: Ledger, problems: list[str]) -> dict[str, Survivors]:
    """Read the bits of every attacked model; attacks under a specification that is no longer in force are not shown."""
    in_force = _in_force(ledger, "robustness", problems)
    shards: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for key, outcome in _outcomes(ledger, "robustness", problems):
        specification = (outcome.get("metrics") or {}).get("specification", in_force)
        if in_force is not None and specification != in_force:
            continue
        if outcome.get("state") == "COMPLETE":
            shards.setdefault(key.split("/")[1], []).append((ledger.folder(key), outcome["metrics"]))
        else:
            problems.append(f"{key} has no bits: {outcome.get('reason')}")
    found: dict[str, Survivors] = {}
    for name, parts in shards.items():
        model, faults = read_survivors(parts)
        problems += faults
        if model is not None:
            found[name] = model
    return found


def _robustness(models: Iterable[Survivors]) -> pd.DataFrame:
    order = {"student": 0, "twin": 1, "teacher": 2}
    ranked = sorted(models, key=lambda model: (order.get(model.kind, 3), model.trial or 0, model.model))
    rows = [_robustness_row(model, epsilon) for model in ranked for epsilon in model.epsilons]
    return _frame(rows, ROBUSTNESS_COLUMNS)


def _robustness_row(model: Survivors, epsilon: float) -> dict[str, Any]:
    n, clean, robust = model.n, int(model.clean_correct.sum()), int(model.robust(epsilon).sum())
    interval = wilson(robust, n)
    return {
        **{name: getattr(model, name) for name in ("model", "kind", "trial", "norm", "split", "nfe")},
        "epsilon": epsilon,
        "n": n,
        "clean_correct": clean,
        "survivors": robust,
        "clean_accuracy": clean / n if n else None,
        "robust_accuracy": robust / n if n else None,
        "robust_accuracy_of_correct": robust / clean if clean else None,
        "low": interval.low,
        "high": interval.high,
        "attacks": ",".join(name for name in model.columns if name != CARRIED),
        "shards": model.shards,
        "shards_expected": model.shards_expected,
    }


def _robustness_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model", "kind", "trial", "norm", "epsilon", *_RATES)
    attacks = str(row["attacks"]).split(",") if row["attacks"] else []
    interval = [row["low"], row["high"]]
    return {name: row[name] for name in names} | {"interval": interval, "n": row["n"], "attacks": attacks}


def _teachers(ledger: Ledger, problems: list[str]) -> pd.DataFrame:
    outcomes = [pair for pair in _outcomes(ledger, "teachers", problems) if pair[1].get("state") == "COMPLETE"]
    rows = [{**(o.get("metrics") or {}), "teacher": key.split("/")[1]} for key, o in outcomes]
    for row in rows:
        row["entropy"] = json.dumps(row.get("entropy") or {})
    return pd.DataFrame(rows, columns=None if rows else ["teacher", "arch", "accuracy", "entropy"])


def _in_force(ledger: Ledger, prefix: str, problems: list[str]) -> str | None:
    path = ledger.root / prefix / "specification.json"
    return (_tolerant(lambda: read_json(path), problems) or {}).get("specification")


def _probes(ledger: Ledger, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Give the metrics of every complete probe by its model; a specification no longer in force is not shown."""
    in_force = _in_force(ledger, "probes", problems)
    found = {}
    for key, outcome in _outcomes(ledger, "probes", problems):
        metrics = outcome.get("metrics") or {}
        if outcome.get("state") == "COMPLETE":
            if in_force in (None, metrics.get("specification", in_force)):
                model = key.split("/")[1]
                found[model] = {"model": model, **metrics}
        else:
            problems.append(f"{key} measured nothing: {outcome.get('reason')}")
    return found


def _number(key: str) -> int | None:
    digits = key.rpartition("/")[2].rpartition("-")[2]
    return int(digits) if digits.isdigit() else None


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Make a frame that has at least the given columns, counts and rates as numbers."""
    extra = sorted({str(name) for row in rows for name in row} - set(columns))
    frame = pd.DataFrame(list(rows), columns=[*columns, *extra])
    for name in columns:
        if name in _BITS:
            frame[name] = frame[name].eq(True)
        elif name not in _TEXT:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    for name in frame.columns:
        if name in _WHOLE or (str(name).startswith("params_") and _all_whole(frame[name])):
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("Int64")
    return frame


def _all_whole(column: pd.Series) -> bool:
    """Tell whether a column of numbers with gaps, which pandas reads as floats, held integers only."""
    values = column.dropna()
    return (
        pd.api.types.is_numeric_dtype(values)
        and not pd.api.types.is_bool_dtype(values)
        and bool((values % 1 == 0).all())
    )
