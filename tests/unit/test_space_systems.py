# ruff: noqa: E501  (a table of cases reads best with one case in a line)
"""The keys of the three papers' systems: what counts at a point, which rules refuse what, and the shipped experiments."""

import re
from pathlib import Path
from typing import Any

import pytest

from nodekd.distill.catalog import (
    ENSEMBLE_METHODS,
    FEATURE_METHODS,
    FEED_METHODS,
    GENERATION_METHODS,
    LOGIT_METHODS,
    METHODS,
)
from nodekd.models.catalog import STUDENTS, is_ode, is_stepped, takes_dynamics
from study.errors import SpaceError
from study.points import grid_points
from study.space import teaching
from study.space.contrast import KEYS
from study.space.needs import NEEDS, idle_keys
from study.space.reader import read_space
from study.space.schema import HOME, SAMPLED_SECTIONS, SECTIONS
from study.space.section import dump
from study.space.settings import Space, differences
from study.space.solving import CHANGES

FOLDER = Path(__file__).parents[2] / "search_spaces"
SHIPPED = sorted(FOLDER.glob("*.yaml"))
OK = "space: {learning_rate: {float: [0.01, 0.1]}}\n"
POINT = {"learning_rate": 0.01}


def space_of(tmp_path: Path, text: str, *overrides: str) -> Space:
    path = tmp_path / "case.yaml"
    path.write_text(text)
    return read_space(path, overrides)


def complaint(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(SpaceError) as caught:
        space_of(tmp_path, text, *overrides)
    assert caught.value.exit_code == 3
    return str(caught.value).replace(str(tmp_path) + "/", "")


def space_with(entries: str) -> str:
    return "space:\n" + "".join(f"  {line}\n" for line in entries.split("\n"))


# ------------------------------------------------------------ what counts at a point

COMMON = {
    "optimizer",
    "learning_rate",
    "weight_decay",
    "batch_size",
    "schedule",
    "epochs",
    "augment",
    "clip",
    "adversarial",
}
LOGIT_KEYS = {"temperature", "alpha", "kl_scale"}
FEATURE_KEYS = {"beta", "beta_reduction"}
FEED_KEYS = {"feature_distance", "feature_normalise", "translator", "feature_times"}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_keeps_its_own_keys_and_no_other(tmp_path: Path, method: str) -> None:
    text = f"distill: {{method: {method}}}\ntrain: {{adversarial: {{epsilon: 0.1, methods: [ard, rslad]}}}}\n" + OK
    settings = space_of(tmp_path, text).settings(POINT)
    expected = {"method"}
    expected |= LOGIT_KEYS if method in LOGIT_METHODS else set()
    expected |= FEATURE_KEYS if method in FEATURE_METHODS else set()
    expected |= FEED_KEYS if method in FEED_METHODS else set()
    expected |= {"generations"} if method in GENERATION_METHODS else set()
    expected |= {"ensemble"} if method in ENSEMBLE_METHODS else set()
    assert set(settings["distill"]) == expected
    assert set(settings["train"]) == COMMON
    assert settings["train"]["adversarial"] == ({"epsilon": 0.1, "steps": 7} if method in {"ard", "rslad"} else None)
    assert ("teacher" in settings) == (method not in {"none", "self", "ban", "feed-sequential"})


STEPPED_KEYS = {"channels", "norm", "time", "solver", "horizon", "evaluations"}


@pytest.mark.parametrize("arch", STUDENTS)
def test_each_network_keeps_its_own_keys_and_no_other(tmp_path: Path, arch: str) -> None:
    solver = "solver: euler" if is_stepped(arch) else "time: channel"
    settings = space_of(tmp_path, f"student: {{arch: {arch}, {solver}}}\n" + OK).settings(POINT)
    expected = {"arch"}
    expected |= STEPPED_KEYS if is_stepped(arch) else set()
    expected |= {"blocks", "gain", "gradient"} if is_ode(arch) else set()
    expected |= {"dynamics"} if takes_dynamics(arch) else set()
    assert set(settings["student"]) == expected


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ("dynamics: plain", {"dynamics": "plain"}),
        ("dynamics: damped", {"dynamics": "damped", "damping": "learned", "damping_decay": True}),
        ("dynamics: damped, damping: 1/4", {"dynamics": "damped", "damping": 0.25}),
        (
            "dynamics: lambda-damped, damping_decay: false",
            {"dynamics": "lambda-damped", "damping": "learned", "damping_decay": False},
        ),
    ],
)
def test_damping_counts_only_where_it_damps(tmp_path: Path, student: str, expected: dict[str, Any]) -> None:
    for arch in ("preact-resnet20", "odenet-raw"):
        made = space_of(tmp_path, f"student: {{arch: {arch}, {student}}}\n" + OK).settings(POINT)["student"]
        assert {key: made[key] for key in ("dynamics", "damping", "damping_decay") if key in made} == expected


