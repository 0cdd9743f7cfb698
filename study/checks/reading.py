"""Read what the checks measured of one network, and judge it per epsilon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.checks.diagnostics import Diagnosis, SolverMatrix, compared
from study.checks.false_alarms import FALSE_ALARMS
from study.checks.rules import rules_for
from study.checks.verdicts import Judged, Measured, Trust, judge, share, trust
from study.durable import DAMAGED, open_own
from study.survivors import Survivors

FILE = "diagnosis.npz"
TRANSFER = "transfer-"
FEATURES = "feature-"
CLASSES = 10
"""Of networks whose record does not say."""
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
    image_id: NDArray[np.int64]
    """(n,) of that subset."""
    broken: Bits
    """(n,) right, and broken by anything that the checks tried at this epsilon."""
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
        pool: Its survivor bits, whose columns `transfer-*` tell what others' images broke, each alone (A11), and
            `feature-*` what attacks on the features did (A14).
        problems: Gets a sentence if the files cannot be read.

    Returns:
        By epsilon, ascending; empty where the files cannot be read.
    """
    try:
        with open_own(folder / FILE) as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        _check_shapes(arrays)
        return _checked(arrays, metrics, pool)
    except DAMAGED as error:
        problems.append(f"{folder.parent.name}/{folder.name} was left out: {error}")
        return {}


def _check_shapes(arrays: Mapping[str, NDArray[Any]]) -> None:
    n, rows = len(arrays["image_id"]), ("clean_correct", "broken", "further", "solver_correct", "solver_broken")
    odd = [name for name in rows if name in arrays and arrays[name].shape[-1:] != (n,)]
    if odd:
        raise ValueError(f"its {odd[0]} should be of {n} images, but has shape {arrays[odd[0]].shape}")


def _checked(
    arrays: Mapping[str, NDArray[Any]], metrics: Mapping[str, Any], pool: Survivors | None
) -> dict[float, Checked]:
    epsilons = [float(epsilon) for epsilon in metrics["epsilons"]]
    diagnoses = [_diagnosis(arrays, level, epsilon, pool) for level, epsilon in enumerate(epsilons)]
    rules = rules_for(max(2, int(metrics.get("classes", CLASSES))))
    found: dict[float, Checked] = {}
    for level, epsilon in enumerate(epsilons):
        larger = diagnoses[level + 1] if level + 1 < len(diagnoses) else None
        solvers = _solvers(arrays, level)
        measured = [
            *_stored(metrics, epsilon),
            *compared(diagnoses[level], larger),
            *_features(epsilon, pool),
            *(solvers.checks() if solvers is not None else ()),
        ]
        judged = judge(measured, FALSE_ALARMS, rules)
        protocol = str(metrics.get("protocol", ""))
        found[epsilon] = Checked(
            epsilon=epsilon,
            judged=judged,
            trust=_trust(judged, diagnoses[level].n),
            diagnosis=diagnoses[level],
            image_id=arrays["image_id"],
            broken=_broken(arrays, level, solvers),
            solvers=solvers,
            protocol=protocol,
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


def _broken(arrays: Mapping[str, NDArray[Any]], level: int, solvers: SolverMatrix | None) -> Bits:
    """Return what any attack of the checks broke (n,): alone, with more steps or starts, or through another solver."""
    found = [arrays["broken"][level].astype(bool).any(axis=0)]
    if "further" in arrays:
        found.append(arrays["further"][level].astype(bool))
    if solvers is not None:
        found.append(solvers.broken[:, 0].any(axis=0))
    return np.logical_or.reduce(found) & arrays["clean_correct"].astype(bool)


def _diagnosis(arrays: Mapping[str, NDArray[Any]], level: int, epsilon: float, pool: Survivors | None) -> Diagnosis:
    correct: Bits = arrays["clean_correct"].astype(bool)
    broken = {str(name): arrays["broken"][level][row].astype(bool) for row, name in enumerate(arrays["attacks"])}
    return Diagnosis(correct, broken | _transferred(arrays["image_id"], correct, epsilon, pool))


def _features(epsilon: float, pool: Survivors | None) -> list[Measured]:
    """Measure A14, of all images of test: what attacks on the features broke after all that went before them."""
    if pool is None or not pool.attacked_at(epsilon):
        return []
    found = [*pool.alone(epsilon, FEATURES).values()]
    if not found:
        return []
    count = int(np.logical_or.reduce(found).sum())
    said = f"attacks on the features break {count} images that no attack before them does"
    return [share("A14", count, int(pool.clean_correct.sum()), said)]


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
