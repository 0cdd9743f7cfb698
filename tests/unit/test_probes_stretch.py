"""The stretch of a flow against the matrix exponential, and against every direction by finite differences."""

import math

import pytest
import torch
from torch import nn

from nodekd import streams
from nodekd.models.student import OdeStudent, StudentConfig, build_student
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
        lambda y: solve_fixed(Linear(), y, solver="rk4", horizon=1.5, steps=40), STATE, seed=0, iterations=30
    )
    expected = torch.linalg.matrix_norm(torch.matrix_exp(1.5 * MATRIX), ord=2)
    torch.testing.assert_close(found, expected.expand(3), rtol=1e-5, atol=0)


def student(solver: str, steps: int = 4) -> OdeStudent:
    integrator = (
        Integrator("dopri5", steps=None, rtol=1e-3, atol=1e-3)
        if solver == "dopri5"
        else Integrator(solver, steps=steps)
    )
    config = StudentConfig(arch="odenet-stem", channels=8)
    network = build_student(config, integrator, shape=(1, 8, 8), classes=4, mean=(0.5,), std=(0.3,), seed=0)
    assert isinstance(network, OdeStudent)
    return network


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def test_the_values_are_those_of_the_whole_jacobian() -> None:
    """Of a small nonlinear map whose Jacobian can be written down, in double precision."""

    def flow(y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(y @ MATRIX.T) + y**3

    found = largest_singular_values(flow, STATE, seed=0, iterations=200)
    for row, sigma in zip(STATE, found, strict=True):
        jacobian = torch.diag(1 - torch.tanh(MATRIX @ row) ** 2) @ MATRIX + torch.diag(3 * row**2)
        torch.testing.assert_close(sigma, torch.linalg.svdvals(jacobian)[0], rtol=1e-5, atol=0)


def test_no_direction_stretches_more(images: torch.Tensor) -> None:
    network = student("rk4")
    with torch.no_grad():
        start = network.stem(network.normalise(images))
        found = largest_singular_values(network.flow, start, seed=0, iterations=15)
        for draw in range(8):
            step = torch.randn(start.shape, generator=torch.Generator().manual_seed(draw))
            step = 1e-3 * step / step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            ratio = (network.flow(start + step) - network.flow(start - step)).flatten(1).norm(dim=1) / 2e-3
            assert (ratio <= found * 1.01).all()


def test_the_record_is_about_the_images_and_relative_to_the_growth_of_the_state(images: torch.Tensor) -> None:
    network = student("rk4")
    found = stretch(network, images, seed=0, iterations=4, batch_size=len(images))
    with torch.no_grad():
        start = network.stem(network.normalise(images))
        sigma = largest_singular_values(network.flow, start, seed=streams.seed_of(0, 0), iterations=4).double()
        scale = network.flow(start).flatten(1).norm(dim=1) / start.flatten(1).norm(dim=1)
    assert found.sigma == pytest.approx(sigma.median().item(), rel=1e-4)
    assert found.relative == pytest.approx((sigma / scale).median().item(), rel=1e-4)
    assert found.relative_high == pytest.approx((sigma / scale).quantile(0.9).item(), rel=1e-4)
    assert found.sigma_low <= found.sigma <= found.sigma_high
    assert found.exponent == pytest.approx(math.log(found.sigma) / network.integrator.horizon)
    assert found.record() == vars(found)


def test_damping_shrinks_the_flow_but_not_what_the_head_sees() -> None:
    """dy/dt = -y: every perturbation shrinks by e^-T, and so does the state: relative to it nothing happens."""
    found = largest_singular_values(
        lambda y: solve_fixed(lambda t, y: -y, y, solver="rk4", horizon=2.0, steps=20), STATE, seed=0, iterations=3
    )
    torch.testing.assert_close(found, torch.full((3,), math.exp(-2.0), dtype=torch.float64), rtol=1e-4, atol=0)


def test_batches_and_solvers_of_one_flow_agree_and_nothing_is_left_behind(images: torch.Tensor) -> None:
    fixed, adaptive = student("rk4").train(), student("dopri5")
    for weight in adaptive.parameters():
        weight.requires_grad_(False)
    state = torch.get_rng_state()
    few = images[:2]
    whole, parts, other = (
        stretch(network, few, seed=0, iterations=6, batch_size=size)
        for network, size in ((fixed, 2), (fixed, 1), (adaptive, 2))
    )
    assert whole.sigma == pytest.approx(parts.sigma, rel=2e-2)
    assert whole.sigma == pytest.approx(other.sigma, rel=6e-2)  # which is solved more exactly
    assert whole == stretch(fixed, few, seed=0, iterations=6, batch_size=2)
    assert fixed.training
    assert all(weight.grad is None and weight.requires_grad for weight in fixed.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_whose_flow_is_not_finite_are_left_out(images: torch.Tensor) -> None:
    network = student("rk4")
    broken = images.clone()
    broken[1] = torch.nan
    assert stretch(network, broken, seed=0, iterations=2).n == 4
    none = stretch(network, images[:0], seed=0)
    assert (none.n, math.isnan(none.sigma), none.record()["sigma"]) == (0, True, None)
