"""What an earlier launch, or somebody beside it, left in a study's folder, and a launch that goes on with it.

No network is trained; how good one is follows from its settings.
"""

import functools
import json
import operator
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study import driver
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.errors import EnvironmentFault, ResumeConflict, StudyError, StudyFailed
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.space.reader import read_space
from study.stages.context import Facts
from tests.made_up_world import KD, SHORT, SIZES, World

FOLDER = Path("s")
TRIALS = 3
ALWAYS = (*SHORT, f"budget.trials={TRIALS}", "robustness.racing=false", "robustness.controls=false")
FACTS = Facts(10, "f" * 64, SIZES, 1)
CRASH = {"state": "FAIL", "reason": "error: RuntimeError: gone", "metrics": {}}


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "study_facts", lambda _: FACTS)


def launch(*overrides: str, crashes: Callable[[str], bool] = lambda _: False, **changes: Any) -> int:
    """Launch a study whose jobs take no time.

    Args:
        overrides: Of the space.
        crashes: Tells of a job by its key whether it crashes.
        changes: Of the order.
    """
    engine = InlineEngine()
    run = engine.run

    def execute(job: Job) -> None:
        ledger = Ledger(Path(job.study))
        if crashes(job.key) and ledger.outcome(job.key) is None:
            ledger.commit(job.key, {"kind": job.kind, **CRASH})
        World(ledger)(job)

    engine.run = lambda source, _: run(source, execute)  # type: ignore[method-assign]
    given: dict[str, Any] = {"source": KD, "command": "python -m study.launch kd.yaml", "output": FOLDER}
    return driver.drive(Order(space=read_space(KD, [*ALWAYS, *overrides]), **{**given, **changes}), engine)


def copied(key: str) -> None:
    """Do what somebody does who keeps a job's folder before he tries something."""
    shutil.copytree(FOLDER / key, FOLDER / f"{key}-before")


# ---------------------------------------------------------------- crashes that nobody asks for any more


@pytest.mark.parametrize("key", ["front/000777", "front/checks/000000-0badc0de", "probes/student-000000/0badc0de"])
def test_a_crash_that_no_stage_plans_any_more_does_not_keep_a_study_from_its_end(key: str) -> None:
    launch(part="search")
    Ledger(FOLDER).commit(key, CRASH)
    assert launch() == 0
    assert load(FOLDER).state == "complete"


@pytest.mark.parametrize("begin", ["baselines/classical", "front/000000", "robustness/student"])
def test_a_crash_that_a_stage_plans_is_tried_again_and_counts(begin: str) -> None:
    def crashes(key: str) -> bool:
        return key.startswith(begin)

    assert launch(crashes=crashes) == 1
    assert load(FOLDER).state == "incomplete"
    assert launch(crashes=crashes) == 1
    assert launch() == 0
    assert load(FOLDER).state == "complete"


def test_crashed_trials_count_also_where_the_search_is_not_asked_for() -> None:
    overrides = ("budget.max_failed_trials=1", "budget.trials=5")
    assert launch(*overrides, crashes=lambda key: key in {"trials/000001", "trials/000002"}, part="search") == 1
    assert launch(*overrides, part="robustness") == 1
    assert launch(*overrides) == 1


def test_crashes_of_other_stages_are_not_the_searchs() -> None:
    assert launch(crashes=lambda key: key.startswith("robustness/student")) == 1
    assert launch(part="search") == 0


