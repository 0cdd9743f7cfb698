"""Trajectories of linear ODEs in closed form, and what follows the student exactly."""

import math

import pytest
import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.probes.trajectory import followed, norms_along, trajectory


class Linear(nn.Module):
    """dh/dt = -a h + b."""

    def __init__(self, a: float, b: float = 0.0) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        del t
        return self.b - self.a * y


class Clock(nn.Module):
    """dh/dt = t in every entry."""

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(y) * t


class Bursting(nn.Module):
    """Infinite slope for an image whose first entry is above the bound."""

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        return torch.where(y[:, :1, :1, :1] > 0.9, torch.inf, -y)


def student(*dynamics: nn.Module, solver: str = "rk4", steps: int | None = 8, horizon: float = 2.0) -> OdeStudent:
    """Images are the state, and the logits are the state's entries."""
    integrator = Integrator(solver, horizon, steps) if steps else Integrator(solver, horizon, None, 1e-5, 1e-5)
    made = build_student(
        StudentConfig(channels=2), integrator, shape=(1, 8, 8), classes=4, mean=[0.0], std=[1.0], seed=0
    )
    assert isinstance(made, OdeStudent)
    if dynamics:
        made.stem, made.head, made.blocks = nn.Identity(), nn.Flatten(), nn.ModuleList(dynamics)
    return made


def images(n: int = 12) -> Tensor:
    return 0.1 + 0.8 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("solver", "steps"), [("rk4", 8), ("rk4_classic", 5), ("dopri5", None)])
@pytest.mark.parametrize("a", [0.5, 2.0])
def test_linear_decay_has_its_length_speed_and_growth(a: float, solver: str, steps: int | None) -> None:
    found = trajectory(student(Linear(a), solver=solver, steps=steps), images(), times=16)
    assert found.path_length == pytest.approx(1 - math.exp(-2 * a), rel=2e-4)
    assert found.growth == pytest.approx(1.0, rel=1e-5)
    assert found.logit_growth == pytest.approx(1.0, rel=1e-5)
    assert found.times == pytest.approx([0.125 * i for i in range(17)])
    start = torch.linalg.vector_norm(images().flatten(1), dim=1).mean().item()
    assert found.state_norm == pytest.approx([start * math.exp(-a * t) for t in found.times], rel=2e-4)
    assert found.speed == pytest.approx([a * start * math.exp(-a * t) for t in found.times], rel=2e-4)
    assert found.departure < 0.05
    assert found.failures == 0


def test_growth_is_relative_to_a_state_that_is_held_up() -> None:
    """dh shrinks by exp(-a T), while h goes to b/a."""
    a, b, horizon = 1.5, 1.2, 2.0
    x = images()
    ends = x * math.exp(-a * horizon) + b / a * (1 - math.exp(-a * horizon))
    ratio = torch.linalg.vector_norm(x.flatten(1), dim=1) / torch.linalg.vector_norm(ends.flatten(1), dim=1)
    expected = (math.exp(-a * horizon) * ratio).mean().item()
    assert trajectory(student(Linear(a, b), steps=16), x).growth == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch_size", [5, 256])
def test_norms_of_every_image_and_their_means(batch_size: int) -> None:
    x, model = images(), student(Linear(1.5), Linear(0.5))
    found = norms_along(model, x, times=4, batch_size=batch_size)
    start = torch.linalg.vector_norm(x.flatten(1), dim=1).double()
    for column, t in enumerate(found.times):
        block, since = (0, t) if column < 5 else (1, t - 2)
        expected = start * math.exp(-1.5 * t if block == 0 else -3 - 0.5 * since)
        assert found.state[:, column].tolist() == pytest.approx(expected.tolist(), rel=1e-3)
        assert found.speed[:, column].tolist() == pytest.approx(((1.5, 0.5)[block] * expected).tolist(), rel=1e-3)
    means = trajectory(model, x, times=4)
    assert means.times == found.times
    assert found.state.double().mean(dim=0).tolist() == pytest.approx(list(means.state_norm), rel=1e-6)
    assert found.speed.double().mean(dim=0).tolist() == pytest.approx(list(means.speed), rel=1e-6)
    assert (found.solver, found.steps) == (means.solver, means.steps)


