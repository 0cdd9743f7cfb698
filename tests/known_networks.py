"""Networks of two classes and a few pixels, of which one can say beforehand what every attack makes of them.

All but the linear one are asked about images that are 0.5 everywhere and of class 0, in a linf ball of 1/4. Their lead
m of class 1 is a function of u = (x - 0.5) / (1/4), which is in [-1, 1] inside the ball; positive means broken.
"""

import torch
from torch import Tensor, nn

from nodekd.attacks.threat import Threat
from nodekd.models.normalised import Normalise
from nodekd.models.student import OdeStudent, StudentConfig
from nodekd.ode.integrator import Integrator

BALL = Threat("linf", 0.25)


def grey(n: int, *pixels: int) -> tuple[Tensor, Tensor]:
    """Return n mid-grey images (n 1 h w) and their class, 0."""
    return torch.full((n, 1, *pixels), 0.5), torch.zeros(n, dtype=torch.int64)


def moved(images: Tensor) -> Tensor:
    """Return u (n d)."""
    return (images.flatten(1) - 0.5) / BALL.epsilon


class Lead(nn.Module):
    """Class 1 leads by m(u); the cross-entropy of a sharp network has no gradient, its margin has."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def lead(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        half = self.sharpness * self.lead(moved(images)) / 2
        return torch.stack([-half, half], dim=1)


class Solid(Lead):
    """Right everywhere, and flat."""

    def lead(self, u: Tensor) -> Tensor:
        return 0.0 * u.sum(dim=1) - 1


class Staircase(Lead):
    """Broken when every pixel is at 0.8 or more, and only the first one that is not has a gradient."""

    def lead(self, u: Tensor) -> Tensor:
        climbed = (u >= 0.8).long().cumprod(dim=1).sum(dim=1)
        here = u.gather(1, climbed.clamp_max(u.shape[1] - 1)[:, None]).squeeze(1)
        return torch.where(climbed == u.shape[1], 1.0, climbed - u.shape[1] + here / 2)


class TwoBasins(Lead):
    """Of one pixel: who starts above 0 climbs to the break, who starts elsewhere ends on the lower hill."""

    def lead(self, u: Tensor) -> Tensor:
        return torch.where(u > 0, u - 0.9, -0.9 - u / 20).squeeze(1)


class NarrowHole(Lead):
    """Of one pixel: broken within a millionth of 41/64, and everything leads there.

    From the clean image, multiples of 1/8, 1/16 and 1/32 step over it, and those of 1/64 step into it.
    """

    def lead(self, u: Tensor) -> Tensor:
        return (1e-6 - (u - 41 / 64).abs()).squeeze(1)


def linear(weight: Tensor) -> nn.Module:
    """Return logits (0, <w, x - 0.5>) for w (d,)."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 2))
    with torch.no_grad():
        made[1].weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
        made[1].bias.copy_(torch.stack([torch.zeros(()), -0.5 * weight.sum()]))
    return made.eval()


def steps_up_the_stairs(start: Tensor) -> Tensor:
    """Count the steps of 1/8 (n,) from u (n d) until every pixel is at 0.8."""
    return torch.ceil((0.8 - start).clamp_min(0) * 8).long().sum(dim=1)


class Noisy(nn.Module):
    """Shakes what a network sees by a twentieth, from the global random state."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images + 0.05 * torch.randn(images.shape))


class AboveTheMean(nn.Module):
    """Class 1 of images whose first pixel is brighter than in their batch on average; alone, nobody's is."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.flatten(1)[:, 0]
        return torch.stack([torch.full_like(bright, 1e-3), bright - bright.mean()], dim=1)


class Decay(nn.Module):
    """dy/dt = (-y1, 0), and counts how often it is asked for each image: one Euler step over [0, 1] forgets y1."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        del t
        self.asked += len(y)
        return torch.cat([-y[..., :1], 0 * y[..., 1:]], dim=-1)


class Stiffer(Decay):
    """dy/dt = (-rate y1, 0) with a rate of 20 for images with y2 above 0 and of 1/10 for the others."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        rate = torch.where(y[..., 1:] > 0, 20.0, 0.1)
        return torch.cat([rate, 0 * rate], dim=-1) * super().forward(t, y)


def flowing(field: nn.Module, integrator: Integrator, weight: Tensor) -> OdeStudent:
    """Return an ODE student with y(0) = x - 0.5 of images (n 1 1 2), and logits (0, <w, y(T)>)."""
    normalise = Normalise((0.5,), (1.0,))
    made = OdeStudent(StudentConfig(channels=1, norm="group"), integrator, normalise, nn.Identity(), 2)
    made.blocks = nn.ModuleList([field])
    made.head = linear(weight)
    with torch.no_grad():
        made.head[1].bias.zero_()
    return made.eval()
