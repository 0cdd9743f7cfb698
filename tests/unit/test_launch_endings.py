"""How a launch ends, and what the next one finds: kills and signals in every phase of the driver.

No network is trained; how good one is follows from its settings.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study import driver
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.space.reader import read_space
from study.stages.context import Facts
from tests.made_up_world import KD, SHORT, SIZES, World

FOLDER = Path("s")
PAGE = FOLDER / "report" / "index.html"
MARK = "INCOMPLETE: the study was interrupted"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the driver may catch it."""


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "study_facts", lambda _: Facts(10, "f" * 64, SIZES, 1))


def order(**changes: Any) -> Order:
    space = read_space(KD, [*SHORT, "robustness.racing=false", "robustness.controls=false"])
    given: dict[str, Any] = {"source": KD, "command": "python -m study.launch kd.yaml", "output": FOLDER}
    return Order(space=space, **{**given, **changes})


def launch(before_job: Callable[[Job], object] = lambda _: None, **changes: Any) -> int:
    """Launch a study whose jobs take no time.

    Args:
        before_job: Called with each job.
        changes: Of the order.
    """
    world, engine = World(Ledger(FOLDER)), InlineEngine()
    run = engine.run

    def execute(job: Job) -> None:
        before_job(job)
        world(job)

    engine.run = lambda source, _: run(source, execute)  # type: ignore[method-assign]
    return driver.drive(order(**changes), engine)


def killed(*_: Any) -> None:
    raise Killed


# ---------------------------------------------------------------- the report of a finished study


@pytest.mark.parametrize("place", ["load_results", "write_snapshots", "write_report", "print_results"])
def test_a_study_killed_in_its_report_is_reported_by_the_next_launch(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(driver, place, killed)
        with pytest.raises(Killed):
            launch()
    assert load(FOLDER).state == "interrupted"
    assert launch() == 0
    assert "nothing is left to do" not in capsys.readouterr().out
    assert load(FOLDER).state == "complete"
    assert MARK not in PAGE.read_text()


def test_a_study_killed_between_its_report_and_its_end_is_finished_by_the_next_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = Ledger.event

    def noted(ledger: Ledger, type: str, **fields: Any) -> None:
        if type == "finished":
            raise Killed
        event(ledger, type, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "event", noted)
        with pytest.raises(Killed):
            launch()
    assert MARK not in PAGE.read_text()
    assert launch() == 0
    assert load(FOLDER).state == "complete"


def test_a_finished_study_gets_a_report_that_is_missing_or_older_than_its_last_launch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch()
    tables = [FOLDER / f"{name}.parquet" for name in ("trials", "history", "robustness")]
    for path in (PAGE, *tables):
        path.unlink()
        assert launch() == 0
        assert "report: s/report/index.html" in capsys.readouterr().out
        assert path.is_file()
    PAGE.write_text(MARK)
    os.utime(PAGE, (0, 0))
    assert launch() == 0
    assert MARK not in PAGE.read_text()
    before = PAGE.stat()
    capsys.readouterr()
    assert launch() == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert PAGE.stat() == before, "what is there is left as it is"
