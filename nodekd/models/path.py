"""States on the way: one solve, looked at equally spaced times."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from nodekd.ode.adaptive_rows import solve_rows
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import Status, solve, status_of
from nodekd.shapes import State


@final
@dataclass(frozen=True)
class Path:
    """Some states of one solve."""

    states: tuple[State, ...]
    """y at equally spaced times, the last at the horizon; NaN from where the solve, or that of a row, failed on."""
    evaluations: int
    """Evaluations of f in the forward solve: what the batch waits for."""
    mean_evaluations: float
    """Mean over the images of what each needs; see `Solution`."""
    status: Status


def solve_path(field: nn.Module, state: State, integrator: Integrator, times: int) -> Path:
    """Integrate dy/dt = f(t, y) over [0, horizon] and keep the states at `times` equally spaced times.

    Steps that are fixed and differentiated directly are solved once and read in passing, so that the last state is
    bit for bit that of `solve`. All other solves end and begin anew at each of the times, for the adjoint gives a
    gradient to a solve's end alone: there, the last state is that of `solve` up to the tolerance (fixed steps:
    rounding). At `times=1` all are `solve` itself. The cap on evaluations counts for all pieces together, image by
    image where steps are chosen per image.

    Args:
        field: Module f(t, y).
        state: y(0); the first axis is the batch.
        integrator: Solver, horizon, discretisation and gradient.
        times: Number of times, at least 1; must divide the steps of a fixed solver.

    Raises:
        ValueError: If `times` is below 1 or does not divide the steps.
    """
    if times < 1 or (integrator.steps is not None and integrator.steps % times):
        raise ValueError(
            f"`times` must be at least 1 and divide the steps of {integrator.solver}, but got times={times} and "
            f"steps={integrator.steps}. Choose a number of steps that is a multiple of the times."
        )
    if times == 1:
        solution = solve(field, state, integrator)
        return Path((solution.state,), solution.evaluations, solution.mean_evaluations, solution.status)
    if integrator.evaluations is not None and integrator.gradient == "direct":
        watched = _Watched(field, every=integrator.evaluations // times)
        solution = solve(watched, state, integrator)
        states = (*watched.seen, solution.state)
        return Path(states, solution.evaluations, solution.mean_evaluations, solution.status)
    if integrator.error_control == "image":
        return _solve_row_pieces(field, state, integrator, times)
    return _solve_pieces(field, state, integrator, times)


@final
class _Watched(nn.Module):
    """Keep the state of every `every`-th evaluation: the first stage of an explicit step is at the state itself."""

    def __init__(self, field: nn.Module, every: int) -> None:
        super().__init__()
        self.field = field
        self.every = every
        self.calls = 0
        self.seen: list[Tensor] = []

    def forward(self, t: float | Tensor, y: State) -> State:
        if self.calls and self.calls % self.every == 0:
            self.seen.append(y)
        self.calls += 1
        return self.field(t, y)


@final
class _Later(nn.Module):
    """f(t + start, y)."""

    def __init__(self, field: nn.Module, start: float) -> None:
        super().__init__()
        self.field = field
        self.start = start

    def forward(self, t: float | Tensor, y: State) -> State:
        return self.field(t + self.start, y)


def _solve_pieces(field: nn.Module, state: State, integrator: Integrator, times: int) -> Path:
    length = integrator.horizon / times
    steps = None if integrator.steps is None else integrator.steps // times
    states: list[Tensor] = []
    evaluations = 0
    for number in range(times):
        left = integrator.max_evaluations - (0 if integrator.fixed else evaluations)
        if left < 1:
            return _failed(states, state, times, evaluations, Status.CAPPED)
        piece = replace(integrator, horizon=length, steps=steps, max_evaluations=left)
        solution = solve(_Later(field, number * length), state, piece)
        evaluations += solution.evaluations
        if solution.status is not Status.SOLVED:
            return _failed(states, state, times, evaluations, solution.status)
        state = solution.state
        states.append(state)
    return Path(tuple(states), evaluations, float(evaluations), Status.SOLVED)


def _solve_row_pieces(field: nn.Module, state: State, integrator: Integrator, times: int) -> Path:
    """Solve piece by piece; an image that fails stays NaN, and the others go on."""
    piece = replace(integrator, horizon=integrator.horizon / times)
    left = torch.full((len(state),), integrator.max_evaluations)
    states: list[Tensor] = []
    evaluations, mean, status = 0, 0.0, Status.SOLVED
    for number in range(times):
        rows = solve_rows(_Later(field, number * piece.horizon), state, piece, left)
        left = left - rows.evaluations
        state = rows.state
        states.append(state)
        evaluations += rows.largest
        mean += rows.mean
        status = status_of(rows) if status is Status.SOLVED else status
    return Path(tuple(states), evaluations, mean, status)


def _failed(states: list[Tensor], like: State, times: int, evaluations: int, status: Status) -> Path:
    missing = (torch.full_like(like, torch.nan) for _ in range(times - len(states)))
    return Path((*states, *missing), evaluations, float(evaluations), status)
