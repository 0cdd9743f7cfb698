"""A data set as the rest of the program sees it: four splits of tensors on one device, and what was learnt from train.

dataset = load(DataConfig(name="digits"), splits=("train", "val_search"))
images = dataset.splits["train"].images()  # (808 1 8 8) in [0, 1]
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodekd.data.catalog import DATASETS, MAX_SIZE, MIN_SIZE, DataFacts
from nodekd.data.image_files import PIXELS
from nodekd.data.sources import Source, open_source
from nodekd.data.splits import SPLITS, Indices, contiguous, split_hash, stratified, stratified_with_test
from nodekd.data.views import Augmentation
from nodekd.errors import DataError

_CHUNK = 4096


@final
@dataclass(frozen=True)
class DataConfig:
    """Which data set, where it lies, and how it is cut."""

    name: str = "digits"
    """A key of `catalog.DATASETS`."""
    root: str = "data"
    """Folder of all data; for `folder` the image folder itself."""
    image_size: int | None = None
    """Side in pixels to which images are brought once; None = the data set's own."""
    shuffle: bool = False
    """Digits: a stratified random split instead of contiguous blocks. Other sets are always stratified."""

    def __post_init__(self) -> None:
        if self.name not in DATASETS:
            near = difflib.get_close_matches(self.name, DATASETS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise DataError(f"data.name must be one of {', '.join(DATASETS)}, but got {self.name!r}.{hint}")
        if self.image_size is not None and not MIN_SIZE <= self.image_size <= MAX_SIZE:
            raise DataError(
                f"`{MIN_SIZE} <= data.image_size <= {MAX_SIZE}` must hold, but got {self.image_size}; leave it out for "
                f"the data set's own size."
            )


@final
@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split, on one device."""

    pixels: Tensor
    """(n c h w) uint8 as stored."""
    levels: int
    """Pixel value that means 1.0: 16 for digits of their own size, else 255."""
    labels: Tensor
    """(n,) int64 class indices."""
    ids: Tensor
    """(n,) int64 number of each image in the whole data set; survives every regrouping."""

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, index: Tensor | slice | None = None) -> Tensor:
        """Return images as networks and attacks take them.

        Args:
            index: Positions in this split, (b,) int64 or a slice; None = all.

        Returns:
            (b c h w) float32 in [0, 1].
        """
        chosen = self.pixels if index is None else self.pixels[index]
        return chosen.to(torch.float32).div_(self.levels)

    def to(self, device: torch.device | str) -> Self:
        """Return the same split on another device."""
        return type(self)(self.pixels.to(device), self.levels, self.labels.to(device), self.ids.to(device))


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """The asked splits of one data set."""

    name: str
    """A key of `catalog.DATASETS`."""
    classes: int
    """k."""
    class_names: tuple[str, ...]
    """(k,) in the order of the labels."""
    shape: tuple[int, int, int]
    """(c, h, w) of every image."""
    splits: Mapping[str, Split]
    """Only the splits that were asked for."""
    split_hash: str
    """Names the division into all four splits, whichever were asked for."""
    augmentation: Augmentation
    """Views that leave the label true (S3)."""
    mean: tuple[float, ...]
    """(c,) mean of the training images in [0, 1] (S1)."""
    std: tuple[float, ...]
    """(c,) standard deviation of the training images, 1 for a channel that never changes."""


def load(config: DataConfig, *, splits: Sequence[str] = SPLITS, device: torch.device | str = "cpu") -> Dataset:
    """Read a data set, cut it, and move the asked splits to the device.

    Args:
        config: Which data set.
        splits: Names out of `SPLITS`; the others are not kept in memory.
        device: Where the tensors shall live.

    Returns:
        The data set; mean and deviation come from train even if train is not asked for.

    Raises:
        DataError: If the data is missing, damaged, laid out in another way, or too small to be cut.
        ValueError: If a split has an unknown name.
    """
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise ValueError(f"splits must be out of {', '.join(SPLITS)}, but got {unknown[0]!r}.")
    facts, source = DATASETS[config.name], _opened(config)
    parts = _cut(config, facts, source)
    train = source.read(parts["train"])
    mean, std = _moments(train, source.levels)
    loaded = {}
    for name in splits:
        pixels = train if name == "train" else source.read(parts[name])
        loaded[name] = _on_device(pixels, source, parts[name], device)
    return Dataset(
        name=config.name,
        classes=len(source.class_names),
        class_names=source.class_names,
        shape=(source.channels, source.image_size, source.image_size),
        splits=loaded,
        split_hash=split_hash(config.name, parts, source.labels, source.fingerprint),
        augmentation=_augmentation(facts, source.image_size),
        mean=mean,
        std=std,
    )


def identify(config: DataConfig) -> str:
    """Return the hash of the division into splits without decoding a picture.

    Args:
        config: Which data set.

    Raises:
        DataError: As `load` does.
    """
    source = _opened(config)
    return split_hash(config.name, _cut(config, DATASETS[config.name], source), source.labels, source.fingerprint)


def _opened(config: DataConfig) -> Source:
    return open_source(config.name, Path(config.root).expanduser(), config.image_size)


def _cut(config: DataConfig, facts: DataFacts, source: Source) -> dict[str, Indices]:
    if source.n_test:
        return stratified_with_test(source.labels, source.class_names, source.n_test)
    if facts.contiguous and not config.shuffle:
        return contiguous(len(source.labels))
    return stratified(source.labels, source.class_names)


def _on_device(pixels: PIXELS, source: Source, ids: Indices, device: torch.device | str) -> Split:
    labels = source.labels[ids]
    return Split(torch.from_numpy(pixels), source.levels, torch.from_numpy(labels), torch.from_numpy(ids.copy())).to(
        device
    )


def _augmentation(facts: DataFacts, size: int) -> Augmentation:
    """Scale the padding with the side, never above an eighth of it (S3)."""
    return Augmentation(min(size // 8, round(facts.padding * size / facts.image_size)), facts.flip)


def _moments(pixels: PIXELS, levels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, exact, from counts of the pixel values."""
    counts = np.zeros((pixels.shape[1], 256))
    for start in range(0, len(pixels), _CHUNK):
        for channel in range(pixels.shape[1]):
            counts[channel] += np.bincount(pixels[start : start + _CHUNK, channel].ravel(), minlength=256)
    shares: NDArray[np.float64] = counts / counts.sum(1, keepdims=True)
    values = np.arange(256) / levels
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0.0))
    return tuple(mean.tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist())
