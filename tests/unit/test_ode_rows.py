"""Steps per image: what torchdiffeq does with every image alone, whatever its batch mates."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchdiffeq._impl import rk_common

from nodekd.checks.preflight import preflight
from nodekd.models.path import solve_path
from nodekd.models.student import StudentConfig, build_student, forward_evaluations
from nodekd.ode.adaptive import EvaluationCapError, solve_torchdiffeq
from nodekd.ode.adaptive_rows import solve_rows
from nodekd.ode.integrator import ADAPTIVE, Integrator, per_image
from nodekd.ode.solve import Status, solve
from nodekd.scoring import logits_of
from study.jobs.networks import as_attacked, as_measured

CASES = [
    (solver, rtol)
    for solver in ADAPTIVE
    for rtol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    if rtol >= 1e-3 or solver in ("dopri5", "dopri8", "bosh3")  # the others would take thousands of steps
]
WIDTH = 6


class Swirl(nn.Module):
    """dy/dt = tanh(A y + b sin(3t)) - y/2, then times a stiffness; smooth, and its time matters."""

    def __init__(self, seed=0, stiffness=1.0, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(WIDTH, WIDTH + 1, generator=generator, dtype=torch.float64) / WIDTH**0.5
        self.matrix, self.force = nn.Parameter(draw[:, 1:].to(dtype)), nn.Parameter(draw[:, 0].to(dtype))
        self.stiffness = stiffness

    def forward(self, t, y):
        force = torch.sin(3 * t).reshape(-1, 1) * self.force
        return torch.tanh(y @ self.matrix.T + force) - 0.5 * self.stiffness * y


class Powers(nn.Module):
    """dy/dt = p y / (1 + t) with one p per row, known by its first entry: y(t) = y(0) (1 + t)^p."""

    def forward(self, t, y):
        power, state = y[:, :1], y[:, 1:]
        return torch.cat([torch.zeros_like(power), state * power / (1 + t.reshape(-1, 1))], dim=1)


class Blows(nn.Module):
    """dy/dt = y^2: y(t) = 1 / (1 / y(0) - t), which explodes before t = 1 from y(0) > 1."""

    def forward(self, t, y):
        return y**2


class Cliff(nn.Module):
    """A decay that turns steep at t = 1/2; a step across it overshoots to where exp(y) overflows, and is rejected."""

    def forward(self, t, y):
        rate = 1 + 200 * torch.sigmoid(200 * (t.reshape(-1, 1) - 0.5))
        return torch.tanh(torch.exp(y)) - rate * y


class Bump(nn.Module):
    """dy/dt = 40 exp(-300 (t - c)^2) cos(20 t): busy around time c of each row, its first entry; quiet elsewhere."""

    def forward(self, t, y):
        time = t.reshape(-1, 1)
        busy = 40 * torch.exp(-300 * (time - y[:, :1]) ** 2) * torch.cos(20 * time)
        return torch.cat([torch.zeros_like(busy), busy], dim=1)


class Noted(nn.Module):
    """A row at rest; notes the times at which it is asked."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, t, y):
        self.times += t.flatten().tolist()
        return torch.zeros_like(y)


def adaptive(solver="dopri5", rtol=1e-3, horizon=1.7, cap=20_000, error_control="image"):
    return Integrator(solver, horizon, None, rtol, rtol, max_evaluations=cap, error_control=error_control)


def starts(rows=8, seed=1, dtype=torch.float64):
    """States of very different sizes, so that each row needs steps of its own."""
    drawn = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * torch.logspace(-2, 1, rows, dtype=torch.float64)[:, None]).to(dtype)


def alone(field, state, integrator):
    """Return torchdiffeq's ends and evaluations with every row as a batch of its own."""
    together = replace(integrator, error_control="batch")
    found = [solve_torchdiffeq(field, row[None], together) for row in state]
    return torch.cat([end for end, _ in found]), [count for _, count in found]


def distance(states, others):
    """Return the largest difference, in units of a row's largest number where that is above 1."""
    scale = others.flatten(1).abs().amax(dim=1).clamp_min(1)
    return float(((states - others).flatten(1).abs().amax(dim=1) / scale).max())


def student(integrator, gain=1.0, **config):
    made = build_student(
        StudentConfig(arch="odenet-stem", channels=8, **config),
        integrator,
        shape=(1, 8, 8),
        classes=5,
        mean=(0.5,),
        std=(0.3,),
        seed=0,
    ).eval()
    with torch.no_grad():
        for weight in made.blocks.parameters():
            weight.mul_(gain)
    return made


