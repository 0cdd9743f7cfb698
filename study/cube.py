"""Read the cube train solver x attack solver x scoring solver of a study's pinned models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.attacked import SPECIFICATION, outcomes_under, tolerant
from study.durable import DAMAGED, open_own
from study.fingerprint import fingerprint
from study.ledger import Ledger

FOLDER = "cube/slices"


def identifier(checks: str, solvers: Sequence[str]) -> str:
    """Name a cube by the checks in force and its solvers, whose slices belong together."""
    return f"{checks}-{fingerprint(list(solvers))}"


@dataclass(frozen=True)
class Slice:
    """One network: what images made through one solver do under another."""

    trained: str
    """The solver of its training."""
    solvers: tuple[str, ...]
    accuracy: NDArray[np.float64]
    """(s) clean, under each solver."""
    robust_accuracy: NDArray[np.float64]
    """(s s): attacked through solver i, judged under solver j."""
    epsilon: float
    n: int


def read_cube(ledger: Ledger, problems: list[str]) -> list[Slice]:
    """Read the slices in force, in the order of the solvers; empty where no cube was asked for.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each slice that cannot be read.
    """
    document = tolerant(lambda: ledger.document(SPECIFICATION), problems) or {}
    in_force = identifier(document.get("checks", ""), document.get("cube", []))
    found: list[Slice] = []
    for key, outcome in outcomes_under(ledger, FOLDER, problems):
        metrics = outcome.get("metrics") or {}
        if outcome.get("state") != "COMPLETE" or metrics.get("specification") != in_force:
            continue
        try:
            with open_own(ledger.folder(key) / "cube.npz") as file, np.load(file, allow_pickle=False) as stored:
                correct, broken = stored["correct"].astype(bool), stored["broken"].astype(bool)
                solvers = tuple(str(name) for name in stored["solvers"])
        except DAMAGED as error:
            problems.append(f"{key} was left out: {error}")
            continue
        alive = (correct[None] & ~broken).mean(axis=2)
        found.append(
            Slice(str(metrics["trained"]), solvers, correct.mean(axis=1), alive, metrics["epsilon"], correct.shape[1])
        )
    order = found[0].solvers if found else ()
    return sorted(found, key=lambda each: order.index(each.trained) if each.trained in order else len(order))
