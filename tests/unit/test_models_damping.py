"""Damping and gain: the limits, the closed forms, the published parametrisation, and what else they must not shift."""

import math

import numpy as np
import pytest
import torch

from nodekd.models.damping import (
    Damping,
    DampingConfig,
    InitialRange,
    damping_range,
    damping_values,
    decay_free,
    gain_values,
    initial_range,
)
from nodekd.models.dynamics import BlockDynamics, PlainDynamics
from nodekd.models.student import StudentConfig, build_student, parameter_count
from nodekd.ode.fixed_grid import solve_fixed
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import solve

RK4 = Integrator("rk4", 1.0, 2)
DOPRI5 = Integrator("dopri5", 1.0, None, rtol=1e-4, atol=1e-4)
DAMPED = ("damped", "lambda-damped")
FACTS = {"shape": (1, 8, 8), "classes": 5, "mean": [0.5], "std": [0.25], "seed": 7}


def images(n=3):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def build(integrator=RK4, **config):
    return build_student(StudentConfig(**{"channels": 8, **config}), integrator, **FACTS).eval()


def damping_of(dynamics, fixed=None, k=None, decay=True):
    damping = Damping(DampingConfig(dynamics, InitialRange(0.2, 0.3, assumed=True), fixed=fixed, decay=decay))
    if k is not None:
        damping.k.data.fill_(k)
    return damping


def autonomous(seed=0, channels=6):
    torch.manual_seed(seed)
    return PlainDynamics(channels, norm="group", time="none").double()


