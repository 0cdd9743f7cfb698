"""Where the images of each data set come from: scikit-learn's digits, torchvision's sets, a folder of pictures.

A `Source` numbers and labels every image and reads pixels on demand. Which image goes into which split is left to
`splits`, tensors to `dataset`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, SVHN, Food101

from nodekd.data.catalog import DATASETS
from nodekd.data.download import found_or_downloaded
from nodekd.data.folders import find_folder
from nodekd.data.image_files import PIXELS, read_pictures
from nodekd.errors import DataError

_CHUNK = 4096


@final
@dataclass(frozen=True, eq=False)
class Source:
    """Every image of one data set: numbered from 0, those of an official test set last."""

    class_names: tuple[str, ...]
    """(k,) in the order of the labels."""
    labels: NDArray[np.int64]
    """(n,) class of each image."""
    n_test: int
    """Number of images of the official test set, 0 without one."""
    channels: int
    """1 grey, 3 colour."""
    image_size: int
    """Side in pixels after resizing."""
    levels: int
    """Pixel value that means 1.0."""
    fingerprint: str
    """Changes with the stored images, not with the size they are brought to."""
    read: Callable[[NDArray[np.int64]], PIXELS]
    """Image ids (m,) -> (m c h w) uint8."""


def open_source(name: str, root: Path, image_size: int | None = None) -> Source:
    """Find a data set, downloading it where torchvision can, without decoding picture files yet.

    Args:
        name: A key of `catalog.DATASETS`.
        root: Folder of all data; for `folder` the image folder itself; digits ignore it.
        image_size: Side in pixels; None = the data set's own.

    Returns:
        The numbered, labelled images.

    Raises:
        DataError: If the data is missing, damaged or laid out in another way.
    """
    size = image_size or DATASETS[name].image_size
    match name:
        case "digits":
            return _digits(size)
        case "svhn":
            return _svhn(root, size)
        case "food101":
            return _food101(root, size)
        case "folder":
            return _folder(root, size)
        case _:
            return _cifar(CIFAR100 if name == "cifar100" else CIFAR10, name, root, size)


def resized(pixels: PIXELS, levels: int, size: int) -> tuple[PIXELS, int]:
    """Bring images to another side, bilinear, averaging where they shrink.

    Args:
        pixels: (n c h w) uint8.
        levels: Pixel value that means 1.0.
        size: Side of the result in pixels.

    Returns:
        Images (n c size size) and their levels; untouched if they have this side already, otherwise 255 levels, since
        16 are too few for interpolated values.
    """
    if pixels.shape[2:] == (size, size):
        return pixels, levels
    out = np.empty((*pixels.shape[:2], size, size), dtype=np.uint8)
    for start in range(0, len(pixels), _CHUNK):
        part = torch.from_numpy(pixels[start : start + _CHUNK]).float() * (255 / levels)
        part = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)
        out[start : start + _CHUNK] = part.round().clamp(0, 255).to(torch.uint8).numpy()
    return out, 255


def _digits(size: int) -> Source:
    flat, labels = load_digits(return_X_y=True)
    pixels = np.asarray(flat).astype(np.uint8).reshape(-1, 1, 8, 8)
    return _from_arrays(pixels, np.asarray(labels), tuple(str(digit) for digit in range(10)), 16, size, n_test=0)


def _cifar(kind: type[CIFAR10], name: str, root: Path, size: int) -> Source:
    layout = f"the folder {kind.base_folder}/ with torchvision's files ({kind.train_list[0][0]}, ...)"
    train, test = found_or_downloaded(
        DATASETS[name], root, layout, lambda fetch: (kind(root, train=True, download=fetch), kind(root, train=False))
    )
    pixels = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)  # n c h w
    return _from_arrays(
        pixels, [*train.targets, *test.targets], tuple(train.classes), 255, size, n_test=len(test.targets)
    )


def _svhn(root: Path, size: int) -> Source:
    train, test = found_or_downloaded(
        DATASETS["svhn"],
        root,
        "train_32x32.mat and test_32x32.mat",
        lambda fetch: (SVHN(root, "train", download=fetch), SVHN(root, "test", download=fetch)),
    )
    names = tuple(str(digit) for digit in range(10))
    pixels, labels = np.concatenate([train.data, test.data]), np.concatenate([train.labels, test.labels])
    return _from_arrays(pixels, labels, names, 255, size, n_test=len(test.labels))


def _food101(root: Path, size: int) -> Source:
    # torchvision hands each path to the loader: `Path` as loader lists the files without opening them.
    train, test = found_or_downloaded(
        DATASETS["food101"],
        root,
        "the folder food-101/ with images/<class>/*.jpg, meta/train.json and meta/test.json",
        lambda fetch: (Food101(root, "train", download=fetch, loader=Path), Food101(root, "test", loader=Path)),
    )
    listed = [part[i] for part in (train, test) for i in range(len(part))]
    paths = [path for path, _ in listed]
    if train.classes != test.classes:
        raise DataError(
            f"{root / 'food-101' / 'meta'} names other classes for test than for train; fetch Food-101 anew."
        )
    fingerprint = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"Food-101 is incomplete: {path} is named in meta/ but missing (an interrupted download leaves this); "
                f"remove {root / 'food-101'} and start again."
            )
        fingerprint.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
    labels = [label for _, label in listed]
    return _from_files(paths, labels, tuple(train.classes), 3, size, len(test), fingerprint.hexdigest())


def _folder(root: Path, size: int) -> Source:
    found = find_folder(root)
    return _from_files(
        found.paths, found.labels, found.class_names, found.channels, size, found.n_test, found.fingerprint
    )


def _from_arrays(
    pixels: PIXELS, labels: ArrayLike, class_names: tuple[str, ...], levels: int, size: int, *, n_test: int
) -> Source:
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    fingerprint = hashlib.sha256(pixels.data).hexdigest()
    level_count = levels if pixels.shape[2:] == (size, size) else 255

    def read(ids: NDArray[np.int64]) -> PIXELS:
        return resized(pixels[ids], levels, size)[0]

    numbers = np.asarray(labels, dtype=np.int64)
    return Source(class_names, numbers, n_test, pixels.shape[1], size, level_count, fingerprint, read)


def _from_files(
    paths: Sequence[Path],
    labels: Sequence[int],
    class_names: tuple[str, ...],
    channels: int,
    size: int,
    n_test: int,
    fingerprint: str,
) -> Source:
    def read(ids: NDArray[np.int64]) -> PIXELS:
        return read_pictures([paths[i] for i in ids], channels, size)

    return Source(class_names, np.asarray(labels, dtype=np.int64), n_test, channels, size, 255, fingerprint, read)
