"""Students: a Neural ODE between stem and head, its untied twin, or a ResNet."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import nn

from nodekd.models.catalog import DYNAMICS, STUDENTS, is_ode, is_stepped, takes_dynamics
from nodekd.models.damping import DampingConfig, Dynamics, draw_damping, initial_range
from nodekd.models.dynamics import BlockDynamics, Norm, PlainDynamics, Time
from nodekd.models.normalised import Normalise
from nodekd.models.path import solve_path
from nodekd.models.resnet import build_body
from nodekd.models.stems import build_head, build_stem
from nodekd.models.untied import UntiedStudent
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import Status
from nodekd.shapes import Images, Logits, State


@final
@dataclass(frozen=True)
class StudentConfig:
    """The network of a student; how its ODE is solved is an `Integrator`."""

    arch: str = "odenet-stem"
    """A preset of `catalog.STUDENTS`."""
    channels: int = 16
    """Channels of the state; ResNets have their own."""
    blocks: int = 1
    """ODE blocks one after another, each over [0, horizon]; ResNets have their own."""
    norm: Norm = "group"
    """Normalisation in the dynamics and the head; ResNets have BatchNorm."""
    time: Time = "channel"
    """Whether the dynamics see the time, as an extra channel."""

    dynamics: Dynamics = "plain"
    """A name of `catalog.DYNAMICS`."""
    damping: float | None = None
    """lambda in [0, 100] of every block, per unit of time; None: learned, one scalar per block. Not where plain."""
    damping_decay: bool = True
    """Whether weight decay acts on a learned damping, as published."""
    gain: bool = False
    """Whether an ODE's f has a learned positive factor, 1 at the start."""

    def __post_init__(self) -> None:
        if self.arch not in STUDENTS:
            raise ValueError(f"`arch` must be one of {list(STUDENTS)}, but got {self.arch!r}.")
        if self.channels < 1 or self.blocks < 1:
            raise ValueError(f"`channels >= 1` and `blocks >= 1` must hold, but got {self.channels}, {self.blocks}.")
        if self.dynamics not in DYNAMICS:
            raise ValueError(f"`dynamics` must be one of {list(DYNAMICS)}, but got {self.dynamics!r}.")
        if self.dynamics != "plain" and not takes_dynamics(self.arch):
            raise ValueError(f"{self.arch} has plain dynamics alone, but got {self.dynamics}; choose plain.")
        if self.dynamics == "plain" and self.damping is not None:
            raise ValueError(f"`damping` needs damped dynamics, but got damping={self.damping} with plain; remove it.")
        if self.gain and not is_ode(self.arch):
            raise ValueError(f"`gain` needs a student with an ODE, but got {self.arch}; remove it.")
        self.damping_config()

    def damping_config(self) -> DampingConfig | None:
        """Return the damping of every block; None where the dynamics are plain."""
        if self.dynamics == "plain":
            return None
        initial = initial_range(self.arch, self.dynamics)
        return DampingConfig(self.dynamics, initial, fixed=self.damping, decay=self.damping_decay)


