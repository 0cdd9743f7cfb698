"""A good space: its settings, identity, overrides, the shipped files, and that reading loads nothing heavy."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodekd.ode.integrator import ADAPTIVE, FIXED, steps_for
from study.errors import SpaceError
from study.space.parameters import Parameter
from study.space.reader import read_space
from study.space.schema import SECTIONS
from study.space.settings import Space, differences

ROOT = Path(__file__).parents[2]
KD = ROOT / "search_spaces" / "kd.yaml"


def space_of(tmp_path: Path, text: str, *overrides: str) -> Space:
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return read_space(path, overrides)


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_files_load_and_so_do_their_anchors(path: Path) -> None:
    space = read_space(path)
    for anchor in space.anchors:
        assert space.settings(anchor)["student"]
    assert space.study.name == path.stem


def test_kd_says_what_the_plan_says() -> None:
    space = read_space(KD)
    by_name = {parameter.name: parameter for parameter in space.parameters}
    assert set(by_name) == {"temperature", "alpha", "solver", "horizon", "evaluations", "rtol"}
    assert (by_name["temperature"].low, by_name["temperature"].high, by_name["temperature"].log) == (1.0, 20.0, True)
    assert by_name["evaluations"].when == {"solver": ("euler", "midpoint", "rk4")}
    assert by_name["rtol"].when == {"solver": ("dopri5",)}
    assert space.search.epsilon == 1 / 16
    assert space.robustness.epsilons == (1 / 16, 0.1)
    assert space.anchors == ({"solver": "rk4", "horizon": 1.0, "evaluations": 16, "temperature": 4.0, "alpha": 0.9},)


def test_settings_hold_what_has_an_effect_and_nothing_else() -> None:
    space = read_space(KD)
    fixed = space.settings(space.anchors[0])
    assert fixed["student"]["evaluations"] == 16
    assert not {"rtol", "atol", "max_evaluations", "steps", "step_size"} & set(fixed["student"])
    assert "momentum" not in fixed["train"]
    assert fixed["seed"] == 0
    assert fixed["teacher"] == 0
    adaptive = space.settings({"solver": "dopri5", "horizon": 1, "rtol": 1e-3, "temperature": 2, "alpha": 0})
    assert adaptive["student"] | {"rtol": 1e-3, "atol": 1e-3, "max_evaluations": 16} == adaptive["student"]
    assert "evaluations" not in adaptive["student"]
    assert "temperature" not in adaptive["distill"]
    assert adaptive["distill"]["alpha"] == 0.0


def test_a_twin_is_the_point_with_alpha_0_even_outside_the_range(tmp_path: Path) -> None:
    space = space_of(tmp_path, "space: {alpha: {float: [0.5, 1]}, temperature: {float: [1, 20]}}")
    point = {"alpha": 0.7, "temperature": 3.0}
    student, twin = space.settings(point), space.settings({**point, "alpha": 0})
    assert twin["distill"] == {"method": "kd", "alpha": 0.0}
    assert {key: twin[key] for key in twin if key != "distill"} == {
        key: student[key] for key in student if key != "distill"
    }


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"alpha": 0.5}, "the point needs `solver`"),
        ({"colour": 1}, r"may only have keys that may stand under `space`, but got \['colour'\]"),
        ({"solver": "rk9", "horizon": 1, "evaluations": 8, "temperature": 1, "alpha": 1}, "`solver` must be one of"),
        ({"solver": "rk4", "horizon": 1, "evaluations": 6, "temperature": 1, "alpha": 1}, "multiple of its 4 stages"),
    ],
)
def test_a_wrong_point_is_refused(point: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_space(KD).settings(point)


RICH = """
teachers: [{arch: resnet20}, {arch: resnet32, train: {epochs: 3}}]
space:
  seed: {int: [0, 4]}
  teacher: {choice: [0, 1]}
  method: {choice: [kd, none]}
  alpha: {choice: [0, 0.5, 1], when: {method: kd}}
  temperature: {float: [1, 20], log: true, when: {method: [kd]}}
  solver: {choice: [euler, heun, rk4_classic, bosh3, dopri8]}
  gradient: direct
  steps: {int: [1, 9], log: true, when: {solver: [euler]}}
  step_size: {float: [0.1, 0.5], step: 0.1, when: {solver: [heun]}}
  evaluations: {int: [4, 32], step: 4, when: {solver: [rk4_classic]}}
  rtol: {float: [1e-4, 1/100], log: true, when: {solver: [bosh3, dopri8]}}
  max_evaluations: {choice: [50, 200], when: {solver: [dopri8]}}
  horizon: {float: [1/4, 4]}
  optimizer: {choice: [adamw, sgd]}
  momentum: {float: [0.5, 0.95], when: {optimizer: [sgd]}}
  clip: {choice: [null, 1]}
  augment: {choice: [true, false]}
  channels: {int: [8, 32], step: 8}
