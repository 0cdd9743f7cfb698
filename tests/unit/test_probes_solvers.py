"""Solvers by word, and the table that tells whether a student is a flow."""

import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.ode.solver_text import CAP, parse_solver
from nodekd.probes.solvers import solver_table


def student(integrator: Integrator) -> OdeStudent:
    made = build_student(
        StudentConfig(channels=4), integrator, shape=(1, 8, 8), classes=3, mean=[0.5], std=[0.3], seed=0
    )
    assert isinstance(made, OdeStudent)
    return made


def problem(model: OdeStudent, n: int = 30) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return images, model(images).argmax(dim=1)


def test_words_become_integrators() -> None:
    assert parse_solver("rk4:16", 2.0) == Integrator("rk4", 2.0, 4)
    assert parse_solver("euler:1", 1.0) == Integrator("euler", 1.0, 1)
    exact = Integrator("dopri5", 3.0, None, 1e-5, 1e-5, max_evaluations=CAP, error_control="image")
    assert parse_solver("dopri5:1e-5", 3.0) == exact


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rk5:16", "the solver must be one of euler, midpoint, heun, rk4, rk4_classic, dopri5"),
        ("rk4", "rk4 has fixed steps and is written rk4:evaluations, e.g. rk4:16, but got 'rk4'"),
        ("rk4:1e-5", "rk4 has fixed steps and is written rk4:evaluations"),
        ("rk4:ten", "rk4 has fixed steps and is written rk4:evaluations"),
        ("rk4:inf", "rk4 has fixed steps and is written rk4:evaluations"),
        ("rk4:6", "`evaluations` must be a multiple of rk4's 4 stages, but got 6"),
        ("euler:0", "`evaluations` must be a multiple"),
        ("dopri5", "dopri5 is adaptive and is written dopri5:rtol, e.g. dopri5:1e-5, but got 'dopri5'"),
        ("dopri5:16", "`0 < rtol <= 1` and `atol > 0` must hold for dopri5"),
        ("dopri5:nan", "`0 < rtol <= 1`"),
    ],
)
def test_words_that_are_none_say_what_one_looks_like(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_solver(text, 1.0)


def test_reading_a_word_loads_no_torch() -> None:
    code = "import sys, nodekd.ode.solver_text; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_same_solver_disagrees_with_itself_nowhere() -> None:
    for word in ("euler:2", "rk4:8", "dopri5:1e-3"):
        own = parse_solver(word, 1.0)
        model = student(own)
        images, labels = problem(model)
        (row,) = solver_table(model, images, labels, [own])
        assert row.disagreement == 0.0
        assert row.accuracy == 1.0
        assert (row.solver, row.evaluations, row.rtol) == (own.solver, own.evaluations, own.rtol)
        assert row.nfe == (own.evaluations or row.nfe)


class Turn(nn.Module):
    """A quarter turn of (channel 0, channel 1) in unit time, if solved exactly."""

    def forward(self, t: float | Tensor, y: Tensor) -> Tensor:
        del t
        return torch.pi / 2 * torch.stack([-y[:, 1], y[:, 0]], dim=1)


def turning(integrator: Integrator) -> OdeStudent:
    """Image (x, y) -> class by whether the turned first entry is positive: exactly the sign of -y."""
    model = student(integrator)
    model.normalise, model.stem = nn.Identity(), nn.Unflatten(1, (2, 1))
    model.blocks, model.head = nn.ModuleList([Turn()]), nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model.head[1].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model.head[1].bias.zero_()
    return model


def test_a_coarse_student_disagrees_with_the_exact_flow_by_the_angle_it_is_off() -> None:
    """One Euler step maps (x, y) to first entry x - pi/2 y: another half-plane than that of -y, by atan(2/pi)."""
    angles = 2 * torch.pi * (torch.arange(3600) + 0.5) / 3600
    images = torch.stack([angles.cos(), angles.sin()], dim=1)[:, :, None, None]
    model = turning(Integrator("euler", 1.0, 1))
    labels = (angles.sin() > 0).long()
    coarse, exact, adaptive = solver_table(
        model, images, labels, [parse_solver(word, 1.0) for word in ("euler:1", "rk4:64", "dopri5:1e-5")]
    )
    off = torch.atan(torch.tensor(2 / torch.pi)).item() / torch.pi
    assert coarse.disagreement == 0.0
    assert coarse.accuracy == pytest.approx(1 - off, abs=1e-3)
    for row in (exact, adaptive):
        assert row.accuracy == pytest.approx(1.0, abs=1e-3)
        assert row.disagreement == pytest.approx(off, abs=1e-3)
    assert (exact.nfe, exact.record()["evaluations"]) == (64.0, 64)


def test_a_failed_solve_is_wrong_and_another_class() -> None:
    own = Integrator("rk4", 1.0, 2)
    model = student(own)
    with torch.no_grad():
        model.head[-1].bias[0] += 100  # class 0 is what the largest of three NaN would be
    images, labels = problem(model)
    assert (labels == 0).all()
    (row,) = solver_table(model, images, labels, [Integrator("dopri5", 1.0, None, 1e-6, 1e-6, max_evaluations=3)])
    assert (row.accuracy, row.disagreement) == (0.0, 1.0)


def test_the_student_is_left_as_it_was() -> None:
    own = Integrator("euler", 1.0, 2)
    model = student(own).train()
    images, labels = problem(model)
    solver_table(model, images, labels, [parse_solver("rk4:16", 1.0)])
    assert model.integrator == own
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
