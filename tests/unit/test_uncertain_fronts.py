"""Resampled fronts against closed forms, coverage, and a naive re-statement of attainment."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.fronts import hypervolume
from study.uncertain_fronts import Replicates, area_gain, attainment, rank_agreement, uncertain_front

RNG = np.random.default_rng(0)


def bits(rate: float, n: int = 200, seeds: int = 1) -> np.ndarray:
    return np.arange(n)[None, :].repeat(seeds, 0) < rate * n


def test_a_configuration_that_always_dominates_is_surely_alone_on_the_front() -> None:
    better, worse = Replicates(bits(0.9), bits(0.5)), Replicates(bits(0.8), bits(0.4))
    found = uncertain_front([better, worse], (0.1, 0.0), draws=300)
    assert found.membership == (1.0, 0.0)
    assert uncertain_front([better, better], (0.1, 0.0), draws=50).membership == (1.0, 1.0)


def test_a_coin_toss_between_two_is_half_half() -> None:
    """Same clean bits, robust bits that differ on 2 x 20 images: each wins in half of the resamples, ties in some."""
    n = 200
    first, second = np.zeros((1, n), bool), np.zeros((1, n), bool)
    first[0, :20] = second[0, 20:40] = True
    clean = np.ones((1, n), bool)
    found = uncertain_front([Replicates(clean, first), Replicates(clean, second)], (0.0, 0.0), draws=4000)
    tie = sum(found.membership) - 1
    assert 0.03 < tie < 0.12
    assert abs(found.membership[0] - found.membership[1]) < 0.05


def test_seeds_widen_what_images_alone_leave_narrow() -> None:
    n = 2000
    rates = (0.3, 0.5, 0.7)
    spread = np.stack([bits(rate, n)[0] for rate in rates])
    many = uncertain_front([Replicates(np.ones((3, n), bool), spread)], (0.0, 0.0), draws=1000).hypervolume
    one = uncertain_front([Replicates(np.ones((1, n), bool), bits(0.5, n))], (0.0, 0.0), draws=1000).hypervolume
    assert many.high - many.low > 4 * (one.high - one.low)
    assert one.high - one.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 / n), rel=0.15)
    assert many.low < 0.5 < many.high


def test_a_gain_is_the_difference_of_two_hypervolumes_and_turns_its_sign_with_them() -> None:
    first = [Replicates(bits(0.9), bits(0.3)), Replicates(bits(0.7), bits(0.5)), Replicates(bits(0.6), bits(0.2))]
    second = [Replicates(bits(0.8), bits(0.4))]
    found, turned = area_gain(first, second, (0.1, 0.05), 200), area_gain(second, first, (0.1, 0.05), 200)
    assert found.first == pytest.approx(hypervolume([(0.9, 0.3), (0.7, 0.5), (0.6, 0.2)], (0.1, 0.05)))
    assert found.second == pytest.approx(0.7 * 0.35)
    assert found.difference == pytest.approx(-turned.difference)
    assert found.interval.low < found.difference < found.interval.high
    assert area_gain(first, first, (0.1, 0.05), 50).interval == pytest.approx((0, 0))


def test_its_interval_covers_the_truth_though_one_front_is_the_best_of_many() -> None:
    """Eight networks against one, all equally good: percentiles would cover 0 half of the time."""
    rng, n, worlds = np.random.default_rng(1), 300, 150

    def network(luck: np.ndarray) -> Replicates:
        own = np.where(rng.random(n) < 0.7, luck, rng.random(n))
        return Replicates((own < 0.9)[None], (own < 0.5)[None])

    covered = 0
    for world in range(worlds):
        networks = [network(luck) for luck in [rng.random(n)] for _ in range(9)]
        low, high = area_gain(networks[:8], networks[8:], (0.1, 0.0), 200, seed=world).interval
        covered += low <= 0 <= high
    assert covered > 0.75 * worlds


def test_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        area_gain([Replicates(bits(0.5), bits(0.4))], [Replicates(bits(0.5, 100), bits(0.4, 100))], (0, 0))
    with pytest.raises(ValueError, match="same images"):
        area_gain([Replicates(bits(0.5), bits(0.4))], [], (0, 0))
    with pytest.raises(ValueError, match="same images"):
        uncertain_front([Replicates(bits(0.5), bits(0.4)), Replicates(bits(0.5, 100), bits(0.4, 100))], (0, 0))
    with pytest.raises(ValueError, match="same images"):
        uncertain_front([], (0, 0))
    with pytest.raises(ValueError, match="seeds images"):
        Replicates(bits(0.5), bits(0.5, 100))


def test_the_median_front_of_three_runs() -> None:
    runs = [[(0.9, 0.1), (0.5, 0.5)], [(0.8, 0.2), (0.4, 0.6)], [(0.7, 0.3)]]
    np.testing.assert_allclose(attainment(runs), [(0.8, 0.1), (0.7, 0.2), (0.5, 0.3), (0.4, 0.5)])
    np.testing.assert_allclose(attainment(runs, 1.0), [(0.7, 0.1), (0.5, 0.2), (0.4, 0.3)])
    np.testing.assert_allclose(attainment(runs[:1]), [(0.9, 0.1), (0.5, 0.5)])
    assert attainment([[], [], [(0.5, 0.5)]]).shape == (0, 2)
    with pytest.raises(ValueError, match="share"):
        attainment(runs, 0)
    with pytest.raises(ValueError, match="share"):
        attainment([])


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(points, min_size=1, max_size=5), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_attainment_is_what_a_count_over_a_grid_says(runs: list[list[tuple[int, int]]], share: float) -> None:
    surface = attainment(runs, share)
    for x in range(7):
        for y in range(7):
            by = sum(any(a >= x and b >= y for a, b in run) for run in runs)
            assert any(a >= x and b >= y for a, b in surface) == (by >= share * len(runs))


def test_rank_agreement_knows_perfect_reversed_and_none() -> None:
    values = np.arange(30.0)
    assert rank_agreement(values, 2 * values).tau == 1.0
    assert rank_agreement(values, -values).interval == pytest.approx((-1.0, -1.0))
    noise = rank_agreement(values, RNG.normal(size=30), draws=500)
    assert noise.interval.low < 0 < noise.interval.high
    assert noise.n == 30
    assert np.isnan(rank_agreement(values, np.ones(30)).tau)
    assert np.isnan(rank_agreement([1.0], [2.0]).tau)
