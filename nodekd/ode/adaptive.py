"""torchdiffeq's solvers behind our call: adaptive ones, and the adjoint of fixed ones, with a cap on evaluations."""

from typing import cast, final

import torch
from torch import Tensor, nn
from torchdiffeq import odeint, odeint_adjoint

from nodekd.ode.integrator import Integrator

TORCHDIFFEQ_NAMES = {"heun": "heun2"}
"""Where torchdiffeq's name differs from ours."""


class EvaluationCapError(Exception):
    """A solve asked for more evaluations than allowed; raised inside the solver, told to callers as a status."""


@final
class CountedField(nn.Module):
    """Pass f(t, y) through, count its calls, and stop the solve at the cap."""

    def __init__(self, field: nn.Module, cap: int | None) -> None:
        super().__init__()
        self.field = field
        self.cap = cap
        self.count = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate f; raise `EvaluationCapError` when the cap is already used up."""
        if self.cap is not None and self.count >= self.cap:
            raise EvaluationCapError(f"the solve needs more than {self.cap} evaluations")
        self.count += 1
        return self.field(t, y)


def solve_torchdiffeq(field: nn.Module, state: Tensor, integrator: Integrator) -> tuple[Tensor, int]:
    """Integrate with torchdiffeq.

    Args:
        field: f(t, y) as a module, so that the adjoint finds its parameters.
        state: y(0).
        integrator: An adaptive solver, or a fixed one with `gradient="adjoint"`.

    Returns:
        y(T) and the evaluations of the forward solve.

    Raises:
        EvaluationCapError: If the solve (or, later, its adjoint) needs more than `max_evaluations`.
        AssertionError: From torchdiffeq, if the state is not finite or the step underflows.

    Source:
        [chen2018neural]; adjoint parameters are those that need a gradient, so frozen weights cost nothing.
    """
    cap = None if integrator.fixed else integrator.max_evaluations
    counted = CountedField(field, cap)
    times = torch.tensor([0.0, integrator.horizon], dtype=state.dtype, device=state.device)
    arguments = {"method": TORCHDIFFEQ_NAMES.get(integrator.solver, integrator.solver), **_accuracy(integrator)}
    if integrator.gradient == "adjoint":
        trainable = tuple(p for p in field.parameters() if p.requires_grad)
        arguments |= {} if integrator.adjoint_steps is None else _way_back(integrator.adjoint_steps)
        states = cast("Tensor", odeint_adjoint(counted, state, times, adjoint_params=trainable, **arguments))
    else:
        states = cast("Tensor", odeint(counted, state, times, **arguments))
    forward_count, counted.count = counted.count, 0
    return states[-1], forward_count


def _accuracy(integrator: Integrator) -> dict[str, object]:
    if not integrator.fixed:
        return {"rtol": integrator.rtol, "atol": integrator.atol}
    assert integrator.steps is not None, "a fixed integrator has steps"
    return {"options": _equal_steps(integrator.steps)}


def _way_back(steps: int) -> dict[str, object]:
    return {"adjoint_method": "euler", "adjoint_options": _equal_steps(steps)}


def _equal_steps(steps: int) -> dict[str, object]:
    def grid(_field: object, _state: Tensor, times: Tensor) -> Tensor:
        return torch.linspace(float(times[0]), float(times[-1]), steps + 1, dtype=times.dtype, device=times.device)

    return {"grid_constructor": grid}