@final
class OdeStudent(nn.Module):
    """A classifier whose middle is the flow of an ODE.

    After each forward, `nfe` holds the evaluations of that forward's solves, which the batch waited for, `mean_nfe`
    what an image needed on average, and `status` how the solves ended. A solve that fails gives NaN logits for its
    batch or, where steps are chosen per image, for its image.
    """

    nfe: int
    mean_nfe: float
    status: Status

    def __init__(
        self, config: StudentConfig, integrator: Integrator, normalise: Normalise, stem: nn.Module, classes: int
    ) -> None:
        super().__init__()
        self.integrator = integrator
        self.normalise = normalise
        self.stem = stem
        self.blocks = nn.ModuleList(_dynamics(config) for _ in range(config.blocks))
        self.head = build_head(config.channels, classes, config.norm)
        draw_damping(self)
        self.nfe, self.mean_nfe = 0, 0.0
        self.status = Status.SOLVED

    def forward(self, images: Images) -> Logits:
        """Map images (b c h w) in [0, 1] to logits (b k)."""
        return self.head(self.flow(self.stem(self.normalise(images))))

    def flow(self, state: State) -> State:
        """Carry the state (b c h w) through every ODE block, each over [0, horizon]."""
        return self._path(state, 1)[-1]

    def states(self, images: Images, times: int) -> tuple[State, ...]:
        """Return the states (b c h w) of the last block at `times` equally spaced times, the last at the horizon.

        Args:
            images: (b c h w) in [0, 1].
            times: Number of times, at least 1; must divide the steps of a fixed solver. How they are solved, and
                when the last is bit for bit that of a forward, tells `path.solve_path`.

        Raises:
            ValueError: If `times` is below 1 or does not divide the steps.
        """
        return self._path(self.stem(self.normalise(images)), times)

    def _path(self, state: State, times: int) -> tuple[State, ...]:
        self.nfe, self.mean_nfe = 0, 0.0
        self.status = Status.SOLVED
        states = (state,)
        for number, dynamics in enumerate(self.blocks, start=1):
            path = solve_path(dynamics, states[-1], self.integrator, times if number == len(self.blocks) else 1)
            states = path.states
            self.nfe += path.evaluations
            self.mean_nfe += path.mean_evaluations
            if path.status is not Status.SOLVED:
                self.status = path.status if self.status is Status.SOLVED else self.status
                if self.integrator.error_control == "batch":
                    return (*states, *(states[-1],) * (times - len(states)))
        return states

    def with_direct_gradient(self) -> Self:
        """Return the same network with exact gradients through its steps, for whoever differentiates by the images."""
        return self.with_integrator(replace(self.integrator, gradient="direct", adjoint_steps=None))

    def with_integrator(self, integrator: Integrator) -> Self:
        """Return the same network, sharing every weight, solved another way."""
        view = copy.copy(self)
        view.integrator = integrator
        return view


def build_student(
    config: StudentConfig,
    integrator: Integrator | None,
    *,
    shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
) -> nn.Module:
    """Build an untrained student.

    The scalars of a damping are drawn after all other weights, so that students of one seed that differ in their
    dynamics alone share every weight they have in common.

    Args:
        config: The network.
        integrator: How its ODE is solved; for untied students, Euler steps. ResNets read none.
        shape: (channels, height, width) of the images.
        classes: Number of classes.
        mean: Per-channel mean of the training images.
        std: Per-channel deviation of the training images.
        seed: Seed of the initial weights; the global random state is left as it was.

    Returns:
        An `OdeStudent`, an `UntiedStudent`, or normalisation and a ResNet in an `nn.Sequential` as `build_teacher`'s.

    Raises:
        ValueError: If a student with a horizon gets no integrator, or an untied one no Euler steps.
    """
    channels, height, width = shape
    normalise = Normalise(mean, std)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not is_stepped(config.arch):
            body = build_body(config.arch, channels, min(height, width), classes, damping=config.damping_config())
            return nn.Sequential(normalise, body)
        if integrator is None:
            raise ValueError(f"{config.arch} has a horizon and needs an integrator, but got None.")
        stem = build_stem(config.arch, channels, config.channels, min(height, width), config.norm)
        if is_ode(config.arch):
            return OdeStudent(config, integrator, normalise, stem, classes)
        return _untied(config, integrator, normalise, stem, classes)


def _untied(
    config: StudentConfig, integrator: Integrator, normalise: Normalise, stem: nn.Module, classes: int
) -> UntiedStudent:
    blocks = [_dynamics(config) for _ in range(config.blocks * (integrator.steps or 0))]
    head = build_head(config.channels, classes, config.norm)
    student = UntiedStudent(normalise, stem, blocks, head, integrator)
    draw_damping(student)
    return student


def _dynamics(config: StudentConfig) -> nn.Module:
    f = PlainDynamics(config.channels, norm=config.norm, time=config.time)
    if config.dynamics == "plain" and not config.gain:
        return f
    return BlockDynamics(f, damping=config.damping_config(), gain=config.gain)


def parameter_count(model: nn.Module) -> int:
    """Return the number of trainable numbers in a network; no network here holds one that its forward does not read."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def forward_evaluations(model: OdeStudent, images: Images) -> float:
    """Return the evaluations of f in the forward solve of an image: with steps per image, their mean over the batch.

    An adaptive solver that takes the batch as one system needs the same number for all, which depends on the batch.
    """
    model(images[:1] if model.integrator.fixed else images)
    return model.mean_nfe
