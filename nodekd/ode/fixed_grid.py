"""Explicit Runge-Kutta methods with equal steps: tables that check themselves, and one lean loop over them.

The loop holds times as Python floats and multiplies by `torch.add(alpha=)`, so a step costs one operation per nonzero
coefficient and never waits for the device: 1 for euler, 7 for rk4_classic, 10 for rk4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from nodekd.ode.integrator import FIXED

Field = Callable[[float | Tensor, Tensor], Tensor]
"""f(t, y) -> dy/dt with the shape of y."""


@final
@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method (Butcher tableau)."""

    nodes: tuple[float, ...]
    """c_i: where in the step stage i is evaluated, in step lengths."""
    stages: tuple[tuple[float, ...], ...]
    """a_ij: weights of the earlier slopes in stage i; row i has i entries."""
    weights: tuple[float, ...]
    """b_i: weights of the slopes in the step."""
    order: int
    """Error over [0, T] shrinks with this power of the step length."""

    def __post_init__(self) -> None:
        size = len(self.nodes)
        assert len(self.stages) == size == len(self.weights), "one row, node and weight per stage"
        assert [len(row) for row in self.stages] == list(range(size)), "row i holds the i earlier slopes"
        for node, row in zip(self.nodes, self.stages, strict=True):
            assert math.isclose(sum(row), node, abs_tol=1e-12), f"row {row} must sum to its node {node}"
        assert math.isclose(sum(self.weights), 1.0), "weights must sum to 1"


TABLEAUX: dict[str, Tableau] = {
    "euler": Tableau((0.0,), ((),), (1.0,), order=1),
    "midpoint": Tableau((0.0, 0.5), ((), (0.5,)), (0.0, 1.0), order=2),
    "heun": Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5), order=2),
    "rk4": Tableau(
        (0.0, 1 / 3, 2 / 3, 1.0),
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
        order=4,
    ),
    "rk4_classic": Tableau(
        (0.0, 0.5, 0.5, 1.0),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
        order=4,
    ),
}
"""`rk4` is Kutta's 3/8 rule (what torchdiffeq calls rk4), `rk4_classic` the method usually called by that name."""

assert {name: len(table.nodes) for name, table in TABLEAUX.items()} == FIXED, "one tableau per fixed solver"


def solve_fixed(field: Field, state: Tensor, *, solver: str, horizon: float, steps: int) -> Tensor:
    """Integrate dy/dt = f(t, y) from 0 to `horizon` in equal steps.

    Args:
        field: f(t, y), called with a float t.
        state: y(0), any shape.
        solver: A name of `TABLEAUX`.
        horizon: T > 0.
        steps: Number of steps, at least 1.

    Returns:
        y(T), shaped like `state`; differentiable through every step.

    Source:
        [hairer1993solving] Ch. II.1; the 3/8 rule is Kutta's second of 1901.
    """
    table = TABLEAUX[solver]
    step_size = horizon / steps
    for step in range(steps):
        slopes: list[Tensor] = []
        for node, row in zip(table.nodes, table.stages, strict=True):
            slopes.append(field((step + node) * step_size, advance(state, slopes, row, step_size)))
        state = advance(state, slopes, table.weights, step_size)
    return state


def advance(state: Tensor, slopes: list[Tensor], weights: tuple[float, ...], step_size: float) -> Tensor:
    """Return state + step_size * sum of the weighted slopes, all of one shape; weights of 0 cost nothing."""
    for slope, weight in zip(slopes, weights, strict=True):
        if weight:
            state = torch.add(state, slope, alpha=weight * step_size)
    return state
