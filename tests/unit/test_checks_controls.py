"""Each control raises its flag and no healthy network does; a coarse adjoint is wrong in the way the formula says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.threat import Threat
from nodekd.checks.controls import positive_controls, with_coarse_adjoint
from nodekd.checks.gradients import agreement, differences, zero_gradients
from nodekd.checks.preflight import preflight
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import solve
from study.checks.expected import POSITIVE
from study.checks.rules import RULES

IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
THREAT = Threat("linf", 1 / 16)


def student(integrator: Integrator) -> nn.Module:
    """A student whose flow matters: its dynamics are stronger than at the start of training."""
    made = build_student(
        StudentConfig(arch="odenet-stem", channels=8),
        integrator,
        shape=(1, 8, 8),
        classes=5,
        mean=(0.5,),
        std=(0.3,),
        seed=0,
    ).eval()
    with torch.no_grad():
        for weight in made.blocks.parameters():
            weight.mul_(1.5)
    return made


HEALTHY = {
    "rk4": student(Integrator("rk4", horizon=2.0, steps=4)),
    "dopri5": student(Integrator("dopri5", 2.0, steps=None, rtol=1e-3, atol=1e-3, error_control="image")),
}


def flags(network: nn.Module, reference: nn.Module) -> set[str]:
    """Return the P and G checks that speak, without statistics: every count here is all or nothing."""
    with torch.no_grad():
        labels = reference(IMAGES).argmax(dim=1)
    found, lost = preflight(network, IMAGES), zero_gradients(network, IMAGES, labels, THREAT, 0)
    fit = differences(network, IMAGES, labels, 0)
    numbers = {
        "P3": found.repeat,
        "P4": found.batch,  # an untrained network says one class of all images: no prediction can change
        "P5": float(found.is_softmax),
        "P5-saturated": float(found.is_saturated),
        "P7": float(found.optimisations),
        "G1": lost.margin / max(lost.n, 1),
        "G1-cross-entropy": lost.cross_entropy / max(lost.n, 1),
        "G2": fit.correlation,
        "G3": agreement(network, reference, IMAGES, labels),
    }
    return {name for name, value in numbers.items() if RULES[name].limit(value) in ("warn", "fail")}


@pytest.mark.parametrize("name", [name for name in POSITIVE if name != "temperature-20"])
def test_every_control_raises_its_flag(name: str) -> None:
    expected = set(POSITIVE[name]) - {"A8"}  # asks for attacks, see test_checks_optimisation
    assert expected <= flags(positive_controls(HEALTHY["rk4"])[name], HEALTHY["rk4"])


def test_healthy_students_raise_none() -> None:
    assert flags(HEALTHY["rk4"], HEALTHY["rk4"]) == set()
    fine = HEALTHY["dopri5"].with_integrator(Integrator("rk4", horizon=2.0, steps=32))
    assert flags(HEALTHY["dopri5"], fine) == set()


def test_a_network_without_an_ode_has_the_other_controls() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    assert set(positive_controls(plain)) == set(POSITIVE) - {"coarse-adjoint", "temperature-20"}


def test_one_euler_step_back_is_the_formula() -> None:
    """dL/dy(0) = a + T * a * df/dy at y(T), a = dL/dy(T), for dy/dt = -3 y: a * (1 - 3 T) where exp(-3 T) is right."""

    class Decay(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -3.0 * y

    start = torch.tensor([[1.0], [2.0]], requires_grad=True)
    integrator = Integrator("rk4", horizon=0.5, steps=50, gradient="adjoint", adjoint_steps=1)
    solve(Decay(), start, integrator).state.sum().backward()
    assert start.grad is not None
    torch.testing.assert_close(start.grad, torch.full((2, 1), 1 - 3 * 0.5))
    start.grad = None
    solve(Decay(), start, replace(integrator, adjoint_steps=2000)).state.sum().backward()
    torch.testing.assert_close(start.grad, torch.full((2, 1), float(torch.tensor(-1.5).exp())), rtol=2e-3, atol=0)


def test_a_coarse_adjoint_changes_no_answer() -> None:
    for healthy in HEALTHY.values():
        with torch.no_grad():
            forth = healthy.with_integrator(replace(healthy.integrator, error_control="batch"))  # torchdiffeq's
            torch.testing.assert_close(with_coarse_adjoint(healthy)(IMAGES), forth(IMAGES), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="adjoint_steps >= 1"):
        Integrator("rk4", steps=2, adjoint_steps=1)
