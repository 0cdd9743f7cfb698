"""One call for every solver: solve(field, state, integrator) -> Solution."""

from dataclasses import dataclass
from enum import Enum
from typing import final

import torch
from torch import Tensor, nn

from nodekd.ode.adaptive import EvaluationCapError, solve_torchdiffeq
from nodekd.ode.adaptive_rows import RowEnds, solve_rows
from nodekd.ode.fixed_grid import solve_fixed
from nodekd.ode.integrator import Integrator


class Status(Enum):
    """How a solve ended; the value is the sentence shown to people."""

    SOLVED = "the solve reached the horizon"
    CAPPED = "the solve needed more evaluations than max_evaluations allows"
    DIVERGED = "the state left the finite numbers"


@final
@dataclass(frozen=True)
class Solution:
    """The end of one solve, for the whole batch."""

    state: Tensor
    """y(T), shaped like y(0). Per image: NaN in the rows that failed. Otherwise: NaN everywhere unless the status is
    SOLVED, and rows may be non-finite where f is."""
    evaluations: int
    """Evaluations of f in the forward solve: what the batch waits for, the largest over its images."""
    mean_evaluations: float
    """Mean over the images of what each needs; the same number unless steps are chosen per image."""
    status: Status
    """Per image, SOLVED if every image is."""


def solve(field: nn.Module, state: Tensor, integrator: Integrator) -> Solution:
    """Integrate dy/dt = f(t, y) over [0, horizon].

    Args:
        field: Module f(t, y), t a float, a scalar tensor or, with steps per image, a tensor (b,).
        state: y(0); the first axis is the batch.
        integrator: Solver, horizon, discretisation, gradient and error control.

    Returns:
        The state at the horizon. A solve that hits its cap or cannot go on is a status and a state of NaN,
        never an exception and never a hang (S14). With `error_control="image"` that is told row by row.

    Source:
        [chen2018neural]; fixed steps and steps per image in our own loops, adaptive steps of a batch and adjoints by
        torchdiffeq.
    """
    if integrator.error_control == "image":
        return _solved_rows(solve_rows(field, state, integrator))
    if integrator.fixed and integrator.gradient == "direct":
        assert integrator.steps is not None, "a fixed integrator has steps"
        assert integrator.evaluations is not None, "a fixed integrator has evaluations"
        end = solve_fixed(field, state, solver=integrator.solver, horizon=integrator.horizon, steps=integrator.steps)
        return _together(end, integrator.evaluations, Status.SOLVED)
    try:
        end, evaluations = solve_torchdiffeq(field, state, integrator)
    except EvaluationCapError:
        return _together(torch.full_like(state, torch.nan), integrator.max_evaluations, Status.CAPPED)
    except AssertionError:
        # torchdiffeq asserts that the state is finite and that the step does not underflow; both mean divergence.
        return _together(torch.full_like(state, torch.nan), integrator.max_evaluations, Status.DIVERGED)
    return _together(end, evaluations, Status.SOLVED)


def status_of(rows: RowEnds) -> Status:
    """Return SOLVED if every row is, DIVERGED if one left the finite numbers, otherwise CAPPED."""
    if rows.diverged:
        return Status.DIVERGED
    return Status.CAPPED if rows.capped else Status.SOLVED


def _together(state: Tensor, evaluations: int, status: Status) -> Solution:
    return Solution(state, evaluations, float(evaluations), status)


def _solved_rows(rows: RowEnds) -> Solution:
    return Solution(rows.state, rows.largest, rows.mean, status_of(rows))
