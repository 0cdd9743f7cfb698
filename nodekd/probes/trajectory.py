"""The way a state takes through a student's ODE: how long it is, how fast, and what it does to perturbations."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from nodekd import streams
from nodekd.attacks.frozen import frozen
from nodekd.attacks.isolation import isolated_logits
from nodekd.models.student import OdeStudent
from nodekd.ode.fixed_grid import TABLEAUX, solve_fixed
from nodekd.ode.integrator import FIXED, Integrator, finer
from nodekd.probes.numbers import mean_finite, plain, plain_list
from nodekd.shapes import Images, State


@final
@dataclass(frozen=True)
class Trajectory:
    """What the states of a set of images do, averaged over those images whose values are finite."""

    path_length: float
    """Integral of ||f|| over all blocks, divided by ||h(0)|| (S13)."""
    growth: float
    """(||dh(T)|| / ||h(T)||) / (||dh(0)|| / ||h(0)||) for a random infinitesimal dh(0) (S15); 1 = unchanged."""
    logit_growth: float
    """The same with the logits z in the place of h(T)."""
    times: tuple[float, ...]
    """Block after block, each from its start to its end: T ends one block and begins the next, so it stands twice."""
    state_norm: tuple[float, ...]
    """Mean ||h(t)||."""
    speed: tuple[float, ...]
    """Mean ||f(t, h(t))||."""
    solver: str
    """Fixed solver that was used."""
    steps: int
    """Its steps per block."""
    departure: float
    """Mean ||h(T) - h'(T)|| / ||h'(T)||, h' as the student itself solves: where this is not small, the student follows
    its coarse steps and not this trajectory."""
    failures: int
    """Images whose trajectory leaves the finite numbers."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "path_length": plain(self.path_length),
            "growth": plain(self.growth),
            "logit_growth": plain(self.logit_growth),
            "times": list(self.times),
            "state_norm": plain_list(self.state_norm),
            "speed": plain_list(self.speed),
            "solver": self.solver,
            "steps": self.steps,
            "departure": plain(self.departure),
            "failures": self.failures,
        }


@torch.no_grad()
def trajectory(
    student: OdeStudent, images: Images, times: int = 16, *, seed: int = 0, batch_size: int = 256
) -> Trajectory:
    """Follow the states of all images through every ODE block on a fine grid.

    The grid: the student's own solver, with its own number of steps rounded up to a multiple of `times`; where its
    steps are such a multiple already, this is exactly what the student computes. An adaptive student is followed by
    `finer`'s rk4. The path length uses the solver's own weights, as if it were one more state.

    Args:
        student: Trained student; left exactly as it was, like the global random state.
        images: (n c h w) in [0, 1], at least one.
        times: Intervals of each block at whose ends norms are kept, >= 1.
        seed: Seed of the perturbations, one Gaussian direction per image; their growth is exact (forward mode).
        batch_size: Images followed at once.

    Returns:
        Means over the images.

    Raises:
        ValueError: If times < 1 or there is no image.
    """
    _check(times, images)
    grid = followed(student.integrator, times)
    generator = streams.generator(seed, "trajectory", "perturbation")
    with frozen(student):
        walks = [_walk(student, batch, grid, times, generator) for batch in images.split(batch_size)]
    lengths, norms, speeds = (torch.cat([getattr(w, name) for w in walks]) for name in ("length", "norm", "speed"))
    growth, logit_growth, departure = (
        mean_finite(torch.cat([getattr(w, name) for w in walks])) for name in ("growth", "logit_growth", "departure")
    )
    return Trajectory(
        path_length=mean_finite(lengths),
        growth=growth,
        logit_growth=logit_growth,
        times=_times(len(student.blocks), grid.horizon, times),
        state_norm=tuple(mean_finite(column) for column in norms.T),
        speed=tuple(mean_finite(column) for column in speeds.T),
        solver=grid.solver,
        steps=_steps(grid),
        departure=departure,
        failures=int((~torch.isfinite(lengths)).sum()),
    )


@final
@dataclass(frozen=True)
class Norms:
    """How large states and slopes are on the way, image by image; NaN where they leave the finite numbers."""

    times: tuple[float, ...]
    """(m,) as `Trajectory.times`."""
    state: Tensor
    """(n m) ||h(t)||; at time 0 the stem's output."""
    speed: Tensor
    """(n m) ||f(t, h(t))||."""
    solver: str
    """Fixed solver that was used."""
    steps: int
    """Its steps per block."""


@torch.no_grad()
def norms_along(student: OdeStudent, images: Images, times: int = 16, *, batch_size: int = 256) -> Norms:
    """Follow every image through every ODE block on the grid of `trajectory`, keeping norms alone.

    Args:
        student: Trained student; left exactly as it was, like the global random state.
        images: (n c h w) in [0, 1], at least one.
        times: Intervals of each block at whose ends norms are kept, >= 1.
        batch_size: Images followed at once.

    Returns:
        Norms per image and time.

    Raises:
        ValueError: If times < 1 or there is no image.
    """
    _check(times, images)
    grid = followed(student.integrator, times)
    with frozen(student):
        walks = [
            _through(student, student.stem(student.normalise(batch)), grid, times) for batch in images.split(batch_size)
        ]
    return Norms(
        times=_times(len(student.blocks), grid.horizon, times),
        state=torch.cat([norms for _, _, norms, _ in walks]),
        speed=torch.cat([speeds for _, _, _, speeds in walks]),
        solver=grid.solver,
        steps=_steps(grid),
    )


