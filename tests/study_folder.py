"""Write a synthetic study folder in the exact format of results/README.md, without training anything.

The numbers are drawn from smooth made-up laws so that pictures look like a real study; survivor bits are drawn per
image so that a student and its twin are correlated, as real ones are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEACHER = "ab12cd34ef567890"
STAGES = ("teachers", "search", "front", "robustness")
ATTACKS = (
    {"name": "fgsm", "loss": "cross_entropy", "steps": 1},
    {"name": "pgd-20", "loss": "cross_entropy", "steps": 20, "restarts": 1, "step_size": 0.25},
    {"name": "apgd-ce", "loss": "cross_entropy", "steps": 100, "restarts": 1},
    {"name": "apgd-t", "loss": "dlr_targeted", "steps": 100, "targets": 3},
)
COLUMNS = ("carried", "transfer-resnet20", "fgsm", "pgd-20", "apgd-ce", "apgd-t")
SPECIFICATION = "0a1b2c3d"
SOLVERS = ("euler", "midpoint", "rk4", "dopri5")
STARTED = "2025-11-20T10:00:00+00:00"


@dataclass(frozen=True)
class Plan:
    """What the synthetic study holds."""

    name: str = "synthetic"
    trials: int = 24
    stages: Sequence[str] = STAGES
    state: str = "complete"
    attacked: int = 4
    epsilons: Sequence[float] = (0.0625, 0.1)
    images: int = 449
    shard: int = 256
    failures: Mapping[int, tuple[str, str]] = field(
        default_factory=lambda: {5: ("FAIL", "diverged"), 11: ("FAIL", "capped"), 17: ("FAIL", "crash: worker died")}
    )
    unfinished: Sequence[int] = ()
    epochs: int = 12
    seed: int = 0


def write_study(root: Path, plan: Plan | None = None) -> Path:
    """Write the study below root and give its folder."""
    plan = plan or Plan()
    folder = root / plan.name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(plan.seed)
    write_json(folder / "study.json", _identity(plan))
    _write_events(folder, plan)
    if "teachers" in plan.stages:
        _write_teacher(folder)
    if "search" in plan.stages:
        _write_search(folder, plan, rng)
    if "front" in plan.stages:
        _write_front(folder, plan, rng)
    if "robustness" in plan.stages:
        _write_robustness(folder, plan, rng)
    return folder


def finished_trials(plan: Plan) -> list[int]:
    """Give the numbers of the trials that completed."""
    return [i for i in range(plan.trials) if i not in plan.failures and i not in plan.unfinished]


def candidates(plan: Plan) -> list[int]:
    """Give the trials measured on val_front."""
    return finished_trials(plan)[-(plan.attacked + 2) :]


def attacked(plan: Plan) -> list[int]:
    """Give the trials attacked on test; the last of them has alpha 0 where there are more than three."""
    return candidates(plan)[: plan.attacked]


def point(plan: Plan, trial: int) -> dict[str, Any]:
    """Give the sampled point of a trial; rtol only for dopri5, evaluations only for the others."""
    rng = np.random.default_rng([plan.seed, trial])
    solver = SOLVERS[trial % len(SOLVERS)]
    values: dict[str, Any] = {
        "temperature": float(np.exp(rng.uniform(0, np.log(20)))),
        "alpha": float(rng.uniform(0.1, 1)),
        "solver": solver,
        "horizon": float(np.exp(rng.uniform(np.log(0.25), np.log(4)))),
    }
    if plan.attacked > 3 and attacked(plan)[-1] == trial:
        values["alpha"] = 0.0
        del values["temperature"]
    return values | ({"rtol": 1e-3} if solver == "dopri5" else {"evaluations": int(rng.choice([4, 8, 16]))})


def write_shards(
    folder: Path, model: str, meta: Mapping[str, Any], bits: Mapping[str, NDArray[Any]], plan: Plan
) -> None:
    """Write survivor bits of one model as shards, each with its own outcome."""
    starts = list(range(0, plan.images, plan.shard))
    for i, start in enumerate(starts):
        part = slice(start, start + plan.shard)
        key = f"robustness/{model}/{meta.get('specification', 'shard')}-{i:03d}"
        (folder / key).mkdir(parents=True)
        arrays = {name: value if name == "columns" else value[..., part] for name, value in bits.items()}
        np.savez(folder / key / "survivors.npz", **arrays)
        write_outcome(folder, key, {**meta, "model": model, "shard": i, "shards": len(starts)})


def survivor_bits(
    rng: np.random.Generator, difficulty: NDArray[np.float64], skill: float, toughness: float, plan: Plan
) -> dict[str, NDArray[Any]]:
    """Draw the bits of one model: an image is clean-correct or broken where its difficulty passes the model's skill."""
    n, e, a = plan.images, len(plan.epsilons), len(COLUMNS)
    luck = difficulty + rng.normal(0, 0.08, n)
    clean = luck < skill
    broken, attempted = np.zeros((e, a, n), bool), np.zeros((e, a, n), bool)
    fallen = np.zeros(n, bool)
    for level, epsilon in enumerate(plan.epsilons):
        broken[level, 0] = attempted[level, 0] = fallen
        margin = skill * toughness - 4 * epsilon - luck
        for column in range(1, a):
            attempted[level, column] = clean & ~fallen
            strength = (column - a + 1) * 0.06
            broken[level, column] = attempted[level, column] & (margin < strength)
            fallen = fallen | broken[level, column]
    return {
        "image_id": np.arange(n) + 1348,
        "label": rng.integers(0, 10, n),
        "clean_correct": clean,
        "columns": np.array(COLUMNS),
        "broken": broken,
        "attempted": attempted,
    }