def images(n=8):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("solver", "rtol"), CASES)
def test_every_row_is_what_torchdiffeq_makes_of_it_alone(solver, rtol):
    for field in (Swirl(seed=1), Swirl(seed=2, stiffness=16.0)):
        field.requires_grad_(False)
        integrator, state = adaptive(solver, rtol), starts(4)
        found = solve_rows(field, state, integrator)
        ends, counts = alone(field, state, integrator)
        assert found.evaluations.tolist() == counts
        # Where dopri8's estimate of an eighth-order error is itself rounding, so are the last digits of its lengths.
        assert distance(found.state, ends) < (1e-8 if solver == "dopri8" else 1e-12)


@pytest.mark.parametrize("rtol", [1e-1, 1e-3])
@pytest.mark.parametrize("solver", ADAPTIVE)
@torch.no_grad()
def test_every_image_of_a_student_is_what_torchdiffeq_makes_of_it_alone(solver, rtol):
    network = student(adaptive(solver, rtol, horizon=1.0), gain=1.5)
    state = network.stem(network.normalise(images(4)))
    found = solve_rows(network.blocks[0], state, network.integrator)
    ends, counts = alone(network.blocks[0], state, network.integrator)
    assert found.evaluations.tolist() == counts
    assert distance(found.state, ends) < 5e-6  # a convolution of one image rounds otherwise than that of a batch


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_in_float32_it_is_no_further_from_torchdiffeq_than_that_is_from_itself(solver):
    """A last bit of y(0) moves torchdiffeq's own lengths wherever an error estimate is rounding and no more."""
    field = Swirl(seed=1, dtype=torch.float32).requires_grad_(False)
    integrator, state = adaptive(solver, 1e-2), starts(4, dtype=torch.float32)
    ends, _ = alone(field, state, integrator)
    found = solve_rows(field, state, integrator)
    beside = [alone(field, state * (1 + bits * 2.0**-23), integrator)[0] for bits in (-2, -1, 1, 2)]
    assert distance(found.state, ends) < 1e-6 + 3 * max(distance(end, ends) for end in beside)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_every_row_reaches_its_closed_form(solver):
    powers = torch.tensor([[0.5], [1.0], [3.0], [-2.0]], dtype=torch.float64)
    state = torch.cat([powers, torch.ones(4, 2, dtype=torch.float64)], dim=1)
    exact = 2.0**powers
    errors = []
    for rtol in (1e-2, 1e-4):
        found = solve_rows(Powers(), state, adaptive(solver, rtol, horizon=1.0))
        errors.append(float(((found.state[:, 1:] - exact) / (1 + exact)).abs().max()))
        assert errors[-1] < (200 if solver == "fehlberg2" else 40) * rtol  # its error estimate is a small one
    assert errors[1] < errors[0] / 8


