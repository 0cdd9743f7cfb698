"""Write a synthetic study that was designed: a grid blocked by seed and teacher, every trial attacked and probed.

The values follow known effects, so a test can ask for them back.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tests.study_folder import (
    SPECIFICATION,
    STARTED,
    TEACHER,
    Plan,
    survivor_bits,
    write_json,
    write_outcome,
    write_shards,
)

METHOD_GAIN = {"none": 0.0, "kd": 0.03, "label-smoothing": 0.01, "feed-parallel": 0.02}
STEPPED = {"steps": 8, "step_size": 0.25, "evaluations": 8}
DISTANCES = [round(-1 + 0.5 * i, 2) for i in range(7)]
AXIS = [-1.0, 0.0, 1.0, 2.0]


@dataclass(frozen=True)
class DesignPlan:
    """What the synthetic design holds: the factors are crossed with seeds and teachers."""

    name: str = "designed"
    factors: Mapping[str, Sequence[Any]] = field(
        default_factory=lambda: {"method": ["none", "kd"], "horizon": [0.5, 1.0, 2.0]}
    )
    fixed: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    teachers: Sequence[int] = (0, 1)
    sampler: str = "grid"
    contrast: Mapping[str, Any] | None = field(
        default_factory=lambda: {"measure": "robust_accuracy", "factor": "method", "levels": ["kd", "none"]}
    )
    attacked: bool = True
    probed: bool = True
    images: int = 64
    noise: float = 0.004
    state: str = "complete"
    drop: Sequence[int] = ()
    """Trials without an outcome."""

    def points(self) -> list[dict[str, Any]]:
        """Give every point of the grid."""
        names = [*self.factors, "seed", "teacher"]
        values = product(*self.factors.values(), self.seeds, self.teachers)
        points = [dict(zip(names, at, strict=True)) for at in values]
        return [{k: v for k, v in p.items() if k != "teacher" or len(self.teachers) > 1} for p in points]


def write_design(root: Path, plan: DesignPlan | None = None) -> Path:
    """Write the study below root and give its folder."""
    plan = plan or DesignPlan()
    folder = root / plan.name
    folder.mkdir(parents=True)
    write_json(folder / "study.json", _identity(plan))
    end = {"complete": ["finished"], "interrupted": ["interrupted"]}.get(plan.state, [])
    events = [{"schema": 1, "seq": i, "ts": STARTED, "type": t} for i, t in enumerate(["launched", *end])]
    (folder / "events.jsonl").write_text("".join(f"{e}\n".replace("'", '"') for e in events), encoding="utf-8")
    for trial, point in enumerate(plan.points()):
        _write_trial(folder, plan, trial, point)
    return folder


def _identity(plan: DesignPlan) -> dict[str, Any]:
    space = {name: {"kind": "choice", "choices": list(levels), "when": {}} for name, levels in plan.factors.items()}
    space |= {"seed": {"kind": "int", "low": min(plan.seeds), "high": max(plan.seeds), "when": {}}}
    document: dict[str, Any] = {"sampler": {"name": plan.sampler}, "space": space}
    document |= {"budget": {"trials": len(plan.points())}}
    document |= {"contrast": dict(plan.contrast)} if plan.contrast else {}
    identity = {"schema": 1, "name": plan.name, "created": STARTED, "identity": "f" * 64, "space": document}
    identity |= {"split_hash": "cafe0123", "data": "digits", "seed": 0, "epsilon": 0.0625, "norm": "linf"}
    return identity | {"reference_point": [0.1, 0.0], "engine": "inline", "smoke": False, "classes": 10}


def settings_of(plan: DesignPlan, point: Mapping[str, Any]) -> dict[str, Any]:
    """Give the complete settings of a point."""
    known = {"arch": "odenet-stem", "dynamics": "plain", "norm": "group", "solver": "rk4", "horizon": 1.0}
    known |= {"method": "none", "epochs": 60, "damping_decay": True, "ensemble": 1, **plan.fixed, **point}
    arm = known.get("discretisation") or "evaluations"
    student = {k: known[k] for k in ("arch", "dynamics", "norm", "solver", "horizon")} | {arm: STEPPED[arm]}
    student |= {k: known[k] for k in ("damping", "discretisation", "damping_decay") if k in known}
    distill = {"method": known["method"], "ensemble": known["ensemble"]}
    distill |= {} if known["method"] == "none" else {"temperature": 4, "alpha": known.get("alpha", 0.9)}
    return {"student": student, "distill": distill, "train": {"epochs": known["epochs"]}} | {
        "seed": point.get("seed", 0),
        "teacher": point.get("teacher", 0),
    }


def law(plan: DesignPlan, trial: int, point: Mapping[str, Any]) -> float:
    """Give the accuracy of a trial: effects of method and horizon, an offset per seed and teacher, and noise."""
    known = {**plan.fixed, **point}
    rng = np.random.default_rng([7, trial])
    seed, teacher = math.sin(1.0 + 3 * int(point.get("seed", 0))), 0.01 * int(point.get("teacher", 0))
    rise = 0.02 * math.log2(float(known.get("horizon", 1.0)))
    method = METHOD_GAIN.get(str(known.get("method", "none")), 0.0)
    return 0.85 + method + rise + 0.02 * seed + teacher + float(rng.normal(0, plan.noise))


def _write_trial(folder: Path, plan: DesignPlan, trial: int, point: dict[str, Any]) -> None:
    key, settings = f"trials/{trial:06d}", settings_of(plan, point)
    config = {"schema": 1, "number": trial, "params": point, "settings": settings, "seed": settings["seed"]}
    write_json(folder / key / "config.json", config | {"teacher": TEACHER, "seen": []})
    if trial in plan.drop:
        return
    accuracy = law(plan, trial, point)
    metrics = {"nfe": 8.0 * settings["student"]["horizon"], "parameter_count": 7818, "training_seconds": 14.2}
    metrics |= {"evaluations": 8, "n": 270, "n_adversarial": 256, "agreement": accuracy, "ensemble_accuracy": 0.97}
    write_outcome(folder, key, metrics, {"accuracy": accuracy, "adversarial_accuracy": accuracy - 0.2})
    if plan.probed:
        write_outcome(folder, f"probes/student-{trial:06d}", probe(trial, accuracy, settings))
    if plan.attacked:
        _write_bits(folder, plan, trial, accuracy)


def _write_bits(folder: Path, plan: DesignPlan, trial: int, accuracy: float) -> None:
    small = Plan(images=plan.images, epsilons=(0.0625,), shard=1000)
    difficulty = np.random.default_rng(3).uniform(0, 1, plan.images)
    bits = survivor_bits(np.random.default_rng([5, trial]), difficulty, accuracy, accuracy - 0.3, small)
    meta = {"kind": "student", "trial": trial, "specification": SPECIFICATION, "split": "test", "norm": "linf"}
    meta |= {"epsilons": [0.0625], "attacks": [{"name": "fgsm"}], "nfe": 16.0, "teacher": TEACHER}
    write_shards(folder, f"student-{trial:06d}", meta, bits, small)


def probe(trial: int, accuracy: float, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give the metrics of a probe with every part."""
    quartiles = {"q25": [0.1 + i for i in range(7)], "median": [0.2 + i for i in range(7)]}
    quartiles |= {"q75": [0.4 + i for i in range(7)]}
    surface = {"axis": AXIS, "loss": [[float(i + j) for j in range(4)] for i in range(4)]}
    damped = settings["student"]["dynamics"] != "plain"
    return {
        "model": f"student-{trial:06d}",
        "kind": "student",
        "trial": trial,
        "split": "test",
        "n": 256,
        "calibration": {"ece": 0.03, "nll": 0.4 - 0.1 * accuracy, "accuracy": accuracy},
        "trajectory": {"path_length": 1.0 + settings["student"]["horizon"], "growth": 0.8, "times": [0.0, 1.0]}
        | {"state_norm": [1.0, 1.5], "speed": [1.0, 0.5], "damping": [0.2, 0.3] if damped else [], "gain": []},
        "test_solvers": [
            {"solver": "rk4", "evaluations": 8, "rtol": None, "accuracy": accuracy, "disagreement": 0.0, "nfe": 8},
            {"solver": "dopri5", "evaluations": None, "rtol": 1e-5, "accuracy": accuracy - 0.1}
            | {"disagreement": 0.12, "nfe": 44.0},
        ],
        "noise": [
            {"noise": noise, "severity": severity, "accuracy": accuracy - 0.02 * severity, "n": 256, "source": "own"}
            for noise in ("gaussian", "shot")
            for severity in (1, 3, 5)
        ],
        "published_attacks": [
            {"attack": "fgsm", "epsilon": 0.0625, "accuracy": 0.5, "n": 256, "largest_perturbation": 0.0625},
            {"attack": "pgd-legacy", "epsilon": 0.0625, "accuracy": 0.3, "n": 256, "largest_perturbation": 0.12},
        ],
        "landscape": {"epsilon": 0.0625, "distances": DISTANCES, "loss": quartiles, "margin": quartiles}
        | {"surface": surface},
        "teacher": {"teacher": TEACHER, "agreement": 0.9, "kl": 0.2, "agreement_attacked": 0.6, "kl_attacked": 1.1}
        | {"transfer": 0.4, "n_transfer": 120},
        "reconstruction": {"l1": 0.11, "epochs": 3, "curve": [0.3, 0.2, 0.11]},
    }