def _identity(plan: Plan) -> dict[str, Any]:
    space = {
        "study": {"name": plan.name, "seed": plan.seed},
        "space": {
            "temperature": {"float": [1, 20], "log": True},
            "alpha": {"float": [0.0, 1.0]},
            "solver": {"choice": list(SOLVERS)},
            "horizon": {"float": [0.25, 4.0], "log": True},
            "evaluations": {"choice": [4, 8, 16], "when": {"solver": ["euler", "midpoint", "rk4"]}},
            "rtol": {"float": [1e-4, 1e-2], "log": True, "when": {"solver": ["dopri5"]}},
        },
        "budget": {"trials": plan.trials, "concurrency": "auto", "max_failed_trials": 5},
    }
    return {
        "schema": 1,
        "name": plan.name,
        "created": STARTED,
        "space": space,
        "identity": "f" * 16,
        "split_hash": "0123456789abcdef" * 4,
        "classes": 10,
        "split_sizes": {"train": 808, "val_search": 270, "val_front": 270, "test": plan.images},
        "data": "digits",
        "seed": plan.seed,
        "command": "python -m study.launch search_spaces/kd.yaml",
        "provenance": {
            "python": "3.11.2",
            "packages": {"torch": "2.10.0"},
            "git": {"commit": "c0ffee1", "dirty": False},
        },
        "objectives": ["accuracy", "adversarial_accuracy"],
        "reference_point": [0.1, 0.0],
        "epsilon": 0.0625,
        "norm": "linf",
        "engine": "inline",
        "smoke": False,
    }


def _write_events(folder: Path, plan: Plan) -> None:
    events: list[dict[str, Any]] = [{"type": "launched"}]
    events += [{"type": "stage", "stage": stage} for stage in plan.stages]
    if "robustness" in plan.stages:
        events.append({"type": "test_access", "reason": "robustness stage"})
    if plan.state != "running":
        events.append({"type": {"complete": "finished", "interrupted": "interrupted"}[plan.state]})
    stamped = [{"schema": 1, "seq": i, "ts": STARTED, **event} for i, event in enumerate(events)]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in stamped), encoding="utf-8")