# ---------------------------------------------------------------- another launch is quicker


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_study_that_another_launch_began_meanwhile_is_left_as_it_is(
    resume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(_: Any) -> Facts:
        monkeypatch.setattr(driver, "study_facts", lambda _: FACTS)
        launch("train.epochs=3")
        return FACTS

    monkeypatch.setattr(driver, "study_facts", overtaken)
    with pytest.raises(ResumeConflict, match=r"train\.epochs was 3|another launch has begun a study there since"):
        launch(resume=resume)
    assert load(FOLDER).state == "complete"
    assert load(FOLDER).study["space"]["train"]["epochs"] == 3


def test_the_same_study_that_another_launch_began_meanwhile_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(_: Any) -> Facts:
        monkeypatch.setattr(driver, "study_facts", lambda _: FACTS)
        launch(part="search")
        return FACTS

    monkeypatch.setattr(driver, "study_facts", overtaken)
    assert launch() == 0
    assert len(load(FOLDER).trials) == TRIALS


def test_a_folder_that_somebody_filled_meanwhile_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def filled(_: Any) -> Facts:
        FOLDER.mkdir()
        (FOLDER / "mine.txt").write_text("x")
        return FACTS

    monkeypatch.setattr(driver, "study_facts", filled)
    with pytest.raises(EnvironmentFault, match="holds other files"):
        launch()


# ---------------------------------------------------------------- copies of a job's folder


@pytest.mark.parametrize("undistilled", ["true", "false"])
def test_somebodys_copies_of_trials_are_none(undistilled: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = f"robustness.undistilled_search={undistilled}"
    launch(asked, part="search")
    folders = ["trials", *(["undistilled"] if undistilled == "true" else [])]
    for folder in folders:
        copied(f"{folder}/000001")
        Ledger(FOLDER).commit(f"{folder}/000009-crashed", CRASH)
    capsys.readouterr()
    assert launch(asked, "budget.trials=4", "budget.max_failed_trials=0") == 0
    assert f"{TRIALS * len(folders)} finished trials are kept, 0 begun ones" in capsys.readouterr().out
    results = load(FOLDER)
    assert results.state == "complete"
    assert results.selection["attacked"], "the copy's crash has not ended the search"
    assert list(results.trials["trial"]) == [0, 1, 2, 3]
    assert results.undistilled.trials == (4 if undistilled == "true" else 0)


def test_somebodys_copies_of_trials_are_not_forked() -> None:
    launch(part="search")
    copied("trials/000001")
    launch("train.epochs=3", part="search", fork=FOLDER, output=Path("forked"))
    launch("robustness.images=10", part="search", fork=FOLDER, output=Path("taken"))
    assert load(Path("taken")).study["forked_from"]["trials"] == [0, 1, 2]
    assert sum(load(Path("forked")).study["forked_from"]["left_out"].values()) == TRIALS


# ---------------------------------------------------------------- documents that are not as ours are


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose search is over; do not change it."""
    folder = tmp_path_factory.mktemp("searched") / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setattr(driver, "study_facts", lambda _: FACTS)
        launch(part="search")
    return folder


@pytest.fixture
def kept(searched: Path, at_home: None) -> Path:
    """The same, to do with as one likes."""
    shutil.copytree(searched, FOLDER)
    return FOLDER


def without(path: Path, place: str) -> None:
    """Take a key out of a document; dots lead into it."""
    document = json.loads(path.read_text())
    *way, last = place.split(".")
    functools.reduce(operator.getitem, way, document).pop(last)
    path.write_text(json.dumps(document))


def go_on() -> object:
    return launch(part="search")


def fork() -> object:
    return launch("robustness.images=10", part="search", fork=FOLDER, output=Path("forked"))


def warm_start() -> object:
    return launch(f"warm_start.study={FOLDER}", part="search", output=Path("warm"))


NEEDED = ["params", "settings", "settings.distill", "settings.train", "settings.train.epochs", "teachers", "seen"]


@pytest.mark.parametrize("again", [go_on, fork, warm_start])
def test_an_outcome_without_a_state_is_named(again: Callable[[], object], kept: Path) -> None:
    without(kept / "trials/000001/outcome.json", "state")
    with pytest.raises(EnvironmentFault, match=r"s/trials/000001/outcome\.json is damaged at 'state'"):
        again()


@pytest.mark.parametrize("again", [go_on, fork])
def test_a_complete_trial_without_values_is_named(again: Callable[[], object], kept: Path) -> None:
    without(kept / "trials/000001/outcome.json", "values")
    with pytest.raises(EnvironmentFault, match=r"s/trials/000001/outcome\.json is damaged at 'values'"):
        again()


@pytest.mark.parametrize("again", [go_on, fork])
@pytest.mark.parametrize("place", NEEDED)
def test_a_config_without_what_a_launch_needs_is_named(again: Callable[[], object], place: str, kept: Path) -> None:
    without(kept / "trials/000001/config.json", place)
    with pytest.raises(EnvironmentFault, match=rf"s/trials/000001/config\.json is damaged at '{re.escape(place)}'"):
        again()


@pytest.mark.parametrize("again", [go_on, fork, warm_start])
def test_a_trials_number_is_that_of_its_folder(again: Callable[[], object], kept: Path) -> None:
    without(kept / "trials/000001/config.json", "number")
    assert again() == 0


def test_a_trial_without_a_point_starts_no_other_study(kept: Path) -> None:
    for place in NEEDED:
        shutil.copy(kept / "trials/000000/config.json", kept / "trials/000001/config.json")
        without(kept / "trials/000001/config.json", place)
        shutil.rmtree("warm", ignore_errors=True)
        assert warm_start() == 0
        chosen = [each["trial"] for each in json.loads(Path("warm/warm_start.json").read_text())["points"]]
        assert (1 in chosen) == (place != "params"), place


@pytest.mark.parametrize("entry", ["x", [0.1], {"epsilon": "wide"}, {}])
def test_a_radius_that_is_none_is_not_forked(entry: Any, kept: Path) -> None:
    (kept / "epsilon.json").write_text(json.dumps({"linf": entry}))
    with pytest.raises(StudyError, match=r"s/epsilon\.json must hold a number > 0 as linf\.epsilon"):
        launch("search.epsilon=auto", part="search", fork=FOLDER, output=Path("forked"))


def test_a_teacher_without_metrics_is_named(kept: Path) -> None:
    (teacher,) = kept.glob("teachers/*/outcome.json")
    without(teacher, "metrics")
    with pytest.raises(StudyFailed, match=r"teachers/\w+ must succeed before .*, but it left no metrics"):
        go_on()


@pytest.mark.parametrize(
    "changed", [{"seq": "4"}, {"seq": None}, {"ts": None}, {"ts": "soon"}, {"ts": 4}, {"type": []}]
)
def test_events_that_are_not_as_ours_keep_nobody_from_going_on(changed: dict[str, Any], at_home: None) -> None:
    launch()
    path = FOLDER / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    began = {"type": "launched", "seq": 10**6, "ts": "2026-11-22T10:00:00.000+00:00"}
    path.write_text("".join(json.dumps(event) + "\n" for event in [{**began, **changed}, {"ts": []}, *events]))
    assert launch() == 0
    assert launch("robustness.images=10") == 0
    assert load(FOLDER).state == "complete"
