"""A search in which too many trials crash: nothing is chosen or attacked after it, and a larger limit goes on."""

from pathlib import Path

import pytest

from study import driver
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.ledger import Ledger
from study.order import Order, Part
from study.results import load
from study.space.reader import read_space
from study.stages.context import Facts
from tests.made_up_world import KD, SHORT, SIZES, TRIALS, World

FOLDER = Path("s")
BASELINE = "robustness.undistilled_search=true"
AFTER_THE_SEARCH = ("front", "robustness", "probes", "undistilled")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "study_facts", lambda _: Facts(10, "f" * 64, SIZES, 1))


def launch(*overrides: str, crashing: range = range(0), part: Part = "all") -> int:
    """Launch a study some of whose trials crash."""
    engine, world = InlineEngine(), World(Ledger(FOLDER))
    broken = {f"trials/{number:06d}" for number in crashing}
    run = engine.run

    def execute(job: Job) -> None:
        if job.key in broken:
            world.ledger.commit(job.key, {"kind": job.kind, "state": "FAIL", "reason": "error: ValueError: broken"})
        world(job)

    engine.run = lambda source, _: run(source, execute)  # type: ignore[method-assign]
    space = read_space(KD, [*SHORT, "robustness.racing=false", "robustness.controls=false", *overrides])
    return driver.drive(Order(space=space, source=KD, command="c", output=FOLDER, part=part), engine)


def begun() -> set[str]:
    return {name for name in AFTER_THE_SEARCH if (FOLDER / name).exists()}


def test_nothing_follows_a_search_that_broke_off_and_a_larger_limit_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit = "budget.max_failed_trials=2"
    assert launch(limit, BASELINE, crashing=range(1, 4)) == 1
    said = capsys.readouterr().err
    assert "3 trials crashed, more than budget.max_failed_trials=2" in said
    assert "the same command with a larger limit goes on: trials/000001, trials/000002, trials/000003." in said
    assert not begun()
    results = load(FOLDER)
    assert (len(results.trials), results.state) == (4, "incomplete")
    assert (FOLDER / "report" / "index.html").is_file()
    for part in ("all", "robustness"):
        assert launch(limit, part=part) == 1, "the same limit is the same answer"
        assert not begun()
    assert launch("budget.max_failed_trials=3") == 0
    results = load(FOLDER)
    assert (len(results.trials), results.state) == (TRIALS, "complete")
    assert begun() >= {"front", "robustness"}


def test_as_many_crashes_as_are_borne_end_nothing() -> None:
    assert launch("budget.max_failed_trials=3", crashing=range(1, 4)) == 0
    assert begun() >= {"front", "robustness"}
