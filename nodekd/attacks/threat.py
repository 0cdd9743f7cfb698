"""What the adversary may do: move an image inside a ball around the clean one, and inside [0, 1]."""

import math
from dataclasses import asdict, dataclass
from numbers import Real
from typing import final

import torch
from torch import Tensor

from nodekd.attacks.catalog import NORMS, Norm
from nodekd.errors import AttackError
from nodekd.shapes import Images

_TOLERANCE = 1e-6
_ROUNDING = 2.0**-25
"""Largest error of one float32 rounding of a number in [0, 1]."""


def _per_image(values: Tensor, images: Images) -> Tensor:
    """Shape (b,) values so that they multiply (b c h w) images."""
    return values.view(-1, *[1] * (images.dim() - 1))


@final
@dataclass(frozen=True)
class Threat:
    """A ball of one norm and radius, cut with the box [0, 1]."""

    norm: Norm
    """`linf`: largest change of a pixel; `l2`: Euclidean length of the change."""

    epsilon: float
    """Radius > 0 in units of [0, 1]; at most 1 under linf."""

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise AttackError(f"norm must be one of {', '.join(NORMS)}, but got {self.norm!r}.")
        if isinstance(self.epsilon, bool) or not isinstance(self.epsilon, Real):
            raise AttackError(f"epsilon must be a number, but got {self.epsilon!r}.")
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise AttackError(f"`0 < epsilon` must hold, but got epsilon={self.epsilon}.")
        if self.norm == "linf" and self.epsilon > 1:
            raise AttackError(
                f"`epsilon <= 1` must hold under linf, but got epsilon={self.epsilon}: "
                "images are in [0, 1], so write 8/255 instead of 8."
            )

    def record(self) -> dict[str, str | float]:
        """Return norm and epsilon as they stand in results."""
        return asdict(self)

    def project(self, images: Images, clean: Images) -> Images:
        """Move images to (for linf: the nearest, for l2: along the ray to the clean image) points of ball and box.

        The radius used is smaller than epsilon by what float32 rounding may add, so that the result never leaves
        the ball when it is measured exactly.
        """
        radius = self._inner_radius(clean)
        if self.norm == "linf":
            return torch.clamp(images, clean - radius, clean + radius).clamp_(0.0, 1.0)
        change = images - clean
        length = torch.linalg.vector_norm(change.flatten(1), dim=1)
        shrink = (radius / length.clamp_min(torch.finfo(change.dtype).tiny)).clamp_max(1.0)
        return (clean + change * _per_image(shrink, change)).clamp_(0.0, 1.0)

    def random_start(self, clean: Images, generator: torch.Generator) -> Images:
        """Draw images uniformly from the ball, then cut to the box; drawn on the CPU, so equal on every device."""
        if self.norm == "linf":
            change = torch.rand(clean.shape, generator=generator).mul_(2.0).sub_(1.0).mul_(self.epsilon)
        else:
            direction = self.direction(torch.randn(clean.shape, generator=generator))
            reach = torch.rand(len(clean), generator=generator) ** (1 / max(1, clean[0:1].numel()))
            change = direction * _per_image(reach * self.epsilon, direction)
        return self.project(clean + change.to(clean.device), clean)

    def direction(self, gradient: Images) -> Images:
        """Return the change of length 1 along which a linear function with this gradient rises fastest.

        Where the gradient is exactly zero the direction is zero; its size has no influence, however small.
        """
        if self.norm == "linf":
            return gradient.sign()
        tiny = torch.finfo(gradient.dtype).tiny
        flat = gradient.flatten(1)
        flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
        return (flat / torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(tiny)).view_as(gradient)

    def distance(self, images: Images, clean: Images) -> Tensor:
        """Measure the change of each image (b,) in float64."""
        change = (images.double() - clean.double()).flatten(1)
        if self.norm == "linf":
            return change.abs().amax(dim=1)
        return torch.linalg.vector_norm(change, dim=1)

    def contains(self, images: Images, clean: Images) -> Tensor:
        """Tell per image (b,) whether it is finite, in [0, 1], and within epsilon * (1 + 1e-6) of the clean one."""
        flat = images.flatten(1)
        in_box = ((flat >= 0.0) & (flat <= 1.0)).all(dim=1)
        return in_box & (self.distance(images, clean) <= self.epsilon * (1.0 + _TOLERANCE))

    def _inner_radius(self, clean: Images) -> float:
        if self.norm == "linf":
            return max(self.epsilon - 2 * _ROUNDING, 0.0)
        slack = _ROUNDING * math.sqrt(clean[0:1].numel())
        return max(self.epsilon * (1.0 - _TOLERANCE) - slack, 0.0)
