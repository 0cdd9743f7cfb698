"""A space without its distillation: what stays to be searched, and how networks are trained there."""

from pathlib import Path

import pytest

from study.errors import SpaceError
from study.points import count_trials
from study.space.reader import read_space
from study.space.undistilled import without_distillation

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"


def space_of(tmp_path: Path, text: str):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(path)


def test_a_space_of_distillation_alone_is_one_trial(tmp_path: Path) -> None:
    space = space_of(tmp_path, "study: {name: s}\nspace: {temperature: {float: [1, 20]}, alpha: {float: [0, 1]}}\n")
    own = without_distillation(space)
    assert own.parameters == ()
    assert own.sampler.name == "grid"
    assert count_trials(own, own.budget.trials) == 1
    assert own.settings({})["distill"] == {"method": "none"}


def test_what_hangs_on_distillation_follows_the_undistilled_choice_where_there_is_one(tmp_path: Path) -> None:
    text = (
        "study: {{name: s}}\nspace:\n  method: {{choice: [{methods}]}}\n"
        "  horizon: {{float: [1, 2], when: {{method: [kd]}}}}\n"
        "  weight_decay: {{float: [0.1, 0.2], when: {{method: [{first}]}}}}\n"
    )
    offered = without_distillation(space_of(tmp_path, text.format(methods="none, kd", first="none")))
    assert {p.name: p.when for p in offered.parameters} == {"weight_decay": {}}
    none = without_distillation(space_of(tmp_path, text.format(methods="kd, label-smoothing", first="kd")))
    assert {p.name: p.when for p in none.parameters} == {"horizon": {}, "weight_decay": {}}


def test_attacked_images_stay_where_every_method_trains_on_them(tmp_path: Path) -> None:
    text = (
        "study: {{name: s}}\ntrain: {{adversarial: {{epsilon: 1/16, methods: [ard]}}}}\n"
        "space: {{method: {{choice: [{}]}}, horizon: {{float: [1, 2]}}}}\n"
    )
    for methods, stays in (("ard", True), ("none, ard", True), ("kd, ard", False)):
        own = without_distillation(space_of(tmp_path, text.format(methods)))
        assert (own.settings({"horizon": 1.0})["train"]["adversarial"] is not None) is stays, methods


def test_where_nothing_is_distilled_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"undistilled_search` would search the same again"):
        space_of(tmp_path, "study: {name: s}\ndistill: {method: none}\nrobustness: {undistilled_search: true}\n")


def test_everything_else_is_as_it_was(tmp_path: Path) -> None:
    space = read_space(KD)
    own = without_distillation(space)
    assert [p.name for p in own.parameters] == ["solver", "horizon", "evaluations", "rtol"]
    assert own.parameters == tuple(p for p in space.parameters if p.section not in ("distill", "teachers"))
    assert own.anchors == ({"solver": "rk4", "evaluations": 16, "horizon": 1.0},)
    for name in ("study", "data", "teachers", "student", "train", "search", "sampler", "budget", "resources"):
        assert getattr(own, name) == getattr(space, name)


def test_anchors_that_differ_in_distillation_alone_are_one(tmp_path: Path) -> None:
    text = (
        "study: {name: s}\nspace: {alpha: {float: [0, 1]}, horizon: {float: [1, 2]}}\n"
        "anchors: [{alpha: 0.1, horizon: 1}, {alpha: 0.9, horizon: 1}, {alpha: 0.9, horizon: 2}]\n"
    )
    own = without_distillation(space_of(tmp_path, text))
    assert own.anchors == ({"horizon": 1.0}, {"horizon": 2.0})


def test_a_grid_has_as_many_trials_as_points_within_its_budget(tmp_path: Path) -> None:
    text = "study: {name: s}\nsampler: {name: grid}\nspace: {alpha: {choice: [0.5, 1]}, blocks: {choice: [1, 2, 3]}}\n"
    space = space_of(tmp_path, text)
    assert [count_trials(space, budget) for budget in (5, 6, 7)] == [5, 6, 6]
    assert count_trials(without_distillation(space), 6) == 3
