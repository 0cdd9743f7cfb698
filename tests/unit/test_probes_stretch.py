"""The stretch of a flow against the matrix exponential, and against every direction by finite differences."""

import math

import pytest
import torch
from torch import nn

from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.fixed_grid import solve_fixed
from nodekd.ode.integrator import Integrator
from nodekd.probes.stretch import largest_singular_values, stretch

MATRIX = 0.7 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STATE = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Linear(nn.Module):
    def forward(self, t: float, y: torch.Tensor) -> torch.Tensor:
        return y @ MATRIX.T


def test_a_linear_flow_stretches_by_the_norm_of_its_matrix_exponential() -> None:
    found = largest_singular_values(
        lambda y: solve_fixed(Linear(), y, solver="rk4", horizon=1.5, steps=200), STATE, seed=0, iterations=60
    )
    expected = torch.linalg.matrix_norm(torch.matrix_exp(1.5 * MATRIX), ord=2)
    torch.testing.assert_close(found, expected.expand(3), rtol=1e-6, atol=0)


def student(solver: str) -> nn.Module:
    integrator = (
        Integrator("dopri5", steps=None, rtol=1e-5, atol=1e-5) if solver == "dopri5" else Integrator(solver, steps=32)
    )
    config = StudentConfig(arch="odenet-stem", channels=8)
    return build_student(config, integrator, shape=(1, 8, 8), classes=4, mean=(0.5,), std=(0.3,), seed=0).eval()


def test_no_direction_stretches_more() -> None:
    network, images = student("rk4"), torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        start = network.stem(network.normalise(images))
        found = largest_singular_values(network.flow, start, seed=0, iterations=40)
        for draw in range(20):
            step = torch.randn(start.shape, generator=torch.Generator().manual_seed(draw))
            step = 1e-3 * step / step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            ratio = (network.flow(start + step) - network.flow(start - step)).flatten(1).norm(dim=1) / 2e-3
            assert (ratio <= found * 1.01).all()


def test_solvers_of_one_flow_agree_and_nothing_is_left_behind() -> None:
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    fixed, adaptive = student("rk4"), student("dopri5")
    a, b = (stretch(network, images, seed=0) for network in (fixed, adaptive))
    assert a.sigma == pytest.approx(b.sigma, rel=1e-2)
    assert a.exponent == pytest.approx(math.log(a.sigma))
    assert a.sigma <= a.sigma_high
    assert (a.n, a == stretch(fixed, images, seed=0)) == (5, True)
    assert all(weight.grad is None for weight in fixed.parameters())
    assert math.isnan(stretch(fixed, images[:0], seed=0).sigma)
