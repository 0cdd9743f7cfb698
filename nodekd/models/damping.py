"""The scalars of a block: its damping lambda, fixed or learned, and a learned gain on f."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

Dynamics = Literal["plain", "damped", "lambda-damped"]
"""Names of `catalog.DYNAMICS`."""

LARGEST_DAMPING = 100.0
"""Largest damping that may be fixed, per unit of time."""

_PUBLISHED = {
    ("damped", "preact-resnet110"): (0.75, 0.8),
    ("damped", "preact-resnet164"): (0.8, 0.9),
    ("lambda-damped", "preact-resnet110"): (0.2, 0.25),
    ("lambda-damped", "preact-resnet164"): (0.1, 0.2),
}


@final
@dataclass(frozen=True)
class InitialRange:
    """Where the scalar k of a learned damping starts: uniform in [low, high]."""

    low: float
    high: float
    assumed: bool
    """True where nothing was published for the network, so that the range of 110 layers stands in."""


def initial_range(arch: str, dynamics: Dynamics) -> InitialRange:
    """Return where k starts in a network.

    Args:
        arch: A name of `catalog.STUDENTS`.
        dynamics: `damped` or `lambda-damped`.

    Source:
        [yang2020interpolation], the authors' code: k in [0.75, 0.8] or [0.2, 0.25] at 110 layers, in [0.8, 0.9] or
        [0.1, 0.2] at 164. Their code uses the first for every depth but 164, our ODEs do so too; both are `assumed`.
    """
    published = _PUBLISHED.get((dynamics, arch))
    low, high = published or _PUBLISHED[dynamics, "preact-resnet110"]
    return InitialRange(low, high, assumed=published is None)


@final
@dataclass(frozen=True)
class DampingConfig:
    """The damping of a network's blocks, each with a scalar of its own."""

    dynamics: Dynamics
    """`damped` or `lambda-damped`; a network without damping has no `DampingConfig`."""
    initial: InitialRange
    """Where k starts, if the damping is learned."""
    fixed: float | None = None
    """lambda in [0, 100], per unit of time; None: learned."""
    decay: bool = True
    """Whether weight decay acts on k, as published."""

    def __post_init__(self) -> None:
        if self.dynamics not in ("damped", "lambda-damped"):
            raise ValueError(f"`dynamics` must be damped or lambda-damped, but got {self.dynamics!r}.")
        if self.fixed is not None and not 0 <= self.fixed <= LARGEST_DAMPING:
            raise ValueError(f"`0 <= damping <= {LARGEST_DAMPING:g}` must hold, but got damping={self.fixed}.")


@final
class Damping(nn.Module):
    """lambda of one block, and how it mixes the state h with the block's f.

        damped          dh/dt = -lambda h + f                  h <- (1 - lambda) h + f
        lambda-damped   dh/dt = -lambda h + (1 + lambda) f     h <- (1 - lambda) h + (1 + lambda) f

    A learned lambda is relu(1 - k), resp. relu(k), of a scalar k: never negative, without an upper bound, and with no
    gradient once it is 0. Weight decay pulls k to 0: `damped` towards a network without skips (lambda 1),
    `lambda-damped` towards the ResNet (lambda 0).

    Source:
        [yang2020interpolation], In-ResNet and lambda-In-ResNet as in the authors' code; the ODEs, whose Euler step of
        length 1 these updates are, and a fixed lambda are ours.
    """

    def __init__(self, config: DampingConfig) -> None:
        super().__init__()
        self.config = config
        middle = (config.initial.low + config.initial.high) / 2
        self.k = nn.Parameter(torch.tensor(middle)) if config.fixed is None else None

    def value(self) -> float | Tensor:
        """Return lambda, a number or (where learned) a scalar tensor with a gradient."""
        if self.k is None:
            assert self.config.fixed is not None, "damping is fixed or learned"
            return self.config.fixed
        return torch.relu(1 - self.k if self.config.dynamics == "damped" else self.k)

    def slope(self, state: Tensor, f: Tensor) -> Tensor:
        """Return dh/dt for h = state."""
        damping = self.value()
        return self._driven(f, damping) - damping * state

    def update(self, state: Tensor, f: Tensor) -> Tensor:
        """Return the state after a residual block: an Euler step of length 1, without cancellation at lambda 1."""
        damping = self.value()
        return (1 - damping) * state + self._driven(f, damping)

    def _driven(self, f: Tensor, damping: float | Tensor) -> Tensor:
        return f if self.config.dynamics == "damped" else (1 + damping) * f


@final
class Gain(nn.Module):
    """A learned factor on f, positive as the exponential of a scalar, 1 at the start.

    For an autonomous f, solving over [0, T] equals solving gain T over [0, 1] at equal steps: the control that tells
    whether a longer horizon is more than a steeper f (S13).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(()))

    def value(self) -> Tensor:
        """Return the gain, a scalar tensor > 0."""
        return self.log_gain.exp()


def draw_damping(network: nn.Module) -> None:
    """Draw every learned k from its range, by the global random state, in the order of the blocks.

    To be called after all other weights are drawn, so that damping shifts none of them.
    """
    for damping in _dampings(network):
        if damping.k is not None:
            nn.init.uniform_(damping.k, damping.config.initial.low, damping.config.initial.high)


def damping_values(network: nn.Module) -> list[float]:
    """Return lambda of every damped block, fixed or learned, in their order; nothing where the dynamics are plain."""
    with torch.no_grad():
        return [float(damping.value()) for damping in _dampings(network)]


def damping_range(network: nn.Module) -> InitialRange | None:
    """Return where the learned k started; None where no damping is learned."""
    return next((damping.config.initial for damping in _dampings(network) if damping.k is not None), None)


def gain_values(network: nn.Module) -> list[float]:
    """Return the learned gain of every block in their order; nothing where there is none."""
    with torch.no_grad():
        return [float(module.value()) for module in network.modules() if isinstance(module, Gain)]


def decay_free(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that no weight decay may pull: k where the configuration says so, and every gain.

    A decay of the gain's logarithm would pull the gain to 1, and so favour one horizon over the others.
    """
    scalars = [damping.k for damping in _dampings(network) if damping.k is not None and not damping.config.decay]
    return [*scalars, *(module.log_gain for module in network.modules() if isinstance(module, Gain))]


def _dampings(network: nn.Module) -> list[Damping]:
    return [module for module in network.modules() if isinstance(module, Damping)]
