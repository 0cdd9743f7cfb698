"""Views of training images: crops and mirrorings, numbered, and taken a whole batch at once (S3).

That views have numbers lets a teacher's logits be tabulated over all of them (S10).
"""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor


@final
@dataclass(frozen=True)
class Augmentation:
    """Which views leave the label true; belongs to the data set, not to the study."""

    padding: int
    """Zero pixels on every side before the crop; 0 = no crop."""
    flip: bool
    """Whether half of the views are mirrored left to right."""

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"`padding >= 0` must hold, but got padding={self.padding}.")


def count_views(augmentation: Augmentation) -> int:
    """Return how many different views an image has: every shift, each perhaps mirrored."""
    return (2 * augmentation.padding + 1) ** 2 * (2 if augmentation.flip else 1)


def identity_view(augmentation: Augmentation) -> int:
    """Return the number of the view that leaves an image as it is."""
    shifts = 2 * augmentation.padding + 1
    return augmentation.padding * (shifts + 1)


def draw_views(n: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Draw one view's number for each of n images, (n,) int64 on the generator's device; all are equally likely."""
    return torch.randint(count_views(augmentation), (n,), generator=generator, device=generator.device)


def take_views(images: Tensor, views: Tensor, augmentation: Augmentation) -> Tensor:
    """Show every image as its view: a shifted window of the zero-padded image, perhaps mirrored.

    Args:
        images: (b c h w) on any device.
        views: (b,) int64 in [0, count_views), on the same device. Shifts are counted row by row; the mirrored views
            follow the others.
        augmentation: Size of the shift and whether to mirror.

    Returns:
        (b c h w) like `images`, which stay unchanged.
    """
    p = augmentation.padding
    if p == 0 and not augmentation.flip:
        return images
    b, c, h, w = images.shape
    shifts = 2 * p + 1
    mirrored, position = views // shifts**2, views % shifts**2
    rows = torch.arange(h, device=images.device) + (position // shifts)[:, None]
    columns = torch.arange(w, device=images.device).expand(b, w)
    columns = torch.where(mirrored[:, None] > 0, columns.flip(1), columns) + (position % shifts)[:, None]
    padded = F.pad(images, (p, p, p, p))
    bands = padded.gather(2, rows[:, None, :, None].expand(b, c, h, w + 2 * p))
    return bands.gather(3, columns[:, None, None, :].expand(b, c, h, w))
