"""Intervals and paired tests for rates counted over images.

Answers how sure a rate is and whether two models scored on the same images differ. Which models are compared, and how
the answer is worded, is left to the report; which points form a front is left to `study.fronts`.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom


class Interval(NamedTuple):
    """Both ends of a confidence interval; they belong to it."""

    low: float
    high: float


class McNemar(NamedTuple):
    """Outcome of the exact McNemar test on paired right/wrong bits."""

    only_first: int
    """Images that only the first model gets right."""
    only_second: int
    """Images that only the second model gets right."""
    p_value: float
    """Two-sided exact probability of a split at least this uneven when neither model is better."""


class Difference(NamedTuple):
    """First rate minus second rate on different images, with its interval."""

    difference: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """First rate minus second rate on the same images, with its interval."""

    difference: float
    low: float
    high: float
    n: int


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Give Wilson's interval of a rate.

    Args:
        k: Successes, 0 <= k <= n.
        n: Images; 0 gives the interval [0, 1], which says that nothing is known.
        level: Confidence, between 0 and 1.

    Returns:
        Lower and upper end, fractions in [0, 1].

    Raises:
        ValueError: If the counts or the level break their rule.
    """
    if not 0 <= k <= n:
        raise ValueError(f"`0 <= k <= n` must hold for a rate, but got {k=}, {n=}.")
    _check_level(level)
    if n == 0:
        return Interval(0.0, 1.0)
    k, n, z = int(k), int(n), NormalDist().inv_cdf(0.5 + level / 2)
    middle, half = k + z**2 / 2, z * sqrt(k * (n - k) / n + z**2 / 4)
    low, high = (middle - half) / (n + z**2), (middle + half) / (n + z**2)
    return Interval(0.0 if k == 0 else low, 1.0 if k == n else high)


def standard_error(rate: ArrayLike, n: ArrayLike) -> NDArray[np.float64]:
    """Give the standard error of a rate, never zero: half the width of Wilson's interval at one deviation.

    se = sqrt(rate·(1-rate)/n + 1/(4n²)) / (1 + 1/n); unlike sqrt(rate·(1-rate)/n) it does not vanish at 0 or 1.

    Args:
        rate: Fractions in [0, 1], any shape; NaN stays NaN.
        n: Images behind each rate, > 0, same shape or broadcastable.

    Returns:
        Standard errors in the shape of the broadcast.
    """
    p, count = np.asarray(rate, float), np.asarray(n, float)
    return np.asarray(np.sqrt(p * (1 - p) / count + 0.25 / count**2) / (1 + 1 / count))


