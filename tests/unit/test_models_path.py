"""States on the way through an ODE block."""

import math

import pytest
import torch

from nodekd.models.path import solve_path
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import Status, solve

FACTS = {"shape": (1, 8, 8), "classes": 5, "mean": [0.5], "std": [0.25], "seed": 7}
ADAPTIVE = Integrator("dopri5", 2.0, None, rtol=1e-6, atol=1e-6)


class Decay(torch.nn.Module):
    """dy/dt = -2 t y, so that y(t) = y(0) exp(-t^2): sees whether the time goes on from piece to piece."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * t * y


def build(integrator, **config):
    return build_student(StudentConfig(channels=8, **config), integrator, **FACTS).eval()


def images():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize(
    "integrator",
    [
        Integrator("rk4", 2.0, 64),
        Integrator("heun", 2.0, 2000),
        ADAPTIVE,
        Integrator("rk4", 2.0, 64, gradient="adjoint"),
    ],
)
def test_states_lie_on_the_exact_solution(integrator, times):
    start = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    path = solve_path(Decay(), start, integrator, times)
    exact = [math.exp(-((2.0 * (i + 1) / times) ** 2)) for i in range(times)]
    assert [float(y[0, 0].detach()) for y in path.states] == pytest.approx(exact, abs=1e-5)
    assert path.status is Status.SOLVED
    (gradient,) = torch.autograd.grad(path.states[0].sum(), start)
    assert gradient.flatten().tolist() == pytest.approx([exact[0]] * 2, abs=1e-5)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "rk4_classic"])
@pytest.mark.parametrize("times", [1, 2, 3, 6])
def test_fixed_steps_are_read_in_passing(solver, times):
    student = build(Integrator(solver, 0.7, 6), blocks=2)
    expected = student.flow(student.stem(student.normalise(images())))
    evaluations = student.nfe
    states = student.states(images(), times)
    assert len(states) == times
    assert torch.equal(states[-1], expected)
    assert (student.nfe, student.status) == (evaluations, Status.SOLVED)


def test_the_state_halfway_is_that_of_half_the_steps():
    student = build(Integrator("rk4", 0.75, 6), blocks=2, time="none")
    halfway = student.states(images(), 2)[0]
    behind_first = solve(student.blocks[0], student.stem(student.normalise(images())), student.integrator).state
    expected = solve(student.blocks[1], behind_first, Integrator("rk4", 0.375, 3)).state
    assert torch.allclose(halfway, expected, atol=1e-6)


def test_pieces_of_an_adaptive_solve_share_one_cap():
    start = torch.ones(1, 1, dtype=torch.float64)
    used = solve_path(Decay(), start, ADAPTIVE, 4).evaluations
    whole = Integrator("dopri5", 2.0, None, rtol=1e-6, atol=1e-6, max_evaluations=used)
    assert solve_path(Decay(), start, whole, 4).status is Status.SOLVED
    capped = Integrator("dopri5", 2.0, None, rtol=1e-6, atol=1e-6, max_evaluations=used - 1)
    path = solve_path(Decay(), start, capped, 4)
    assert path.status is Status.CAPPED
    assert path.evaluations == used - 1
    assert [bool(y.isnan().all()) for y in path.states] == [False, False, False, True]


def test_a_failed_block_gives_states_of_nan():
    student = build(Integrator("dopri5", 1.0, None, rtol=1e-5, atol=1e-5, max_evaluations=9), blocks=2)
    states = student.states(images(), 3)
    assert len(states) == 3
    assert all(y.isnan().all() for y in states)
    assert (student.status, student.nfe) == (Status.CAPPED, 9)


@pytest.mark.parametrize("times", [0, 4])
@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_times_must_divide_the_steps(times, gradient):
    student = build(Integrator("rk4", 1.0, 6, gradient=gradient))
    with pytest.raises(ValueError, match=f"divide the steps of rk4, but got times={times} and steps=6"):
        student.states(images(), times)
