"""Domination and hypervolume against brute force, and invariances of both."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.fronts import distance_to_front, hypervolume, layers, near_front, next_after_front, non_dominated

tables = st.integers(1, 25).flatmap(
    lambda n: st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])] * 2), min_size=n, max_size=n)
)


def _brute_front(points: np.ndarray) -> np.ndarray:
    return np.array([not any((q >= p).all() and (q > p).any() for q in points) for p in points], bool)


@given(tables)
def test_front_is_what_the_definition_says(rows: list[tuple[float, ...]]) -> None:
    points = np.array(rows)
    assert (non_dominated(points) == _brute_front(points)).all()


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_front_in_any_number_of_objectives(objectives: int) -> None:
    points = np.random.default_rng(objectives).integers(0, 6, (80, objectives)) / 5
    assert (non_dominated(points) == _brute_front(points)).all()


def test_ties_stay_together() -> None:
    assert non_dominated([[1, 0], [1, 0], [0, 1], [0, 0]]).tolist() == [True, True, True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_point_that_is_not_finite_is_never_on_the_front_and_dominates_nothing(bad: float) -> None:
    assert non_dominated([[bad, 2.0], [2.0, bad], [0.5, 0.5]]).tolist() == [False, False, True]


def test_infeasible_points_are_out_and_dominate_nothing() -> None:
    assert non_dominated([[1, 1], [0.5, 0.5]], feasible=[False, True]).tolist() == [False, True]
    assert not non_dominated([[1, 1]], feasible=[False]).any()


def test_no_points() -> None:
    assert non_dominated([]).shape == (0,)
    assert non_dominated(np.empty((0, 3))).shape == (0,)
    assert hypervolume([], (0, 0)) == 0
    assert next_after_front([], [], 3, 1.0).shape == (0,)


@given(tables)
def test_each_layer_is_the_front_of_what_the_layers_before_it_leave(rows: list[tuple[float, ...]]) -> None:
    points = np.array([*rows, (np.nan, 0.5)])
    left = np.arange(len(rows))
    for layer in layers(points):
        assert layer.tolist() == left[_brute_front(points[left])].tolist()
        left = np.setdiff1d(left, layer)
    assert not len(left)


def test_order_of_points_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(0, 10, (60, 2)) / 10
    shuffle = rng.permutation(60)
    assert (non_dominated(points)[shuffle] == non_dominated(points[shuffle])).all()


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="must be a table"):
        non_dominated([1.0, 2.0])
    with pytest.raises(ValueError, match="One feasible bit per point"):
        non_dominated([[1, 2]], feasible=[True, False])
    with pytest.raises(ValueError, match="Two objectives"):
        hypervolume([[1, 2, 3]], (0, 0, 0))
    with pytest.raises(ValueError, match="must have one shape"):
        near_front([[1, 2]], [[1, 2], [1, 2]], 1)
    with pytest.raises(ValueError, match="k >= 0"):
        near_front([[1, 2]], [[1, 2]], -1)


@given(tables)
def test_hypervolume_counts_the_cells_of_a_grid(rows: list[tuple[float, ...]]) -> None:
    """All coordinates are quarters, so the area is exactly the number of dominated quarter cells."""
    points = np.array(rows)
    centres = np.arange(0.125, 1, 0.25)
    cells = sum(bool(((points[:, 0] > x) & (points[:, 1] > y)).any()) for x in centres for y in centres)
    assert hypervolume(points, (0, 0)) == pytest.approx(cells / 16, abs=1e-12)


def test_hypervolume_against_monte_carlo_above_a_reference() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((30, 2)) * 0.8
    corner = np.array([0.1, 0.05])
    darts = corner + rng.random((200_000, 2)) * (1 - corner)
    share = (points[:, None, :] > darts[None, :, :]).all(2).any(0).mean()
    assert hypervolume(points, corner) == pytest.approx(share * float((1 - corner).prod()), abs=4e-3)


def test_points_not_above_the_reference_add_nothing() -> None:
    assert hypervolume([[0.1, 0.9], [0.05, 0.99]], (0.1, 0.0)) == 0
    assert hypervolume([[0.1, 0.9], [0.6, 0.5]], (0.1, 0.0)) == pytest.approx(0.25)


def test_dominated_infeasible_and_nan_points_do_not_change_the_area() -> None:
    front = [[0.9, 0.2], [0.5, 0.6]]
    extra = [[0.4, 0.1], [np.nan, 1.0], [1.0, 1.0]]
    area = hypervolume([*front, *extra], (0, 0), feasible=[True, True, True, True, False])
    assert area == pytest.approx(hypervolume(front, (0, 0)))


@settings(max_examples=15, deadline=None)
@given(tables, st.sampled_from([0.3, 1.0, 2.5]))
def test_near_front_is_what_a_shift_in_some_direction_reaches(rows: list[tuple[float, ...]], k: float) -> None:
    points = np.array(rows)
    errors = 0.01 + np.random.default_rng(len(rows)).random(points.shape) * 0.2
    directions = [(np.cos(angle), np.sin(angle)) for angle in np.linspace(0, np.pi / 2, 61)]

    def reaches(i: int, length: float) -> bool:
        others = np.delete(points, i, axis=0)
        moved = [points[i] + length * errors[i] * direction for direction in directions]
        return any(_brute_front(np.vstack([others, shifted]))[-1] for shifted in moved)

    for i, near in enumerate(near_front(points, errors, k)):
        assert reaches(i, 1.05 * k) if near else not reaches(i, 0.999 * k)


def test_a_shift_counts_both_objectives_together() -> None:
    points, errors = [[0.0, 0.0], [3.0, 4.0]], np.ones((2, 2))
    assert distance_to_front(points, errors).tolist() == [3.0, 0.0]
    staircase = [[0.0, 0.0], [3.0, 8.0], [8.0, 4.0]]
    assert distance_to_front(staircase, np.ones((3, 2)))[0] == 5.0
    assert distance_to_front([[0.0, 0.0], [1.0, 1.0]], np.zeros((2, 2)))[0] == np.inf
    with pytest.raises(ValueError, match="Two objectives are needed"):
        distance_to_front([[1.0, 2.0, 3.0]], np.ones((1, 3)))


def test_near_front_at_zero_is_the_front_and_grows_with_k() -> None:
    rng = np.random.default_rng(3)
    points, errors = rng.random((50, 2)), rng.random((50, 2)) * 0.1
    assert (near_front(points, errors, 0) == non_dominated(points)).all()
    near = [near_front(points, errors, k) for k in (0, 1, 2, 4)]
    assert all((small <= large).all() for small, large in pairwise(near))
    assert near[-1].sum() > near[0].sum()


def test_next_after_front_gives_the_nearest_first_and_only_what_is_missing() -> None:
    points = np.array([[1.0, 1.0], [0.97, 0.97], [0.99, 0.90], [0.5, 0.5], [0.98, 0.98]])
    errors = np.full(points.shape, 0.02)
    # Standard errors needed: 1.5 (row 1), 0.5 (row 2), 25 (row 3), 1 (row 4).
    assert next_after_front(points, errors, wanted=5, k=1.6).tolist() == [2, 4, 1]
    assert next_after_front(points, errors, wanted=3, k=1.6).tolist() == [2, 4]
    assert next_after_front(points, errors, wanted=5, k=0.6).tolist() == [2]
    assert next_after_front(points, errors, wanted=1, k=1.6).tolist() == []


def test_next_after_front_never_names_the_front_or_the_infeasible() -> None:
    points = [[1.0, 1.0], [0.999, 0.999], [0.998, 0.998]]
    errors = np.full((3, 2), 0.1)
    assert next_after_front(points, errors, 3, 1.0, feasible=[True, False, True]).tolist() == [2]


def test_hypervolume_agrees_with_optunas_private_one() -> None:
    optuna_hypervolume = pytest.importorskip("optuna._hypervolume")
    points = np.random.default_rng(5).random((40, 2))
    theirs = optuna_hypervolume.compute_hypervolume(-points, np.array([0.0, 0.0]))
    assert hypervolume(points, (0, 0)) == pytest.approx(theirs, abs=1e-12)