"""


def draw_value(data: st.DataObject, parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return data.draw(st.sampled_from(parameter.choices), label=parameter.name)
    assert parameter.low is not None
    assert parameter.high is not None
    if parameter.step is not None:
        n_steps = round((parameter.high - parameter.low) / parameter.step)
        return parameter.low + parameter.step * data.draw(st.integers(0, n_steps), label=parameter.name)
    if parameter.kind == "int":
        return data.draw(st.integers(int(parameter.low), int(parameter.high)), label=parameter.name)
    return data.draw(st.floats(parameter.low, parameter.high), label=parameter.name)


@pytest.mark.parametrize("text", [KD.read_text(), RICH], ids=["kd", "rich"])
def test_every_point_gives_settings_that_hold(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    space = space_of(tmp_path_factory.mktemp("space"), text)

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        point: dict[str, Any] = {}
        for parameter in space.parameters:
            if parameter.sampled and parameter.active(point):
                point[parameter.name] = draw_value(data, parameter)
                assert parameter.contains(point[parameter.name])
        made = space.settings(point)
        assert json.loads(json.dumps(made)) == made
        for section in ("student", "distill", "train"):
            SECTIONS[section].model_validate(made[section])
        check_solver(made["student"])
        assert made["seed"] == point.get("seed", 0)

    check()


def check_solver(student: dict[str, Any]) -> None:
    given_ways = {key: student[key] for key in ("steps", "step_size", "evaluations") if key in student}
    if student["solver"] in FIXED:
        assert steps_for(student["solver"], student["horizon"], **given_ways) >= 1
        assert not {"rtol", "atol", "max_evaluations"} & set(student)
    else:
        assert student["solver"] in ADAPTIVE
        assert not given_ways
        assert student["rtol"] > 0
        assert student["atol"] > 0


@pytest.mark.parametrize("text", [KD.read_text(), RICH], ids=["kd", "rich"])
def test_both_ends_belong_to_every_range_and_what_lies_beyond_does_not(tmp_path: Path, text: str) -> None:
    for parameter in space_of(tmp_path, text).parameters:
        if parameter.kind in {"float", "int"}:
            assert parameter.low is not None
            assert parameter.high is not None
            assert parameter.contains(parameter.low)
            assert parameter.contains(parameter.high)
            assert not parameter.contains(parameter.low - 1e-6)
            assert not parameter.contains(parameter.high + 1e-6)
        for choice in parameter.choices:
            assert parameter.contains(choice)


def test_parameters_come_after_those_they_depend_on(tmp_path: Path) -> None:
    seen: set[str] = set()
    for parameter in space_of(tmp_path, RICH).parameters:
        assert set(parameter.when) <= seen
        seen.add(parameter.name)


def test_chained_conditions(tmp_path: Path) -> None:
    text = """
space:
  optimizer: {choice: [adamw, sgd]}
  schedule: {choice: [cosine, constant], when: {optimizer: [sgd]}}
  clip: {choice: [1, 5], when: {schedule: cosine}}