def test_the_end_is_interpolated_and_a_row_at_rest_stays():
    state = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = solve_rows(Powers(), state, adaptive(horizon=0.3))
    assert torch.equal(found.state, state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", ADAPTIVE)
def test_a_row_at_rest_is_looked_at_when_torchdiffeq_looks(solver, dtype):
    ours, theirs, state = Noted(), Noted(), torch.ones(1, 2, dtype=dtype)
    solve_rows(ours, state, adaptive(solver))
    alone(theirs, state, adaptive(solver))
    assert ours.times == theirs.times


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_neither_order_nor_company_matters(solver):
    field, integrator, state = Swirl(seed=3).requires_grad_(False), adaptive(solver), starts()
    whole = solve_rows(field, state, integrator)
    assert len(set(whole.evaluations.tolist())) > 1
    for rows in (torch.tensor([3, 1, 7, 0, 2, 6, 5, 4]), torch.tensor([5, 2]), torch.tensor([4])):
        part = solve_rows(field, state[rows], integrator)
        assert part.evaluations.tolist() == whole.evaluations[rows].tolist()
        assert distance(part.state, whole.state[rows]) < 1e-8


@pytest.mark.parametrize("solver", ["dopri5", "bosh3", "adaptive_heun"])
def test_the_gradient_is_that_of_central_differences(solver):
    field, integrator = Swirl(seed=4), adaptive(solver, 1e-5 if solver == "adaptive_heun" else 1e-7, horizon=1.0)
    state = starts(3).requires_grad_()
    weights = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = torch.autograd.grad((solve_rows(field, state, integrator).state * weights).sum(), [state, field.matrix])
    step = 1e-2  # so long that a changed decision of the step control does not count
    for value, gradient in zip((state, field.matrix), found, strict=True):
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

        @torch.no_grad()
        def moved(by, value=value, direction=direction):
            value += by * direction
            return float((solve_rows(field, state, integrator).state * weights).sum())

        slope = (moved(step) - moved(-2 * step)) / (2 * step)
        moved(step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-3)


def gradients(solved, field, state):
    state = state.clone().requires_grad_()
    ends = solved(field, state)
    return torch.autograd.grad((ends**2).sum(dim=1).log().sum(), [state, *field.parameters()])


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_the_gradient_is_that_of_torchdiffeq_alone(solver, monkeypatch):
    field, integrator, state = Swirl(seed=5), adaptive(solver, 1e-3), starts(4)
    ours = gradients(lambda f, y: solve_rows(f, y, integrator).state, field, state)
    theirs = gradients(lambda f, y: alone(f, y, integrator)[0], field, state)
    for our, their in zip(ours, theirs, strict=True):
        assert float(torch.cosine_similarity(our.flatten(), their.flatten(), dim=0)) > 0.999
    monkeypatch.setattr(rk_common, "_select_initial_step", torch.no_grad()(rk_common._select_initial_step))
    held = gradients(lambda f, y: alone(f, y, integrator)[0], field, state)
    for our, their in zip(ours, held, strict=True):
        assert torch.allclose(our, their, rtol=1e-6, atol=1e-9)


def test_a_rejected_step_that_overflows_leaves_the_gradient_alone(monkeypatch):
    monkeypatch.setattr(rk_common, "_select_initial_step", torch.no_grad()(rk_common._select_initial_step))
    integrator = adaptive("dopri5", 1e-2, horizon=1.0)
    state = torch.tensor([[0.5], [1.0], [3.0]], dtype=torch.float64)
    (ours,) = gradients(lambda f, y: solve_rows(f, y, integrator).state, Cliff(), state)
    (theirs,) = gradients(lambda f, y: alone(f, y, integrator)[0], Cliff(), state)
    assert torch.isfinite(theirs).all()
    assert torch.allclose(ours, theirs, rtol=1e-6)


def test_rows_that_fail_fail_alone():
    start = torch.tensor([[0.1], [math.nan], [2.0], [0.3], [math.inf]], dtype=torch.float64, requires_grad=True)
    integrator = adaptive(horizon=1.0, cap=5000)
    found = solve_rows(Blows(), start, integrator)
    kept = [0, 3]
    assert torch.isfinite(found.state).flatten().tolist() == [True, False, False, True, False]
    assert found.evaluations[[1, 2, 4]].tolist() == [0, 5000, 0]
    ends, counts = alone(Blows(), start[kept], integrator)
    assert found.evaluations[kept].tolist() == counts
    assert torch.allclose(found.state[kept], ends, rtol=1e-12)
    assert (found.diverged, found.capped) == (True, False)
    (gradient,) = torch.autograd.grad(found.state[kept].sum(), start)
    exact = (1 - start.detach()[kept]) ** -2
    assert torch.allclose(gradient[kept], exact, rtol=1e-2)


@pytest.mark.parametrize("solver", ADAPTIVE)
def test_the_cap_counts_for_every_row(solver):
    field, state = Swirl(seed=3).requires_grad_(False), starts()
    free = solve_rows(field, state, adaptive(solver))
    cap = int(free.evaluations.max()) - 1
    assert torch.equal(solve_rows(field, state, adaptive(solver, cap=cap + 1)).state, free.state)
    solution = solve(field, state, adaptive(solver, cap=cap))
    lost = free.evaluations > cap
    assert 0 < int(lost.sum()) < len(state)
    assert solution.state.isnan().all(dim=1).tolist() == lost.tolist() == solution.state.isnan().any(dim=1).tolist()
    assert torch.equal(solution.state[~lost], free.state[~lost])
    assert (solution.status, solution.evaluations) == (Status.CAPPED, cap)
    assert solution.mean_evaluations == pytest.approx(float(free.evaluations.clamp_max(cap).double().mean()))
    with pytest.raises(EvaluationCapError):
        alone(field, state[lost], adaptive(solver, cap=cap))


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_a_cap_too_small_for_a_step_gives_rows_of_nan(cap):
    solution = solve(Swirl(), starts(3), adaptive(cap=cap))
    assert solution.state.isnan().all()
    assert (solution.status, solution.evaluations, solution.mean_evaluations) == (Status.CAPPED, cap, float(cap))


def test_an_empty_batch_is_solved():
    solution = solve(Swirl(), starts(3)[:0], adaptive())
    assert (list(solution.state.shape), solution.evaluations, solution.status) == ([0, WIDTH], 0, Status.SOLVED)


def test_a_field_that_takes_the_times_for_features_is_refused():
    class Wrong(nn.Module):
        def forward(self, t, y):
            return t * y

    with pytest.raises(ValueError, match=r"must have the shape of y .* but got \[3, 3\] for y \[3, 1\] and t \[3\]"):
        solve_rows(Wrong(), torch.ones(3, 1), adaptive())


def test_pieces_of_a_path_go_on_in_time_and_share_each_rows_cap():
    powers = torch.tensor([[0.5], [8.0]], dtype=torch.float64)
    state = torch.cat([powers, torch.ones(2, 1, dtype=torch.float64)], dim=1)
    path = solve_path(Powers(), state, adaptive(rtol=1e-6, horizon=1.0), 4)
    for number, piece in enumerate(path.states, start=1):
        assert torch.allclose(piece[:, 1:], (1 + number / 4) ** powers, rtol=1e-4)
    needed = [solve_path(Powers(), row[None], adaptive(rtol=1e-6, horizon=1.0), 4).evaluations for row in state]
    assert needed[0] < needed[1]
    assert path.mean_evaluations == sum(needed) / 2
    capped = solve_path(Powers(), state, adaptive(rtol=1e-6, horizon=1.0, cap=needed[1] - 1), 4)
    assert [piece.isnan().all(dim=1).tolist() for piece in capped.states] == [[False, False]] * 3 + [[False, True]]
    assert (capped.status, capped.mean_evaluations) == (Status.CAPPED, (needed[0] + needed[1] - 1) / 2)


def test_what_one_row_spends_in_a_piece_no_other_row_misses():
    state = torch.tensor([[0.1, 0.0], [0.9, 0.0]], dtype=torch.float64)
    free = [solve_path(Bump(), row[None], adaptive(horizon=1.0), 4).evaluations for row in state]
    together = solve_path(Bump(), state, adaptive(horizon=1.0, cap=max(free)), 4)
    assert (together.status, together.mean_evaluations) == (Status.SOLVED, sum(free) / 2)
    assert together.evaluations > max(free)  # what the batch waits for: the busiest row of every piece


@pytest.mark.parametrize("time", ["channel", "none"])
def test_dynamics_take_one_time_for_all_or_one_for_each(time):
    block = student(adaptive(), time=time).blocks[0]
    y, times = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.0, 0.4, 1.0])
    together = block(times, y)
    for index, moment in enumerate(times):
        for one in (moment, float(moment)):
            assert torch.allclose(together[index : index + 1], block(one, y[index : index + 1]), atol=1e-5)


