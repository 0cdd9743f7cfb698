"""Which image belongs to which of the four splits, and the hash that names this division.

Index arithmetic only. The seed is fixed here and independent of every study's seed (S1), so that two studies of one
data set always share their test images.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nodekd.errors import DataError

SPLITS = ("train", "val_search", "val_front", "test")
"""Names of the splits: fit, guide the search, choose the front, and the one touched once at the end."""

SPLIT_SEED = 0
"""Never the study's seed."""

Indices = NDArray[np.int64]


def block_sizes(n: int) -> tuple[int, int, int, int]:
    """Cut `n` images 45/15/15/25 %, one at least for each part from `n` = 4 on.

    Args:
        n: Number of images.

    Returns:
        Sizes of train, val_search, val_front, test; train and test are rounded down, the two middle parts share the
        rest (1,797 digits give 808, 270, 270, 449).
    """
    train, test = n * 45 // 100, n * 25 // 100
    middle = n - train - test
    return train, middle // 2, middle - middle // 2, test


def train_sizes(n: int) -> tuple[int, int, int]:
    """Cut `n` training images 80/10/10 %, one at least for each part from `n` = 3 on.

    Args:
        n: Number of images of the official training set.

    Returns:
        Sizes of train, val_search, val_front.
    """
    held_out = max(1, (n + 5) // 10)
    return n - 2 * held_out, held_out, held_out


def contiguous(n: int) -> dict[str, Indices]:
    """Cut `n` images into four blocks in their stored order (S2).

    Args:
        n: Number of images.

    Returns:
        Ascending image ids per split.
    """
    edges = np.cumsum((0, *block_sizes(n)))
    return {name: np.arange(edges[i], edges[i + 1], dtype=np.int64) for i, name in enumerate(SPLITS)}


def stratified(labels: Indices, class_names: Sequence[str]) -> dict[str, Indices]:
    """Cut every class 45/15/15/25 % at random, with this module's own seed.

    Args:
        labels: (n,) class of each image.
        class_names: Name of each class, for messages.

    Returns:
        Ascending image ids per split.

    Raises:
        DataError: If a class has fewer than four images.
    """
    return _by_class(labels, class_names, SPLITS, block_sizes)


def stratified_with_test(labels: Indices, class_names: Sequence[str], n_test: int) -> dict[str, Indices]:
    """Cut every class of the training set 80/10/10 % at random; the official test set is `test` (S1).

    Args:
        labels: (n,) class of each image, those of the official test set last.
        class_names: Name of each class, for messages.
        n_test: Number of images of the official test set.

    Returns:
        Ascending image ids per split.

    Raises:
        DataError: If a class has fewer than three training images or none in the test set.
    """
    n_train = len(labels) - n_test
    absent = np.flatnonzero(np.bincount(labels[n_train:], minlength=len(class_names)) == 0)
    if len(absent):
        raise DataError(
            f"Every split needs at least one image of each class, but the test set has none of class "
            f"'{class_names[absent[0]]}'; add some or leave the class out of the training set."
        )
    parts = _by_class(labels[:n_train], class_names, SPLITS[:3], train_sizes)
    return {**parts, "test": np.arange(n_train, len(labels), dtype=np.int64)}


def split_hash(name: str, parts: Mapping[str, Indices], labels: Indices, fingerprint: str = "") -> str:
    """Name a division of a data set by its content.

    Args:
        name: Name of the data set.
        parts: Image ids per split.
        labels: (n,) class of each image.
        fingerprint: Text that changes with the images themselves.

    Returns:
        Hexadecimal SHA-256; independent of the platform and of the size the images are brought to.
    """
    digest = hashlib.sha256(f"{name}\n{fingerprint}\n{len(labels)}\n".encode())
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    for split, ids in parts.items():
        digest.update(f"\n{split} {len(ids)}\n".encode())
        digest.update(np.ascontiguousarray(ids, dtype="<i8").tobytes())
    return digest.hexdigest()


def _by_class(
    labels: Indices, class_names: Sequence[str], names: Sequence[str], sizes: Callable[[int], tuple[int, ...]]
) -> dict[str, Indices]:
    # Raw bits of a bit generator are stable across numpy versions; `Generator.permutation` is not promised to be.
    keys = np.random.PCG64(SPLIT_SEED).random_raw(len(labels))
    order = np.lexsort((keys, labels))
    members = np.split(order, np.cumsum(np.bincount(labels, minlength=len(class_names)))[:-1])
    drawn: dict[str, list[Indices]] = {name: [] for name in names}
    for class_name, ids in zip(class_names, members, strict=True):
        if len(ids) < len(names):
            raise DataError(
                f"Every split needs at least one image of each class, but class '{class_name}' has {len(ids)} to share "
                f"among {', '.join(names)}; give it {len(names)} or more, or leave the class out."
            )
        edges = np.cumsum(sizes(len(ids)))[:-1]
        for name, part in zip(names, np.split(ids, edges), strict=True):
            drawn[name].append(part)
    return {name: np.sort(np.concatenate(found)) for name, found in drawn.items()}
