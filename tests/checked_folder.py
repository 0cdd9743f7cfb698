"""Extend a synthetic study by what its robustness stage leaves besides cascades, in the format of results/README.md.

Transfers from a closed pool, checks of every network, controls, networks of new seeds, students drawn at random. The
first attacked student is masked: images of others break what gradients do not find. The second one warns.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.checks.expected import NEGATIVE, POSITIVE
from tests.study_folder import (
    SPECIFICATION,
    TEACHER,
    Plan,
    attacked,
    candidates,
    finished_trials,
    survivor_bits,
    write_json,
    write_outcome,
    write_shards,
    write_study,
)

CHECKS, POOL = "c4ec5000", "9001beef"
TRANSFERS = ("transfer-teacher", "transfer-student")
ALONE = {"fgsm": 3, "pgd-20": 4, "pgd-20-margin": 4, "apgd-ce": 5, "apgd-t": 6, "square": 4, "sign-noise": 2}
"""Attacks of the diagnostic subset, and how many columns of the cascade each breaks as much as."""
SOLVER_NAMES = ("midpoint", "rk4-fine", "euler")


@dataclass(frozen=True)
class Checks:
    """What is written beside the plan."""

    replicates: int = 3
    random: int = 6
    images: int = 200
    silent: str | None = None
    """A control about which the check that must speak up is silent."""
    plan: Plan = field(default_factory=Plan)


def write_checked(root: Path, checks: Checks | None = None) -> Path:
    """Write the study below root and give its folder."""
    checks = checks or Checks()
    plan = checks.plan
    folder = write_study(root, plan)
    rng = np.random.default_rng([plan.seed, 99])
    difficulty = np.random.default_rng(plan.seed).beta(1.2, 3.0, plan.images)
    for trial in attacked(plan):
        for replicate in range(1, checks.replicates + 1):
            quality = 0.79 + rng.normal(0, 0.015), 0.88 + rng.normal(0, 0.02)
            _write_network(folder, f"replicate-{trial:06d}-{replicate}", "replicate", trial, quality, difficulty, plan)
    for trial in drawn_at_random(checks):
        quality = 0.72 + rng.normal(0, 0.03), 0.8 + rng.normal(0, 0.05)
        _write_network(folder, f"student-{trial:06d}", "random", trial, quality, difficulty, plan)
    for model in sorted(path for path in (folder / "robustness").iterdir() if path.is_dir()):
        _write_checks_of(model, checks)
    _write_controls(folder, checks)
    _write_specification(folder, plan)
    return folder


def _write_specification(folder: Path, plan: Plan) -> None:
    kinds = {}
    for outcome in folder.glob("robustness/*/*-000/outcome.json"):
        kinds[outcome.parents[1].name] = json.loads(outcome.read_text())["metrics"]["kind"]
    parts = {"cascade": -(-plan.images // plan.shard), "transfer": 1, "checks": 1}
    specification = {"schema": 2, "specification": SPECIFICATION, "checks": CHECKS, "pool": POOL}
    write_json(folder / "robustness" / "specification.json", specification | {"models": kinds, "parts": parts})


def drawn_at_random(checks: Checks) -> list[int]:
    """Give the trials that were attacked without having been chosen."""
    return [t for t in finished_trials(checks.plan) if t not in candidates(checks.plan)][: checks.random]


def masked(plan: Plan) -> int:
    """Give the trial whose numbers are unreliable."""
    return attacked(plan)[0]


def _write_network(
    folder: Path, model: str, kind: str, trial: int, quality: tuple[float, float], difficulty: Any, plan: Plan
) -> None:
    rng = np.random.default_rng([plan.seed, sum(model.encode())])
    bits = survivor_bits(rng, difficulty, *quality, plan)
    meta = {"specification": SPECIFICATION, "teacher": TEACHER, "split": "test", "norm": "linf", "nfe": 16.0}
    meta |= {"epsilons": list(plan.epsilons), "attacks": [], "pool": {}, "kind": kind, "trial": trial}
    write_shards(folder, model, meta, bits, plan)


def _write_checks_of(model: Path, checks: Checks) -> None:
    """Write transfers and checks of a network from the bits of its cascade."""
    plan, folder = checks.plan, model.parents[1]
    shards = sorted(model.glob(f"{SPECIFICATION}-[0-9]*"))
    metrics = json.loads((shards[0] / "outcome.json").read_text())["metrics"]
    parts = [dict(np.load(shard / "survivors.npz")) for shard in shards]
    joined = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in ("image_id", "clean_correct")}
    broken = np.concatenate([part["broken"] for part in parts], axis=-1)
    is_masked = metrics["kind"] == "student" and metrics["trial"] == masked(plan)
    shown = _transferred(joined["clean_correct"], broken, is_masked)
    arrays = {**joined, "label": np.zeros_like(joined["image_id"]), "columns": np.array(TRANSFERS)}
    arrays |= {"broken": shown, "attempted": np.broadcast_to(joined["clean_correct"], shown.shape)}
    meta = {name: metrics[name] for name in ("model", "kind", "trial", "split", "norm", "epsilons")}
    own = {"part": "transfer", "specification": SPECIFICATION, "closed_pool": POOL, "n": len(joined["image_id"])}
    key = f"robustness/{model.name}/{SPECIFICATION}-transfer-{POOL}-000"
    (folder / key).mkdir(parents=True)
    np.savez(folder / key / "survivors.npz", **arrays)
    pool = {"columns": list(TRANSFERS), "hash": POOL}
    write_outcome(folder, key, {**meta, **own, "shard": 0, "shards": 1, "pool": pool})
    _write_diagnosis(folder, f"robustness/{model.name}/{SPECIFICATION}-checks-{CHECKS}", meta, joined, broken, checks)


def _transferred(correct: NDArray[Any], broken: NDArray[Any], is_masked: bool) -> NDArray[Any]:
    """Break a third of what the cascade breaks; of a masked network 30 images more."""
    by_any = np.logical_or.accumulate(broken.any(1), axis=0)
    found = np.stack([by_any & (np.arange(by_any.shape[-1]) % 3 == place) for place in range(2)], axis=1)
    if is_masked:
        spare = np.flatnonzero(correct & ~by_any[-1])[:30]
        found[:, 1, spare] = True
    return found


def _write_diagnosis(
    folder: Path, key: str, meta: Mapping[str, Any], joined: Mapping[str, Any], broken: NDArray[Any], checks: Checks
) -> None:
    n = min(checks.images, broken.shape[-1])
    kept = np.logical_or.accumulate(broken[..., :n], axis=0)
    alone = np.stack([kept[:, :columns].any(1) for columns in ALONE.values()], axis=1)
    correct = joined["clean_correct"][:n]
    arrays = {"image_id": joined["image_id"][:n], "label": np.zeros(n, int), "clean_correct": correct}
    arrays |= {"attacks": np.array(list(ALONE)), "broken": alone}
    if meta["kind"] not in ("teacher", "control"):
        arrays |= _solvers(alone[:, -3], correct)
    (folder / key).mkdir(parents=True, exist_ok=True)
    np.savez(folder / key / "diagnosis.npz", **arrays)
    second = meta["kind"] == "student" and meta["trial"] == attacked(checks.plan)[1 % checks.plan.attacked]
    own = {"part": "checks", "specification": CHECKS, "n": n, "protocol": "alone" if second else "batch"}
    own |= {"headline": meta["epsilons"][0], "control": None, "classes": 10}
    write_outcome(folder, key, {**meta, **own, "measured": measured(n, meta["epsilons"], 0.95 if second else 0.998)})


def _solvers(alone: NDArray[Any], correct: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Make every column's own attack its strongest."""
    e, n, s = len(alone), len(correct), len(SOLVER_NAMES)
    broken = np.zeros((e, s, s, n), bool)
    for row in range(s):
        for column in range(s):
            weaker = np.arange(n) % 4 != 0 if row != column else np.ones(n, bool)
            broken[:, row, column] = alone & weaker
    return {
        "solvers": np.array(SOLVER_NAMES),
        "solver_converged": np.array([True, True, False]),
        "solver_correct": np.stack([correct] * s),
        "solver_broken": broken,
    }