def _write_teacher(folder: Path) -> None:
    metrics = {
        "arch": "resnet20",
        "accuracy": 0.985,
        "n": 270,
        "val_front_accuracy": 0.981,
        "parameter_count": 272474,
        "training_seconds": 41.0,
        "trained_on": "digits train",
        "seed": 0,
        "entropy": {"1": 0.003, "4": 0.83},
    }
    write_outcome(folder, f"teachers/{TEACHER}", metrics)


def _write_search(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    for trial in range(plan.trials):
        _write_trial(folder, plan, trial, rng)
    write_outcome(folder, "baselines/anchor", _student_metrics(0.935, "rk4"), {"accuracy": 0.935})
    accuracies = {"val_search": 0.951, "val_front": 0.949}
    neighbours = {"val_search": 0.962, "val_front": 0.958}
    n = {"val_search": 270, "val_front": 270}
    write_outcome(folder, "baselines/classical", {"n": n, "svm": accuracies, "nearest_neighbour": neighbours})


def _write_trial(folder: Path, plan: Plan, trial: int, rng: np.random.Generator) -> None:
    key, params = f"trials/{trial:06d}", point(plan, trial)
    config = {"schema": 1, "number": trial, "params": params, "settings": _settings(params), "seed": plan.seed}
    write_json(folder / key / "config.json", config | {"teacher": TEACHER, "seen": list(range(max(0, trial - 2)))})
    accuracy = float(0.9 + 0.07 * np.sqrt(trial / plan.trials) + rng.normal(0, 0.012))
    _write_history(folder / key, plan.epochs, accuracy, rng)
    if trial in plan.unfinished:
        return
    state, reason = plan.failures.get(trial, ("COMPLETE", None))
    adversarial = float(np.clip(0.75 - 2.2 * (accuracy - 0.9) + rng.normal(0, 0.05), 0, 1))
    if state == "COMPLETE":
        metrics = _student_metrics(accuracy, params["solver"])
        write_outcome(folder, key, metrics, _values(accuracy, adversarial), state)
    else:
        write_outcome(folder, key, {}, None, state, reason)


def _write_history(folder: Path, epochs: int, final: float, rng: np.random.Generator) -> None:
    lines = []
    for epoch in range(1, epochs + 1):
        rise = 1 - np.exp(-4 * epoch / epochs)
        accuracy = float(np.clip(0.1 + (final - 0.1) * rise + rng.normal(0, 0.004), 0, 1))
        line = {"epoch": epoch, "step": epoch * 13, "loss": float(2.3 * (1 - 0.9 * rise)), "train_accuracy": accuracy}
        lines.append(json.dumps(line | {"accuracy": accuracy, "nfe": 16.0, "seconds": 0.4 * epoch}))
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_front(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    chosen = candidates(plan)
    for rank, trial in enumerate(chosen):
        n, accuracy = 270, max(0.5, 0.985 - 0.008 * rank)
        robust = []
        for epsilon in plan.epsilons:
            rate = max(0.0, 0.45 + 0.04 * rank - 6 * (epsilon - 0.0625)) + rng.normal(0, 0.005)
            survivors = min(n, round(n * rate))
            robust.append({"epsilon": epsilon, "norm": "linf", "robust_accuracy": survivors / n})
            robust[-1] |= {"survivors": survivors, "n": n}
        metrics = {"accuracy": round(n * accuracy) / n, "n": n, "robust": robust, "nfe": 16.0}
        write_outcome(folder, f"front/{trial:06d}", metrics)
    selection = {"candidates": chosen, "front": chosen, "attacked": attacked(plan)}
    rule = "front on val_front, filled up to 3 with students within one standard error, at most 8"
    write_json(folder / "front" / "selection.json", selection | {"rule": rule})


def _write_robustness(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    write_json(folder / "robustness" / "specification.json", {"schema": 1, "specification": SPECIFICATION})
    difficulty = rng.beta(1.2, 3.0, plan.images)
    shared = {
        "specification": SPECIFICATION,
        "teacher": TEACHER,
        "split": "test",
        "norm": "linf",
        "epsilons": list(plan.epsilons),
        "attacks": list(ATTACKS),
        "pool": {"columns": ["transfer-resnet20"], "hash": "beef"},
        "nfe": 16.0,
        "seconds_by_attack": {"fgsm": 0.1, "pgd-20": 2.0},
    }
    _write_model(folder, f"teacher-{TEACHER}", "teacher", None, (0.79, 0.75), difficulty, plan, shared)
    for rank, trial in enumerate(attacked(plan)):
        skill, tough = max(0.3, 0.80 - 0.03 * rank), min(1.6, 0.86 + 0.06 * rank)
        _write_model(folder, f"student-{trial:06d}", "student", trial, (skill, tough), difficulty, plan, shared)
        if point(plan, trial)["alpha"] > 0:
            write_outcome(folder, f"baselines/twin-{trial:06d}", _student_metrics(0.93, "rk4"), _values(0.93, 0.5))
            weaker = (skill - 0.04, tough - 0.03)
            _write_model(folder, f"twin-{trial:06d}", "twin", trial, weaker, difficulty, plan, shared)
    test = {"n": {"test": plan.images}, "svm": {"test": 0.949}, "nearest_neighbour": {"test": 0.958}}
    write_outcome(folder, "baselines/classical-test", test)


def _write_model(
    folder: Path,
    model: str,
    kind: str,
    trial: int | None,
    quality: tuple[float, float],
    difficulty: NDArray[np.float64],
    plan: Plan,
    shared: Mapping[str, Any],
) -> None:
    rng = np.random.default_rng([plan.seed, sum(model.encode())])
    bits = survivor_bits(rng, difficulty, quality[0], quality[1], plan)
    write_shards(folder, model, {**shared, "kind": kind, "trial": trial}, bits, plan)


def _student_metrics(accuracy: float, solver: str) -> dict[str, Any]:
    return {
        "nfe": 16.0 if solver != "dopri5" else 32.5,
        "parameter_count": 7818,
        "training_seconds": 14.2,
        "steps": None if solver == "dopri5" else 8,
        "step_size": None if solver == "dopri5" else 0.125,
        "evaluations": None if solver == "dopri5" else 16,
        "n": 270,
        "n_adversarial": 256,
        "agreement": round(accuracy, 3),
        "teacher_entropy": 0.83,
        "solve_failures": 0,
        "proxy": {"pgd-10-ce": 0.7, "pgd-10-margin": 0.68},
    }


def _values(accuracy: float, adversarial: float) -> dict[str, float]:
    return {"accuracy": round(accuracy * 270) / 270, "adversarial_accuracy": round(adversarial * 256) / 256}


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    student = {k: v for k, v in params.items() if k in {"solver", "horizon", "evaluations", "rtol"}}
    distill = {"method": "kd"} | {k: v for k, v in params.items() if k in {"temperature", "alpha"}}
    return {
        "student": {"arch": "odenet-stem", "channels": 16, **student},
        "distill": distill,
        "train": {"optimizer": "adamw", "learning_rate": 0.01, "epochs": 60},
        "seed": 0,
        "teacher": 0,
    }


def write_outcome(
    folder: Path,
    key: str,
    metrics: Mapping[str, Any],
    values: Mapping[str, float] | None = None,
    state: str = "COMPLETE",
    reason: str | None = None,
) -> None:
    record = {"schema": 1, "key": key, "state": state, "reason": reason, "values": values, "metrics": dict(metrics)}
    record |= {"kind": "classical"} if "classical" in key else {}
    write_json(folder / key / "outcome.json", record | {"attempt": 0, "started": STARTED, "seconds": 15.0})


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
