"""Digits against scikit-learn's own arrays, and the tensors every other room sees."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from nodekd.data.catalog import DATASETS
from nodekd.data.dataset import SPLITS, DataConfig, load
from nodekd.errors import DataError


def test_contiguous_blocks_are_the_stored_order():
    bunch = load_digits()
    data = load(DataConfig())
    assert [len(data.splits[name]) for name in SPLITS] == [808, 270, 270, 449]
    images = torch.cat([data.splits[name].images() for name in SPLITS])
    labels = torch.cat([data.splits[name].labels for name in SPLITS])
    assert torch.equal(images[:, 0], torch.tensor(bunch.images / 16, dtype=torch.float32))
    assert torch.equal(labels, torch.tensor(bunch.target))
    assert torch.equal(torch.cat([data.splits[name].ids for name in SPLITS]), torch.arange(1797))
    assert (data.shape, data.classes, data.class_names[3]) == ((1, 8, 8), 10, "3")


def nearest_neighbour(config: DataConfig) -> float:
    splits = load(config).splits
    train, test = splits["train"], splits["test"]
    model = KNeighborsClassifier(1).fit(train.images().flatten(1).numpy(), train.labels.numpy())
    return float(model.score(test.images().flatten(1).numpy(), test.labels.numpy()))


def test_nearest_neighbour_finds_the_contiguous_split_harder():
    contiguous, shuffled = nearest_neighbour(DataConfig()), nearest_neighbour(DataConfig(shuffle=True))
    assert 0.94 < contiguous < 0.98
    assert shuffled > contiguous


def test_shuffle_is_stratified_and_pinned():
    data = load(DataConfig(shuffle=True))
    for name, share in zip(SPLITS, (0.45, 0.15, 0.15, 0.25), strict=True):
        counts = data.splits[name].labels.bincount(minlength=10)
        expected = share * np.bincount(load_digits().target)
        assert np.abs(counts.numpy() - expected).max() <= 1.5
    assert not torch.equal(data.splits["test"].ids, load(DataConfig()).splits["test"].ids)
    # Both were computed once; a change means that old results no longer share their test set.
    assert load(DataConfig()).split_hash.startswith("b26b90840fa6be55")
    assert data.split_hash.startswith("206e1f51dc30a186")


def test_moments_are_those_of_train_alone():
    data = load(DataConfig(), splits=("val_search",))
    train = load_digits().images[:808] / 16
    assert data.mean == pytest.approx((train.mean(),), abs=1e-12)
    assert data.std == pytest.approx((train.std(),), abs=1e-12)


def test_only_asked_splits_are_held():
    data = load(DataConfig(), splits=("train", "val_search"))
    assert set(data.splits) == {"train", "val_search"}
    assert data.split_hash == load(DataConfig()).split_hash
    with pytest.raises(ValueError, match=r"splits must be out of train, val_search, val_front, test, but got 'dev'"):
        load(DataConfig(), splits=("dev",))


def test_images_by_index():
    split = load(DataConfig(), splits=("train",)).splits["train"]
    index = torch.tensor([5, 0, 5])
    assert torch.equal(split.images(index), split.images()[index])
    assert torch.equal(split.images(slice(3, 7)), split.images()[3:7])
    assert split.pixels.dtype == torch.uint8
    assert split.images().dtype == torch.float32
    assert split.images().max() == 1.0
    before = split.pixels.clone()
    split.images().zero_()
    assert torch.equal(split.pixels, before)
    assert len(split.to("cpu")) == 808


def test_upsampled_digits():
    small, large = load(DataConfig()), load(DataConfig(image_size=32))
    assert large.shape == (1, 32, 32)
    assert large.augmentation.padding == 4
    assert large.split_hash == small.split_hash
    images = large.splits["train"].images()
    assert images.unique().numel() > 200  # interpolated values are not squeezed into 17 levels
    assert abs(images.mean() - small.splits["train"].images().mean()) < 0.01
    pooled = torch.nn.functional.avg_pool2d(images, 4)
    assert (pooled - small.splits["train"].images()).abs().mean() < 0.08


@pytest.mark.parametrize("facts", DATASETS.values(), ids=DATASETS)
def test_padding_is_at_most_an_eighth_of_the_side(facts):
    assert facts.padding * 8 <= facts.image_size


def test_digits_and_house_numbers_are_never_mirrored():
    assert not DATASETS["digits"].flip
    assert not DATASETS["svhn"].flip


def test_config_refuses_nonsense():
    with pytest.raises(
        DataError, match=r"data\.name must be one of digits, .*, but got 'cifar'\. Did you mean cifar10\?"
    ):
        DataConfig(name="cifar")
    with pytest.raises(DataError, match=r"`8 <= data\.image_size <= 512` must hold, but got 4;"):
        DataConfig(image_size=4)


def test_catalog_loads_nothing_heavy():
    code = "import sys, nodekd.data.catalog; print({'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
