"""The epsilons in force: those the space names, or those a pilot settled and the study's folder keeps.

`auto` under `search` is the radius at which the teacher keeps half its accuracy, snapped to the data set's grid. Under
`robustness` it stands for the headline of that norm and, where larger, the radius that most papers report.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from nodekd.attacks.catalog import EPSILONS, Epsilons
from study.documents import read_document
from study.durable import replace_json
from study.errors import StudyError
from study.space.measure_sections import AUTO
from study.space.settings import Space

FROZEN = "epsilon.json"
"""What the pilots settled, by norm; written once per norm and read by every later launch."""
LATER = "settled after the teachers"


def grid_of(space: Space, norm: str) -> Epsilons:
    """Return the radii of a study's data set under one of the norms of `nodekd.attacks.catalog`."""
    return next(radii for known, radii in EPSILONS[space.data.name].items() if known == norm)


def norms_to_settle(space: Space) -> list[str]:
    """Return the norms under which `auto` needs a pilot: each whose headline is asked for and not given as a number."""
    search, robustness = space.search, space.robustness
    asked = [search.norm] if search.epsilon == AUTO else []
    if AUTO in robustness.epsilons and (robustness.norm != search.norm or search.epsilon == AUTO):
        asked.append(robustness.norm)
    return [norm for norm in EPSILONS[space.data.name] if norm in asked]


def headline(space: Space, root: Path) -> float | None:
    """Return the radius of the search and the front; None while `auto` is not settled."""
    return _headline(space, root, space.search.norm)


def judged_epsilon(space: Space, root: Path) -> float | None:
    """Return the attacked radius that is shown first: the search's where it is attacked, otherwise the smallest."""
    epsilons, own = attacked_epsilons(space, root), headline(space, root)
    if epsilons is None:
        return None
    return own if own in epsilons else epsilons[0]


def attacked_epsilons(space: Space, root: Path) -> tuple[float, ...] | None:
    """Return the radii of the robustness stage, ascending; None while `auto` is not settled."""
    robustness = space.robustness
    named = {float(radius) for radius in robustness.epsilons if radius != AUTO}
    if AUTO not in robustness.epsilons:
        return tuple(sorted(named))
    own = _headline(space, root, robustness.norm)
    if own is None:
        return None
    standard = grid_of(space, robustness.norm).standard
    return tuple(sorted({own, max(own, standard), *named}))


def settled(root: Path, norm: str) -> float | None:
    """Return what a pilot settled under a norm; None before.

    Raises:
        StudyError: If the file was changed into something else.
    """
    entry = (read_document(root / FROZEN) or {}).get(norm)
    if entry is None:
        return None
    try:
        epsilon = float(entry["epsilon"])
    except (TypeError, KeyError, ValueError):
        epsilon = math.nan
    if not 0 < epsilon < math.inf:
        raise StudyError(
            f"{root / FROZEN} must hold a number > 0 as {norm}.epsilon, but holds {entry!r}. Restore it, or delete it "
            "and give the same command again."
        )
    return epsilon


def freeze(root: Path, norm: str, epsilon: float, record: Mapping[str, Any]) -> None:
    """Keep what a pilot settled, for good: a norm that is settled already is left as it is."""
    stored = read_document(root / FROZEN) or {"schema": 1}
    if norm not in stored:
        replace_json(root / FROZEN, {**stored, norm: {"epsilon": epsilon, **record}})


def tell_readers(space: Space, root: Path) -> None:
    """Write the settled headline into `study.json`, where results and report look for it."""
    study = read_document(root / "study.json")
    if study is not None:
        replace_json(root / "study.json", {**study, "epsilon": headline(space, root)})


@final
@dataclass(frozen=True)
class Settled:
    """What a pilot's radius means on a grid."""

    epsilon: float
    """The grid's nearest value."""
    said: str
    """One sentence for whoever runs the study."""


def settle(radius: float | None, correct: int, n: int, grid: Sequence[float]) -> Settled:
    """Judge a pilot: take the grid's value nearest to the radius, and say so where the radius lies off the grid.

    Args:
        radius: Where the teacher keeps half its accuracy, > 0; None where it has none to keep.
        correct: Images it gets right without attack.
        n: Images looked at.
        grid: Radii to choose from, ascending, > 0.
    """
    first, last = grid[0], grid[-1]
    on = f"on {n} images of val_front ({correct} right without attack)"
    if radius is None:
        said = f"the teacher is wrong on all {n} images of val_front, so it has no accuracy to halve; the smallest "
        return Settled(first, f"{said}value of the grid, {first:.4g}, is taken. Look at the teacher.")
    if radius < first:
        said = f"the teacher keeps less than half its accuracy even at {first:.4g} {on}; this smallest value of the "
        return Settled(first, f"{said}grid is taken.")
    if radius > last:
        said = f"the teacher keeps more than half its accuracy even at {last:.4g} {on}; this largest value of the "
        return Settled(last, f"{said}grid is taken. Either the teacher is robust or its gradients are masked.")
    near = snapped(radius, grid)
    said = f"the teacher keeps half its accuracy at about {radius:.4g} {on}; the nearest value of the grid, "
    return Settled(near, f"{said}{near:.4g}, is taken.")


def snapped(radius: float, grid: Sequence[float]) -> float:
    """Return the grid's value with the ratio to a radius nearest to 1; of two equally near, the smaller."""
    return min(grid, key=lambda value: (abs(math.log(value / radius)), value))


def epsilon_text(space: Space, root: Path) -> str:
    """Say which radius the search attacks with, for a terminal."""
    epsilon = headline(space, root)
    if epsilon is None:
        return f"epsilon {AUTO} ({LATER}) {space.search.norm}"
    return f"epsilon {epsilon:.4g}{f' ({AUTO})' if space.search.epsilon == AUTO else ''} {space.search.norm}"


def epsilons_text(space: Space, root: Path) -> str:
    """Say which radii are attacked on test, for a terminal."""
    epsilons = attacked_epsilons(space, root)
    if epsilons is None:
        return f"epsilons {AUTO} ({LATER})"
    return f"{len(epsilons)} epsilon{'' if len(epsilons) == 1 else 's'}"


def _headline(space: Space, root: Path, norm: str) -> float | None:
    if norm == space.search.norm and isinstance(space.search.epsilon, float):
        return space.search.epsilon
    return settled(root, norm)
