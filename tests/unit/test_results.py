"""Loading a study in every state it can be in; counting from bits; the summary and the snapshots."""

import fcntl
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from study.columns import FRONT_COLUMNS, HISTORY_COLUMNS, ROBUSTNESS_COLUMNS, TRIAL_COLUMNS
from study.errors import EnvironmentFault
from study.ledger import Ledger
from study.report.page import render
from study.results import load, write_snapshots
from study.survivors import CARRIED, paired, read_survivors
from tests.study_folder import (
    COLUMNS,
    SPECIFICATION,
    TEACHER,
    Plan,
    attacked,
    candidates,
    finished_trials,
    point,
    write_study,
)

PLAN = Plan()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies"), PLAN)


def test_counts_and_states_of_trials(whole: Path) -> None:
    results = load(whole)
    assert results.summary()["trials"] == {"complete": 21, "pruned": 0, "failed": 3, "running": 0}
    assert results.trials["trial"].tolist() == list(range(24))
    assert results.trials.set_index("trial").loc[5, "reason"] == "diverged"
    assert results.problems == []


def test_numbers_are_numbers(whole: Path) -> None:
    results = load(whole)
    assert results.trials["params_evaluations"].dtype == "Int64"
    assert results.trials["params_temperature"].dtype == float
    assert results.trials["parameter_count"].dtype == "Int64"
    assert results.history["epoch"].dtype == "Int64"
    assert results.robustness["epsilon"].dtype == float


def test_the_sampled_point_comes_back_as_it_was_stored(whole: Path) -> None:
    results = load(whole)
    for trial in (0, 3, attacked(PLAN)[-1]):
        assert results.params(trial) == point(PLAN, trial)
    assert "temperature" not in results.params(attacked(PLAN)[-1])
    assert results.params(999) == {}


def test_only_complete_trials_are_on_the_search_front(whole: Path) -> None:
    trials = load(whole).trials
    assert trials["on_front"].any()
    assert set(trials[trials["on_front"]]["state"]) == {"COMPLETE"}