@torch.no_grad()
def test_an_image_that_fails_takes_no_other_with_it():
    network, seen = student(adaptive(cap=200, horizon=1.0), blocks=2), images(4)
    healthy = network(seen)
    assert network.nfe > network.mean_nfe > 0
    assert forward_evaluations(network, seen) == network.mean_nfe
    seen[2] = math.nan
    broken = network(seen)
    assert network.status is Status.DIVERGED
    assert broken.isnan().any(dim=1).tolist() == [False, False, True, False]
    assert torch.allclose(broken[[0, 1, 3]], healthy[[0, 1, 3]], atol=1e-5)
    assert torch.allclose(logits_of(network, seen)[[0, 1, 3]], healthy[[0, 1, 3]], atol=1e-5)


def test_only_steps_per_image_keep_an_answer_from_depending_on_its_batch():
    apart = student(adaptive(rtol=1e-1, horizon=2.0), gain=1.5)
    together = apart.with_integrator(replace(apart.integrator, error_control="batch"))
    assert preflight(together, images(16)).batch > 1e-3
    assert preflight(apart, images(16)).batch < 1e-4


def test_adaptive_students_are_measured_and_attacked_image_by_image():
    solve_of = {"solver": "dopri5", "horizon": 1.0, "rtol": 1e-2, "max_evaluations": 50, "gradient": "adjoint"}
    trained = student(adaptive(error_control="batch"))
    for look in (as_measured, as_attacked):
        assert look(trained, {"student": solve_of}).integrator.error_control == "image"
        fixed = look(trained, {"student": solve_of, "evaluate": {"solver": "rk4"}}).integrator
        assert (fixed.solver, fixed.error_control) == ("rk4", "batch")
    adjoint = replace(adaptive(error_control="batch"), gradient="adjoint")
    assert per_image(adjoint) is adjoint
