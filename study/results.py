"""Load a study from its files, whatever state it is in: running, complete, interrupted, or crashed half-way.

Gives data frames with numbers as numbers, and the summary that `study.show --json` prints. What cannot be read is left
out and named in `Results.problems`. The format of every file stands in results/README.md.
"""

import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from study.attacked import Attacked, keys_under, outcomes_under, read_attacked, tolerant
from study.audit import Audit, read_audit, share_of
from study.checks.verdicts import Trust
from study.columns import FRONT_COLUMNS, HISTORY_COLUMNS, METRICS, RATES, ROBUSTNESS_COLUMNS, TRIAL_COLUMNS
from study.controls import Controls, read_controls
from study.cube import Slice, read_cube
from study.documents import read_document
from study.durable import read_lines
from study.errors import EnvironmentFault
from study.feasibility import objections
from study.frames import frame_of, rows_of, storable
from study.fronts import hypervolume, non_dominated
from study.ledger import Ledger, by_number, last_mark
from study.probed import read_probes
from study.racing import joined
from study.records import Record, read_records
from study.statistics import wilson
from study.survivors import CARRIED, Survivors
from study.undistilled import KIND, UndistilledSearch, read_undistilled

BESIDE = ("random", "replicate", KIND)
"""Kinds of networks that stand beside the front and never on it."""


@dataclass(frozen=True)
class Results:
    """What a study has left behind so far. Frames are sorted; treat them as read-only."""

    path: Path
    study: dict[str, Any]
    """study.json."""
    state: str
    """running, complete, incomplete (its launch ended by itself, and left stages or crashed jobs) or interrupted."""
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
    """Bits per attacked model: chosen students, their twins, and teachers."""
    beside: dict[str, Survivors]
    """Bits of networks that are no candidates: students drawn at random (S19), replicates of the front (S28), and the
    chosen ones of the search without distillation (S8), which have no trial."""
    attacked: Attacked
    """All of them, with what the checks say."""
    probes: dict[str, dict[str, Any]]
    """Metrics of every complete job under `probes`, by model; a quantity that was not measured is absent."""
    records: list[Record]
    """Of attacked networks, for the explorer."""
    controls: Controls
    """The checks on trial."""
    audit: Audit | None
    """Of early stopping; None where no trial reached a rung."""
    cube: list[Slice]
    """Train solver x attack solver x scoring solver of the pinned models."""
    undistilled: UndistilledSearch
    """The search without distillation, whose networks are no trials."""
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
            "infeasible": [{"trial": row["trial"], "reason": row["infeasible"]} for row in rows_of(self.infeasible())],
            "front": [self._front_point(row) for row in rows_of(on_front)],
            "hypervolume": self.hypervolume(),
            "robustness": [_robustness_entry(row) for row in rows_of(self.robustness)],
        }

    def infeasible(self) -> pd.DataFrame:
        """Give the trials that failed a check and so cannot be on the front (S16); `infeasible` says why."""
        return self.trials[self.trials["infeasible"].notna()]

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
            "verdict": self._verdict_on_test(trial),
        }

    def _verdict_on_test(self, trial: int) -> str | None:
        """Say what the checks think of a student's robust accuracy at the study's epsilon; None before test."""
        epsilon, own = self.study.get("epsilon"), self.survivors.get(f"student-{trial:06d}")
        return None if own is None or epsilon is None else self.attacked.trust_of(own.model, float(epsilon)).word


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
    ledger = Ledger(folder)
    problems = [f"{name!a} is a link or has no job's name; it was not looked into" for name in ledger.strays()]
    events = sorted(ledger.events(), key=_sequence)
    state = state or _state(ledger, events)
    configs = _configs(ledger, study, problems)
    selection = tolerant(lambda: ledger.document("front/selection.json"), problems) or {}
    trials, attacked = _trials(ledger, configs, state, problems), read_attacked(ledger, problems)
    survivors, undistilled = _selected(attacked.survivors, selection), read_undistilled(ledger, problems)
    beside = {name: bits for name, bits in attacked.survivors.items() if bits.kind in BESIDE}
    outcomes = {key.removeprefix("baselines/"): o for key, o in outcomes_under(ledger, "baselines", problems)}
    twins = {name: outcome for name, outcome in outcomes.items() if name.startswith("twin-")}
    return Results(
        path=folder,
        study=study,
        state=state,
        events=events,
        trials=trials,
        history=_history(ledger),
        front=_front(_candidates(ledger, trials, problems), selection, study.get("epsilon")),
        robustness=_robustness(survivors.values(), attacked),
        teachers=_teachers(ledger, problems),
        twins=frame_of(
            [_outcome_row(outcome) | {"trial": _number(name)} for name, outcome in twins.items()], ("trial",)
        ),
        baselines={name: outcome for name, outcome in outcomes.items() if name not in twins},
        selection=selection,
        survivors=survivors,
        beside={name: bits for name, bits in beside.items() if bits.kind != KIND or undistilled.chooses(bits)},
        attacked=attacked,
        probes=read_probes(ledger, problems),
        records=read_records(ledger, problems),
        controls=read_controls(ledger, problems),
        audit=read_audit(ledger, problems, share=share_of(study)),
        cube=read_cube(ledger, problems),
        undistilled=undistilled,
        configs=configs,
        problems=list(dict.fromkeys(problems)),
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
        beside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}.tmp")
        storable(frame).to_parquet(beside, index=False)
        written.append(beside.replace(target))
    return written