"""
    space = space_of(tmp_path, text)
    assert [parameter.name for parameter in space.parameters] == ["optimizer", "schedule", "clip"]
    assert space.settings({"optimizer": "adamw", "clip": 5})["train"]["clip"] is None
    assert space.settings({"optimizer": "sgd", "schedule": "cosine", "clip": 5})["train"]["clip"] == 5.0


def test_temperature_is_inactive_where_alpha_is_a_choice_of_0(tmp_path: Path) -> None:
    space = space_of(tmp_path, "space: {alpha: {choice: [0, 0.5, 1]}, temperature: {float: [1, 20]}}")
    temperature = next(parameter for parameter in space.parameters if parameter.name == "temperature")
    assert temperature.when == {"alpha": (0.5, 1.0)}


def test_defaults_come_from_the_data_set_and_the_study(tmp_path: Path) -> None:
    space = space_of(
        tmp_path, "study: {seed: 5}\nteachers: [{checkpoint: a.pt}, {seed: 7}]\nspace: {teacher: {choice: [0, 1]}}"
    )
    assert [(teacher.seed, teacher.trained_on) for teacher in space.teachers] == [(5, "unknown"), (7, None)]
    assert space.teachers[1].train.epochs == 30
    assert space.student.evaluations == 8
    assert space.search.epsilon == 1 / 16
    cifar = space_of(tmp_path, "data: {name: cifar10}\nrobustness: {norm: l2}\nspace: {alpha: {float: [0, 1]}}")
    assert cifar.search.epsilon == 0.5 / 255
    assert cifar.robustness.epsilons == (0.1, 0.5)


def test_a_space_is_frozen_and_can_be_pickled() -> None:
    space = read_space(KD)
    assert pickle.loads(pickle.dumps(space)) == space
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.epoch_limit = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="frozen"):
        space.budget.trials = 3
    space.anchors[0]["alpha"] = 7
    assert space.anchors[0]["alpha"] == 0.9


SPELT = "space: {{alpha: {{float: [0, 1]}}, learning_rate: {{choice: [{rate}, 1]}}}}\nsearch: {{epsilon: {rate}}}\n"


def test_identity_is_blind_to_spelling_and_order(tmp_path: Path) -> None:
    identities = {
        space_of(tmp_path, SPELT.format(rate=rate)).identity() for rate in ("1/16", "0.0625", "6.25e-2", "'1/16'")
    }
    assert len(identities) == 1
    turned = "search: {epsilon: 1/16}\nspace: {learning_rate: {choice: [1/16, 1.0]}, alpha: {float: [0.0, 1e0]}}\n"
    assert space_of(tmp_path, turned).identity() in identities
    assert space_of(tmp_path, SPELT.format(rate="1/15")).identity() not in identities


@pytest.mark.parametrize(
    "override",
    [
        "study.name=other",
        "budget.trials=4",
        "resources.cpus=2",
        "robustness.images=10",
        "progress.refresh_s=2",
        "data.root=x",
    ],
)
def test_what_may_change_on_resume(override: str) -> None:
    space, changed = read_space(KD), read_space(KD, [override])
    assert changed.identity() == space.identity()
    assert changed.document() != space.document()
    assert differences(space.document(), changed.document()) == []


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("space.temperature.float=[1, 30]", "space.temperature.high was 20.0 and is now 30.0"),
        ("train.epochs=3", "train.epochs was 40 and is now 3"),
        ("study.seed=1", "study.seed was 0 and is now 1"),
        ("sampler.name=random", 'sampler.name was "tpe" and is now "random"'),
        ("anchors.0.alpha=0.5", "anchors.0.alpha was 0.9 and is now 0.5"),
        ("space.clip=1", 'space.clip.kind is new: "fixed"'),
    ],
)
def test_what_may_not_change_is_said(override: str, sentence: str) -> None:
    space, changed = read_space(KD), read_space(KD, [override])
    assert changed.identity() != space.identity()
    assert sentence in differences(json.loads(json.dumps(space.document())), changed.document())


def test_overrides() -> None:
    overrides = [
        "space.solver=rk4",
        "budget.trials=4",
        "data.name=cifar10",
        "teachers.0.arch=resnet32",
        "train.adversarial={epsilon: 8/255}",
    ]
    space = read_space(KD, [*overrides, "budget.trials=5"])
    assert space.budget.trials == 5
    assert space.data.name == "cifar10"
    assert space.teachers[0].arch == "resnet32"
    assert space.train.adversarial is not None
    assert space.train.adversarial.epsilon == 8 / 255
    solver = next(parameter for parameter in space.parameters if parameter.name == "solver")
    assert (solver.kind, solver.value) == ("fixed", "rk4")
    assert {parameter.name for parameter in space.parameters} == {
        "temperature",
        "alpha",
        "solver",
        "horizon",
        "evaluations",
    }
    assert all(not parameter.when for parameter in space.parameters)
    assert space.settings(space.anchors[0])["student"]["solver"] == "rk4"


@pytest.mark.parametrize(
    ("overrides", "gone"),
    [
        (["space.alpha=0"], {"temperature"}),
        (["distill.method=none"], {"temperature", "alpha"}),
        (["space.solver=dopri5", "anchors=[]"], {"evaluations"}),
        (["student.steps=4"], {"evaluations"}),
        (["space.step_size=1/4"], {"evaluations"}),
    ],
)
def test_an_override_takes_out_what_it_leaves_without_effect(overrides: list[str], gone: set[str]) -> None:
    names = {parameter.name for parameter in read_space(KD, overrides).parameters}
    assert not names & gone
    assert {"solver", "horizon"} <= names


def test_what_hangs_on_a_removed_parameter_goes_with_it(tmp_path: Path) -> None:
    clip = "clip: {choice: [1, 2], when: {evaluations: [4]}}"
    text = f"space: {{evaluations: {{choice: [4, 8]}}, {clip}, alpha: {{float: [0, 1]}}}}"
    for overrides in (["space.evaluations=null", "student.steps=2"], ["student.solver=dopri5"]):
        space = space_of(tmp_path, text, *overrides)
        assert [parameter.name for parameter in space.parameters] == ["alpha"]


def test_an_override_under_space_replaces_the_section(tmp_path: Path) -> None:
    made = read_space(KD, ["space.epochs=3"])
    assert made.settings(made.anchors[0])["train"]["epochs"] == 3
    text = "student: {solver: rk4, evaluations: 8}\n" + "space: {alpha: {float: [0, 1]}}"
    assert "evaluations" not in space_of(tmp_path, text, "student.solver=dopri5").settings({"alpha": 1})["student"]


def test_an_override_may_begin_a_list_and_a_section(tmp_path: Path) -> None:
    space = space_of(
        tmp_path, "space:\n  alpha: {float: [0, 1]}\n", "teachers.0.arch=resnet18", "space.blocks={choice: [1, 2]}"
    )
    assert space.teachers[0].arch == "resnet18"
    assert [parameter.name for parameter in space.parameters] == ["blocks", "alpha"]


def test_adversarial_may_be_fixed_under_space(tmp_path: Path) -> None:
    text = "space: {alpha: {float: [0, 1]}, adversarial: {epsilon: 1/16, steps: 3}}"
    made = space_of(tmp_path, text).settings({"alpha": 1})
    assert made["train"]["adversarial"] == {"epsilon": 0.0625, "steps": 3}


def test_smoke_shrinks_only_sizes(tmp_path: Path) -> None:
    space = space_of(tmp_path, RICH.replace("  clip:", "  epochs: {choice: [10, 20]}\n  clip:"))
    smoke = space.smoke()
    assert smoke.study.name == "case-smoke"
    assert smoke.budget.trials == 2
    assert smoke.search.images == smoke.robustness.images == 16
    assert len(smoke.robustness.epsilons) <= 2
    assert [teacher.train.epochs for teacher in smoke.teachers] == [1, 1]
    assert smoke.parameters == space.parameters
    point = {"method": "none", "solver": "euler", "steps": 4, "horizon": 1, "optimizer": "adamw", "clip": None}
    point |= {"augment": True, "channels": 8, "seed": 3, "teacher": 1, "epochs": 20}
    assert smoke.settings(point)["train"]["epochs"] == 1
    assert smoke.settings(point)["student"] == space.settings(point)["student"]
    assert smoke.identity() != space.identity()


def test_a_name_is_made_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "my space (2).yaml"
    path.write_text("\ufeffspace: {alpha: {float: [0, 1]}}\r\n", encoding="utf-8")
    assert read_space(path).study.name == "my-space-2"


def test_reading_loads_no_torch_and_no_ray() -> None:
    code = """
import sys
from pathlib import Path
from study.errors import SpaceError
from study.space.reader import read_space
read_space(Path(sys.argv[1]))
try:
    read_space(Path(sys.argv[1]), ["budget.trails=4"])
except SpaceError:
    pass
heavy = {"torch", "ray", "optuna", "numpy", "pandas", "plotly"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code, str(KD)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "kd.yaml").write_text("")
    with pytest.raises(SpaceError, match=r"kb\.yaml: there is no such file; did you mean '.*kd\.yaml'\?"):
        read_space(tmp_path / "kb.yaml")


def test_the_readme_names_every_key() -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text()
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            assert f"`{key}`" in text or f"`{section}.{key}`" in text or f"{key}: maximize" in text, f"{section}.{key}"
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        assert f"`{path.name}`" in text