def followed(integrator: Integrator, times: int) -> Integrator:
    """Return the fixed solve on which a trajectory with `times` intervals is followed; see `trajectory`."""
    base = integrator if integrator.fixed else finer(integrator)
    return replace(base, steps=-(-_steps(base) // times) * times, gradient="direct", adjoint_steps=None)


@final
@dataclass(frozen=True)
class _Walk:
    """Per image (b,), resp. per image and time (b m)."""

    length: Tensor
    norm: Tensor
    speed: Tensor
    growth: Tensor
    logit_growth: Tensor
    departure: Tensor


def _walk(student: OdeStudent, images: Images, grid: Integrator, times: int, generator: torch.Generator) -> _Walk:
    start = student.stem(student.normalise(images))
    state, lengths, norms, speeds = _through(student, start, grid, times)
    own = isolated_logits(_Flow(student), start)
    growth, logit_growth = _growths(student, start, grid, generator)
    return _Walk(
        length=lengths / _norm(start),
        norm=norms,
        speed=speeds,
        growth=growth,
        logit_growth=logit_growth,
        departure=_norm(state - own) / _norm(own),
    )


def _through(student: OdeStudent, start: State, grid: Integrator, times: int) -> tuple[State, Tensor, Tensor, Tensor]:
    """Return the last state (b c h w), the path length (b,), and norms and speeds (b m) of all blocks."""
    state, lengths, norms, speeds = start, torch.zeros(len(start), device=start.device), [], []
    for block in student.blocks:
        state, length, norm, speed = _block(block, state, grid, times)
        lengths = lengths + length
        norms.append(norm)
        speeds.append(speed)
    return state, lengths, torch.cat(norms, dim=1), torch.cat(speeds, dim=1)


def _block(field: nn.Module, state: State, grid: Integrator, times: int) -> tuple[State, Tensor, Tensor, Tensor]:
    """Return the end (b c h w), the path length (b,), and norms and speeds (b times+1) of one block."""
    watched = _Watched(field)
    end = _solved(watched, state, grid)
    stages, every = FIXED[grid.solver], _steps(grid) // times
    speed = torch.stack(watched.speeds, dim=1).unflatten(1, (-1, stages))
    norm = torch.stack(watched.norms, dim=1).unflatten(1, (-1, stages))
    weights = torch.tensor(TABLEAUX[grid.solver].weights, dtype=speed.dtype, device=speed.device)
    length = (speed @ weights).sum(dim=1) * (grid.horizon / _steps(grid))
    last_speed = _norm(field(grid.horizon, end))
    return (
        end,
        length,
        torch.cat([norm[:, ::every, 0], _norm(end)[:, None]], dim=1),
        torch.cat([speed[:, ::every, 0], last_speed[:, None]], dim=1),
    )


@final
class _Watched(nn.Module):
    """Pass f(t, y) through, keeping ||y|| and ||f|| of every evaluation; an explicit step begins at its own state."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.norms: list[Tensor] = []
        self.speeds: list[Tensor] = []

    def forward(self, t: float | Tensor, y: State) -> State:
        slope = self.field(t, y)
        self.norms.append(_norm(y))
        self.speeds.append(_norm(slope))
        return slope


@final
class _Flow(nn.Module):
    """The student from its first state to its last, as it solves it itself."""

    def __init__(self, student: OdeStudent) -> None:
        super().__init__()
        self.flow: Callable[[State], State] = student.flow

    def forward(self, state: State) -> State:
        return self.flow(state)


def _growths(student: OdeStudent, start: State, grid: Integrator, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return relative growth (b,) of a random perturbation at the last state and at the logits, by forward mode."""
    change = torch.randn(start.shape, generator=generator).to(start)
    before = _norm(change) / _norm(start)
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # torch's own, where it loads its rules
        state = forward_ad.make_dual(start, change)
        for block in student.blocks:
            state = _solved(block, state, grid)
        after, after_head = (_relative(forward_ad.unpack_dual(found)) for found in (state, student.head(state)))
    return after / before, after_head / before


def _relative(dual: forward_ad.UnpackedDualTensor) -> Tensor:
    """Return ||dy|| / ||y|| (b,); nothing that depends on dy(0) has no change."""
    change = torch.zeros_like(dual.primal) if dual.tangent is None else dual.tangent
    return _norm(change) / _norm(dual.primal)


def _solved(field: Callable[[float | Tensor, State], State], state: State, grid: Integrator) -> State:
    return solve_fixed(field, state, solver=grid.solver, horizon=grid.horizon, steps=_steps(grid))


def _steps(integrator: Integrator) -> int:
    assert integrator.steps is not None, "a fixed integrator has steps"
    return integrator.steps


def _check(times: int, images: Images) -> None:
    if times < 1 or len(images) == 0:
        raise ValueError(f"`times >= 1` and at least one image are needed, but got {times} and {len(images)} images.")


def _norm(state: Tensor) -> Tensor:
    return torch.linalg.vector_norm(state.flatten(1), dim=1)


def _times(blocks: int, horizon: float, times: int) -> tuple[float, ...]:
    return tuple(horizon * (block + index / times) for block in range(blocks) for index in range(times + 1))
