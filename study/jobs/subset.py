"""Which images of a split a job looks at: a fixed, evenly spaced subset, cut into shards."""

import numpy as np
import torch
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
    count = len(split) if images == "all" else min(int(images), len(split))
    positions = np.linspace(0, len(split) - 1, count).round().astype(np.int64)
    return torch.from_numpy(np.array_split(positions, shards)[shard]).to(split.labels.device)


def count_shards(images: int | str, available: int, largest: int) -> int:
    """Return into how many shards of at most `largest` images a subset is cut."""
    count = available if images == "all" else min(int(images), available)
    return max(1, -(-count // largest))