def state(channels=6):
    return torch.randn(2, channels, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Constant(torch.nn.Module):
    def forward(self, t, y):
        return torch.full_like(y, 0.7)


@pytest.mark.parametrize("dynamics", DAMPED)
@pytest.mark.parametrize("integrator", [RK4, DOPRI5, Integrator("euler", 3.0, 3)])
def test_damping_0_is_the_plain_ode(dynamics, integrator):
    plain, damped = build(integrator), build(integrator, dynamics=dynamics, damping=0.0)
    assert torch.allclose(plain(images()), damped(images()), atol=1e-6, rtol=0)
    assert damping_values(damped) == [0.0]


@pytest.mark.parametrize("dynamics", DAMPED)
@pytest.mark.parametrize("step", [1.0, 0.25])
def test_damping_times_step_1_leaves_no_residual(dynamics, step):
    f, y = autonomous(), state()
    block = BlockDynamics(
        f, damping=DampingConfig(dynamics, initial_range("odenet-stem", dynamics), 1 / step), gain=False
    )
    end = solve_fixed(block, y, solver="euler", horizon=step, steps=1)
    factor = step if dynamics == "damped" else step * (1 + 1 / step)
    assert torch.allclose(end, factor * f(0.0, y), atol=1e-6, rtol=0)
    if step == 1.0:
        assert torch.allclose(end, f(0.0, y) * (1 if dynamics == "damped" else 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dynamics", DAMPED)
@pytest.mark.parametrize(
    ("fixed", "k"), [(0.0, None), (0.3, None), (1.0, None), (None, 0.4), (None, -0.5), (None, 2.0)]
)
def test_an_euler_step_of_length_1_is_the_discrete_form(dynamics, fixed, k):
    f, y = autonomous(), state()
    block = BlockDynamics(f, damping=DampingConfig(dynamics, InitialRange(0.2, 0.3, assumed=True), fixed), gain=False)
    if k is not None:
        block.damping.k.data.fill_(k)
    end = solve_fixed(block, y, solver="euler", horizon=1.0, steps=1)
    assert torch.allclose(end, block.damping.update(y, f(0.0, y)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 1.0, 1.7])
def test_the_update_is_the_published_one(k):
    x, change = state().numpy(), state().flip(0).numpy()
    for dynamics in DAMPED:
        lam = max(0.0, 1 - k) if dynamics == "damped" else max(0.0, k)
        expected = (1 - lam) * x + (change if dynamics == "damped" else (1 + lam) * change)
        damping = damping_of(dynamics, k=k)
        assert damping_values(damping) == pytest.approx([lam], abs=1e-7)
        got = damping.update(torch.from_numpy(x.copy()), torch.from_numpy(change.copy()))
        np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-6)
        got = damping.slope(torch.from_numpy(x.copy()), torch.from_numpy(change.copy()))
        np.testing.assert_allclose(got.detach().numpy(), expected - x, atol=1e-6)


@pytest.mark.parametrize(("dynamics", "alive", "dead"), [("damped", 0.5, 1.5), ("lambda-damped", 0.5, -0.5)])
def test_a_damping_of_0_has_no_gradient_left(dynamics, alive, dead):
    for k, has_gradient in ((alive, True), (dead, False)):
        damping = damping_of(dynamics, k=k)
        damping.update(state(), state().flip(0)).square().sum().backward()
        assert (float(damping.k.grad) != 0) is has_gradient


@pytest.mark.parametrize("dynamics", DAMPED)
def test_a_constant_f_gives_the_closed_form(dynamics):
    lam, horizon, y = 1.3, 2.0, state()
    block = BlockDynamics(Constant(), damping=DampingConfig(dynamics, initial_range("", dynamics), lam), gain=False)
    end = solve(block, y, Integrator("rk4", horizon, 400)).state
    drive = 0.7 * (1 if dynamics == "damped" else 1 + lam)
    decayed = math.exp(-lam * horizon)
    assert torch.allclose(end, decayed * y + drive / lam * (1 - decayed), atol=1e-9, rtol=0)


def test_without_norms_a_damped_flow_begins_as_a_decay():
    student = build(Integrator("rk4", 2.0, 100), dynamics="damped", damping=0.5, norm="none")
    first = student.stem(student.normalise(images()))
    assert torch.allclose(student.flow(first), math.exp(-1.0) * first, atol=1e-5)


@pytest.mark.parametrize("dynamics", DAMPED)
def test_weight_decay_pulls_the_two_variants_apart(dynamics):
    for decay in (True, False):
        damping = damping_of(dynamics, k=0.5, decay=decay)
        free = decay_free(damping)
        groups = [{"params": [p for p in damping.parameters() if all(p is not q for q in free)], "weight_decay": 0.1}]
        groups.append({"params": free, "weight_decay": 0.0})
        optimiser = torch.optim.SGD(groups, lr=1.0)
        damping.k.grad = torch.zeros(())
        optimiser.step()
        towards = 0.55 if dynamics == "damped" else 0.45
        assert damping_values(damping) == pytest.approx([towards if decay else 0.5], abs=1e-6)


def test_the_ranges_are_the_published_ones_and_else_marked_assumed():
    known = {
        ("preact-resnet110", "damped"): (0.75, 0.8),
        ("preact-resnet110", "lambda-damped"): (0.2, 0.25),
        ("preact-resnet164", "damped"): (0.8, 0.9),
        ("preact-resnet164", "lambda-damped"): (0.1, 0.2),
    }
    for (arch, dynamics), (low, high) in known.items():
        assert initial_range(arch, dynamics) == InitialRange(low, high, assumed=False)
    for arch in ("preact-resnet20", "preact-resnext29", "odenet-stem", "untied-raw"):
        assert initial_range(arch, "damped") == InitialRange(0.75, 0.8, assumed=True)
        assert initial_range(arch, "lambda-damped") == InitialRange(0.2, 0.25, assumed=True)


@pytest.mark.parametrize("arch", ["odenet-stem", "untied-stem", "preact-resnet20"])
@pytest.mark.parametrize("dynamics", DAMPED)
def test_a_learned_damping_is_drawn_after_all_other_weights(arch, dynamics):
    euler = Integrator("euler", 1.0, 2)
    plain, learned = build(euler, arch=arch, blocks=3), build(euler, arch=arch, blocks=3, dynamics=dynamics)
    scalars = [p for p in learned.parameters() if p.ndim == 0]
    others = [p for p in learned.parameters() if p.ndim]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), others, strict=True))
    values, count = damping_values(learned), {"odenet-stem": 3, "untied-stem": 6, "preact-resnet20": 6}[arch]
    assert len(values) == len(scalars) == len(set(values)) == count
    assert all(0.2 <= value <= 0.25 for value in values)
    assert damping_range(learned).assumed
    assert parameter_count(learned) == parameter_count(plain) + count
    again = build(euler, arch=arch, blocks=3, dynamics=dynamics)
    assert damping_values(again) == values
    assert damping_values(plain) == []
    assert damping_range(plain) is None