def test_ensembles(tmp_path: Path) -> None:
    text = "teachers: [{}, {seed: 1}, {seed: 2}]\ndistill: {method: feed-parallel, ensemble: 3}\n" + OK
    settings = space_of(tmp_path, text).settings(POINT)
    assert "teacher" not in settings
    assert settings["distill"]["ensemble"] == 3
    assert {"repeat_teacher", "beta_divided", "translator_shared"} <= set(settings["distill"])
    logits = space_of(tmp_path, text.replace("feed-parallel", "kd")).settings(POINT)["distill"]
    assert set(logits) == {"method", *LOGIT_KEYS, "ensemble", "repeat_teacher"}
    unheard = space_of(tmp_path, text.replace("feed-parallel", "kd")).settings({**POINT, "alpha": 0})["distill"]
    assert unheard == {"method": "kd", "alpha": 0.0}
    seen = space_of(tmp_path, text.replace("feed-parallel", "kd-feed")).settings({**POINT, "alpha": 0})["distill"]
    assert seen["ensemble"] == 3


def test_the_chosen_discretisation_counts(tmp_path: Path) -> None:
    text = "student: {step_size: 1/4, steps: 3, evaluations: 8}\n" + space_with(
        "discretisation: {choice: [step_size, steps, evaluations]}\nhorizon: {choice: [1, 2]}"
    )
    space = space_of(tmp_path, text)
    for chosen, value in (("step_size", 0.25), ("steps", 3), ("evaluations", 8)):
        made = space.settings({"discretisation": chosen, "horizon": 2})["student"]
        ways = {key: made[key] for key in ("steps", "step_size", "evaluations") if key in made}
        assert ways == {chosen: value}
        assert made["discretisation"] == chosen
    finer = space_of(tmp_path, text, "student.steps=6")
    assert finer.settings({"discretisation": "steps", "horizon": 1})["student"]["steps"] == 6
    assert finer.settings({"discretisation": "evaluations", "horizon": 1})["student"]["evaluations"] == 8


def test_an_adaptive_solver_has_no_discretisation_to_choose(tmp_path: Path) -> None:
    text = "student: {steps: 3, evaluations: 8}\n" + space_with(
        "solver: {choice: [rk4, dopri5]}\ndiscretisation: {choice: [steps, evaluations], when: {solver: [rk4]}}"
    )
    space = space_of(tmp_path, text)
    assert "discretisation" not in space.settings({"solver": "dopri5"})["student"]
    said = complaint(tmp_path, text.replace(", when: {solver: [rk4]}", ""))
    assert "`discretisation` has no effect where solver is dopri5; add when: {solver: [rk4]}" in said


def test_overrides_can_give_a_condition_and_the_value_where_it_does_not_hold() -> None:
    conditional = "space.solver={choice: [euler, rk4], when: {discretisation: [steps, evaluations]}}"
    spaces = [
        read_space(next(path for path in SHIPPED if path.stem == "chu-horizon"), order)
        for order in ([conditional, "student.solver=midpoint"], ["student.solver=midpoint", conditional])
    ]
    for space in spaces:
        assert space.document()["student"]["solver"] == "midpoint"
        assert next(p for p in space.parameters if p.name == "solver").when == {
            "discretisation": ("steps", "evaluations")
        }


def test_a_section_has_the_value_where_a_condition_does_not_hold(tmp_path: Path) -> None:
    text = "train: {epochs: 40}\n" + space_with(
        "method: {choice: [none, kd]}\nepochs: {choice: [40, 120], when: {method: [none]}}"
    )
    space = space_of(tmp_path, text)
    assert space.settings({"method": "kd"})["train"]["epochs"] == 40
    assert space.settings({"method": "none", "epochs": 120})["train"]["epochs"] == 120
    other = space_of(tmp_path, text.replace("epochs: 40", "epochs: 50"))
    assert other.identity() != space.identity()
    assert "train.epochs was 40 and is now 50" in differences(space.document(), other.document())
    assert "override `space.epochs`" in complaint(tmp_path, text, "train.epochs=3")


