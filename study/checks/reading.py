"""Read what the checks measured of one network, and judge it per epsilon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.checks.diagnostics import Diagnosis, SolverMatrix, compared
from study.checks.false_alarms import FALSE_ALARMS
from study.checks.verdicts import Judged, Measured, Trust, judge, trust
from study.durable import DAMAGED, open_own
from study.survivors import Survivors

FILE = "diagnosis.npz"
TRANSFER = "transfer-"
FEWEST = 8
"""Images that are right, below which checks that count images are mute whatever is wrong."""

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Checked:
    """One network at one epsilon: every check, and what they say together."""

    epsilon: float
    judged: tuple[Judged, ...]
    trust: Trust
    diagnosis: Diagnosis
    """Each attack alone, on the diagnostic subset (S20)."""
    solvers: SolverMatrix | None
    """Images made through one solver, judged under another; None for networks without a solver."""
    protocol: str
    """How images were scored (S23)."""


def read_checked(
    folder: Path, metrics: Mapping[str, Any], pool: Survivors | None, problems: list[str]
) -> dict[float, Checked]:
    """Judge a network at every epsilon it was checked at.

    Args:
        folder: Of the job that checked it.
        metrics: Of that job's outcome.
        pool: Its survivor bits, whose columns `transfer-*` tell what others' images broke, each alone (A11).
        problems: Gets a sentence if the files cannot be read.

    Returns:
        By epsilon, ascending; empty where the files cannot be read.
    """
    try:
        with open_own(folder / FILE) as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return _checked(arrays, metrics, pool)
    except DAMAGED as error:
        problems.append(f"{folder.parent.name}/{folder.name} was left out: {error}")
        return {}


def _checked(
    arrays: Mapping[str, NDArray[Any]], metrics: Mapping[str, Any], pool: Survivors | None
) -> dict[float, Checked]:
    epsilons = [float(epsilon) for epsilon in metrics["epsilons"]]
    diagnoses = [_diagnosis(arrays, level, epsilon, pool) for level, epsilon in enumerate(epsilons)]
    found: dict[float, Checked] = {}
    for level, epsilon in enumerate(epsilons):
        larger = diagnoses[level + 1] if level + 1 < len(diagnoses) else None
        solvers = _solvers(arrays, level)
        measured = [
            *_stored(metrics, epsilon),
            *compared(diagnoses[level], larger),
            *(solvers.checks() if solvers is not None else ()),
        ]
        judged = judge(measured, FALSE_ALARMS)
        protocol = str(metrics.get("protocol", ""))
        found[epsilon] = Checked(
            epsilon, judged, _trust(judged, diagnoses[level].n), diagnoses[level], solvers, protocol
        )
    return found


def _trust(judged: Sequence[Judged], n: int) -> Trust:
    """Sum up; of too few images no check that counts them could have spoken, so its silence says nothing."""
    found = trust(judged)
    if n >= FEWEST or found.word != "reliable":
        return found
    return Trust("unchecked", (f"only {n} images of the diagnostic subset are right, too few to count on",))


def _stored(metrics: Mapping[str, Any], epsilon: float) -> list[Measured]:
    """Return the numbers that do not follow from the bits: of this epsilon, and of the network whatever the epsilon."""
    return [
        Measured(
            id=each["id"],
            value=float("nan") if each["value"] is None else float(each["value"]),
            count=each.get("count"),
            n=each.get("n"),
            said=each.get("said", ""),
        )
        for each in metrics["measured"]
        if each["epsilon"] is None or abs(float(each["epsilon"]) - epsilon) <= 1e-9 * max(1.0, epsilon)
    ]


def _diagnosis(arrays: Mapping[str, NDArray[Any]], level: int, epsilon: float, pool: Survivors | None) -> Diagnosis:
    correct: Bits = arrays["clean_correct"].astype(bool)
    broken = {str(name): arrays["broken"][level][row].astype(bool) for row, name in enumerate(arrays["attacks"])}
    return Diagnosis(correct, broken | _transferred(arrays["image_id"], correct, epsilon, pool))


def _transferred(image_id: NDArray[np.int64], correct: Bits, epsilon: float, pool: Survivors | None) -> dict[str, Bits]:
    if pool is None or not pool.attacked_at(epsilon):
        return {}
    _, here, there = np.intersect1d(image_id, pool.image_id, assume_unique=True, return_indices=True)
    found: dict[str, Bits] = {}
    for name, bits in pool.alone(epsilon, TRANSFER).items():
        row = np.zeros(len(image_id), dtype=bool)
        row[here] = bits[there]
        found[name] = row & correct
    return found


def _solvers(arrays: Mapping[str, NDArray[Any]], level: int) -> SolverMatrix | None:
    if "solvers" not in arrays:
        return None
    return SolverMatrix(
        solvers=tuple(str(name) for name in arrays["solvers"]),
        broken=arrays["solver_broken"][level].astype(bool),
        correct=arrays["solver_correct"].astype(bool),
        converged=tuple(bool(bit) for bit in arrays["solver_converged"]),
    )
