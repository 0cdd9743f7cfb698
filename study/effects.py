"""Intervals over replicates: means, paired differences and the effects of a balanced factorial.

Works on plain arrays, one number per training; which trainings belong together is decided in `study.designs`. Rates
over images, whose spread is known from their counts, belong to `study.statistics`.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product
from math import isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import root_scalar
from scipy.stats import nct, t

Array = NDArray[np.float64]
POWER = 0.8
_SAME = 1e-12
"""Spreads below this share of the values are rounding, not variation."""


class Mean(NamedTuple):
    """A mean over replicates with Student's t interval."""

    value: float
    low: float
    """NaN where one replicate, or replicates that all agree exactly, say nothing about the spread."""
    high: float
    n: int
    """Replicates."""
    spread: float
    """Standard deviation of the replicates; NaN for fewer than two."""

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return isfinite(self.low)


class Paired(NamedTuple):
    """First level minus second level over blocks that hold both."""

    difference: Mean
    first: float
    """Mean of the first level over the blocks."""
    second: float
    relative: "Relative"
    p_value: float
    """Of the paired t-test; NaN where there is no interval."""
    detectable: float
    """Smallest true difference that this many blocks with this spread find four times in five (S31); NaN if unknown."""


class Relative(NamedTuple):
    """Gain relative to the second level, first/second - 1, as a fraction, with Fieller's interval."""

    value: float
    low: float
    high: float


class Effect(NamedTuple):
    """A main effect (one factor) or a two-way interaction (two factors) of a balanced factorial."""

    factors: tuple[str, ...]
    levels: tuple[int, ...]
    """Place of the level of each factor; it is compared with place 0."""
    estimate: Mean
    """Over blocks."""
    p_value: float
    detectable: float


def mean_interval(values: ArrayLike, level: float = 0.95) -> Mean:
    """Give the mean of replicates with Student's t interval.

    Args:
        values: One number per replicate, shape (n,); NaN are left out.
        level: Confidence, between 0 and 1.

    Returns:
        mean ± t(level, n-1)·s/sqrt(n). One replicate, or replicates that agree exactly, give a mean without interval:
        their spread is not known.
    """
    kept = _finite(values)
    n = len(kept)
    if n == 0:
        return Mean(nan, nan, nan, 0, nan)
    mean = float(kept.mean())
    spread = float(kept.std(ddof=1)) if n > 1 else nan
    if not _varies(spread, kept):
        return Mean(mean, nan, nan, n, 0.0 if n > 1 else nan)
    half = float(t.ppf(0.5 + level / 2, n - 1)) * spread / sqrt(n)
    return Mean(mean, mean - half, mean + half, n, spread)


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Paired:
    """Compare two levels over blocks: everything but the level is equal within a block.

    Args:
        first: Values of the first level, shape (blocks,).
        second: Values of the second level in the same blocks, shape (blocks,). Blocks with a NaN are left out.
        level: Confidence, between 0 and 1.

    Raises:
        ValueError: If the two have different shapes.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"Paired levels must be values of the same blocks, but got shapes {a.shape} and {b.shape}.")
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    difference = mean_interval(a - b, level)
    means = (float(a.mean()), float(b.mean())) if len(a) else (nan, nan)
    return Paired(difference, *means, relative_gain(a, b, level), p_value(difference), detectable(difference))


def relative_gain(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Relative:
    """Give the gain relative to the second level's mean with Fieller's interval.

    The ends are the ratios r at which the paired t-test of first - r·second is at its edge, so the interval holds 0
    exactly where the interval of the difference does.

    Args:
        first: Shape (blocks,).
        second: Shape (blocks,); its mean must be clearly above 0 for the interval to be bounded.
        level: Confidence, between 0 and 1.

    Returns:
        Fractions; NaN ends where there is no bounded interval.

    Source:
        [fieller1954problems].
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if len(a) == 0 or b.mean() <= 0:
        return Relative(nan, nan, nan)
    ratio = float(a.mean() / b.mean())
    if len(a) < 2 or not _varies(float((a - ratio * b).std(ddof=1)), a):
        return Relative(ratio - 1, nan, nan)
    n = len(a)
    squared = float(t.ppf(0.5 + level / 2, n - 1)) ** 2 / n
    (va, cab), (_, vb) = np.cov(a, b)
    lead, middle = b.mean() ** 2 - squared * vb, a.mean() * b.mean() - squared * cab
    root = middle**2 - lead * (a.mean() ** 2 - squared * va)
    if lead <= 0 or root < 0:
        return Relative(ratio - 1, nan, nan)
    return Relative(ratio - 1, float((middle - sqrt(root)) / lead) - 1, float((middle + sqrt(root)) / lead) - 1)