def _identity(folder: Path) -> dict[str, Any]:
    study = read_document(folder / "study.json")
    if study is not None:
        return study
    inside = sorted(p.parent.name for p in folder.glob("*/study.json")) if folder.is_dir() else []
    got = "has none" if folder.is_dir() else "is no folder"
    do = f"Give one of its studies: {', '.join(inside)}." if inside else "Give the folder that study.launch printed."
    raise EnvironmentFault(f"A study's folder holds study.json, but {folder} {got}. {do}")


def _sequence(event: Mapping[str, Any]) -> int:
    number = event.get("seq")
    return number if isinstance(number, int) else 0


def _state(ledger: Ledger, events: Sequence[Mapping[str, Any]]) -> str:
    last = last_mark(events).get("type")
    if last == "finished":
        return "complete"
    if ledger.driver() is not None:
        return "running"
    return "incomplete" if last == "ended" else "interrupted"


def declared(study: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Give the parameters of a study's space by name, as they are stored."""
    return (study.get("space") or {}).get("space") or {}


def _configs(ledger: Ledger, study: Mapping[str, Any], problems: list[str]) -> dict[int, dict[str, Any]]:
    """Give the config of every trial by its number; empty where it is missing or damaged."""
    numbers = {name for name, each in declared(study).items() if each.get("kind") in ("float", "int")}
    found = {n: tolerant(lambda key=key: ledger.config(key), problems) or {} for n, key in _trial_keys(ledger).items()}
    for trial, config in found.items():
        point = config.get("params") or {}
        if odd := sorted(name for name in numbers & point.keys() if isinstance(point[name], str | bool)):
            problems.append(f"trials/{trial:06d} has no number as {odd[0]!a}, as its space declares")
            found[trial] = {}
    return found


def _trial_keys(ledger: Ledger) -> dict[int, str]:
    """Give the job of every trial by its number."""
    return by_number(keys_under(ledger, "trials"), "trials")


def _trials(ledger: Ledger, configs: Mapping[int, Mapping[str, Any]], state: str, problems: list[str]) -> pd.DataFrame:
    keys = _trial_keys(ledger)
    outcomes = {n: tolerant(lambda key=key: ledger.outcome(key), problems) for n, key in keys.items()}
    unfinished = {"state": "RUNNING" if state == "running" else "UNFINISHED"}
    rows = []
    for trial, config in configs.items():
        row: dict[str, Any] = {"trial": trial, "seed": config.get("seed"), "teacher": config.get("teacher")}
        row |= {"settings": json.dumps(config.get("settings") or {})}
        row |= {f"params_{name}": value for name, value in (config.get("params") or {}).items()}
        rows.append(row | (_outcome_row(outcome) if (outcome := outcomes.get(trial)) else unfinished))
    frame = frame_of(rows, TRIAL_COLUMNS)
    feasible = ((frame["state"] == "COMPLETE") & frame["infeasible"].isna()).to_numpy(bool)
    points = frame[["accuracy", "adversarial_accuracy"]].to_numpy(float)
    return frame.assign(on_front=non_dominated(points, feasible)).sort_values("trial", ignore_index=True)


def _outcome_row(outcome: Mapping[str, Any]) -> dict[str, Any]:
    metrics = dict(outcome.get("metrics") or {})
    row = {name: metrics.get(name) for name in METRICS} | (outcome.get("values") or {})
    row |= {f"proxy_{column}": share for column, share in (metrics.get("proxy") or {}).items()}
    row["infeasible"] = "; ".join(objections(outcome)) or None
    return row | {name: outcome.get(name) for name in ("state", "reason", "seconds", "started")}


def _history(ledger: Ledger) -> pd.DataFrame:
    rows = []
    for job in [*keys_under(ledger, "baselines"), *_trial_keys(ledger).values()]:
        lines = read_lines(ledger.folder(job) / "history.jsonl")
        rows += [{**line, "job": job, "trial": _number(job)} for line in lines]
    return frame_of(rows, HISTORY_COLUMNS)[list(HISTORY_COLUMNS)]


def _front(
    candidates: Mapping[int | None, Mapping[str, Any]], selection: Mapping[str, Any], epsilon: float | None
) -> pd.DataFrame:
    rows = []
    for trial, metrics in candidates.items():
        at = _at_epsilon(metrics.get("robust") or [], epsilon)
        row = {"trial": trial, **{name: metrics.get(name) for name in ("accuracy", "n", "nfe")}}
        row |= {"adversarial_accuracy": at.get("robust_accuracy"), "survivors": at.get("survivors")}
        rows.append(row | {"n_adversarial": at.get("n"), "epsilon": at.get("epsilon")})
    frame = frame_of(rows, FRONT_COLUMNS).sort_values("trial", ignore_index=True)
    measured = non_dominated(frame[["accuracy", "adversarial_accuracy"]].to_numpy(float))
    chosen = frame["trial"].isin(selection["front"]).to_numpy(bool) if "front" in selection else measured
    return frame.assign(on_front=chosen, attacked=frame["trial"].isin(selection.get("attacked", [])).to_numpy(bool))


def _candidates(ledger: Ledger, trials: pd.DataFrame, problems: list[str]) -> dict[int | None, Mapping[str, Any]]:
    """Give what was measured on val_front, by trial: whole, or in parts (see `study.racing`) of which none is missing.

    Candidates that left the race stand in selection.json alone: their robust accuracy is not that of all images. A
    trial that failed a check is none, whatever was measured of it (S16).
    """
    barred = set(trials[trials["infeasible"].notna()]["trial"])
    whole: dict[int | None, Mapping[str, Any]] = {}
    raced: dict[int | None, list[Mapping[str, Any]]] = {}
    for key, outcome in outcomes_under(ledger, "front", problems):
        network = key.split("/")[1]
        if outcome.get("state") == "COMPLETE" and network.isdigit():  # the undistilled baseline's bear its name
            trial, metrics = int(network), outcome.get("metrics") or {}
            if key.count("/") > 1:
                raced.setdefault(trial, []).append(metrics)
            else:
                whole[trial] = metrics
    joint = {trial: joined(parts) for trial, parts in raced.items()}
    found = {trial: metrics for trial, metrics in joint.items() if metrics is not None} | whole
    return {trial: metrics for trial, metrics in found.items() if trial not in barred}


def _at_epsilon(entries: Sequence[Mapping[str, Any]], epsilon: float | None) -> Mapping[str, Any]:
    """Give the entry at the study's headline epsilon, or the only one there is."""
    for entry in entries:
        if epsilon is not None and math.isclose(float(entry["epsilon"]), epsilon, rel_tol=1e-9):
            return entry
    return entries[0] if len(entries) == 1 else {}


def _selected(survivors: Mapping[str, Survivors], selection: Mapping[str, Any]) -> dict[str, Survivors]:
    """Leave out students, and their twins, that val_front no longer chooses: test may not choose them either (S18)."""
    shown = {name: bits for name, bits in survivors.items() if bits.kind not in BESIDE}
    attacked = selection.get("attacked")
    if attacked is None:
        return shown
    return {name: bits for name, bits in shown.items() if bits.trial is None or bits.trial in attacked}


def _robustness(models: Iterable[Survivors], attacked: Attacked) -> pd.DataFrame:
    order = {"student": 0, "twin": 1, "teacher": 2}
    ranked = sorted(models, key=lambda model: (order.get(model.kind, 3), model.trial or 0, model.model))
    rows = [_robustness_row(m, epsilon, attacked.trust_of(m.model, epsilon)) for m in ranked for epsilon in m.epsilons]
    return frame_of(rows, ROBUSTNESS_COLUMNS)


def _robustness_row(model: Survivors, epsilon: float, trust: Trust) -> dict[str, Any]:
    n, clean, robust = model.n, int(model.clean_correct.sum()), int(model.robust(epsilon).sum())
    return {
        **{name: getattr(model, name) for name in ("model", "kind", "trial", "norm", "split", "nfe")},
        "epsilon": epsilon,
        "n": n,
        "clean_correct": clean,
        "survivors": robust,
        "clean_accuracy": clean / n if n else None,
        "robust_accuracy": robust / n if n else None,
        "robust_accuracy_of_correct": robust / clean if clean else None,
        **wilson(robust, n)._asdict(),
        "verdict": trust.word,
        "reasons": json.dumps(trust.reasons),
        "attacks": ",".join(name for name in model.columns if name != CARRIED),
        "shards": model.shards,
        "shards_expected": model.shards_expected,
    }


def _robustness_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("model", "kind", "trial", "norm", "epsilon", *RATES)
    attacks = str(row["attacks"]).split(",") if row["attacks"] else []
    found = {"interval": [row["low"], row["high"]], "n": row["n"], "attacks": attacks, "verdict": row["verdict"]}
    return {name: row[name] for name in names} | found | {"reasons": json.loads(row["reasons"])}


def _teachers(ledger: Ledger, problems: list[str]) -> pd.DataFrame:
    outcomes = [pair for pair in outcomes_under(ledger, "teachers", problems) if pair[1].get("state") == "COMPLETE"]
    rows = [{**(o.get("metrics") or {}), "teacher": key.split("/")[1]} for key, o in outcomes]
    for row in rows:
        row |= {"arch": row.get("arch"), "accuracy": row.get("accuracy"), "n": row.get("n")}
        row["entropy"] = json.dumps(row.get("entropy") or {})
    return pd.DataFrame(rows, columns=None if rows else ["teacher", "arch", "accuracy", "entropy"])


def _number(key: str) -> int | None:
    digits = key.rpartition("/")[2].rpartition("-")[2]
    return int(digits) if digits.isdigit() else None
