"""Normalisation inside the network, so that images are in [0, 1] everywhere outside."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from nodekd.shapes import Images


@final
class Normalise(nn.Module):
    """Subtract the training set's mean and divide by its standard deviation, per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Images) -> Tensor:
        """Return images (b c h w) with mean 0 and deviation 1 over the training set."""
        return (images - self.mean) / self.std
