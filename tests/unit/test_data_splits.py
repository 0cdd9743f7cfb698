"""Split arithmetic: a partition, proportional per class, named by a hash that moves with the content."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodekd.data.splits import (
    SPLITS,
    block_sizes,
    contiguous,
    split_hash,
    stratified,
    stratified_with_test,
    train_sizes,
)
from nodekd.errors import DataError

class_counts = st.lists(st.integers(4, 40), min_size=2, max_size=6)


def labels_of(counts: list[int]) -> np.ndarray:
    return np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))


def assert_partition(parts: dict[str, np.ndarray], n: int) -> None:
    assert tuple(parts) == SPLITS
    assert sorted(np.concatenate(list(parts.values()))) == list(range(n))


@pytest.mark.parametrize(("n", "sizes"), [(1797, (808, 270, 270, 449)), (4, (1, 1, 1, 1)), (100, (45, 15, 15, 25))])
def test_block_sizes(n, sizes):
    assert block_sizes(n) == sizes


@pytest.mark.parametrize(("n", "sizes"), [(5000, (4000, 500, 500)), (750, (600, 75, 75)), (3, (1, 1, 1))])
def test_train_sizes(n, sizes):
    assert train_sizes(n) == sizes


@given(st.integers(4, 3000))
def test_contiguous_is_a_partition_in_order(n):
    parts = contiguous(n)
    assert_partition(parts, n)
    assert np.array_equal(np.concatenate(list(parts.values())), np.arange(n))
    assert min(len(ids) for ids in parts.values()) >= 1


@given(class_counts)
def test_stratified_is_a_partition_proportional_per_class(counts):
    labels = labels_of(counts)
    parts = stratified(labels, [f"c{i}" for i in range(len(counts))])
    assert_partition(parts, len(labels))
    for share, ids in zip((0.45, 0.15, 0.15, 0.25), parts.values(), strict=True):
        found = np.bincount(labels[ids], minlength=len(counts))
        assert found.min() >= 1
        assert np.abs(found - share * np.array(counts)).max() <= 1.5


@given(class_counts)
def test_official_test_set_stays_whole(counts):
    labels = np.concatenate([labels_of(counts), np.arange(len(counts)).repeat(2)])
    n_test = 2 * len(counts)
    parts = stratified_with_test(labels, [f"c{i}" for i in range(len(counts))], n_test)
    assert_partition(parts, len(labels))
    assert np.array_equal(parts["test"], np.arange(len(labels) - n_test, len(labels)))
    for share, name in zip((0.8, 0.1, 0.1), SPLITS[:3], strict=True):
        found = np.bincount(labels[parts[name]], minlength=len(counts))
        assert found.min() >= 1
        assert np.abs(found - share * np.array(counts)).max() <= 1.5


def test_stratified_mixes_the_stored_order():
    parts = stratified(np.zeros(400, dtype=np.int64), ["only"])
    assert abs(parts["test"].mean() - 199.5) < 25  # a block at either end would lie 150 away


def test_the_same_data_is_cut_the_same_way_whatever_the_global_seed():
    labels = labels_of([20, 30])
    np.random.seed(1)  # noqa: NPY002
    first = stratified(labels, "ab")
    np.random.seed(2)  # noqa: NPY002
    second = stratified(labels, "ab")
    assert all(np.array_equal(first[name], second[name]) for name in SPLITS)


def test_small_classes_are_named():
    labels = np.array([0] * 9 + [1] * 3)
    with pytest.raises(
        DataError, match=r"class 'fox' has 3 to share among train, val_search, val_front, test; give it 4"
    ):
        stratified(labels, ["dog", "fox"])
    with pytest.raises(DataError, match=r"class 'fox' has 2 to share among train, val_search, val_front; give it 3"):
        stratified_with_test(np.array([0] * 9 + [1] * 2 + [0, 1]), ["dog", "fox"], 2)
    with pytest.raises(DataError, match=r"the test set has none of class 'dog'; add some or leave the class out"):
        stratified_with_test(labels, ["dog", "fox"], 1)


def test_hash_moves_with_everything_it_covers():
    labels = labels_of([20, 30])
    parts = stratified(labels, "ab")
    base = split_hash("x", parts, labels, "f")
    assert base == split_hash("x", {k: v.astype(np.int32) for k, v in parts.items()}, labels.copy(), "f")
    swapped = {**parts, "val_search": parts["val_front"], "val_front": parts["val_search"]}
    relabelled = labels.copy()
    relabelled[0] = 1 - relabelled[0]
    others = {
        split_hash("y", parts, labels, "f"),
        split_hash("x", parts, labels, "g"),
        split_hash("x", swapped, labels, "f"),
        split_hash("x", parts, relabelled, "f"),
    }
    assert len(others | {base}) == 5