def test_a_fixed_damping_adds_no_parameter():
    fixed = build(dynamics="damped", damping=0.4, blocks=2)
    assert parameter_count(fixed) == parameter_count(build(blocks=2))
    assert damping_values(fixed) == [0.4, 0.4]
    assert damping_range(fixed) is None
    assert decay_free(fixed) == []


def test_scalars_without_decay_are_named():
    kept = build(dynamics="damped", blocks=2)
    assert decay_free(kept) == []
    freed = build(dynamics="damped", blocks=2, damping_decay=False, gain=True)
    expected = [*(block.damping.k for block in freed.blocks), *(block.gain.log_gain for block in freed.blocks)]
    assert [id(p) for p in decay_free(freed)] == [id(p) for p in expected]


@pytest.mark.parametrize("solver", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("horizon", [0.3, 4.0])
def test_a_horizon_is_a_gain_for_an_autonomous_f(solver, horizon):
    long = build(Integrator(solver, horizon, 6), time="none", gain=True).double()
    steep = build(Integrator(solver, 1.0, 6), time="none", gain=True).double()
    steep.blocks[0].gain.log_gain.data.fill_(math.log(horizon))
    batch = images().double()
    assert gain_values(long) == [1.0]
    assert gain_values(steep) == pytest.approx([horizon])
    assert torch.allclose(long(batch), steep(batch), atol=1e-6, rtol=0)
    assert not torch.allclose(long(batch), build(Integrator(solver, 1.0, 6), time="none").double()(batch), atol=1e-3)


def test_a_gain_starts_as_the_plain_student():
    assert torch.equal(build()(images()), build(gain=True)(images()))
    assert gain_values(build()) == []
    assert parameter_count(build(gain=True, blocks=2)) == parameter_count(build(blocks=2)) + 2


@pytest.mark.parametrize("dynamics", DAMPED)
def test_the_adjoint_finds_the_scalars(dynamics):
    gradients = []
    for gradient in ("direct", "adjoint"):
        student = build(Integrator("rk4", 1.0, 20, gradient=gradient), dynamics=dynamics, gain=True)
        student(images()).square().sum().backward()
        gradients.append([float(student.blocks[0].damping.k.grad), float(student.blocks[0].gain.log_gain.grad)])
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-2)  # kinks of the ReLUs
    assert all(gradients[0])


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("arch", ["odenet-raw", "untied-raw", "preact-resnet20", "resnet20"])
def test_every_parameter_gets_a_gradient_and_moves(optimiser, arch):
    dynamics = "plain" if arch == "resnet20" else "lambda-damped"
    student = build(Integrator("euler", 1.0, 2), arch=arch, dynamics=dynamics, gain=arch == "odenet-raw").train()
    student(images(4)).square().sum().backward()
    assert all(p.grad is not None for p in student.parameters())
    before = [p.detach().clone() for p in student.parameters() if p.ndim == 0]
    optimiser(student.parameters(), lr=0.01, weight_decay=1e-4, fused=True).step()
    after = [p for p in student.parameters() if p.ndim == 0]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dynamics": "damped", "damping": -0.1}, "`0 <= damping <= 100` must hold, but got damping=-0.1"),
        ({"dynamics": "damped", "damping": 101.0}, "`0 <= damping <= 100`"),
        ({"dynamics": "damped", "damping": math.nan}, "`0 <= damping <= 100`"),
        ({"damping": 0.1}, "`damping` needs damped dynamics, but got damping=0.1"),
        ({"dynamics": "dampened"}, "`dynamics` must be one of"),
        ({"arch": "resnet20", "dynamics": "damped"}, "resnet20 has plain dynamics alone"),
        ({"arch": "untied-stem", "gain": True}, "`gain` needs a student with an ODE"),
    ],
)
def test_what_cannot_be_damped_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        StudentConfig(**config)
    with pytest.raises(ValueError, match="`dynamics` must be damped or lambda-damped"):
        DampingConfig("plain", InitialRange(0, 1, assumed=True))
