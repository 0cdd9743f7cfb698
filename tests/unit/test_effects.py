"""Intervals over replicates against closed forms, scipy and simulated data with known effects."""

from math import isnan, nan, sqrt

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_rel

from study.effects import (
    bootstrap_interval,
    detectable,
    factorial_effects,
    mean_interval,
    p_value,
    paired_difference,
    relative_gain,
)

RNG = np.random.default_rng(0)


def test_two_replicates_by_hand() -> None:
    found = mean_interval([0.90, 0.94])
    half = 12.706204736 * (0.04 / sqrt(2)) / sqrt(2)
    assert found.value == pytest.approx(0.92)
    assert (found.low, found.high) == pytest.approx((0.92 - half, 0.92 + half))
    assert (found.n, found.known) == (2, True)


@pytest.mark.parametrize("values", [[0.5], [0.5, nan], [0.1 + 0.2, 0.3, 0.3]])
def test_no_spread_gives_no_interval(values: list[float]) -> None:
    found = mean_interval(values)
    assert not found.known
    assert found.value == pytest.approx(values[0])
    assert isnan(p_value(found))
    assert isnan(detectable(found))


def test_nothing_gives_nothing() -> None:
    assert mean_interval([]).n == 0
    assert paired_difference([], []).difference.n == 0


def test_interval_and_p_agree_with_scipy() -> None:
    a, b = RNG.normal(0.9, 0.02, 7), RNG.normal(0.88, 0.02, 7)
    found, theirs = paired_difference(a, b), ttest_rel(a, b)
    ends = theirs.confidence_interval(0.95)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.difference.low, found.difference.high) == pytest.approx((ends.low, ends.high))


def test_pairs_with_a_gap_are_left_out() -> None:
    assert paired_difference([0.9, nan, 0.8], [0.8, 0.7, 0.6]) == paired_difference([0.9, 0.8], [0.8, 0.6])
    with pytest.raises(ValueError, match="same blocks"):
        paired_difference([1.0], [1.0, 2.0])


def test_what_a_block_adds_to_both_levels_cancels() -> None:
    a, b, offset = RNG.normal(0, 1, 5), RNG.normal(0, 1, 5), RNG.normal(0, 100, 5)
    assert paired_difference(a + offset, b + offset).difference[:3] == pytest.approx(paired_difference(a, b)[0][:3])


def test_fieller_ends_are_where_the_t_test_is_at_its_edge() -> None:
    a, b = RNG.normal(0.8, 0.03, 6), RNG.normal(0.6, 0.03, 6)
    found = relative_gain(a, b)
    assert found.low < found.value < found.high
    for end in (found.low, found.high):
        assert ttest_1samp(a - (1 + end) * b, 0).pvalue == pytest.approx(0.05)
    assert found.value == pytest.approx(a.mean() / b.mean() - 1)


@pytest.mark.parametrize(("shift", "scale"), [(0.001, 0.02), (0.05, 0.02), (-0.05, 0.03)])
def test_relative_and_absolute_gain_agree_on_zero(shift: float, scale: float) -> None:
    rng = np.random.default_rng(1)
    b = rng.normal(0.7, scale, 5)
    a = b + shift + rng.normal(0, scale, 5)
    found = paired_difference(a, b)
    holds = found.difference.low <= 0 <= found.difference.high
    assert (found.relative.low <= 0 <= found.relative.high) == holds


def test_relative_gain_without_a_base_is_unknown() -> None:
    assert isnan(relative_gain([0.1, 0.2], [-0.1, 0.1]).value)
    assert isnan(relative_gain([], []).value)
    assert isnan(relative_gain([0.9, 0.5], [0.001, 0.4]).low)


def test_smallest_detectable_difference_is_found_four_times_in_five() -> None:
    n, spread, rng = 6, 0.02, np.random.default_rng(2)
    unit = mean_interval([spread * v for v in _standardised(n)])
    least = detectable(unit)
    draws = rng.normal(least, spread, (4000, n))
    statistic = draws.mean(1) / (draws.std(1, ddof=1) / sqrt(n))
    assert (statistic > t.ppf(0.975, n - 1)).mean() == pytest.approx(0.8, abs=0.02)


def _standardised(n: int) -> np.ndarray:
    values = np.arange(n, dtype=float)
    return (values - values.mean()) / values.std(ddof=1)


def test_factorial_recovers_known_effects() -> None:
    """y = 2·[a=1] + horizon effect (0, 1, 3) + 0.5·[a=1][h=2] + block, without noise."""
    a, h = np.arange(2)[:, None], np.array([0.0, 1.0, 3.0])[None]
    cells = 2.0 * a + h + 0.5 * a * (np.arange(3)[None] == 2)
    found = factorial_effects(np.stack([cells + 10 * block for block in range(4)]), ["a", "h"])
    estimates = {(e.factors, e.levels): e.estimate.value for e in found}
    assert estimates == pytest.approx(
        {
            (("a",), (1,)): 2 + 0.5 / 3,
            (("h",), (1,)): 1.0,
            (("h",), (2,)): 3.25,
            (("a", "h"), (1, 1)): 0.0,
            (("a", "h"), (1, 2)): 0.5,
        },
        abs=1e-12,
    )
    assert all(e.estimate.n == 4 for e in found)


def test_two_by_two_effect_is_a_paired_difference_of_means() -> None:
    cells = RNG.normal(0, 1, (5, 2, 2))
    effects = {e.factors: e for e in factorial_effects(cells, ["a", "b"])}
    paired = paired_difference(cells[:, 1].mean(1), cells[:, 0].mean(1))
    assert effects["a",].estimate == pytest.approx(paired.difference)
    assert effects["a",].p_value == pytest.approx(paired.p_value)
    both = cells[:, 1, 1] - cells[:, 0, 1] - cells[:, 1, 0] + cells[:, 0, 0]
    assert effects["a", "b"].p_value == pytest.approx(ttest_1samp(both, 0).pvalue)


def test_holes_and_missing_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 4"):
        factorial_effects([[1.0, nan], [1.0, 2.0]], ["a"])
    with pytest.raises(ValueError, match="axis"):
        factorial_effects([[1.0, 2.0]], ["a", "b"])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng, hits, rounds = np.random.default_rng(3), 0, 600
    for _ in range(rounds):
        blocks = rng.normal(0, 1, 4)[:, None, None]
        cells = np.array([[0.0, 0.0], [0.3, 0.5]]) + blocks + rng.normal(0, 0.2, (4, 2, 2))
        effect = factorial_effects(cells, ["a", "b"])[0]
        hits += effect.estimate.low <= 0.4 <= effect.estimate.high
    assert hits / rounds == pytest.approx(0.95, abs=0.03)


def test_bootstrap_resamples_seeds_and_images() -> None:
    rng = np.random.default_rng(4)
    table = rng.normal(0.1, 0.5, (30, 400)) + rng.normal(0, 0.05, (30, 1))
    found = bootstrap_interval(table)
    expected = sqrt(0.05**2 / 30 + 0.5**2 / 12000 * 3)
    assert found.value == pytest.approx(table.mean())
    assert (found.high - found.low) / 3.92 == pytest.approx(expected, rel=0.25)
    assert found == bootstrap_interval(table)
    assert not bootstrap_interval(table[:1]).known
