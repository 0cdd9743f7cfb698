"""Fronts on which nobody can be told apart: all at no robust accuracy, or all at their clean accuracy.

An epsilon that is too large breaks every network, one that is too small none; a figure of either shows no trade-off.
Pure functions of counts and radii.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

from study.statistics import wilson

ZERO = 0.0005
"""An interval from below this is printed as one from 0.0 per cent: it touches zero."""
UNTOUCHED = 0.95
"""Share of its clean accuracy above which a network is as good as not attacked."""

Where = Literal["zero", "clean"]


@final
@dataclass(frozen=True)
class Counts:
    """One network at one epsilon."""

    robust: int
    """Images still right under attack."""
    clean: int
    """Images right without it."""
    n: int


@final
@dataclass(frozen=True)
class FlatFront:
    """What is wrong with a front, and where to look instead."""

    where: Where
    """`zero`: every interval touches 0; `clean`: everybody keeps more than 95 % of its clean accuracy."""
    networks: int
    instead: float | None
    """An epsilon that tells networks apart, or is the next to try; None where none is left under this norm."""
    is_attacked: bool
    """Whether `instead` was attacked already, so that its front can be looked at."""


def flat_at(counts: Sequence[Counts]) -> Where | None:
    """Tell where all networks lie, if they lie in one place.

    Args:
        counts: The networks of a front at one epsilon.

    Returns:
        `zero` or `clean` (see `FlatFront`), or None where the front is not flat or there is no network.
    """
    if not counts or not all(network.n for network in counts):
        return None
    if all(wilson(network.robust, network.n).low < ZERO for network in counts):
        return "zero"
    if all(network.robust > UNTOUCHED * network.clean for network in counts):
        return "clean"
    return None


def flat_fronts(
    measured: Mapping[float, Sequence[Counts]], grid: Sequence[float] = (), largest: float = math.inf
) -> dict[float, FlatFront]:
    """Find the flat fronts among those of several epsilons.

    Args:
        measured: The same front's networks by attacked epsilon (> 0).
        grid: The data set's radii, ascending; empty where they are not known.
        largest: Largest radius that makes sense, 1 under linf.

    Returns:
        Each flat front by its epsilon, with an epsilon that would work: the nearest attacked one that tells networks
        apart, otherwise the next value of the grid in the direction in which nothing was attacked yet, otherwise half
        or twice the radius.
    """
    found: dict[float, Where] = {}
    for epsilon, counts in measured.items():
        where = flat_at(counts)
        if where is not None:
            found[epsilon] = where
    telling = [epsilon for epsilon, counts in measured.items() if counts and epsilon not in found]
    fronts = {}
    for epsilon, where in found.items():
        attacked = min(telling, key=lambda other: abs(math.log(other / epsilon)), default=None)
        instead = _next(epsilon, found, grid, largest) if attacked is None else attacked
        fronts[epsilon] = FlatFront(where, len(measured[epsilon]), instead, attacked is not None)
    return fronts


def _next(epsilon: float, found: Mapping[float, Where], grid: Sequence[float], largest: float) -> float | None:
    """Choose a radius between those that broke nobody and those that broke everybody."""
    above = max((radius for radius, where in found.items() if where == "clean"), default=0.0)
    below = min((radius for radius, where in found.items() if where == "zero"), default=math.inf)
    between = [radius for radius in grid if above < radius < below and radius <= largest]
    if between:
        return min(between, key=lambda radius: abs(math.log(radius / epsilon)))
    if above and below < math.inf:
        return math.sqrt(above * below)
    instead = below / 2 if below < math.inf else above * 2
    return instead if instead <= largest else None