def test_euler_is_followed_on_its_own_polygon_where_its_steps_fit() -> None:
    x = images()
    found = trajectory(student(Linear(1.0), solver="euler", steps=4), x, times=4)
    assert (found.solver, found.steps) == ("euler", 4)
    assert found.path_length == pytest.approx(sum(0.5 * 0.5**i for i in range(4)), rel=1e-5)
    assert found.departure == 0.0
    finer = trajectory(student(Linear(1.0), solver="euler", steps=4), x, times=400)
    assert finer.path_length == pytest.approx(1 - math.exp(-2), rel=5e-3)
    assert finer.departure == pytest.approx(abs((1 - 2 / 400) ** 400 - 0.5**4) / 0.5**4, rel=1e-3)


def test_blocks_follow_one_another() -> None:
    x = images()
    found = trajectory(student(Linear(1.0), Linear(0.5)), x, times=4)
    assert found.path_length == pytest.approx((1 - math.exp(-2)) + math.exp(-2) * (1 - math.exp(-1)), rel=1e-4)
    assert found.times == pytest.approx([0, 0.5, 1, 1.5, 2, 2, 2.5, 3, 3.5, 4])
    assert found.state_norm[4] == pytest.approx(found.state_norm[5])
    assert found.speed[4] == pytest.approx(2 * found.speed[5])


def test_the_time_is_handed_to_the_dynamics() -> None:
    x = images()
    found = trajectory(student(Clock()), x, times=4)
    assert found.speed == pytest.approx([4 * t for t in found.times], abs=1e-5)
    norms = torch.linalg.vector_norm(x.flatten(1), dim=1)
    assert found.path_length == pytest.approx((4 * 2.0 / norms).mean().item(), rel=1e-5)


def test_an_image_that_bursts_is_counted_and_hides_no_other() -> None:
    x = images()
    calm = trajectory(student(Bursting()), x)
    x = torch.cat([x, x[:1]])
    x[-1, 0, 0, 0] = 1.0
    found = trajectory(student(Bursting()), x)
    assert (calm.failures, found.failures) == (0, 1)
    assert found.path_length == pytest.approx(calm.path_length, rel=1e-6)
    assert all(value is not None for value in found.record()["state_norm"])


def test_a_real_student_is_followed_without_a_trace() -> None:
    model = student(solver="midpoint", steps=3).train()
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    found = trajectory(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert found.steps == 16
    assert found.path_length > 0
    assert 0 < found.growth < 100
    assert found == trajectory(model, x)
    parts = trajectory(model, x, batch_size=2)
    assert parts.path_length == pytest.approx(found.path_length, rel=1e-5)


def test_growth_is_the_limit_of_small_differences() -> None:
    model = student(solver="rk4", steps=4).double().requires_grad_(False)
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    start = model.stem(model.normalise(x))
    found = trajectory(model, x, times=4)
    change = torch.randn(start.shape, generator=streams.generator(0, "trajectory", "perturbation")).double()
    size = 1e-6

    def norm(y: Tensor) -> Tensor:
        return torch.linalg.vector_norm(y.flatten(1), dim=1)

    ends, moved = model.flow(start), model.flow(start + size * change)
    growth = norm(moved - ends) / norm(ends) / (size * norm(change) / norm(start))
    assert found.growth == pytest.approx(growth.mean().item(), rel=1e-4)
    scores, others = model.head(ends), model.head(moved)
    logit_growth = norm(others - scores) / norm(scores) / (size * norm(change) / norm(start))
    assert found.logit_growth == pytest.approx(logit_growth.mean().item(), rel=1e-4)


def test_the_grid_is_never_coarser_than_the_student() -> None:
    assert followed(Integrator("euler", 1.0, 20), 16).steps == 32
    assert followed(Integrator("heun", 1.0, 16, gradient="adjoint"), 16) == Integrator("heun", 1.0, 16)
    coarse_back = Integrator("heun", 1.0, 16, gradient="adjoint", adjoint_steps=1)
    assert followed(coarse_back, 16) == Integrator("heun", 1.0, 16)
    assert followed(Integrator("dopri5", 10.0, None, 1e-3, 1e-3), 16) == Integrator("rk4_classic", 10.0, 48)
    with pytest.raises(ValueError, match="times >= 1"):
        trajectory(student(Linear(1.0)), images(), times=0)
