"""Embedded Runge-Kutta pairs: one step in which every row of a batch has its own time and step length.

A pair gives the end of a step, an estimate of its error, and a polynomial through the step. Every function maps rows
to rows, none of which depends on another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS

from nodekd.ode.fixed_grid import advance
from nodekd.ode.integrator import ADAPTIVE

RowField = Callable[[Tensor, Tensor], Tensor]
"""f(t, y) -> dy/dt with the shape of y, t (m,) one time per row."""


@final
@dataclass(frozen=True)
class EmbeddedPair:
    """Coefficients of an embedded pair; the slope at the start of a step is that at the end of the one before."""

    nodes: tuple[float, ...]
    """c_i of the stages after the first: where in the step they are evaluated, in step lengths."""
    stages: tuple[tuple[float, ...], ...]
    """a_ij of the same stages: weights of the slopes before."""
    weights: tuple[float, ...] | None
    """b_i: weights of all slopes in the step; None where the last stage is the end of the step."""
    error: tuple[float, ...]
    """Weights of all slopes in the error estimate."""
    middle: tuple[float, ...]
    """Weights of all slopes in the state halfway."""
    order: int
    """Error of a step shrinks with this power of its length in the eyes of the step control."""


def _pair(solver: str) -> EmbeddedPair:
    found = SOLVERS[solver]
    nodes, rows, weights, error = found.tableau
    stages = tuple(tuple(row.tolist()) for row in rows)
    ends_in_stage = weights[-1] == 0 and tuple(weights[:-1].tolist()) == stages[-1]
    return EmbeddedPair(
        nodes=tuple(nodes.tolist()),
        stages=stages,
        weights=None if ends_in_stage else tuple(weights.tolist()),
        error=tuple(error.tolist()),
        middle=tuple(found.mid.tolist()),
        order=found.order,
    )


PAIRS: dict[str, EmbeddedPair] = {solver: _pair(solver) for solver in ADAPTIVE}
"""By solver, with the coefficients that torchdiffeq has."""


@final
@dataclass(frozen=True)
class Step:
    """One step of every row."""

    start: Tensor
    """y at its start, (m ...)."""
    end: Tensor
    """y at its end, (m ...)."""
    changes: list[Tensor]
    """Slopes of all stages times the row's step length, each (m ...)."""
    slope: Tensor
    """Slope of the last stage, with which the next step starts."""


def take_step(field: RowField, pair: EmbeddedPair, state: Tensor, slope: Tensor, time: Tensor, length: Tensor) -> Step:
    """Take a step of its own length in every row.

    Args:
        field: f(t, y).
        pair: Coefficients.
        state: y at the start, (m ...).
        slope: f there, (m ...).
        time: Times at the start, (m,) float64.
        length: Step lengths, (m,) float64.

    Source:
        [hairer1993solving] Ch. II.4; stages at the end of the step are evaluated just before it, as torchdiffeq's are.
    """
    end_time = (time + length).to(state.dtype)
    just_before = torch.nextafter(end_time, end_time - 1)
    time, length = time.to(state.dtype), length.to(state.dtype)
    scale = column(length, state)
    changes, reached = [scale * slope], state
    for node, row in zip(pair.nodes, pair.stages, strict=True):
        reached = advance(state, changes, row, 1.0)
        slope = field(just_before if node == 1 else time + node * length, reached)
        changes.append(scale * slope)
    end = reached if pair.weights is None else advance(state, changes, pair.weights, 1.0)
    return Step(state, end, changes, slope)


@torch.no_grad()
def error_ratio(step: Step, pair: EmbeddedPair, rtol: float, atol: float) -> Tensor:
    """Return the root mean square (m,) of error over tolerance; a step is good at 1 and below."""
    error = advance(pair.error[0] * step.changes[0], step.changes[1:], pair.error[1:], 1.0)
    return rms(error / (atol + rtol * torch.max(step.start.abs(), step.end.abs())))


def between(step: Step, pair: EmbeddedPair, rows: Tensor, share: Tensor) -> Tensor:
    """Return the states of some rows inside their step.

    Args:
        step: As taken.
        pair: Coefficients.
        rows: Which rows, (r,) int64.
        share: How far into the step, (r,) in [0, 1].

    Returns:
        Values (r ...) of the polynomial of degree 4 through start, middle and end, with the slopes at both ends. It is
        torchdiffeq's, written in changes from the start, so that the state's own size is not rounded away.
    """
    changes = [each.index_select(0, rows) for each in step.changes]
    start = step.start.index_select(0, rows)
    whole = step.end.index_select(0, rows) - start
    first, last = changes[0], changes[-1]
    half = advance(pair.middle[0] * first, changes[1:], pair.middle[1:], 1.0)
    fourth = 2 * (last - first) - 8 * whole + 16 * half
    third = 5 * first - 3 * last + 14 * whole - 32 * half
    second = last - 4 * first - 5 * whole + 16 * half
    x = column(share.to(start.dtype), start)
    return start + x * (first + x * (second + x * (third + x * fourth)))


def rms(rows: Tensor) -> Tensor:
    """Return the root mean square (m,) of every row (m ...)."""
    return rows.flatten(1).pow(2).mean(dim=1).sqrt()


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return values (m,) in the shape (m 1 ...) that multiplies rows (m ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))
