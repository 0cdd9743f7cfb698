"""What the robustness stage asks of test: an access names all of it, and the pool keeps those that matter most."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from study.jobs.attack import scoring_protocol, solver_of
from study.ledger import Ledger
from study.space.reader import read_space
from study.stages import robustness
from study.stages.context import Context, Facts
from study.stages.models import Model
from study.stages.robustness import LARGEST_POOL, access_of, pool_of, specification
from tests.made_up_world import Silent

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
SIZES = {"train": 808, "val_search": 270, "val_front": 270, "test": 449}


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    for choice, numbers in {"selected": [1, 2], "random_students": [4], "undistilled_networks": [3]}.items():
        monkeypatch.setattr(robustness, choice, lambda _, numbers=numbers: numbers)
    return Context(read_space(KD), Ledger(tmp_path / "s"), Facts(10, "f" * 64, SIZES, 1), Silent())


def under(context: Context, **changes: object) -> Context:
    section = context.space.robustness.model_copy(update=changes)
    return replace(context, space=replace(context.space, robustness=section))


@pytest.mark.parametrize(
    "change",
    [
        {"tier": "full"},
        {"norm": "l2", "epsilons": (0.5,)},
        {"epsilons": (0.05,)},
        {"images": 64},
        {"check_images": 16},
        {"twins": False},
        {"undistilled_search": True},
        {"controls": False},
        {"replicates": 2},
        {"cube": ("euler:16", "rk4:16")},
        {"shard": 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_else_test_is_asked_is_another_access(context: Context, change: dict[str, object]) -> None:
    assert access_of(under(context, **change)) != access_of(context)


def test_how_the_choice_on_val_front_is_made_is_no_access(context: Context) -> None:
    assert access_of(under(context, racing=False)) == access_of(context)


def test_another_rule_for_the_other_solves_is_another_specification(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = specification(context)
    assert specification(context) == before
    monkeypatch.setattr(robustness, "other_solves", lambda: {"fine": ["rk4_classic:8"]})
    assert specification(context) != before


def models(kind: str, count: int) -> list[Model]:
    return [Model(f"{kind}-{i:06d}", kind, i, f"{kind}s/{i:06d}") for i in range(count)]


def test_a_pool_that_is_too_large_keeps_teachers_then_students_then_evenly_the_rest() -> None:
    everybody = [*models("twin", 8), *models("replicate", 24), *models("random", 6), *models("student", 8)]
    everybody += [*models("teacher", 2), *models("undistilled", 5)]
    pool = pool_of(everybody)
    assert list(pool) == list(pool_of(everybody[::-1])), "the same in whatever order the networks come"
    kinds = [model.kind for model in pool.values()]
    assert len(kinds) <= LARGEST_POOL
    assert (kinds.count("teacher"), kinds.count("student"), kinds.count("undistilled")) == (2, 8, 0)
    assert {"twin", "replicate", "random"} < set(kinds), "no kind of the rest is dropped whole"
    assert len(pool_of(models("student", 500))) <= LARGEST_POOL
    assert len(pool_of(models("student", 500))) > LARGEST_POOL // 2
    assert len(pool_of([*models("teacher", 1), *models("student", 9)])) == 10


@pytest.mark.parametrize(
    ("solve", "control", "solver", "followed"),
    [
        (Integrator("rk4", steps=4), "fixed steps", "rk4:16", "rk4:16"),
        (Integrator("dopri5", steps=None, rtol=1e-3, atol=1e-3), "per image", "dopri5:0.001", "dopri5:0.001"),
        (
            Integrator("dopri5", 2.0, None, 1e-3, 1e-3, gradient="adjoint", adjoint_steps=1),
            "per image",
            "dopri5:0.001@2, adjoint",
            "dopri5:0.001@2, adjoint",
        ),
    ],
)
def test_a_record_says_how_images_are_scored_and_whose_gradient_is_followed(
    solve: Integrator, control: str, solver: str, followed: str
) -> None:
    config = StudentConfig(channels=4)
    network = build_student(config, solve, shape=(1, 8, 8), classes=10, mean=(0.3,), std=(0.3,), seed=0)
    assert scoring_protocol(network) == {"batch": True, "error_control": control, "solver": solver}
    assert solver_of(network) == followed
    assert scoring_protocol(nn.Flatten()) == {"batch": True, "error_control": None, "solver": None}
    assert solver_of(None) is None