@pytest.mark.parametrize(
    ("student", "change", "expected"),
    [
        ("solver: rk4, evaluations: 8", "evaluate: {horizon: 2}", {"evaluate": {"horizon": 2.0}, "attack": {}}),
        (
            "solver: rk4, evaluations: 8",
            "evaluate: {rtol: 0.1, solver: dopri5}",
            {"evaluate": {"solver": "dopri5", "rtol": 0.1}, "attack": {}},
        ),
        (
            "solver: dopri5",
            "attack: {solver: rk4, steps: 8}",
            {"evaluate": {}, "attack": {"solver": "rk4", "steps": 8}},
        ),
        ("solver: dopri5", "attack: {solver: rk4}", {"evaluate": {}, "attack": {"solver": "rk4"}}),
        ("solver: euler", "attack: {gradient: direct}", {"evaluate": {}, "attack": {}}),
        ("solver: euler", "attack: {gradient: trained}", {"evaluate": {}, "attack": {}}),
        (
            "gradient: adjoint, adjoint_steps: 1",
            "attack: {gradient: trained}",
            {"evaluate": {}, "attack": {"gradient": "trained"}},
        ),
        (
            "solver: rk4_classic",
            "attack: {solver: heun, gradient: adjoint, adjoint_steps: 2}",
            {"evaluate": {}, "attack": {"solver": "heun", "gradient": "adjoint", "adjoint_steps": 2}},
        ),
        ("solver: euler, steps: 3", "evaluate: {solver: heun}", {"evaluate": {"solver": "heun"}, "attack": {}}),
        (
            "solver: rk4, evaluations: 8",
            "evaluate: {steps: 4}\nattack: {evaluations: 16}",
            {"evaluate": {"steps": 4}, "attack": {"evaluations": 16}},
        ),
    ],
)
def test_solved_another_way(tmp_path: Path, student: str, change: str, expected: dict[str, Any]) -> None:
    settings = space_of(tmp_path, f"student: {{{student}}}\n{change}\n" + OK).settings(POINT)
    assert {name: settings[name] for name in CHANGES} == expected


def test_changes_reach_only_what_reads_them(tmp_path: Path) -> None:
    text = "evaluate: {rtol: 1e-5, horizon: 2}\n" + space_with(
        "arch: {choice: [odenet-stem, resnet20]}\nsolver: {choice: [rk4, dopri5], when: {arch: [odenet-stem]}}"
    )
    space = space_of(tmp_path, text)
    assert space.settings({"arch": "resnet20"})["evaluate"] == {}
    assert space.settings({"arch": "odenet-stem", "solver": "rk4"})["evaluate"] == {"horizon": 2.0}
    assert space.settings({"arch": "odenet-stem", "solver": "dopri5"})["evaluate"] == {"horizon": 2.0, "rtol": 1e-5}


def test_an_idle_parent_makes_its_children_idle() -> None:
    """Played through: whatever is idle stays idle for every value of what hangs below it."""
    values = {key: value for name in SAMPLED_SECTIONS for key, value in dump(SECTIONS[name]()).items()}
    idle = idle_keys(
        values | {"arch": "resnet20", "dynamics": "damped", "damping": "learned", "method": "none", "ensemble": 3}
    )
    assert {"solver", "steps", "rtol", "dynamics", "damping", "damping_decay", "repeat_teacher", "beta_divided"} <= idle
    settled = [need.parent for need in NEEDS]
    assert all(HOME[parent] in SAMPLED_SECTIONS for parent in settled)


# ------------------------------------------------------------ what is refused

