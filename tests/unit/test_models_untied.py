"""Untied students: an Euler solve whose steps have weights of their own."""

import copy

import pytest
import torch

from nodekd.models.damping import damping_values
from nodekd.models.student import OdeStudent, StudentConfig, build_student, parameter_count
from nodekd.models.untied import UntiedStudent
from nodekd.ode.integrator import Integrator

FACTS = {"shape": (1, 8, 8), "classes": 5, "mean": [0.5], "std": [0.25], "seed": 7}
EULER = Integrator("euler", 1.5, 4)


def images():
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def build(arch, integrator=EULER, **config):
    return build_student(StudentConfig(arch, channels=8, **config), integrator, **FACTS).eval()


@pytest.mark.parametrize("preset", ["stem", "raw"])
@pytest.mark.parametrize(("dynamics", "blocks"), [("plain", 1), ("plain", 2), ("damped", 1), ("lambda-damped", 2)])
def test_with_tied_weights_it_is_the_euler_solve(preset, dynamics, blocks):
    tied = build(f"odenet-{preset}", dynamics=dynamics, blocks=blocks)
    untied = build(f"untied-{preset}", dynamics=dynamics, blocks=blocks)
    assert isinstance(tied, OdeStudent)
    assert isinstance(untied, UntiedStudent)
    untied.stem, untied.head = tied.stem, tied.head
    untied.blocks = torch.nn.ModuleList(copy.deepcopy(tied.blocks[i // 4]) for i in range(4 * blocks))
    assert torch.equal(tied(images()), untied(images()))
    assert tied.nfe == untied.nfe == 4 * blocks


def test_every_step_has_weights_of_its_own():
    tied, untied = build("odenet-stem", dynamics="damped"), build("untied-stem", dynamics="damped")
    one_block = parameter_count(tied.blocks)
    assert parameter_count(untied) == parameter_count(tied) + 3 * one_block
    assert len(set(damping_values(untied))) == 4
    assert len({float(block.f.conv1.state.weight.detach().sum()) for block in untied.blocks}) == 4


@pytest.mark.parametrize("integrator", [Integrator("rk4", 1.0, 2), Integrator("dopri5", 1.0, None, rtol=0.1, atol=0.1)])
def test_other_solvers_are_refused(integrator):
    with pytest.raises(ValueError, match="a block for each step of euler, but got solver"):
        build("untied-stem", integrator)


@pytest.mark.parametrize("arch", ["odenet-stem", "untied-stem"])
def test_a_horizon_needs_an_integrator(arch):
    with pytest.raises(ValueError, match=f"{arch} has a horizon and needs an integrator"):
        build(arch, None)
