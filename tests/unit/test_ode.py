"""Solvers against closed forms, order slopes, torchdiffeq, and counts."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchdiffeq import odeint

from nodekd.ode.fixed_grid import TABLEAUX, Tableau, solve_fixed
from nodekd.ode.integrator import ADAPTIVE, FIXED, Integrator, finer, steps_for
from nodekd.ode.solve import Status, solve


class Oscillator(nn.Module):
    """dy/dt = A y + cos(t), with a parameter, in float64."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[-0.1, 1.0], [-1.0, -0.1]], dtype=torch.float64))

    def forward(self, t, y):
        forcing = torch.cos(torch.as_tensor(t, dtype=torch.float64))
        return y @ self.matrix.T + forcing


class Exponential(nn.Module):
    """dy/dt = rate * y; y(T) = exp(rate * T) y(0)."""

    def __init__(self, rate=1.0):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t, y):
        return self.rate * y


TOLERANT = {"solver": "dopri5", "steps": None, "rtol": 1e-3, "atol": 1e-3}
START = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize("solver", FIXED)
def test_error_shrinks_with_the_stated_order(solver):
    field = Oscillator().requires_grad_(False)
    exact = solve_fixed(field, START, solver="rk4_classic", horizon=2.0, steps=2000)
    steps = [8, 16, 32, 64]
    errors = [(solve_fixed(field, START, solver=solver, horizon=2.0, steps=n) - exact).norm() for n in steps]
    slope = math.log2(errors[-2] / errors[-1])
    assert abs(slope - TABLEAUX[solver].order) < 0.2