CASES: dict[str, tuple[str, str, str]] = {
    "published name": (OK + "student: {arch: in-resnet110}\n", "2:17", "`student.arch` has no 'in-resnet110'; give arch: preact-resnet110 with dynamics: damped.*did you mean 'preact-resnet110'"),
    "published lambda name": (OK + "student: {arch: lambda-in-resnet164}\n", "2:17", "give arch: preact-resnet164 with dynamics: lambda-damped"),
    "published name in a choice": (space_with("arch: {choice: [in-resnet20]}"), "2:19", "give arch: preact-resnet20 with dynamics: damped"),
    "feed": (OK + "distill: {method: feed}\n", "2:19", "`distill.method` has no 'feed'; give feed-parallel .* or feed-sequential"),
    "unknown method": (OK + "distill: {method: fedd-parallel}\n", "2:19", "must be one of none, kd,.*did you mean 'feed-parallel'"),
    "unknown arch": (OK + "student: {arch: resnet21}\n", "2:17", "did you mean 'resnet20'"),
    "resnext teacher": (OK + "teachers: [{arch: resnext}]\n", "2:19", "give arch: preact-resnext29"),
    "zero horizon": (space_with("horizon: {choice: [0, 1]}"), "2:22", "`space.horizon.choice` must be a number > 0"),
    "negative horizon": (OK + "evaluate: {horizon: -1}\n", "2:21", "`evaluate.horizon` must be a number > 0"),
    "negative damping": (OK + "student: {dynamics: damped, damping: -0.1}\n", "2:38", "must be a number >= 0 and <= 100 or 'learned', but got -0.1"),
    "large damping": (space_with("dynamics: damped\ndamping: {float: [0, 101]}"), "3:24", "must be a number >= 0 and <= 100 or 'learned', but got 101"),
    "damping in words": (OK + "student: {dynamics: damped, damping: learnt}\n", "2:38", "did you mean 'learned'"),
    "end of damping": (space_with("dynamics: damped\ndamping: {float: [0, learned]}"), "3:24", "must have numbers for its ends, but got 'learned'"),
    "one generation": (OK + "distill: {method: ban, generations: 1}\n", "2:37", "must be a whole number >= 2 and <= 20"),
    "no beta": (OK + "distill: {method: at, beta: 0}\n", "2:29", "must be a number > 0"),
    "nine times": (OK + "distill: {method: feed-parallel, feature_times: 9}\n", "2:49", ">= 1 and <= 8"),
    # keys without effect
    "damping of plain": (OK + "student: {damping: 0.5}\n", "2:11", "`damping` has no effect where dynamics is plain; remove it, or choose dynamics from damped, lambda-damped"),
    "damping of a ResNet": (OK + "student: {arch: resnet20, dynamics: damped}\n", "2:27", "`dynamics` has no effect where arch is resnet20; remove it, or choose arch from odenet-stem"),
    "damping sampled beside plain": (space_with("dynamics: {choice: [plain, damped]}\ndamping: {float: [0, 1]}"), "3:3", r"add when: {dynamics: \[damped\]}"),
    "decay of fixed damping": (OK + "student: {dynamics: damped, damping: 0.5, damping_decay: false}\n", "2:43", "`damping_decay` has no effect where damping is 0.5"),
    "gain of untied": (OK + "student: {arch: untied-raw, solver: euler, gain: true}\n", "2:44", "`gain` has no effect where arch is untied-raw; .*choose arch from odenet-stem, odenet-raw"),
    "horizon of a ResNet": (OK + "student: {arch: resnet20, horizon: 2}\n", "2:27", "`horizon` has no effect where arch is resnet20"),
    "steps of a ResNet": (OK + "student: {arch: resnet20, steps: 2}\n", "2:27", "`steps` has no effect where arch is resnet20; remove it, or choose arch from .*, ..."),
    "solver sampled beside a ResNet": (space_with("arch: {choice: [resnet20, odenet-raw]}\nsolver: {choice: [euler, rk4]}"), "3:3", r"`solver` has no effect where arch is resnet20; add when: {arch: \[odenet-raw\]}"),
    "beta of kd": (OK + "distill: {beta: 3}\n", "2:11", "`beta` has no effect where method is kd; .* choose method from at, ft, feed-parallel"),
    "beta sampled beside kd": (space_with("method: {choice: [kd, at]}\nbeta: {float: [1, 9]}"), "3:3", r"add when: {method: \[at\]}"),
    "translator of at": (OK + "distill: {method: at, translator: conv1x1}\n", "2:23", "`translator` has no effect where method is at"),
    "generations of self": (OK + "distill: {method: self, generations: 4}\n", "2:25", "`generations` has no effect where method is self; .* from ban, feed-sequential"),
    "ensemble of ard": (OK + "distill: {method: ard, ensemble: 2}\ntrain: {adversarial: {epsilon: 0.1}}\n", "2:24", "`ensemble` has no effect where method is ard"),
    "repeated one": (OK + "distill: {repeat_teacher: true}\n", "2:11", "`repeat_teacher` has no effect where ensemble is 1"),
    "divided by one": (OK + "distill: {method: at, beta_divided: true}\n", "2:23", "`beta_divided` has no effect where ensemble is 1"),
    "repeat sampled at one": (space_with("ensemble: {choice: [1, 3]}\nrepeat_teacher: {choice: [true]}"), "3:3", r"add when: {ensemble: \[3\]}"),
    "several times of a ResNet": (OK + "student: {arch: resnet20}\ndistill: {method: feed-sequential, feature_times: 2}\n", "3:36", "`feature_times` has no effect where arch is resnet20"),
    "sampled nesterov of adamw": (space_with("nesterov: {choice: [true, false]}"), "2:3", "`nesterov` has no effect where optimizer is adamw"),
    "unchosen steps": (space_with("discretisation: {choice: [steps, evaluations]}\nevaluations: 8\nsteps: {choice: [2, 4]}"), "4:3", r"`steps` has no effect where discretisation is evaluations; add when: {discretisation: \[steps\]}"),
    # solvers
    "untied with rk4": (OK + "student: {arch: untied-stem}\n", "2:11", "untied-stem takes Euler steps with weights of their own, but solver is rk4; choose solver: euler"),
    "untied and adaptive": (space_with("arch: untied-raw\nsolver: {choice: [euler, bosh3]}"), "3:3", "untied-raw takes Euler steps .* but solver is bosh3"),
    "three discretisations": ("student: {steps: 4, evaluations: 8, step_size: 1}\n" + OK, "1:37", "rk4 gets steps and step_size and evaluations; .* or choose one by `discretisation`"),
    "chosen but not given": ("student: {steps: 4}\n" + space_with("discretisation: {choice: [steps, evaluations]}"), "3:3", "`discretisation` chooses evaluations, but `evaluations` is not given for rk4"),
    "chosen null": (space_with("discretisation: {choice: [null, steps]}"), "2:28", "cannot hold null"),
    "evaluated by two": (OK + "evaluate: {steps: 4, evaluations: 8}\n", "2:22", "`evaluate` cannot be done: rk4 gets steps and evaluations; give exactly one"),
    "evaluated unevenly": (OK + "student: {solver: euler, evaluations: 6}\nevaluate: {solver: rk4}\n", "3:12", "`evaluate` cannot be done: rk4 needs a multiple of its 4 stages, but got 6.*give a discretisation that fits"),
    "attacked unevenly": (OK + "student: {solver: euler}\nattack: {solver: heun, evaluations: 5}\n", "3:24", "`attack` cannot be done: heun needs a multiple of its 2 stages"),
    "evaluated too finely": (OK + "student: {step_size: 1e-3}\nevaluate: {horizon: 100}\n", "3:12", "makes more than 10000 steps"),
    "tolerance of a fixed solve": (OK + "evaluate: {rtol: 0.1}\n", "2:12", "`evaluate.rtol` has no effect: none of its solvers reads it; remove it"),
    "evaluated without an ODE": (OK + "student: {arch: resnet20}\nevaluate: {horizon: 2}\n", "3:12", "`evaluate.horizon` has no effect: no student has an ODE"),
    "adjoint steps of a direct gradient": (OK + "student: {adjoint_steps: 2}\n", "2:11", "`adjoint_steps` has no effect where gradient is direct; remove it, or choose gradient from adjoint"),
    "no adjoint step": (OK + "student: {gradient: adjoint, adjoint_steps: 0}\n", "2:45", "must be a whole number >= 1 and <= 10000"),
    "adjoint steps sampled beside direct": (space_with("gradient: {choice: [direct, adjoint]}\nadjoint_steps: {int: [1, 4]}"), "3:3", r"add when: {gradient: \[adjoint\]}"),
    "attacked by steps of no adjoint": (OK + "attack: {gradient: trained, adjoint_steps: 2}\n", "2:29", "`attack.adjoint_steps` has no effect: .*; remove it"),
    "attacked by an adjoint that is none": (OK + "attack: {solver: rk4_classic, gradient: adjoint}\n", "2:31", "`attack` cannot be done: rk4_classic has no adjoint; choose rk4"),
    "attacked by a trained adjoint that is none": (OK + "student: {gradient: adjoint}\nattack: {solver: rk4_classic, gradient: trained}\n", "3:31", "`attack` cannot be done: rk4_classic has no adjoint"),
    "attacked by a wrong gradient": (OK + "attack: {gradient: train}\n", "2:20", "must be one of direct, adjoint, trained.*did you mean 'trained'"),
    "attacked by a gradient without an ODE": (OK + "student: {arch: resnet20}\nattack: {gradient: trained}\n", "3:10", "`attack.gradient` has no effect: no student has an ODE"),
    "unknown key of evaluate": (OK + "evaluate: {gradient: direct}\n", "2:12", "'gradient' is not a key of `evaluate`"),
    # teachers
    "teacher beside ensemble": ("teachers: [{}, {seed: 1}]\ndistill: {ensemble: 2}\n" + space_with("teacher: {choice: [0, 1]}"), "4:3", "`teacher` has no effect where ensemble is 2, which takes the first 2 of `teachers`; remove it"),
    "teacher beside sampled ensemble": ("teachers: [{}, {seed: 1}]\n" + space_with("ensemble: {choice: [1, 2]}\nteacher: {choice: [0, 1]}"), "4:3", r"`teacher` has no effect where ensemble is 2.*add when: {ensemble: \[1\]}"),
    "large ensemble": ("teachers: [{}, {seed: 1}]\n" + space_with("ensemble: {int: [1, 3]}"), "3:3", "`ensemble` goes up to 3, but `teachers` lists 2; .* repeat_teacher: true"),
    "small ensemble": ("teachers: [{}, {seed: 1}, {seed: 2}]\ndistill: {ensemble: 2}\n" + OK, "1:1", "`teachers` lists 3, but only the first 2 would teach; raise `ensemble`, or list 2"),
    "ensemble of a chain": ("teachers: [{}, {seed: 1}]\ndistill: {method: ban}\n" + OK, "1:1", "`teachers` lists 2, but only the first would teach"),
    "shared between widths": ("teachers: [{}, {arch: resnet18}]\ndistill: {method: kd-feed, ensemble: 2, translator_shared: true}\n" + OK, "2:41", "`translator_shared` needs teachers .* equally many channels, but got resnet20 with 64, resnet18 with 512"),
    "ard without attack": (OK + "distill: {method: ard}\n", "2:11", "ard attacks the student in every update and needs `train.adversarial`"),
    "rslad without its attack": (OK + "distill: {method: rslad}\ntrain: {adversarial: {epsilon: 0.1, methods: [ard]}}\n", "2:11", r"rslad attacks .* methods: \[rslad\]"),
    "methods of a teacher": (OK + "teachers: [{train: {adversarial: {epsilon: 0.1, methods: [kd]}}}]\n", "2:49", "'methods' is not a key of `teachers.0.train.adversarial`"),
    "unknown method of adversarial": (OK + "train: {adversarial: {epsilon: 0.1, methods: [kdd]}}\n", "2:46", "`train.adversarial.methods` must be one of .* but got 'kdd'"),
    # feature times
    "uneven times": (OK + "student: {evaluations: 12}\ndistill: {method: feed-sequential, feature_times: 2}\n", "3:36", "`feature_times` 2 must divide the steps, but rk4 takes 3"),
    "uneven sampled times": ("distill: {method: feed-parallel}\n" + space_with("feature_times: {choice: [1, 4]}\nsteps: {int: [4, 12], step: 2}"), "3:3", "`feature_times` 4 must divide the steps, but rk4 takes 6"),
    "open times": ("distill: {method: feed-parallel, feature_times: 2}\nstudent: {step_size: 1/4}\n" + space_with("horizon: {float: [1, 2]}"), "1:34", "leaves them open; give `steps` or `evaluations`"),
    # probes and robustness
    "probe solver": (OK + "probes: {test_solvers: [rk5:8]}\n", "2:24", "`probes.test_solvers` cannot be read: .*but got 'rk5:8'"),
    "probe solver stages": (OK + "probes: {test_solvers: [rk4:6]}\n", "2:24", "`probes.test_solvers` cannot be read: .*multiple of rk4's 4 stages"),
    "probe solver number": (OK + "probes: {test_solvers: [3]}\n", "2:24", "must be solvers such as rk4:16 or dopri5:1e-5, but got 3"),
    "probe solvers in a word": (OK + "probes: {test_solvers: rk4}\n", "2:24", r"must be a list such as \[rk4:16, dopri5:1e-5\]"),
    "probe noise": (OK + "probes: {noise: [gauss]}\n", "2:17", "`probes.noise` must be one of gaussian, uniform, shot, impulse, speckle, blur, contrast, but got 'gauss'.*did you mean 'gaussian'"),
    "noise twice": (OK + "probes: {noise: [shot, shot]}\n", "2:17", "must be different words, but 'shot' stands there twice"),
    "severity": (OK + "probes: {severities: [6]}\n", "2:22", "must be a whole number >= 1 and <= 5, but got 6"),
    "no severities": (OK + "probes: {severities: []}\n", "2:22", r"must be a list of numbers such as \[1, 3, 5\]"),
    "legacy alone": (OK + "probes: {legacy: true}\n", "2:10", "set probes.published_attacks: true, too"),
    "corruptions of digits": (OK + "probes: {corruption_root: x}\n", "2:10", "`probes.corruption_root` holds corruptions of cifar10 or cifar100, but data.name is digits"),
    "corruptions elsewhere": ("data: {name: cifar10}\n" + OK + "probes: {corruption_root: x, split: val_front}\n", "3:10", "holds corrupted test images, but probes.split is val_front; choose probes.split: test"),
    "alpha 0 beside none": ("distill: {alpha: 0}\n" + space_with("method: {choice: [kd, none]}"), "1:11", "kd with alpha 0 trains what method none trains"),
    "select": (OK + "robustness: {select: everything}\n", "2:22", "must be one of front, all"),
    # contrast
    "contrast as a list": (OK + "contrast: [kd, none]\n", "2:11", "`contrast` must be a mapping such as"),
    "contrast without levels": (OK + "contrast: {measure: accuracy, factor: method}\n", "2:11", "`contrast.levels` is missing"),
    "contrast with strangers": (space_with("method: {choice: [kd, none]}") + "contrast: {measure: accuracy, factor: method, levels: [kd, none], wher: {}}\n", "3:67", "'wher' is not a key of `contrast`.*did you mean 'where'"),
    "contrast of a measure": (space_with("method: {choice: [kd, none]}") + "contrast: {measure: acuracy, factor: method, levels: [kd, none]}\n", "3:21", "`contrast.measure` must be one of.*did you mean 'accuracy'"),
    "contrast of a fixed key": (OK + "contrast: {measure: accuracy, factor: method, levels: [kd, none]}\n", "2:39", "names 'method', which has one value in this study"),
    "contrast of a stranger": (OK + "contrast: {measure: accuracy, factor: learningrate, levels: [kd, none]}\n", "2:39", "does not stand under `space`.*did you mean 'learning_rate'"),
    "contrast of seeds": (space_with("seed: {choice: [1, 2]}") + "contrast: {measure: accuracy, factor: seed, levels: [1, 2]}\n", "3:39", "cannot be the seed"),
    "contrast outside": (space_with("method: {choice: [kd, none]}") + "contrast: {measure: accuracy, factor: method, levels: [kd, at]}\n", "3:60", "`contrast.levels` lies outside the space: `method` is one of 'kd', 'none'"),
    "contrast of one": (space_with("method: {choice: [kd, none]}") + "contrast: {measure: accuracy, factor: method, levels: [kd, kd]}\n", "3:55", "two different values, but got kd twice"),
    "contrast of three": (space_with("method: {choice: [kd, none]}") + "contrast: {measure: accuracy, factor: method, levels: [kd, none, at]}\n", "3:55", "must be two values .* but got a list of 3"),
    "contrast where": (space_with("method: {choice: [kd, none]}\nhorizon: {choice: [1, 2]}") + "contrast: {measure: accuracy, factor: method, levels: [kd, none], where: {horizon: 3}}\n", "4:84", "`contrast.where.horizon` lies outside the space"),
    "contrast where itself": (space_with("method: {choice: [kd, none]}") + "contrast: {measure: accuracy, factor: method, levels: [kd, none], where: {method: kd}}\n", "3:75", "is the factor itself"),
    "contrast of the chosen few": (space_with("method: {choice: [kd, none]}") + "contrast: {measure: robust_accuracy, factor: method, levels: [kd, none]}\n", "3:21", "only with robustness.select: all"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_space(tmp_path: Path, name: str) -> None:
    content, place, message = CASES[name]
    said = complaint(tmp_path, content)
    problem = next((each for each in said.split("\n\n") if re.search(message, each, re.DOTALL)), None)
    assert problem is not None, said
    assert problem.startswith(f"case.yaml:{place} "), problem


def test_small_feature_maps_are_refused_with_the_size_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "distill: {method: feed-parallel}\n" + OK
    space_of(tmp_path, text)
    real = teaching.last_map
    monkeypatch.setattr(teaching, "last_map", lambda arch, channels, size: (real(arch, channels, size)[0], size // 4))
    said = complaint(tmp_path, text)
    assert (
        "feed-parallel compares last feature maps of 4x4 or more, but odenet-stem leaves 2x2 of images of 8x8" in said
    )
    assert "but resnet20 leaves 2x2" in said
    assert "set data.image_size: 32" in said
    space_of(tmp_path, text, "data.image_size=32")
    space_of(tmp_path, text, "distill.method=kd")


def test_harmless_words_are_no_mistake(tmp_path: Path) -> None:
    space_of(
        tmp_path,
        "student: {arch: resnet20, dynamics: plain}\ndistill: {method: none, temperature: 2}\ntrain: {momentum: 0.8}\n"
        + OK,
    )


@pytest.mark.parametrize(
    ("text", "overrides", "gone"),
    [
        (
            space_with("dynamics: {choice: [plain, damped]}\ndamping: {float: [0, 1], when: {dynamics: damped}}"),
            ["space.dynamics=plain"],
            "damping",
        ),
        (
            space_with("solver: {choice: [euler, rk4]}\nlearning_rate: {float: [0.1, 1]}"),
            ["student.arch=resnet20"],
            "solver",
        ),
        ("student: {horizon: 3, dynamics: damped}\n" + OK, ["student.arch=resnet20"], "horizon"),
        (
            "distill: {method: at}\n" + space_with("beta: {float: [1, 9]}\nlearning_rate: {float: [0.1, 1]}"),
            ["distill.method=kd"],
            "beta",
        ),
    ],
)
def test_an_override_takes_out_what_it_leaves_without_effect(
    tmp_path: Path, text: str, overrides: list[str], gone: str
) -> None:
    space = space_of(tmp_path, text, *overrides)
    assert gone not in {parameter.name for parameter in space.parameters}


def test_an_override_takes_out_a_contrast_that_it_leaves_without_two_levels() -> None:
    path = FOLDER / "robust-teacher.yaml"
    assert read_space(path).contrast is not None
    assert read_space(path, ["space.method=kd"]).contrast is None
    assert read_space(path, ["space.method=none"]).contrast is None
    with pytest.raises(SpaceError, match="has one value in this study"):
        read_space(path, ["space.method=kd", "contrast={measure: accuracy, factor: method, levels: [kd, none]}"])


def test_anchors_that_an_override_makes_equal_are_one() -> None:
    assert len(read_space(FOLDER / "combined.yaml").anchors) == 2
    assert len(read_space(FOLDER / "combined.yaml", ["space.method=none"]).anchors) == 1


# ------------------------------------------------------------ documents and shipped experiments


def test_a_contrast_is_part_of_the_identity_and_probes_are_not() -> None:
    path = FOLDER / "factorial.yaml"
    space = read_space(path)
    assert space.document()["contrast"] == {
        "measure": "robust_accuracy",
        "factor": "method",
        "levels": ["kd", "none"],
        "where": {},
    }
    other = read_space(path, ["contrast.measure=accuracy"])
    assert other.identity() != space.identity()
    assert differences(space.document(), other.document()) == [
        'contrast.measure was "robust_accuracy" and is now "accuracy"'
    ]
    assert read_space(path, ["probes.landscape=true", "robustness.twins=true"]).identity() == space.identity()
    assert read_space(path, ["evaluate.horizon=2"]).identity() != space.identity()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_grid_is_as_large_as_its_budget_and_no_two_cells_mean_the_same(path: Path) -> None:
    space = read_space(path)
    if space.sampler.name != "grid":
        return
    points = list(grid_points(space.parameters))
    meant = {repr(space.settings(point)) for point in points}
    assert len(points) == len(meant) == space.budget.trials
    assert space.robustness.select == "all"
    assert space.contrast is not None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_smoke_shortens_chains_and_probes(path: Path) -> None:
    space = read_space(path)
    smoke = space.smoke()
    assert smoke.probes.images == 16
    assert smoke.data == space.data
    points = list(grid_points(smoke.parameters)) if smoke.sampler.name == "grid" else list(smoke.anchors)
    for settings in map(smoke.settings, points):
        assert settings["train"]["epochs"] == 1
        assert settings["distill"].get("generations", 2) == 2


def test_shipped_experiments_ask_what_the_plan_asks() -> None:
    spaces = {path.stem: read_space(path) for path in SHIPPED}
    horizons = {parameter.name: parameter.choices for parameter in spaces["chu-horizon"].parameters}
    assert set(horizons["discretisation"]) == {"step_size", "steps", "evaluations"}
    assert len(spaces["chu-horizon"].teachers) == len(horizons["teacher"]) == 4
    controls = {parameter.name: parameter.choices for parameter in spaces["chu-controls"].parameters}
    assert {"none", "kd", "label-smoothing", "kd-permuted", "self"} == set(controls["method"])
    damped = {parameter.name: parameter.choices for parameter in spaces["damped"].parameters}
    assert damped["damping"] == (0.25, 0.5, 0.75, 1.0, "learned")
    assert len(damped["seed"]) == 5
    robust = spaces["robust-teacher"]
    assert [teacher.train.adversarial is not None for teacher in robust.teachers] == [False, True]
    assert robust.settings({"seed": 1, "method": "kd", "teacher": 1})["train"]["adversarial"] is None
    assert robust.settings({"seed": 1, "method": "ard", "teacher": 1})["train"]["adversarial"] == {
        "epsilon": 1 / 16,
        "steps": 5,
    }


def test_the_readme_names_every_key_of_a_contrast_and_every_method() -> None:
    text = (FOLDER / "README.md").read_text()
    for word in (*KEYS, *METHODS, "methods"):
        assert f"`{word}" in text or f"{word}:" in text, word