def test_a_pruned_trial_with_values_is_not_on_the_search_front(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers", "search"), trials=4, failures={}, attacked=1, epochs=1))
    path = folder / "trials/000002/outcome.json"
    perfect = {"state": "PRUNED", "values": {"accuracy": 1.0, "adversarial_accuracy": 1.0}}
    path.write_text(json.dumps(json.loads(path.read_text()) | perfect))
    trials = load(folder).trials.set_index("trial")
    assert not trials.loc[2, "on_front"]
    assert trials["on_front"].any()


def test_robust_rates_are_counted_from_the_stored_bits(whole: Path) -> None:
    """Restated from the files: right when clean and broken by no column, over all shards."""
    row: Any
    results = load(whole)
    for row in results.robustness.itertuples():
        survivors = clean = n = 0
        for shard in sorted((whole / "robustness" / row.model).glob("*-00*")):
            with np.load(shard / "survivors.npz") as bits:
                level = PLAN.epsilons.index(row.epsilon)
                alive = bits["clean_correct"].copy()
                for column in range(len(COLUMNS)):
                    alive &= ~bits["broken"][level, column]
                survivors, clean, n = survivors + alive.sum(), clean + bits["clean_correct"].sum(), n + len(alive)
        assert (row.survivors, row.clean_correct, row.n) == (survivors, clean, n)
        assert row.robust_accuracy == pytest.approx(survivors / n)
        assert row.robust_accuracy_of_correct == pytest.approx(survivors / clean)
        interval = binomtest(int(survivors), int(n)).proportion_ci(method="wilson")
        assert (row.low, row.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_summary_is_the_promised_object(whole: Path) -> None:
    summary = json.loads(json.dumps(load(whole).summary(), allow_nan=False))
    assert list(summary) == ["study", "state", "trials", "teachers", "infeasible", "front", "hypervolume", "robustness"]
    assert summary["state"] == "complete"
    assert summary["teachers"] == [{"arch": "resnet20", "accuracy": 0.985}]
    assert [p["trial"] for p in summary["front"]] == candidates(PLAN)
    first = summary["front"][0]
    assert set(first) == {"trial", "params", "parameter_count", "accuracy", "adversarial_accuracy", "nfe", "verdict"}
    assert first["params"] == point(PLAN, first["trial"])
    assert isinstance(first["parameter_count"], int)
    entry = summary["robustness"][0]
    rates = {"clean_accuracy", "robust_accuracy", "robust_accuracy_of_correct"}
    assert (
        set(entry)
        == {"model", "kind", "trial", "norm", "epsilon", "interval", "n", "attacks"} | {"verdict", "reasons"} | rates
    )
    assert entry["attacks"] == [name for name in COLUMNS if name != CARRIED]
    kinds = [e["kind"] for e in summary["robustness"]]
    assert kinds == ["student"] * 8 + ["twin"] * 6 + ["teacher"] * 2
    assert {e["trial"] for e in summary["robustness"] if e["kind"] == "teacher"} == {None}


def test_hypervolume_is_that_of_val_front_above_the_stored_reference(whole: Path) -> None:
    summary = load(whole).summary()
    points = sorted((p["accuracy"], p["adversarial_accuracy"]) for p in summary["front"])
    area, left = 0.0, 0.1
    for i, (x, _) in enumerate(points):
        area += (x - left) * max(y for _, y in points[i:])
        left = x
    assert summary["hypervolume"] == pytest.approx(area)


def test_val_front_values_are_taken_at_the_studys_epsilon(whole: Path) -> None:
    trial = candidates(PLAN)[0]
    stored = json.loads((whole / "front" / f"{trial:06d}" / "outcome.json").read_text())["metrics"]["robust"]
    front = load(whole).front.set_index("trial")
    assert front.loc[trial, "adversarial_accuracy"] == stored[0]["robust_accuracy"]
    assert front.loc[trial, "epsilon"] == 0.0625


def test_another_headline_epsilon_gives_other_val_front_values(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers", "search", "front"), epochs=1))
    study = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(study | {"epsilon": 0.1}))
    stored = json.loads((folder / f"front/{candidates(PLAN)[0]:06d}/outcome.json").read_text())["metrics"]["robust"]
    first = load(folder).front.iloc[0]
    assert (first["epsilon"], first["survivors"]) == (0.1, stored[1]["survivors"])
    (folder / "study.json").write_text(json.dumps(study | {"epsilon": 0.3}))
    assert load(folder).front["adversarial_accuracy"].isna().all()


@pytest.mark.parametrize("stages", [(), ("teachers",), ("teachers", "search"), ("teachers", "search", "front")])
def test_missing_stages_are_empty_frames(tmp_path: Path, stages: tuple[str, ...]) -> None:
    folder = write_study(tmp_path, Plan(stages=stages, state="interrupted", trials=8, attacked=1, epochs=2))
    results = load(folder)
    summary = results.summary()
    assert summary["state"] == "interrupted"
    assert summary["robustness"] == []
    assert (summary["hypervolume"] is None) == ("front" not in stages)
    assert set(TRIAL_COLUMNS) <= set(results.trials.columns)
    assert list(results.history.columns) == list(HISTORY_COLUMNS)
    assert set(FRONT_COLUMNS) <= set(results.front.columns)
    assert list(results.robustness.columns) == list(ROBUSTNESS_COLUMNS)
    assert len(write_snapshots(folder)) == 3


def test_a_study_is_running_while_its_lock_is_held(tmp_path: Path) -> None:
    plan = Plan(stages=("teachers", "search"), state="running", trials=6, failures={}, unfinished=(4, 5), epochs=2)
    folder = write_study(tmp_path, plan)
    with (folder / "driver.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        summary = load(folder).summary()
        assert summary["state"] == "running"
        assert summary["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "running": 2}
    summary = load(folder).summary()
    assert (summary["state"], summary["trials"]["running"]) == ("interrupted", 0)
    assert load(folder, state="complete").state == "complete"


@pytest.mark.parametrize(("last", "state"), [("ended", "incomplete"), ("interrupted", "interrupted")])
def test_a_launch_that_ended_by_itself_was_not_interrupted(tmp_path: Path, last: str, state: str) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers", "search"), state="running", trials=6, epochs=2))
    Ledger(folder).event(last)
    assert load(folder).state == state
    assert ("was interrupted" in render(load(folder))) == (last == "interrupted")
    Ledger(folder).event("launched")
    assert load(folder).state == "interrupted", "the next launch was killed"


def test_a_study_launched_again_is_not_complete(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers",)))
    assert load(folder).state == "complete"
    with (folder / "events.jsonl").open("a") as events:
        events.write(json.dumps({"schema": 1, "seq": 99, "ts": "", "type": "launched"}) + "\n")
    assert load(folder).state == "interrupted"


def test_torn_and_damaged_files_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path, PLAN)
    with (folder / "events.jsonl").open("a") as events:
        events.write('{"schema": 1, "seq": 9')
    with (folder / "trials/000000/history.jsonl").open("a") as history:
        history.write('{"epoch": 13, "lo')
    (folder / "trials/000001/outcome.json").write_text('{"state": "COMP')
    (folder / "front/selection.json").write_text("[]")
    student = f"student-{attacked(PLAN)[0]:06d}"
    (folder / f"robustness/{student}/{SPECIFICATION}-001/survivors.npz").write_bytes(b"PK\x03\x04 torn")
    results = load(folder)
    assert results.state == "complete"
    assert results.summary()["trials"]["complete"] == 20
    assert len(results.history[results.history["trial"] == 0]) == PLAN.epochs + 0
    assert results.survivors[student].n == PLAN.shard
    assert (results.survivors[student].shards, results.survivors[student].shards_expected) == (1, 2)
    assert [name in " ".join(results.problems) for name in ("000001", "selection.json", f"{SPECIFICATION}-001")] == [
        True
    ] * 3
    json.dumps(results.summary(), allow_nan=False)


def test_a_front_before_its_selection_is_what_was_measured(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers", "search", "front"), state="interrupted"))
    (folder / "front" / "selection.json").unlink()
    results = load(folder)
    assert results.selection == {}
    assert results.front["on_front"].any()
    assert not results.front["attacked"].any()


def test_not_a_study_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"holds study.json, but .*nowhere is no folder"):
        load(tmp_path / "nowhere")
    write_study(tmp_path, Plan(stages=()))
    with pytest.raises(EnvironmentFault, match=r"has none. Give one of its studies: synthetic"):
        load(tmp_path)


def test_snapshots_read_back_equal(whole: Path) -> None:
    results = load(whole)
    paths = write_snapshots(whole, results)
    assert [path.name for path in paths] == ["trials.parquet", "history.parquet", "robustness.parquet"]
    for path, frame in zip(paths, (results.trials, results.history, results.robustness), strict=True):
        back = pd.read_parquet(path)
        assert list(back.columns) == list(frame.columns)
        assert len(back) == len(frame)
    assert pd.read_parquet(paths[0])["accuracy"].equals(results.trials["accuracy"])
    assert not list(whole.glob("*.tmp"))


def test_snapshots_hold_parameters_of_mixed_kinds(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(stages=("teachers", "search"), trials=3, failures={}, epochs=1, attacked=1))
    for trial, value in enumerate([1, "none", True]):
        path = folder / f"trials/{trial:06d}/config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"params": {"clip": value}}))
    assert write_snapshots(folder)
    assert [load(folder).params(trial)["clip"] for trial in range(3)] == [1, "none", True]


def _shard(folder: Path, ids: list[int], epsilons: list[float], broken: Any = None) -> tuple[Path, dict[str, Any]]:
    folder.mkdir(parents=True)
    n = len(ids)
    none = np.zeros((len(epsilons), 2, n), bool)
    arrays = {"clean_correct": np.ones(n, bool), "columns": np.array(["carried", "fgsm"]), "attempted": none}
    np.savez(folder / "survivors.npz", image_id=np.array(ids), broken=none if broken is None else broken, **arrays)
    meta = {"model": "student-000001", "kind": "student", "trial": 1, "epsilons": epsilons, "nfe": float(n)}
    return folder, meta | {"norm": "linf", "split": "test", "shards": 2}


def test_shards_merge_in_image_order_with_epsilons_ascending(tmp_path: Path) -> None:
    broken = np.zeros((2, 2, 3), bool)
    broken[0, 1, 0] = True  # image 7 falls at the larger epsilon, which is stored first
    shards = [_shard(tmp_path / "a", [7, 8, 9], [0.2, 0.1], broken), _shard(tmp_path / "b", [1], [0.2, 0.1])]
    model, problems = read_survivors(shards)
    assert model is not None
    assert problems == []
    assert model.image_id.tolist() == [1, 7, 8, 9]
    assert model.epsilons == (0.1, 0.2)
    assert model.robust(0.1).tolist() == [True] * 4
    assert model.robust(0.2).tolist() == [True, False, True, True]
    assert model.nfe == pytest.approx((3 * 3 + 1) / 4)
    assert model.counts(0.2)[1] == ("fgsm", 0, 1)
    with pytest.raises(ValueError, match="was attacked at epsilon"):
        model.robust(0.3)


def test_a_shard_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    shards = [_shard(tmp_path / "m/a", [1, 2], [0.1]), _shard(tmp_path / "m/b", [3], [0.2])]
    model, problems = read_survivors(shards)
    assert model is not None
    assert model.n == 2
    assert problems == ["m/b was left out: its epsilons or columns differ from those of the first shard"]
    shards = [_shard(tmp_path / "k/a", [1, 2], [0.1], np.zeros((1, 2, 5), bool))]
    model, problems = read_survivors(shards)
    assert model is None
    assert "(1, 2, 2) (epsilons, columns, images)" in problems[0]


def test_models_are_paired_by_image_not_by_place(tmp_path: Path) -> None:
    broken = np.zeros((1, 2, 3), bool)
    broken[0, 1, 1] = True
    first, _ = read_survivors([_shard(tmp_path / "a", [5, 6, 7], [0.1], broken)])
    second, _ = read_survivors([_shard(tmp_path / "b", [7, 6], [0.1])])
    assert first is not None
    assert second is not None
    robust_first, robust_second, clean_first, _ = paired(first, second, 0.1)
    assert robust_first.tolist() == [False, True]
    assert robust_second.tolist() == [True, True]
    assert clean_first.tolist() == [True, True]


def test_attacks_under_an_earlier_specification_are_not_shown(tmp_path: Path) -> None:
    folder = write_study(tmp_path, Plan(trials=8, attacked=1, epochs=1, failures={}))
    before = load(folder)
    number = before.selection["attacked"][0]
    student = f"student-{number:06d}"
    old = _shard(folder / "robustness" / student / "ffffffff-000", [1, 2, 3], [0.1])[1]
    metrics = {**old, "model": student, "trial": number, "specification": "ffffffff"}
    record = {"schema": 1, "state": "COMPLETE", "metrics": metrics}
    (folder / f"robustness/{student}/ffffffff-000/outcome.json").write_text(json.dumps(record))
    assert load(folder).robustness.equals(before.robustness)
    (folder / "robustness/specification.json").write_text('{"specification": "ffffffff"}')
    assert set(load(folder).survivors) == {student}


def test_finished_trials_and_teacher_are_those_written(whole: Path) -> None:
    results = load(whole)
    complete = results.trials[results.trials["state"] == "COMPLETE"]["trial"].tolist()
    assert complete == finished_trials(PLAN)
    assert results.teachers["teacher"].tolist() == [TEACHER]
    assert sorted(results.twins["trial"].tolist()) == attacked(PLAN)[:-1]
    assert set(results.baselines) == {"anchor", "classical", "classical-test"}
    assert not math.isnan(results.front["adversarial_accuracy"].sum())