@pytest.mark.parametrize(
    ("solver", "theirs"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2"), ("rk4", "rk4")]
)
def test_fixed_solvers_agree_with_torchdiffeq(solver, theirs):
    ours = solve_fixed(Oscillator(), START, solver=solver, horizon=1.3, steps=7)
    times = torch.linspace(0, 1.3, 8, dtype=torch.float64)
    reference = odeint(Oscillator(), START, times, method=theirs)[-1]
    assert torch.allclose(ours, reference, rtol=0, atol=1e-6)


def test_rk4_classic_is_not_the_three_eighths_rule():
    both = [solve_fixed(Oscillator(), START, solver=s, horizon=2.0, steps=2) for s in ("rk4", "rk4_classic")]
    assert (both[0] - both[1]).norm() > 1e-6


@pytest.mark.parametrize("solver", FIXED)
def test_a_table_whose_rows_do_not_sum_to_their_nodes_is_refused(solver):
    table = TABLEAUX[solver]
    with pytest.raises(AssertionError, match="weights must sum to 1"):
        Tableau(table.nodes, table.stages, tuple(2 * w for w in table.weights), table.order)


def test_autonomous_horizon_is_a_gain():
    long = solve_fixed(Exponential(0.7), START, solver="rk4", horizon=2.0, steps=5)
    gained = solve_fixed(lambda t, y: 2.0 * 0.7 * y, START, solver="rk4", horizon=1.0, steps=5)
    assert torch.allclose(long, gained, rtol=0, atol=1e-14)


@pytest.mark.parametrize("solver", FIXED)
def test_a_step_costs_no_more_operations_than_counted(solver):
    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Counter.count += 1
            return func(*args, **(kwargs or {}))

    limit = {"euler": 1, "midpoint": 2, "heun": 3, "rk4": 10, "rk4_classic": 7}[solver]
    start, slopes = torch.zeros(3), torch.ones(3)
    with Counter():
        solve_fixed(lambda t, y: slopes, start, solver=solver, horizon=1.0, steps=10)
    assert Counter.count == 10 * limit


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_adaptive_solvers_reach_the_closed_form(solver):
    tolerance = 1e-2 if solver == "fehlberg2" else 1e-3
    integrator = Integrator(solver, horizon=1.5, steps=None, rtol=1e-6, atol=1e-6, max_evaluations=20_000)
    solution = solve(Exponential(), START, integrator)
    assert solution.status is Status.SOLVED
    assert torch.allclose(solution.state, math.exp(1.5) * START, rtol=tolerance, atol=0)
    assert 5 < solution.evaluations < 20_000


@pytest.mark.parametrize("solver", ADAPTIVE)
@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_a_cap_ends_as_a_status_after_exactly_that_many_evaluations(solver, gradient):
    calls = 0

    class Stiff(nn.Module):
        def forward(self, t, y):
            nonlocal calls
            calls += 1
            return -1000.0 * y + torch.sin(1000.0 * t)

    integrator = Integrator(solver, 4.0, None, rtol=1e-6, atol=1e-8, max_evaluations=25, gradient=gradient)
    solution = solve(Stiff(), START, integrator)
    assert solution.status is Status.CAPPED
    assert calls == solution.evaluations == 25
    assert solution.state.isnan().all()


def test_a_state_that_explodes_is_a_status():
    class Explosive(nn.Module):
        def forward(self, t, y):
            return y**3

    integrator = Integrator("dopri5", 10.0, None, rtol=1e-3, atol=1e-3, max_evaluations=100_000)
    assert solve(Explosive(), 3 * START, integrator).status is Status.DIVERGED


@pytest.mark.parametrize(
    "integrator",
    [
        *(Integrator(s, 1.0, steps=32, gradient="adjoint") for s in FIXED if s != "rk4_classic"),
        *(
            Integrator(s, 1.0, None, rtol=1e-7, atol=1e-7, max_evaluations=50_000, gradient="adjoint")
            for s in ("dopri5", "dopri8", "bosh3")
        ),
    ],
    ids=lambda i: i.solver,
)
def test_adjoint_gradient_agrees_with_the_closed_form(integrator):
    field = Exponential(0.5)
    start = START.clone().requires_grad_()
    solve(field, start, integrator).state.sum().backward()
    tolerance = 0.03 if integrator.solver == "euler" else 1e-3
    assert field.rate.grad == pytest.approx(float(math.exp(0.5) * START.sum()), rel=tolerance)
    assert torch.allclose(start.grad, torch.full_like(START, math.exp(0.5)), rtol=tolerance)


@pytest.mark.parametrize("solver", ["euler", "rk4", "dopri5"])
def test_direct_gradient_passes_gradcheck(solver):
    if solver in FIXED:
        integrator = Integrator(solver, 0.8, steps=3)
    else:
        integrator = Integrator(solver, 0.8, None, rtol=1e-6, atol=1e-6, max_evaluations=5000)
    field = Oscillator()
    assert torch.autograd.gradcheck(
        lambda y: solve(field, y, integrator).state, START.clone().requires_grad_(), atol=1e-4
    )


def test_discretisation_has_three_names():
    assert steps_for("rk4", 1.0, steps=3) == 3
    assert steps_for("midpoint", 1.0, evaluations=8) == 4
    assert steps_for("euler", 1.0, step_size=0.3) == 4
    assert steps_for("euler", 1.0, step_size=0.1) == 10  # 1/0.1 rounds above 10
    with pytest.raises(ValueError, match="exactly one of"):
        steps_for("euler", 1.0)
    with pytest.raises(ValueError, match="exactly one of"):
        steps_for("euler", 1.0, steps=2, evaluations=2)
    with pytest.raises(ValueError, match="multiple of rk4's 4 stages, but got 6"):
        steps_for("rk4", 1.0, evaluations=6)
    with pytest.raises(ValueError, match="step_size > 0"):
        steps_for("rk4", 1.0, step_size=0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "rk5"}, "`solver` must be one of"),
        ({"horizon": 0.0}, "`horizon > 0`"),
        ({"horizon": math.inf}, "`horizon > 0`"),
        ({"steps": 0}, "`steps >= 1`"),
        ({"steps": None}, "`steps >= 1`"),
        ({"rtol": 1e-3}, "takes no rtol"),
        ({"solver": "dopri5", "steps": 4}, "chooses its own steps"),
        ({"solver": "dopri5", "steps": None}, "`0 < rtol <= 1`"),
        ({"max_evaluations": 0}, "max_evaluations >= 1"),
        ({"gradient": "exact"}, "`gradient` must be"),
        ({"solver": "rk4_classic", "gradient": "adjoint"}, "has no adjoint"),
        ({"error_control": "row"}, "`error_control` must be batch or image, but got 'row'"),
        ({"error_control": "image"}, "needs an adaptive solver with gradient direct, but got rk4"),
        ({**TOLERANT, "gradient": "adjoint", "error_control": "image"}, "but got dopri5 with gradient adjoint"),
    ],
)
def test_impossible_integrators_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Integrator(**arguments)


@pytest.mark.parametrize("solver", FIXED)
@pytest.mark.parametrize("evaluations", [4, 16])
def test_the_finer_solve_is_finer(solver, evaluations):
    given = Integrator(solver, 1.0, steps_for(solver, 1.0, evaluations=evaluations))
    exact = solve(Oscillator(), START, Integrator("rk4_classic", 1.0, 1000)).state
    error = [float((solve(Oscillator(), START, i).state - exact).norm()) for i in (given, finer(given))]
    assert error[1] < error[0] / 2