def indistinguishable(first: float, first_n: int, second: float, second_n: int, k: float = 2.0) -> bool:
    """Tell whether two rates lie within k standard errors of their difference (the two-standard-error rule).

    For rates of different image sets; on the same images `mcnemar` sees smaller differences.

    Args:
        first: Fraction in [0, 1].
        first_n: Images behind it, > 0.
        second: Fraction in [0, 1].
        second_n: Images behind it, > 0.
        k: Width in standard errors, >= 0.

    Returns:
        True where the difference is no larger than k standard errors; False for NaN.
    """
    spread = sqrt(float(standard_error(first, first_n)) ** 2 + float(standard_error(second, second_n)) ** 2)
    return abs(first - second) <= k * spread


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Test exactly whether two models differ on the same images.

    Under the null each image on which they disagree falls to either side with probability one half.

    Args:
        first: Right/wrong bits of the first model, shape (n,).
        second: Bits of the second on the same images in the same order, shape (n,).

    Returns:
        Both discordant counts and the two-sided p-value; 1 where the models never disagree.

    Raises:
        ValueError: If the two are not bits of the same images.
    """
    a, b = _paired_bits(first, second)
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    disagreements = only_first + only_second
    p = min(1.0, 2 * float(binom.cdf(min(only_first, only_second), disagreements, 0.5)))
    return McNemar(only_first, only_second, p)


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> PairedDifference:
    """Give the difference of two rates over the same images with Newcombe's interval.

    The Wilson intervals of both rates are squared and added with the correlation phi of the 2x2 table taken off:
    low = d - sqrt(l1² - 2·phi·l1·u2 + u2²), high = d + sqrt(u1² - 2·phi·u1·l2 + l2²), l and u being distances of the
    rates to their Wilson limits. Closed form, so the report says the same each time.

    Args:
        first: Right/wrong bits of the first model, shape (n,).
        second: Bits of the second on the same images in the same order, shape (n,).
        level: Confidence, between 0 and 1.

    Returns:
        first minus second, its interval, and n; no images give NaN with the interval [-1, 1].

    Raises:
        ValueError: If the two are not bits of the same images, or the level is outside (0, 1).

    Source:
        [newcombe1998paired] method 10 with its continuity correction: a positive ad - bc is lowered by n/2, at most
        to 0. Where a margin is empty phi is 0.
    """
    a, b = _paired_bits(first, second)
    n = len(a)
    if n == 0:
        return PairedDifference(float("nan"), -1.0, 1.0, 0)
    p1, p2 = float(a.mean()), float(b.mean())
    (low1, high1), (low2, high2) = wilson(int(a.sum()), n, level), wilson(int(b.sum()), n, level)
    phi = _phi(a, b)
    below, above = _square_and_add(p1 - low1, high2 - p2, phi), _square_and_add(high1 - p1, p2 - low2, phi)
    return PairedDifference(p1 - p2, max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above), n)


def independent_difference(k1: int, n1: int, k2: int, n2: int, level: float = 0.95) -> Difference:
    """Give the difference of two rates over different images with Newcombe's interval.

    Args:
        k1: Successes behind the first rate, 0 <= k1 <= n1.
        n1: Images behind it, > 0.
        k2: Successes behind the second rate, 0 <= k2 <= n2.
        n2: Images behind it, > 0.
        level: Confidence, between 0 and 1.

    Returns:
        k1/n1 - k2/n2 and its interval.

    Raises:
        ValueError: If the counts or the level break their rule.

    Source:
        [newcombe1998interval] method 10: the distances to both Wilson limits, squared and added.
    """
    if min(n1, n2) < 1:
        raise ValueError(f"`n1 >= 1` and `n2 >= 1` must hold for a difference of rates, but got {n1=}, {n2=}.")
    return mean_of_differences([k1], n1, [k2], n2, level)


def mean_of_differences(k1: Sequence[int], n1: int, k2: Sequence[int], n2: int, level: float = 0.95) -> Difference:
    """Give the mean over models of rate 1 less rate 2, all rates 1 on the same images and all rates 2 on others.

    Models that share images share luck, by an unknown amount. The standard error of a mean is at most the mean of the
    standard errors, so distances to the Wilson limits are averaged over the models, then squared and added over the
    two sets of images: the interval is as wide as if all models erred on the same images, and never too narrow.

    Args:
        k1: Successes of each model on the first images, shape (models,).
        n1: First images, > 0.
        k2: Successes on the second images, shape (models,).
        n2: Second images, > 0.
        level: Confidence, between 0 and 1.

    Returns:
        Mean difference and its interval; NaN for no models.

    Source:
        [newcombe1998interval] method 10 for one model.
    """
    if not len(k1):
        return Difference(float("nan"), float("nan"), float("nan"))
    first, second = [wilson(k, n1, level) for k in k1], [wilson(k, n2, level) for k in k2]
    p1, p2 = float(np.mean(k1)) / n1, float(np.mean(k2)) / n2
    (low1, high1), (low2, high2) = np.mean(first, axis=0), np.mean(second, axis=0)
    below, above = sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2), sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2)
    return Difference(p1 - p2, max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above))


def detectable_by(low: float, high: float, level: float = 0.95, power: float = 0.8) -> float:
    """Give the smallest true difference that an interval so wide would keep from zero with the given power.

    For estimates that are nearly normal: half the width times (z_level + z_power)/z_level.

    Args:
        low: Lower end of the interval of a difference.
        high: Upper end.
        level: Confidence of the interval.
        power: Probability of finding the difference.
    """
    z_level, z_power = NormalDist().inv_cdf(0.5 + level / 2), NormalDist().inv_cdf(power)
    return (high - low) / 2 * (z_level + z_power) / z_level


def smallest_detectable_difference(
    n: int, discordant: float | None = None, level: float = 0.95, power: float = 0.8
) -> float:
    """Give the smallest true difference that a paired test on n images finds with the given power.

    Solves n·d² = (z_level·sqrt(psi) + z_power·sqrt(psi - d²))² for d, psi being the share of images on which the
    two models disagree. A psi too small to hold any detectable difference is raised to the smallest that can.

    Args:
        n: Images, > 0.
        discordant: psi in [0, 1]; None means 1/2, two unrelated models that are right half of the time.
        level: One minus the two-sided error of the test.
        power: Probability of finding the difference.

    Returns:
        Difference as a fraction, at most 1.

    Raises:
        ValueError: If n, discordant, level or power break their rule.

    Source:
        [connor1987paired] sample size for paired proportions, solved for the difference.
    """
    psi = 0.5 if discordant is None else discordant
    if n < 1 or not 0 <= psi <= 1:
        raise ValueError(f"`n >= 1` and `0 <= discordant <= 1` must hold, but got {n=}, discordant={psi}.")
    _check_level(level)
    _check_level(power)
    z_level, z_power = NormalDist().inv_cdf(0.5 + level / 2), NormalDist().inv_cdf(power)
    slope = (z_level * sqrt(n) + z_power * sqrt(max(0.0, n + z_power**2 - z_level**2))) / (n + z_power**2)
    return min(1.0, slope * max(sqrt(psi), slope))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family of comparisons by Holm's step-down rule.

    Args:
        p_values: One per comparison, in [0, 1].

    Returns:
        Adjusted values in the same order, in [0, 1], never below the given ones.

    Source:
        [holm1979rejective].
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def family_level(comparisons: int, level: float = 0.95) -> float:
    """Give the level at which one of several comparisons is judged at the strictest step of Holm's rule.

    Args:
        comparisons: Judged together; at least 1 is assumed.
        level: Of the family.
    """
    return 1 - (1 - level) / max(1, comparisons)


def _phi(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    both, neither = float((a & b).sum()), float((~a & ~b).sum())
    only_a, only_b = float((a & ~b).sum()), float((~a & b).sum())
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    covariance = both * neither - only_a * only_b
    if covariance > 0:
        covariance = max(covariance - len(a) / 2, 0.0)
    return covariance / sqrt(margins)


def _square_and_add(of_first: float, of_second: float, phi: float) -> float:
    return sqrt(max(0.0, of_first**2 - 2 * phi * of_first * of_second + of_second**2))


def _paired_bits(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"Paired bits must be two arrays of the same images, but got shapes {a.shape} and {b.shape}.")
    return a.astype(bool), b.astype(bool)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"`0 < level < 1` must hold for a confidence or a power, but got {level}.")