def measured(n: int, epsilons: Any, correlation: float = 0.998, **changed: float) -> list[dict[str, Any]]:
    """Give the numbers of a healthy network's checks.

    Args:
        n: Images of the shares.
        epsilons: Where the checks of one epsilon were made.
        correlation: G2.
        changed: Other values by id, `_` for `-`.
    """
    numbers = {"P1": 0.0, "P3": 1e-7, "P5": 0.0, "P5-saturated": 0.0, "P5-precision": 3.0, "P6": 0.0, "P7": 0.0}
    numbers |= {"G2": correlation, "G2-size": 0.01, "G3": 0.999, "G4": 0.03}
    numbers |= {name.replace("_", "-"): value for name, value in changed.items()}
    shares = [("P4", None), ("G1", None), ("G1-cross-entropy", None), ("A8", None)]
    shares += [(name, epsilon) for epsilon in epsilons for name in ("A1", "A2", "A3", "A4")]
    entries = [
        {"id": name, "epsilon": None, "value": value, "count": None, "n": None} for name, value in numbers.items()
    ]
    entries += [{"id": name, "epsilon": at, "value": 0.0, "count": 0, "n": n} for name, at in shares]
    return [{**entry, "said": ""} for entry in entries]


def _write_controls(folder: Path, checks: Checks) -> None:
    write_json(folder / "controls" / "specification.json", {"schema": 1, "specification": CHECKS})
    n = checks.images
    correct = np.ones(n, bool)
    for name in (*POSITIVE, *NEGATIVE):
        speaks = POSITIVE.get(name, ()) if name != checks.silent else ()
        key = f"controls/checks/{name}-{CHECKS}"
        alone = np.zeros((1, len(ALONE) + 1, n), bool)
        alone[0, :-2, ::3] = True
        alone[0, -1, ::3] = True
        (folder / key).mkdir(parents=True)
        arrays = {"image_id": np.arange(n), "label": np.zeros(n, int), "clean_correct": correct, "broken": alone}
        np.savez(folder / key / "diagnosis.npz", **arrays, attacks=np.array([*ALONE, "rescaled-apgd-ce"]))
        meta = {"model": name, "kind": "control", "trial": None, "part": "checks", "specification": CHECKS}
        loud = [_loud(each, speaks, n) for each in measured(n, [0.0625])]
        own = {"split": "test", "norm": "linf", "epsilons": [0.0625], "protocol": "batch", "measured": loud}
        write_outcome(folder, key, {**meta, **own})


def _loud(entry: dict[str, Any], speaks: tuple[str, ...], n: int) -> dict[str, Any]:
    if entry["id"] not in speaks:
        return entry
    if entry["n"]:
        return entry | {"value": 0.9, "count": round(0.9 * n)}
    return entry | {"value": 0.5 if entry["id"] in ("G2", "G3") else 1.0}
