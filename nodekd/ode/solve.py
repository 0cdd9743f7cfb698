"""One call for every solver: solve(field, state, integrator) -> Solution."""

from dataclasses import dataclass
from enum import Enum
from typing import final

import torch
from torch import Tensor, nn

from nodekd.ode.adaptive import EvaluationCapError, solve_torchdiffeq
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
    """y(T), shaped like y(0); NaN everywhere unless the status is SOLVED. Rows may be non-finite where f is."""
    evaluations: int
    """Evaluations of f in the forward solve."""
    status: Status


def solve(field: nn.Module, state: Tensor, integrator: Integrator) -> Solution:
    """Integrate dy/dt = f(t, y) over [0, horizon].

    Args:
        field: Module f(t, y), t a float or a scalar tensor.
        state: y(0); the first axis is the batch.
        integrator: Solver, horizon, discretisation and gradient.

    Returns:
        The state at the horizon. A solve that hits its cap or cannot go on is a status and a state of NaN,
        never an exception and never a hang (S14). Adaptive solvers treat the batch as one system.

    Source:
        [chen2018neural]; fixed steps in our own loop, adaptive steps by torchdiffeq.
    """
    if integrator.fixed and integrator.gradient == "direct":
        assert integrator.steps is not None, "a fixed integrator has steps"
        assert integrator.evaluations is not None, "a fixed integrator has evaluations"
        end = solve_fixed(field, state, solver=integrator.solver, horizon=integrator.horizon, steps=integrator.steps)
        return Solution(end, integrator.evaluations, Status.SOLVED)
    try:
        end, evaluations = solve_torchdiffeq(field, state, integrator)
    except EvaluationCapError:
        return Solution(torch.full_like(state, torch.nan), integrator.max_evaluations, Status.CAPPED)
    except AssertionError:
        # torchdiffeq asserts that the state is finite and that the step does not underflow; both mean divergence.
        return Solution(torch.full_like(state, torch.nan), integrator.max_evaluations, Status.DIVERGED)
    return Solution(end, evaluations, Status.SOLVED)
