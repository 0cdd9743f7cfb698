"""Whole studies through the inline engine: every stage, resuming, and every way in which a study can end.

The attacks are shortened here, and nothing is checked: what they find is the business of the attacks' own tests, and of
test_robustness_stage.py.
"""

import contextlib
import io
import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nodekd.attacks.spec import APGD_CE, APGD_T, FGSM, PGD_20
from study import driver
from study.engine.inline import InlineEngine
from study.errors import EnvironmentFault, Interrupted, ResumeConflict, StudyFailed
from study.jobs import execute as worker
from study.jobs.attack import ATTACK_SETS
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.space.reader import read_space
from tests.stopping_engine import StoppingEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
SMALL = (
    "train.epochs=2",
    "student.channels=8",
    "budget.trials=4",
    "search.images=16",
    "robustness.images=12",
    "robustness.shard=8",
    "robustness.tier=screen",
    "robustness.check_images=6",
    "robustness.random_students=1",
)

BRIEF_TEACHER = "teachers.0.train.epochs=2"


def shorten_attacks(patch):
    brief = (FGSM, replace(PGD_20, steps=3), replace(APGD_CE, steps=5), replace(APGD_T, steps=5))
    patch.setitem(ATTACK_SETS, "screen", brief)
    patch.setitem(ATTACK_SETS, "front", brief[2:])