def p_value(mean: Mean) -> float:
    """Give the two-sided p-value of a t-test of a mean against 0; NaN where there is no interval."""
    if not mean.known:
        return nan
    return float(2 * t.sf(abs(mean.value) / (mean.spread / sqrt(mean.n)), mean.n - 1))


def detectable(mean: Mean, level: float = 0.95, power: float = POWER) -> float:
    """Give the smallest true difference that a t-test over as many blocks with this spread finds with the given power.

    Solves the power of the two-sided t-test, from the noncentral t distribution, for the difference.

    Returns:
        In the unit of the mean; NaN where the spread is not known.
    """
    if not mean.known:
        return nan
    return _noncentrality(mean.n, level, power) * mean.spread / sqrt(mean.n)


def factorial_effects(values: ArrayLike, factors: Sequence[str], level: float = 0.95) -> list[Effect]:
    """Give main effects and two-way interactions of a balanced factorial, with intervals over its blocks.

    A main effect is the mean at a level less the mean at the factor's first level, both over all levels of the other
    factors. An interaction is a difference of differences: (a, b) - (first, b) - (a, first) + (first, first), over all
    levels of the rest. Both are computed within each block, so whatever a block adds to all its cells cancels.

    Args:
        values: Shape (blocks, levels of factor 1, levels of factor 2, ...), each cell once.
        factors: Their names, in the order of the axes.
        level: Confidence of the intervals, between 0 and 1.

    Returns:
        Main effects in the order of the factors, then interactions; p-values are not adjusted.

    Raises:
        ValueError: If an axis is missing or a cell is NaN: an unbalanced design has no such effects.
    """
    cells = np.asarray(values, float)
    if cells.ndim != len(factors) + 1:
        raise ValueError(f"Cells need an axis for blocks and one per factor {tuple(factors)}, but got {cells.shape}.")
    empty = int((~np.isfinite(cells)).sum())
    if empty:
        raise ValueError(f"Every cell of a factorial must hold a number, but {empty} of {cells.size} do not.")
    found = []
    for size in (1, 2):
        for axes in combinations(range(len(factors)), size):
            for places in product(*(range(1, cells.shape[axis + 1]) for axis in axes)):
                found.append(_effect(cells, axes, places, factors, level))
    return found


def bootstrap_interval(differences: ArrayLike, draws: int = 2000, level: float = 0.95, seed: int = 0) -> Mean:
    """Resample replicates and images together: the percentile interval of a mean over both.

    Args:
        differences: Shape (replicates, images), e.g. right bits of one level less those of another.
        draws: Resamplings.
        level: Confidence, between 0 and 1.
        seed: Of the resampling, so that the same study gives the same interval.

    Returns:
        The mean; its n counts replicates. No interval for fewer than two replicates.
    """
    table = np.asarray(differences, float)
    replicates, images = table.shape
    value = float(table.mean()) if table.size else nan
    if replicates < 2 or images < 2:
        return Mean(value, nan, nan, replicates, nan)
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(replicates, np.full(replicates, 1 / replicates), draws) / replicates
    columns = rng.multinomial(images, np.full(images, 1 / images), draws) / images
    means = np.einsum("dr,di,ri->d", rows, columns, table, optimize=True)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Mean(value, float(low), float(high), replicates, float(table.mean(1).std(ddof=1)))


def _effect(
    cells: Array, axes: tuple[int, ...], places: tuple[int, ...], factors: Sequence[str], level: float
) -> Effect:
    contrast = cells
    for axis, place in zip(axes, places, strict=True):
        contrast = np.take(contrast, [place], axis=axis + 1) - np.take(contrast, [0], axis=axis + 1)
    estimate = mean_interval(contrast.reshape(len(cells), -1).mean(1), level)
    return Effect(tuple(factors[a] for a in axes), places, estimate, p_value(estimate), detectable(estimate))


@lru_cache(maxsize=256)
def _noncentrality(n: int, level: float, power: float) -> float:
    edge = float(t.ppf(0.5 + level / 2, n - 1))

    def lacking(shift: float) -> float:
        return float(nct.sf(edge, n - 1, shift)) - power

    high = edge + 2.0
    while lacking(high) < 0:
        high *= 2
    return float(root_scalar(lacking, bracket=(0.0, high)).root)


def _varies(spread: float, values: Array) -> bool:
    return isfinite(spread) and spread > _SAME * max(float(np.abs(values).max()), 1e-300)


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, float).ravel()
    return array[np.isfinite(array)]
