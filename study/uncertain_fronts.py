"""Fronts whose points are measured on some images, by networks of some seeds: who stands on them, and how surely.

Resampling is hierarchical: seeds within each configuration, then the same images for all, as all networks were
measured on the same ones. What it does not cover is said where it is shown: another data set, another attack.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.fronts import non_dominated
from study.statistics import Interval

Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]

DRAWS = 2000
"""Resamples; the Monte-Carlo error of a probability is then at most 1.1 points."""
_CHUNK = 250
"""Resamples that are held in memory at once."""


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
    mean: float
    """Mean area over the resamples; above that of the points themselves, as chance favours the best of many."""
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
    corner, on_front, areas = np.asarray(reference, float), np.zeros(len(configurations)), []
    for points in _resampled(configurations, images.pop(), draws, np.random.default_rng(seed)):
        order = np.lexsort((-points[..., 1], -points[..., 0]), axis=-1)
        ranked = np.take_along_axis(points, order[..., None], axis=1)
        np.add.at(on_front, order[_undominated(ranked)], 1)
        areas.append(_areas(ranked, corner))
    drawn = np.concatenate(areas)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    shares = tuple(float(share) for share in on_front / draws)
    return UncertainFront(shares, Interval(float(low), float(high)), float(drawn.mean()), draws)


@dataclass(frozen=True)
class AreaGain:
    """The hypervolume of one front less that of another, measured on the same images."""

    first: float
    second: float
    interval: Interval
    """Of first less second."""

    @property
    def difference(self) -> float:
        """First less second."""
        return self.first - self.second


def area_gain(
    first: Sequence[Replicates],
    second: Sequence[Replicates],
    reference: ArrayLike,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> AreaGain:
    """Compare two fronts by the area they cover, resampling the same images for both.

    The best of many is favoured by chance, the more so the more networks a front has: an area is too large, and a
    resampled one too large again. The interval is therefore the basic one, which reflects the resamples at the
    estimate, and not their percentiles. With 8 equal networks against one, of the same accuracy, on 360 images it
    covers the true 0 in 86 % of worlds and the percentiles in 48 %; for fronts whose networks differ both cover 93 %
    to 95 % (simulated).

    Args:
        first: One front's networks.
        second: The other's, measured on the same images in the same order.
        reference: The worst corner (clean, robust) of both hypervolumes.
        draws: Resamples.
        seed: Of the resampling.
        level: Of the interval.

    Raises:
        ValueError: If one of them is empty, or numbers of images differ.
    """
    every = [*first, *second]
    images = {each.clean.shape[1] for each in every}
    if not first or not second or len(images) != 1:
        raise ValueError(f"Two fronts on the same images are needed, but got {len(first)} and {len(second)}: {images=}")
    corner, n, place = np.asarray(reference, float), images.pop(), len(first)
    means = np.array([[(each.clean.mean(), each.robust.mean()) for each in every]])
    own, other = (float(_areas(_ranked(part), corner)[0]) for part in (means[:, :place], means[:, place:]))
    drawn = np.concatenate(
        [
            _areas(_ranked(points[:, :place]), corner) - _areas(_ranked(points[:, place:]), corner)
            for points in _resampled(every, n, draws, np.random.default_rng(seed))
        ]
    )
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    twice = 2 * (own - other)
    return AreaGain(own, other, Interval(float(twice - high), float(twice - low)))


def _ranked(points: Floats) -> Floats:
    """Sort tables (d m 2) by the first objective, then the second, descending."""
    order = np.lexsort((-points[..., 1], -points[..., 0]), axis=-1)
    return np.take_along_axis(points, order[..., None], axis=1)


def _resampled(configurations: Sequence[Replicates], n: int, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield the points (d m 2) of some resamples at a time."""
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        places = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        weights = np.bincount(places.ravel(), minlength=size * n).reshape(size, n) / n
        yield np.stack([_means(each, weights, rng) for each in configurations], axis=1)


def _means(each: Replicates, weights: Floats, rng: np.random.Generator) -> Floats:
    """Return clean and robust accuracy (d 2) over resampled seeds, on the images of each resample."""
    seeds = rng.integers(len(each.clean), size=(len(weights), len(each.clean)))
    rates = (weights @ bits.T.astype(float) for bits in (each.clean, each.robust))
    # Counts over n: what is equal in exact arithmetic must be equal here, or ties on the front would be lost.
    means = (np.take_along_axis(rate, seeds, axis=1).mean(axis=1) for rate in rates)
    return np.stack([np.round(mean, 12) for mean in means], axis=1)


def _undominated(ranked: Floats) -> Bits:
    """Mark the points that no other dominates, in tables (d m 2) sorted by the first, then the second, descending.

    The restatement of `study.fronts.non_dominated` for many tables at once: a point falls to a higher second objective
    at an equal first one, and to one at least as high at a larger first one.
    """
    x, y = ranked[..., 0], ranked[..., 1]
    places = np.arange(x.shape[1])[None, :]
    is_new = np.concatenate([np.ones_like(x[:, :1], bool), x[:, 1:] != x[:, :-1]], axis=1)
    first = np.maximum.accumulate(np.where(is_new, places, 0), axis=1)
    before = np.concatenate([np.full_like(y[:, :1], -np.inf), np.maximum.accumulate(y, axis=1)[:, :-1]], axis=1)
    best = np.take_along_axis(y, first, axis=1)
    return (y == best) & (y > np.take_along_axis(before, first, axis=1))


def _areas(ranked: Floats, corner: Floats) -> Floats:
    """Return the hypervolume (d,) of tables sorted as in `_undominated`."""
    covered = np.maximum(np.maximum.accumulate(ranked[..., 1], axis=1), corner[1])
    gained = np.diff(covered, axis=1, prepend=corner[1])
    return (gained * np.maximum(ranked[..., 0] - corner[0], 0)).sum(axis=1)


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
    a, b = (np.sign(np.subtract.outer(values, values)) for values in (np.asarray(first, float), np.asarray(second)))
    rng, nan, m = np.random.default_rng(seed), float("nan"), len(a)
    tau = float(_taus(np.ones((1, m)), a, b)[0])
    if not np.isfinite(tau):
        return RankAgreement(nan, Interval(nan, nan), m)
    places = rng.integers(m, size=(draws, m)) + m * np.arange(draws)[:, None]
    drawn = _taus(np.bincount(places.ravel(), minlength=draws * m).reshape(draws, m).astype(float), a, b)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return RankAgreement(tau, Interval(float(low), float(high)), m)


def _taus(counts: Floats, first: Floats, second: Floats) -> Floats:
    """Return tau-b (d,) of networks taken so many times each (d m); NaN where a measure is constant.

    Args:
        counts: (d m).
        first: (m m) signs of the differences by one measure.
        second: (m m) by the other.

    Source:
        [kendall1945treatment]: concordant less discordant pairs over the root of the pairs tied in neither measure.
    """
    agree, by_first, by_second = (
        ((counts @ kernel) * counts).sum(axis=1) for kernel in (first * second, first**2, second**2)
    )
    with np.errstate(invalid="ignore"):
        return agree / np.sqrt(by_first * by_second)
