"""A finished study seeds another with its best points, and with nothing else."""

import json
import shutil
from dataclasses import replace

import pytest
from made_up_world import World, a_context

from study.engine.inline import InlineEngine
from study.errors import EnvironmentFault, ResumeConflict
from study.fronts import non_dominated
from study.stages.pipeline import Pipeline
from study.stages.plan import plan
from study.warm_start import FILE, fitted, settle_warm_start, warm_points

SPLIT = "f" * 64


def search(context):
    InlineEngine().run(Pipeline(plan(context, "search")), World(context.ledger))
    return context


def settled(folder, *overrides, split_hash=SPLIT):
    context = a_context(folder, *overrides)
    settle_warm_start(context.ledger, context.space, split_hash)
    return context


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    context = search(a_context(tmp_path_factory.mktemp("old") / "s"))
    path = context.ledger.root / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "old", "split_hash": SPLIT}))
    return context


def test_the_best_points_are_tried_after_the_anchors(old, tmp_path):
    context = search(settled(tmp_path / "s", f"warm_start.study={old.ledger.root}", "warm_start.points=3"))
    trials = [old.ledger.outcome(key)["values"] for key in old.ledger.keys("trials")]
    table = [[values["accuracy"], values["adversarial_accuracy"]] for values in trials]
    front = [number for number, best in enumerate(non_dominated(table)) if best]
    kept = json.loads((context.ledger.root / FILE).read_text())
    chosen = [each["trial"] for each in kept["points"]]
    assert len(chosen) == 3
    assert chosen[: len(front)] == front[:3]
    anchors = len(a_context(tmp_path / "x").space.anchors)
    known = [context.ledger.config(f"trials/{number:06d}")["params"] for number in range(anchors + 3)]
    expected = [old.ledger.config(f"trials/{trial:06d}")["params"] for trial in chosen]
    assert [point for point in expected if point not in known] == []
    assert (kept["study"], kept["split_hash"]) == ("old", SPLIT)


def test_points_outside_the_new_space_are_left_out(old, tmp_path):
    horizons = sorted(old.ledger.config(key)["params"]["horizon"] for key in old.ledger.keys("trials"))
    middle = horizons[len(horizons) // 2]
    narrow = settled(
        tmp_path / "s", f"warm_start.study={old.ledger.root}", f"space.horizon={{float: [0.25, {max(1.0, middle)}]}}"
    )
    assert 0 < len(warm_points(narrow.ledger)) < len(horizons)
    assert max(point["horizon"] for point in warm_points(narrow.ledger)) <= max(1.0, middle)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"horizon": 4.5}, False),
        ({"horizon": "1"}, False),
        ({"solver": "rk9"}, False),
        ({"extra": 1}, True),
        ({"evaluations": None}, False),
    ],
)
def test_a_point_fits_where_every_active_value_lies_in_its_range(tmp_path, change, fits):
    parameters = a_context(tmp_path / "s").space.parameters
    point = {"temperature": 4.0, "alpha": 0.5, "solver": "rk4", "horizon": 1.0, "evaluations": 8}
    found = fitted(parameters, point | change)
    assert (found == point) is fits
    del point["alpha"]
    assert fitted(parameters, point) is None


def test_the_choice_is_made_once_and_outlives_the_old_study(old, tmp_path):
    copy = shutil.copytree(old.ledger.root, tmp_path / "old")
    context = settled(tmp_path / "s", f"warm_start.study={copy}")
    first = warm_points(context.ledger)
    shutil.rmtree(copy)
    settle_warm_start(context.ledger, context.space, SPLIT)
    assert warm_points(context.ledger) == first != []


def test_another_split_no_study_and_an_empty_study_are_refused(old, tmp_path):
    with pytest.raises(ResumeConflict, match="the same split"):
        settled(tmp_path / "a", f"warm_start.study={old.ledger.root}", split_hash="0" * 64)
    with pytest.raises(EnvironmentFault, match="holds none"):
        settled(tmp_path / "b", f"warm_start.study={tmp_path / 'nowhere'}")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "study.json").write_text(json.dumps({"split_hash": SPLIT}))
    with pytest.raises(EnvironmentFault, match="has none"):
        settled(tmp_path / "c", f"warm_start.study={empty}")


def test_infeasible_and_failed_trials_seed_nothing(old, tmp_path):
    copy = shutil.copytree(old.ledger.root, tmp_path / "old")
    for number in range(1, 9):
        path = copy / "trials" / f"{number:06d}" / "outcome.json"
        outcome = json.loads(path.read_text())
        path.unlink()
        change = {"state": "FAIL", "values": None} if number % 2 else {"metrics": {"infeasible": ["G2 fails"]}}
        path.write_text(json.dumps(outcome | change))
    context = settled(tmp_path / "s", f"warm_start.study={copy}")
    assert [each["trial"] for each in json.loads((context.ledger.root / FILE).read_text())["points"]] == [0]


def test_without_a_warm_start_nothing_is_written(tmp_path):
    context = settled(tmp_path / "s")
    assert not (context.ledger.root / FILE).exists()
    assert warm_points(context.ledger) == []
    assert replace(context.space, points=()).anchors == ()
