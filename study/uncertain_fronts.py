"""Fronts whose points are measured on some images, by networks of some seeds: who stands on them, and how surely.

Resampling is hierarchical: seeds within each configuration, then the same images for all, as all networks were
measured on the same ones. What it does not cover is said where it is shown: another data set, another attack.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from study.fronts import hypervolume, non_dominated
from study.statistics import Interval

Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]

DRAWS = 2000
"""Resamples; the Monte-Carlo error of a probability is then at most 1.1 points."""


@dataclass(frozen=True)
class Replicates:
    """One configuration: what networks of several seeds got right."""

    clean: Bits
    """(r n) right without any change."""
    robust: Bits
    """(r n) right under every attack."""

    def __post_init__(self) -> None:
        if self.clean.ndim != 2 or self.clean.shape != self.robust.shape or 0 in self.clean.shape:
            raise ValueError(
                f"Bits (seeds images) are needed for both, but got {self.clean.shape} and {self.robust.shape}."
            )


@dataclass(frozen=True)
class UncertainFront:
    """What resampling says about a front."""

    membership: tuple[float, ...]
    """Per configuration the share of resamples in which no other dominates it."""
    hypervolume: Interval
    """95 % percentile interval of the area above the reference point."""
    draws: int


def uncertain_front(
    configurations: Sequence[Replicates], reference: ArrayLike, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> UncertainFront:
    """Resample seeds and images, and see who stands on the front each time.

    Args:
        configurations: All measured on the same images, in the same order.
        reference: The worst corner (clean, robust) of the hypervolume.
        draws: Resamples.
        seed: Of the resampling.
        level: Of the interval.

    Returns:
        Membership probabilities and the hypervolume's interval. With one seed per configuration they cover the choice
        of images alone.

    Raises:
        ValueError: If there is no configuration, or they were measured on different numbers of images.
    """
    images = {each.clean.shape[1] for each in configurations}
    if len(images) != 1:
        raise ValueError(f"Configurations on the same images are needed, but got numbers of images {sorted(images)}.")
    rng, n = np.random.default_rng(seed), images.pop()
    on_front = np.zeros(len(configurations))
    areas = np.empty(draws)
    for draw in range(draws):
        weights = rng.multinomial(n, np.full(n, 1 / n)) / n
        points = np.array([_resampled(each, weights, rng) for each in configurations])
        on_front += non_dominated(points)
        areas[draw] = hypervolume(points, reference)
    low, high = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return UncertainFront(tuple(float(share) for share in on_front / draws), Interval(float(low), float(high)), draws)


def _resampled(each: Replicates, weights: Floats, rng: np.random.Generator) -> tuple[float, float]:
    seeds = rng.integers(len(each.clean), size=len(each.clean))
    return float((each.clean[seeds] @ weights).mean()), float((each.robust[seeds] @ weights).mean())


def attainment(fronts: Sequence[ArrayLike], share: float = 0.5) -> Floats:
    """Return the corners of the surface that a share of the runs attains, in two objectives to be maximised.

    A run attains a point if one of its own is at least as good in both objectives.

    Args:
        fronts: Per run its points (m 2); runs may differ in their number.
        share: In (0, 1]; 0.5 is the median front.

    Returns:
        Non-dominated corners (k 2), by the first objective descending: best in it first.

    Raises:
        ValueError: If there is no run, or share is outside (0, 1].

    Source:
        [fonseca1996performance], the empirical attainment function.
    """
    if not 0 < share <= 1 or not fronts:
        raise ValueError(f"`0 < share <= 1` and at least one run are needed, but got {share=}, {len(fronts)} runs.")
    runs = [np.asarray(front, float).reshape(-1, 2) for front in fronts]
    needed = int(np.ceil(share * len(runs) - 1e-9))
    corners = []
    for x in np.unique(np.concatenate([run[:, 0] for run in runs])):
        heights = sorted((_height(run, x) for run in runs), reverse=True)
        if np.isfinite(heights[needed - 1]):
            corners.append((x, heights[needed - 1]))
    table = np.array(corners, float).reshape(-1, 2)
    return table[non_dominated(table)][::-1]


def _height(run: Floats, x: float) -> float:
    above = run[run[:, 0] >= x, 1]
    return float(above.max()) if len(above) else -np.inf


@dataclass(frozen=True)
class RankAgreement:
    """Whether one measure orders networks as another does (S19)."""

    tau: float
    """Kendall's tau-b in [-1, 1]; NaN where a measure is constant."""
    interval: Interval
    """95 % percentile interval over networks; NaN where tau is."""
    n: int


def rank_agreement(first: ArrayLike, second: ArrayLike, draws: int = DRAWS, seed: int = 0) -> RankAgreement:
    """Compare the orders of two measures over the same networks.

    Args:
        first: (m,), such as the search's proxy.
        second: (m,), such as the final worst case.
        draws: Resamples of networks, with replacement.
        seed: Of the resampling.
    """
    pairs = np.column_stack([np.asarray(first, float), np.asarray(second, float)])
    rng, nan = np.random.default_rng(seed), float("nan")
    tau = _tau(pairs)
    if not np.isfinite(tau):
        return RankAgreement(nan, Interval(nan, nan), len(pairs))
    drawn = np.array([_tau(pairs[rng.integers(len(pairs), size=len(pairs))]) for _ in range(draws)])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return RankAgreement(tau, Interval(float(low), float(high)), len(pairs))


def _tau(pairs: Floats) -> float:
    if len(pairs) < 2 or (pairs == pairs[0]).all(axis=0).any():
        return float("nan")
    tau: Any = kendalltau(pairs[:, 0], pairs[:, 1])
    return float(tau.statistic)