@pytest.fixture(autouse=True)
def brief_attacks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shorten_attacks(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a study that ran through, and what it printed; `again` gives a copy to go on with."""
    folder, printed = tmp_path_factory.mktemp("whole") / "kd", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder.parent)
        shorten_attacks(patch)
        assert driver.drive(order("kd"), InlineEngine()) == 0
    return SimpleNamespace(folder=folder, printed=printed.getvalue())


@pytest.fixture
def again(whole):
    shutil.copytree(whole.folder, "s/kd")
    return Path("s/kd")


def order(folder, *overrides, **changes):
    given = {
        "source": KD,
        "command": "python -m study.launch kd.yaml",
        "output": Path(folder),
        "smoke": False,
        **changes,
    }
    teacher = [] if any("checkpoint" in override for override in overrides) else [BRIEF_TEACHER]
    return Order(space=read_space(KD, [*SMALL, *teacher, *overrides]), **given)


def bits(folder):
    """Return everything the study found, without times."""
    ledger, found = Ledger(Path(folder)), {}
    for key in ledger.keys(""):
        outcome = ledger.outcome(key)
        found[key] = (outcome["state"], json.dumps(outcome["values"], sort_keys=True))
        survivors = ledger.folder(key) / "survivors.npz"
        if survivors.is_file():
            with np.load(survivors) as arrays:
                found[key] += tuple(arrays[name].tobytes() for name in ("image_id", "clean_correct", "broken"))
    return found


def test_a_study_runs_from_teacher_to_report(whole):
    summary = load(whole.folder).summary()
    assert summary["state"] == "complete"
    assert summary["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "running": 0}
    assert summary["teachers"][0]["arch"] == "resnet20"
    assert {entry["kind"] for entry in summary["robustness"]} == {"student", "twin", "teacher"}
    assert {entry["n"] for entry in summary["robustness"]} == {12}
    for entry in summary["robustness"]:
        assert entry["robust_accuracy"] <= entry["clean_accuracy"]
        assert entry["interval"][0] <= entry["robust_accuracy"] <= entry["interval"][1]
    attacked = {entry["trial"] for entry in summary["robustness"] if entry["kind"] == "student"}
    assert attacked == set(json.loads((whole.folder / "front/selection.json").read_text())["attacked"])
    assert (whole.folder / "report/index.html").stat().st_size > 1_000_000
    for table in ("trials", "history", "robustness"):
        assert (whole.folder / f"{table}.parquet").is_file()
    for said in ("results    kd", "report     kd/report/index.html", "stage search: 4 jobs"):
        assert said in whole.printed
    assert "test_access" in {event["type"] for event in Ledger(whole.folder).events()}


def test_robust_accuracy_never_rises_with_epsilon_and_bits_say_the_same(whole):
    ledger = Ledger(whole.folder)
    shards = [key for key in ledger.keys("robustness") if ledger.outcome(key)["metrics"]["part"] == "cascade"]
    assert len(shards) % 2 == 0
    for key in shards:
        metrics = ledger.outcome(key)["metrics"]
        with np.load(ledger.folder(key) / "survivors.npz") as arrays:
            alive = arrays["clean_correct"] & ~arrays["broken"].any(axis=1)
            assert [item["survivors"] for item in metrics["robust"]] == alive.sum(axis=1).tolist()
            assert (alive[1] <= alive[0]).all()


def test_a_complete_study_is_only_shown_again(again, whole, capsys):
    events = len(list(Ledger(again).events()))
    assert driver.drive(order("s/kd"), StoppingEngine(after=0)) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert bits(again) == bits(whole.folder)
    assert len(list(Ledger(again).events())) == events


@pytest.mark.parametrize("after", [1, 5, 9, 14])
def test_an_interrupted_study_ends_like_an_uninterrupted_one(after, whole, capsys):
    with pytest.raises(Interrupted):
        driver.drive(order("cut/kd"), StoppingEngine(after))
    assert load("cut/kd").summary()["state"] == "interrupted"
    assert Path("cut/kd/report/index.html").is_file()
    assert "Continue with: python -m study.launch kd.yaml" in capsys.readouterr().err
    assert driver.drive(order("cut/kd"), InlineEngine()) == 0
    assert bits("cut/kd") == bits(whole.folder)


def test_a_lost_database_is_rebuilt(whole):
    with pytest.raises(Interrupted):
        driver.drive(order("cut/kd"), StoppingEngine(6))
    for path in Path("cut/kd").glob("optuna.db*"):
        path.unlink()
    driver.drive(order("cut/kd"), InlineEngine())
    assert bits("cut/kd") == bits(whole.folder)


def test_budget_and_robustness_may_change_on_resume(again):
    first = bits(again)
    assert driver.drive(order("s/kd", "budget.trials=6", "robustness.epsilons=[0.05]"), InlineEngine()) == 0
    second = bits("s/kd")
    assert {key: second[key] for key in first if key.startswith("trials/")} == {
        key: first[key] for key in first if key.startswith("trials/")
    }
    results = load("s/kd")
    assert set(results.trials["state"]) <= {"COMPLETE", "FAIL"}
    assert set(results.trials["reason"].dropna()) <= {"capped"}  # one of the two new ones is a dopri5 past its cap
    assert len(results.trials) == 6
    assert {entry["epsilon"] for entry in results.summary()["robustness"]} == {0.05}


def test_another_space_is_another_study():
    driver.drive(order("s/kd", "budget.trials=1", part="search"), InlineEngine())
    with pytest.raises(ResumeConflict, match=r"train.epochs was 2 and is now 3") as conflict:
        driver.drive(order("s/kd", "train.epochs=3"), InlineEngine())
    assert conflict.value.exit_code == 5


def test_resume_never_begins_anew_and_deletes_nothing():
    driver.drive(order("s/kd", "budget.trials=1", part="search"), InlineEngine())
    before = bits("s/kd")
    driver.drive(order("s/kd", "budget.trials=1", part="search", resume="never"), InlineEngine())
    assert bits("s/kd") == before
    assert bits("s/kd-2") == before


def test_resume_must_needs_a_study():
    with pytest.raises(ResumeConflict, match="--resume must needs an earlier study"):
        driver.drive(order("s/none", resume="must"), InlineEngine())


def test_a_folder_with_other_files_is_left_alone():
    Path("s/mine").mkdir(parents=True)
    Path("s/mine/thesis.tex").write_text("x")
    with pytest.raises(EnvironmentFault, match="holds other files"):
        driver.drive(order("s/mine"), InlineEngine())
    assert [path.name for path in Path("s/mine").iterdir()] == ["thesis.tex"]


def test_a_later_study_reuses_the_teacher(monkeypatch):
    driver.drive(order("s/one", "budget.trials=1", part="search"), InlineEngine())

    def refuse(work):
        raise AssertionError("the teacher is trained again")

    monkeypatch.setitem(worker.RUNNERS, "teacher", refuse)
    driver.drive(order("s/two", "budget.trials=1", part="search"), InlineEngine())
    assert bits("s/two")["trials/000000"] == bits("s/one")["trials/000000"]


def test_diverged_students_are_results_and_not_crashes():
    diverging = ("train.optimizer=sgd", "space.learning_rate={choice: [0.01, 1000]}", "student.norm=none", "anchors=[]")
    assert driver.drive(order("s/kd", *diverging, "budget.max_failed_trials=0"), InlineEngine()) == 0
    results = load("s/kd")
    failed = results.trials[results.trials["state"] == "FAIL"]
    assert set(failed["reason"]) == {"diverged"}
    assert (failed["params_learning_rate"] == 1000).all()
    assert not failed["on_front"].any()
    assert len(failed) < 4


def test_students_past_their_cap_fail_and_nothing_to_choose_from_is_said():
    capped = ("space.solver=dopri5", "student.max_evaluations=5", "anchors=[]", "budget.trials=2")
    with pytest.raises(StudyFailed, match="At least one trial must complete") as failure:
        driver.drive(order("s/kd", *capped), InlineEngine())
    assert failure.value.exit_code == 1
    assert set(load("s/kd").trials["reason"]) == {"capped"}


def test_crashes_count_against_the_budget(monkeypatch, capsys):
    real = worker.RUNNERS["student"]

    def crash(work):
        if work.key.startswith("trials/") and int(work.key[-6:]) >= 1:
            raise RuntimeError("broken on purpose")
        return real(work)

    monkeypatch.setitem(worker.RUNNERS, "student", crash)
    assert driver.drive(order("s/kd", "budget.max_failed_trials=1"), InlineEngine()) == 1
    assert "2 trials crashed" in capsys.readouterr().err
    trials = load("s/kd").trials
    assert trials["state"].tolist() == ["COMPLETE", "FAIL", "FAIL"]
    assert trials["reason"][1] == "error: RuntimeError: broken on purpose"
    assert "broken on purpose" in Path("s/kd/trials/000001/log.txt").read_text()


def test_a_broken_teacher_ends_the_study_and_is_trained_again_next_time(monkeypatch):
    real = worker.RUNNERS["teacher"]

    def crash(work):
        raise MemoryError("too small")

    monkeypatch.setitem(worker.RUNNERS, "teacher", crash)
    with pytest.raises(StudyFailed, match=r"teachers/\w+ must succeed .* error: MemoryError: too small"):
        driver.drive(order("s/kd", "budget.trials=1", part="search"), InlineEngine())
    monkeypatch.setitem(worker.RUNNERS, "teacher", real)
    assert driver.drive(order("s/kd", "budget.trials=1", part="search"), InlineEngine()) == 0


def test_a_worker_that_dies_again_and_again_becomes_a_failed_trial():
    class DeadlyEngine:
        token_command = None
        deaths = 0

        def start(self):
            return None

        def stop(self):
            pass

        def run(self, source, execute):
            while not source.finished and (job := source.next()) is not None:
                if job.key == "trials/000001":
                    with Ledger(Path(job.study)).begin(job.key):
                        DeadlyEngine.deaths += 1
                    source.settled(job, "the worker died")
                else:
                    execute(job)
                    source.settled(job, None)

    assert driver.drive(order("s/kd"), DeadlyEngine()) == 0
    assert DeadlyEngine.deaths == 3
    trials = load("s/kd").trials
    assert trials["state"].tolist() == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials["reason"][1] == "crashed: the worker died"


def test_attacking_a_partial_search_does_not_finish_it():
    with pytest.raises(Interrupted):
        driver.drive(order("s/kd"), StoppingEngine(6))
    assert driver.drive(order("s/kd", part="robustness"), InlineEngine()) == 0
    assert load("s/kd").summary()["state"] == "incomplete"
    assert driver.drive(order("s/kd"), InlineEngine()) == 0
    summary = load("s/kd").summary()
    assert (summary["state"], summary["trials"]["complete"]) == ("complete", 4)


def test_a_crashed_twin_is_told_and_trained_by_the_same_command(monkeypatch, capsys):
    real = worker.RUNNERS["student"]

    def crash(work):
        if "twin" in work.key:
            raise RuntimeError("broken on purpose")
        return real(work)

    monkeypatch.setitem(worker.RUNNERS, "student", crash)
    assert driver.drive(order("s/kd", "budget.trials=1"), InlineEngine()) == 1
    assert "1 jobs crashed; the same command tries them again: baselines/twin-000000" in capsys.readouterr().err
    monkeypatch.setitem(worker.RUNNERS, "student", real)
    assert driver.drive(order("s/kd", "budget.trials=1"), InlineEngine()) == 0
    assert "twin" in {entry["kind"] for entry in load("s/kd").summary()["robustness"]}


def test_without_its_pool_no_trial_is_run(monkeypatch):
    def crash(work):
        raise RuntimeError("broken on purpose")

    monkeypatch.setitem(worker.RUNNERS, "attack", crash)
    with pytest.raises(StudyFailed, match=r"pools/val_front/teacher must succeed"):
        driver.drive(order("s/kd"), InlineEngine())
    assert not Path("s/kd/trials").exists()


def test_another_teacher_under_the_same_name_is_refused():
    driver.drive(order("s/one", "budget.trials=1", part="search"), InlineEngine())
    weights = next(Path("s/one/teachers").glob("*/weights.pt")).resolve()
    checkpoint = Path("resnet.pt")
    checkpoint.write_bytes(weights.read_bytes())
    loaded = order("s/two", "budget.trials=1", "teachers.0.checkpoint=resnet.pt", part="search")
    driver.drive(loaded, InlineEngine())
    state = torch.load(checkpoint, weights_only=True)
    torch.save({name: value * 1.01 for name, value in state.items()}, checkpoint)
    with pytest.raises(ResumeConflict, match="a checkpoint or the version of PyTorch changed"):
        driver.drive(loaded, InlineEngine())


def test_a_study_begun_with_resume_never_names_its_own_folder():
    begun = order("s/kd", resume="never", command="python -m study.launch kd.yaml --resume never --output s/kd")
    assert driver.continuing(begun, Path("s/kd-2")) == "python -m study.launch kd.yaml --output s/kd-2"


def test_a_stored_report_is_made_again_and_a_missing_study_is_told(again):
    page = again / "report/index.html"
    page.unlink()
    assert driver.drive(order("s/kd", part="report"), StoppingEngine(0)) == 0
    assert page.is_file()
    assert load(again).summary()["state"] == "complete"
    with pytest.raises(EnvironmentFault, match=r"study\.json"):
        driver.drive(order("s/none", part="report"), StoppingEngine(0))


def test_validate_and_dry_run_write_nothing(capsys):
    assert driver.drive(order("s/kd", validate=True)) == 0
    assert "the space is valid" in capsys.readouterr().out
    assert driver.drive(order("s/kd", dry_run=True)) == 0
    assert "4 trials over solver, horizon" in capsys.readouterr().out
    assert not Path("s").exists()


def test_missing_data_and_checkpoints_are_told_before_anything_starts(tmp_path):
    with pytest.raises(EnvironmentFault, match="there is none at"):
        driver.drive(order("s/kd", "teachers.0.checkpoint=nowhere.pt", validate=True))
    with pytest.raises(EnvironmentFault, match="data"):
        driver.drive(order("s/kd", "data.name=folder", f"data.root={tmp_path / 'no'}", validate=True))
    assert not Path("s").exists()


def test_a_teacher_can_be_loaded_from_a_checkpoint():
    driver.drive(order("s/one", "budget.trials=1", part="search"), InlineEngine())
    weights = next(Path("s/one/teachers").glob("*/weights.pt")).resolve()
    loaded = order("s/two", "budget.trials=1", f"teachers.0.checkpoint={weights}", part="search")
    driver.drive(loaded, InlineEngine())
    first, second = (next(iter(load(f"s/{name}").teachers.to_dict("records"))) for name in ("one", "two"))
    assert first["accuracy"] == second["accuracy"]
    assert second["trained_on"] == "unknown"


def test_no_file_names_this_machine(whole):
    for path in whole.folder.rglob("*"):
        if path.suffix in {".json", ".jsonl", ".yaml", ".txt"} and "attempts" not in path.parts:
            text = path.read_text()
            assert str(whole.folder.parent) not in text, path
            assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text), path
