"""Neural-ODE students: stem, one or more ODE blocks, head."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, final

import torch
from torch import nn

from nodekd.models.catalog import STUDENTS
from nodekd.models.dynamics import Norm, PlainDynamics, Time, group_norm
from nodekd.models.normalised import Normalise
from nodekd.models.resnet import SMALLEST_MAP
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import Status, solve
from nodekd.shapes import Images, Logits, State


@final
@dataclass(frozen=True)
class StudentConfig:
    """The network of a student; how its ODE is solved is an `Integrator`."""

    arch: str = "odenet-stem"
    """A preset of `catalog.STUDENTS`."""
    channels: int = 16
    """Channels of the state."""
    blocks: int = 1
    """ODE blocks one after another, each over [0, horizon]."""
    norm: Norm = "group"
    """Normalisation in the dynamics and the head."""
    time: Time = "channel"
    """Whether the dynamics see the time, as an extra channel."""

    def __post_init__(self) -> None:
        if self.arch not in STUDENTS:
            raise ValueError(f"`arch` must be one of {list(STUDENTS)}, but got {self.arch!r}.")
        if self.channels < 1 or self.blocks < 1:
            raise ValueError(f"`channels >= 1` and `blocks >= 1` must hold, but got {self.channels}, {self.blocks}.")


@final
class OdeStudent(nn.Module):
    """A classifier whose middle is the flow of an ODE.

    After each forward, `nfe` holds the evaluations of that forward's solves and `status` how they ended. A solve that
    fails gives NaN logits for its batch.
    """

    nfe: int
    status: Status

    def __init__(
        self, config: StudentConfig, integrator: Integrator, normalise: Normalise, stem: nn.Module, classes: int
    ) -> None:
        super().__init__()
        self.integrator = integrator
        self.normalise = normalise
        self.stem = stem
        self.blocks = nn.ModuleList(
            PlainDynamics(config.channels, norm=config.norm, time=config.time) for _ in range(config.blocks)
        )
        self.head = nn.Sequential(
            group_norm(config.channels, config.norm),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(config.channels, classes),
        )
        self.nfe = 0
        self.status = Status.SOLVED

    def forward(self, images: Images) -> Logits:
        """Map images (b c h w) in [0, 1] to logits (b k)."""
        return self.head(self.flow(self.stem(self.normalise(images))))

    def flow(self, state: State) -> State:
        """Carry the state (b c h w) through every ODE block, each over [0, horizon]."""
        self.nfe = 0
        self.status = Status.SOLVED
        for dynamics in self.blocks:
            solution = solve(dynamics, state, self.integrator)
            state = solution.state
            self.nfe += solution.evaluations
            if solution.status is not Status.SOLVED:
                self.status = solution.status
                break
        return state

    def with_direct_gradient(self) -> Self:
        """Return the same network with exact gradients through its steps, for whoever differentiates by the images."""
        return self.with_integrator(replace(self.integrator, gradient="direct"))

    def with_integrator(self, integrator: Integrator) -> Self:
        """Return the same network, sharing every weight, solved another way."""
        view = copy.copy(self)
        view.integrator = integrator
        return view


def build_student(
    config: StudentConfig,
    integrator: Integrator,
    *,
    shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> OdeStudent:
    """Build an untrained student.

    Args:
        config: The network.
        integrator: How its ODE is solved.
        shape: (channels, height, width) of the images.
        classes: Number of classes.
        mean: Per-channel mean of the training images.
        std: Per-channel deviation of the training images.
        seed: Seed of the initial weights; the global random state is left as it was.
    """
    channels, height, width = shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stem = _STEMS[config.arch](channels, config.channels, min(height, width), config.norm)
        return OdeStudent(config, integrator, Normalise(mean, std), stem, classes)


def _shrinking_stem(channels_in: int, channels: int, image_size: int, norm: Norm) -> nn.Module:
    """Stem of torchdiffeq's ODE-net: 3x3 without padding, then up to two 4x4 with stride 2.

    32x32 images become 7x7, as there. Smaller images get fewer halvings, and padding where the state would otherwise
    fall below 4x4 (S5).
    """
    unpadded = image_size - 2
    halvings = 0
    while halvings < 2 and image_size >> (halvings + 1) >= SMALLEST_MAP:
        halvings += 1
    padding: Literal[0, 1] = 0 if unpadded >> halvings >= SMALLEST_MAP else 1
    layers: list[nn.Module] = [nn.Conv2d(channels_in, channels, 3, padding=padding)]
    for _ in range(halvings):
        layers += [group_norm(channels, norm), nn.ReLU(), nn.Conv2d(channels, channels, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


def _raw_stem(channels_in: int, channels: int, image_size: int, norm: Norm) -> nn.Module:
    """One convolution at the image's own resolution, so that the ODE does nearly all the work."""
    del image_size, norm
    return nn.Conv2d(channels_in, channels, 3, padding=1)


_STEMS = {"odenet-stem": _shrinking_stem, "odenet-raw": _raw_stem}


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable numbers in a network."""
    return sum(p.numel() for p in model.parameters())
