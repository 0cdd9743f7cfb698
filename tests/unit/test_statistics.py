"""Intervals and paired tests against closed forms, published values and simulation."""

from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import norm

from study.statistics import (
    holm,
    indistinguishable,
    mcnemar,
    paired_difference,
    smallest_detectable_difference,
    standard_error,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 200), (3, 10), (449, 449), (120, 449), (1, 1)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_is_the_closed_form(k: int, n: int, level: float) -> None:
    z = norm.ppf(0.5 + level / 2)
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    interval = wilson(k, n, level)
    assert interval.low == pytest.approx(centre - half, abs=1e-12)
    assert interval.high == pytest.approx(centre + half, abs=1e-12)
    assert 0 <= interval.low <= p <= interval.high <= 1 or k in {0, n}


def test_wilson_of_no_images_knows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_zero_of_n_has_an_upper_end() -> None:
    """The published halves: 0 of 200 leaves 1.9 %, 0 of 1000 leaves .4 %."""
    assert wilson(0, 200).high == pytest.approx(0.019, abs=5e-4)
    assert wilson(0, 1000).high == pytest.approx(0.004, abs=5e-4)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= k <= n"):
        wilson(k, n)


@pytest.mark.parametrize("level", [0.0, 1.0, 1.5])
def test_level_must_be_a_probability(level: float) -> None:
    with pytest.raises(ValueError, match="0 < level < 1"):
        wilson(1, 3, level)


@pytest.mark.parametrize(("k", "n"), [(0, 50), (50, 50), (20, 50), (300, 449)])
def test_standard_error_is_wilsons_half_width_at_one_deviation(k: int, n: int) -> None:
    interval = wilson(k, n, level=float(norm.cdf(1) - norm.cdf(-1)))
    assert float(standard_error(k / n, n)) == pytest.approx((interval.high - interval.low) / 2, abs=1e-9)


def test_standard_error_takes_arrays_and_keeps_nan() -> None:
    errors = standard_error([0.0, 0.5, np.nan], [100, 100, 100])
    assert errors.shape == (3,)
    assert errors[0] > 0
    assert errors[1] == pytest.approx(0.05, rel=0.02)
    assert np.isnan(errors[2])


def test_two_standard_errors() -> None:
    assert indistinguishable(0.5, 100, 0.6, 100)
    assert not indistinguishable(0.5, 1000, 0.6, 1000)
    assert not indistinguishable(0.5, 100, float("nan"), 100)


def _bits(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (6, 0), (12, 2), (2, 12), (7, 7)])
def test_mcnemar_is_the_exact_binomial_tail(b: int, c: int) -> None:
    first, second = _bits(36, b, c, 5)
    tail = sum(comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
    outcome = mcnemar(first, second)
    assert outcome[:2] == (b, c)
    assert outcome.p_value == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_paired_difference_agrees_with_the_published_example() -> None:
    """Newcombe 1998, table 36/12/2/0: method 10 gives .0569 to .3404."""
    d = paired_difference(*_bits(36, 12, 2, 0))
    assert d.difference == pytest.approx(0.2)
    assert (d.low, d.high) == (pytest.approx(0.0569, abs=1e-4), pytest.approx(0.3404, abs=1e-4))


@pytest.mark.parametrize("table", [(200, 12, 6, 82), (30, 5, 3, 2), (10, 20, 15, 3), (40, 3, 0, 0)])
def test_paired_difference_restated_from_the_table(table: tuple[int, int, int, int]) -> None:
    a, b, c, d = table
    n = sum(table)
    (l1, u1), (l2, u2) = wilson(a + b, n), wilson(a + c, n)
    p1, p2 = (a + b) / n, (a + c) / n
    top = a * d - b * c
    top = top if top <= 0 else max(top - n / 2, 0)
    bottom = sqrt((a + b) * (c + d) * (a + c) * (b + d))
    phi = top / bottom if bottom else 0.0
    below = sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    above = sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    got = paired_difference(*_bits(a, b, c, d))
    assert (got.low, got.high) == (pytest.approx(p1 - p2 - below), pytest.approx(p1 - p2 + above))


def test_paired_difference_is_antisymmetric() -> None:
    first, second = _bits(200, 31, 12, 57)
    forward, backward = paired_difference(first, second), paired_difference(second, first)
    assert (forward.low, forward.high) == (pytest.approx(-backward.high), pytest.approx(-backward.low))


def test_paired_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth, hits, rounds = 0.1 - 0.04, 0, 600
    for _ in range(rounds):
        cell = rng.choice(4, size=300, p=[0.6, 0.1, 0.04, 0.26])
        d = paired_difference(np.isin(cell, [0, 1]), np.isin(cell, [0, 2]))
        hits += d.low <= truth <= d.high
    assert 0.93 <= hits / rounds <= 0.985


def test_pairing_narrows_the_interval() -> None:
    first, second = _bits(200, 12, 6, 82)
    shuffled = np.random.default_rng(0).permutation(second)
    paired, unpaired = paired_difference(first, second), paired_difference(first, shuffled)
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_paired_difference_of_equal_and_of_no_bits() -> None:
    same = paired_difference(np.ones(20, bool), np.ones(20, bool))
    assert same.difference == 0
    assert same.low < 0 < same.high
    assert paired_difference([], [])[1:] == (-1.0, 1.0, 0)


def test_paired_bits_must_belong_to_the_same_images() -> None:
    with pytest.raises(ValueError, match=r"same images.*\(3,\) and \(2,\)"):
        mcnemar([1, 0, 1], [1, 0])


@pytest.mark.parametrize(("n", "psi"), [(449, 0.06), (1000, 0.1), (2000, 0.3)])
def test_smallest_difference_is_found_as_often_as_promised(n: int, psi: float) -> None:
    """At the promised difference the exact test finds it in about 80 % of draws (it is a little conservative)."""
    d = smallest_detectable_difference(n, psi)
    rng = np.random.default_rng(1)
    only_first = (psi + d) / 2
    draws = rng.multinomial(n, [only_first, psi - only_first, 1 - psi], size=300)
    found = [mcnemar(*_bits(int(rest), int(b), int(c), 0)).p_value < 0.05 for b, c, rest in draws]
    assert 0.7 <= float(np.mean(found)) <= 0.88


def test_smallest_difference_shrinks_with_images_and_agreement() -> None:
    sizes = [smallest_detectable_difference(n, 0.1) for n in (100, 400, 1600, 6400)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == pytest.approx(2 * sizes[2], rel=0.05)
    assert smallest_detectable_difference(449, 0.05) < smallest_detectable_difference(449, 0.2)
    assert smallest_detectable_difference(449) == smallest_detectable_difference(449, 0.5)


def test_smallest_difference_of_few_images_stays_a_fraction() -> None:
    assert 0 < smallest_detectable_difference(1, 0.0) <= 1
    # Models that agreed everywhere: six one-sided disagreements is the least that reaches p < .05.
    assert smallest_detectable_difference(200, 0.0) >= 6 / 200


@pytest.mark.parametrize(("n", "psi"), [(0, 0.1), (10, 1.1), (10, -0.1)])
def test_smallest_difference_refuses_nonsense(n: int, psi: float) -> None:
    with pytest.raises(ValueError, match="n >= 1"):
        smallest_detectable_difference(n, psi)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
