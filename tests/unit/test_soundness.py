"""What the checks say of every trial (S16): healthy students pass, misled gradients make a trial infeasible."""

import json

import pytest
import torch
from torch import nn

from nodekd.attacks.threat import Threat
from nodekd.checks.controls import positive_controls, with_coarse_adjoint
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from study.checks.verdicts import Measured
from study.feasibility import objections
from study.jobs.soundness import measure, verdicts

THREAT = Threat("linf", 1 / 16)


def student(integrator: Integrator) -> OdeStudent:
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
    assert isinstance(made, OdeStudent)
    with torch.no_grad():
        for weight in made.blocks.parameters():
            weight.mul_(1.5)
    return made


HEALTHY = student(Integrator("rk4", horizon=2.0, steps=4))
SEEN = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def found_in(network: nn.Module) -> dict[str, object]:
    with torch.no_grad():
        labels = HEALTHY(SEEN).argmax(dim=1)
    return verdicts(measure(network, SEEN, labels, THREAT, seed=0))


def failed(network: nn.Module) -> set[str]:
    checks = found_in(network)["checks"]
    assert isinstance(checks, list)
    return {check["id"] for check in checks if check["verdict"] == "fail"}


def test_a_healthy_student_has_every_check_and_no_objection() -> None:
    found = found_in(HEALTHY)
    assert found["infeasible"] == []
    assert isinstance(found["checks"], list)
    named = {check["id"]: check["verdict"] for check in found["checks"]}
    assert set(named) >= {"P1", "P3", "P4", "P5", "P6", "P7", "G1", "G2"}
    assert {verdict for name, verdict in named.items() if name != "G2"} == {"pass"}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("solver", "rtol"), [("euler", None), ("midpoint", None), pytest.param("dopri5", 1e-3, marks=pytest.mark.slow)]
)
def test_no_solver_is_blamed_for_being_what_it_is(solver: str, rtol: float | None) -> None:
    steps = None if rtol else 4
    assert failed(student(Integrator(solver, 2.0, steps, rtol=rtol, atol=rtol))) == set()


def test_an_adjoint_that_goes_back_as_it_came_passes_and_a_coarse_one_does_not() -> None:
    exact = student(Integrator("rk4", horizon=2.0, steps=8, gradient="adjoint"))
    assert failed(exact) == set()
    assert failed(with_coarse_adjoint(exact, 1)) == {"G2", "G3"}


@pytest.mark.parametrize(
    ("control", "expected"),
    [("softmax", {"P5"}), ("quantised", {"G1"}), ("logits-x1000", set()), ("input-noise", {"G2"})],
)
def test_controls_fail_where_attacks_would_be_misled(control: str, expected: set[str]) -> None:
    assert failed(positive_controls(HEALTHY)[control].eval()) == expected


def test_a_warning_is_recorded_and_no_objection() -> None:
    found = found_in(positive_controls(HEALTHY)["logits-x1000"].eval())
    assert found["infeasible"] == []
    assert isinstance(found["checks"], list)
    assert {check["id"] for check in found["checks"] if check["verdict"] == "warn"} >= {"P5-saturated"}


def test_what_cannot_be_measured_is_absent_and_no_objection() -> None:
    found = verdicts([Measured("G2", float("nan")), Measured("G1", float("nan"), 0, 0)])
    assert found["infeasible"] == []
    assert [(check["value"], check["verdict"]) for check in found["checks"]] == [(None, "absent")] * 2


def test_two_images_decide_nothing() -> None:
    """A share that is ten times its limit is still two images (S22)."""
    assert verdicts([Measured("G1", 0.1, 2, 20)])["infeasible"] == []
    (said,) = verdicts([Measured("G1", 0.15, 3, 20)])["infeasible"]
    assert said == "G1 (margin has a gradient) fails: 3 of 20 images"


def test_objections_are_those_of_the_record() -> None:
    assert objections({"state": "COMPLETE", "metrics": {"infeasible": ["G2 fails"]}}) == ["G2 fails"]
    for silent in ({}, {"metrics": None}, {"metrics": {}}, {"metrics": {"infeasible": []}}):
        assert objections(silent) == []
