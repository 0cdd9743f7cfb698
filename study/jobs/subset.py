"""Which images of a split a job looks at: a fixed, evenly spaced subset, cut into shards."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nodekd.data.dataset import Split


def subset(split: Split, images: int | str, shard: int = 0, shards: int = 1) -> Tensor:
    """Return the positions (n,) of one shard of a split's fixed subset.

    Args:
        split: The split.
        images: `all`, or how many; the same number always gives the same images.
        shard: Which part, from 0.
        shards: Number of parts, of nearly equal size.
    """
    positions = _spaced(np.arange(len(split), dtype=np.int64), images)
    return torch.from_numpy(np.array_split(positions, shards)[shard]).to(split.labels.device)


def nested(split: Split, images: int | str, of: int | str) -> Tensor:
    """Return the positions (n,) of a subset of a subset, so that what is known of the larger one is known of it.

    Args:
        split: The split.
        images: `all`, or how many of the larger subset.
        of: The larger subset, as in `subset`.
    """
    larger = _spaced(np.arange(len(split), dtype=np.int64), of)
    return torch.from_numpy(_spaced(larger, images)).to(split.labels.device)


def _spaced(positions: NDArray[np.int64], images: int | str) -> NDArray[np.int64]:
    count = len(positions) if images == "all" else min(int(images), len(positions))
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(np.int64)]


def count_shards(images: int | str, available: int, largest: int) -> int:
    """Return into how many shards of at most `largest` images a subset is cut."""
    count = available if images == "all" else min(int(images), available)
    return max(1, -(-count // largest))
