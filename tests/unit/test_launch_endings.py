"""How a launch ends, and what the next one finds: kills and signals in every phase of the driver.

No network is trained; how good one is follows from its settings.
"""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from study import driver
from study import launch as command_line
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.errors import EnvironmentFault, Interrupted, StudyFailed
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.space.reader import read_space
from study.stages.context import Facts
from tests.made_up_world import KD, SHORT, SIZES, World

FOLDER = Path("s")
PAGE = FOLDER / "report" / "index.html"
CONTINUE = "Continue with: python -m study.launch kd.yaml\n"
MARK = "INCOMPLETE: the study was interrupted"


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the driver may catch it."""


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "study_facts", lambda _: Facts(10, "f" * 64, SIZES, 1))


def order(**changes: Any) -> Order:
    space = read_space(KD, [*SHORT, "budget.trials=2", "robustness.racing=false", "robustness.controls=false"])
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


# ---------------------------------------------------------------- signals


def signalled(number: signal.Signals) -> Callable[..., Any]:
    """Make something that sends this process a signal, once."""
    left = [number]

    def send(*_: Any, **__: Any) -> None:
        if left:
            os.kill(os.getpid(), left.pop())

    return send


def begun_by(send: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    def both(*arguments: Any, **options: Any) -> Any:
        send()
        return real(*arguments, **options)

    return both


def check_interrupted(said: str) -> None:
    """See that a launch ended as a first signal ends it, and that the next one does the rest."""
    assert said.count(CONTINUE) == 1
    assert said.index("Stopping: ") < said.index(CONTINUE)
    assert load(FOLDER).state == "interrupted"
    assert MARK in PAGE.read_text()
    assert launch() == 0
    assert load(FOLDER).state == "complete"
    assert MARK not in PAGE.read_text()


PHASES = [
    (signal.SIGINT, driver, "wait_for_survivors"),
    (signal.SIGTERM, InlineEngine, "start"),
    (signal.SIGINT, driver, "banner"),
    (signal.SIGINT, Ledger, "clear_pause"),
    (signal.SIGTERM, InlineEngine, "stop"),
    (signal.SIGINT, driver, "is_crash"),
    (signal.SIGTERM, driver, "write_snapshots"),
    (signal.SIGINT, driver, "print_results"),
]
"""What the driver does first in its phases outside of `engine.run`."""


@pytest.mark.parametrize(("number", "owner", "name"), PHASES, ids=[name for _, _, name in PHASES])
def test_a_signal_in_any_phase_says_how_to_go_on_and_marks_the_report(
    number: signal.Signals,
    owner: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, begun_by(signalled(number), getattr(owner, name)))
        with pytest.raises(Interrupted) as stopped:
            launch()
    assert stopped.value.exit_code == 128 + number
    assert not stopped.value.is_impatient
    check_interrupted(capsys.readouterr().err)


def test_during_a_job_the_command_is_printed_at_once_and_not_into_the_jobs_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []

    def before_job(job: Job) -> None:
        if job.key == "trials/000001":
            assert job.keeps_state, "it is given a moment"
            os.kill(os.getpid(), signal.SIGINT)
            said.append(capsys.readouterr().err)

    with pytest.raises(Interrupted):
        launch(before_job)
    assert CONTINUE in said[0]
    check_interrupted(said[0] + capsys.readouterr().err)


BEFORE_THE_JOBS = [
    (signal.SIGTERM, "study_facts"),
    (signal.SIGINT, "check_same_data"),
    (signal.SIGTERM, "Room.wait"),
    (signal.SIGINT, "teacher_keys"),
    (signal.SIGTERM, "write_identity"),
    (signal.SIGINT, "settle_warm_start"),
]
"""What the driver does once it knows the study's folder and before it runs anything."""


@pytest.mark.parametrize(("number", "name"), BEFORE_THE_JOBS)
def test_a_signal_before_the_jobs_says_how_to_go_on(
    number: signal.Signals, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = driver.Room.wait if name == "Room.wait" else getattr(driver, name)
    with monkeypatch.context() as patch:
        patch.setattr(f"study.driver.{name}", begun_by(signalled(number), real))
        with pytest.raises(Interrupted) as stopped:
            launch()
    assert stopped.value.exit_code == 128 + number
    assert capsys.readouterr().err.count(CONTINUE) == 1
    assert launch() == 0
    assert load(FOLDER).state == "complete"


@pytest.mark.parametrize("part", ["all", "report"])
def test_a_signal_while_a_finished_study_is_reported_says_how_to_go_on(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch()
    PAGE.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(driver, "write_report", begun_by(signalled(signal.SIGTERM), driver.write_report))
        with pytest.raises(Interrupted) as stopped:
            launch(part=part)
    assert stopped.value.exit_code == 143
    assert capsys.readouterr().err.endswith(CONTINUE)
    assert launch(part=part) == 0
    assert PAGE.is_file()
    assert load(FOLDER).state == "complete"


@pytest.mark.parametrize("name", ["study_facts", "settle_warm_start"])
def test_a_signal_before_the_jobs_of_a_study_begun_anew_does_not_begin_another_one(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FOLDER.mkdir()
    (FOLDER / "mine").touch()
    monkeypatch.setattr(driver, name, begun_by(signalled(signal.SIGINT), getattr(driver, name)))
    with pytest.raises(Interrupted):
        launch(resume="never", command="python -m study.launch kd.yaml --resume never")
    assert capsys.readouterr().err.endswith("Continue with: python -m study.launch kd.yaml --output s-2\n")


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("first", ["in a job", "before the jobs"])
def test_a_second_signal_ends_the_launch_at_once_also_while_it_reports(
    first: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(number: signal.Signals) -> NoReturn:
        raise Left(number)

    monkeypatch.setattr(driver, "leave", leave)
    monkeypatch.setattr(driver, "write_report", signalled(signal.SIGTERM))
    send = signalled(signal.SIGINT)
    if first == "before the jobs":
        monkeypatch.setattr(driver, "banner", send)
    with pytest.raises(Left) as left:
        launch(send)
    assert left.value.args == (signal.SIGTERM,)
    assert capsys.readouterr().err.count(CONTINUE) == 1


def test_a_fault_outside_the_jobs_is_noted_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: Any) -> NoReturn:
        raise StudyFailed("nothing to choose from")

    monkeypatch.setattr(driver, "wait_for_survivors", lacking)
    with pytest.raises(StudyFailed):
        launch()
    assert load(FOLDER).events[-1]["reason"] == "nothing to choose from"
    assert MARK in PAGE.read_text()


def test_a_signal_during_the_copy_says_that_the_study_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"file://{tmp_path}/archive/kd"
    with monkeypatch.context() as patch:
        patch.setattr(driver, "copy_study", begun_by(signalled(signal.SIGTERM), driver.copy_study))
        with pytest.raises(Interrupted, match=r"The copy to .*/archive/kd was stopped") as stopped:
            launch(copy_to=uri)
    assert stopped.value.exit_code == 143
    said = capsys.readouterr().err
    assert f"the study is complete, its copy to {uri} is not" in said
    assert said.endswith(CONTINUE)
    assert load(FOLDER).state == "complete"
    assert launch(copy_to=uri) == 0
    assert load(tmp_path / "archive" / "kd").state == "complete"


def test_ctrl_c_before_a_launch_has_begun_prints_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "drive", signalled(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert command_line.main([str(KD), "--smoke"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith(f" -m study.launch {KD} --smoke\n")


# ---------------------------------------------------------------- a folder that cannot be written


def refused(number: int) -> Callable[..., Any]:
    """Make something that is refused, as a disk mounted read-only or another user's folder refuses it."""

    def refuse(path: Any = "somewhere", *_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number), str(path))

    return refuse


def check_unwritable(said: str, number: int, **changes: Any) -> None:
    with pytest.raises(EnvironmentFault) as fault:
        launch(**changes)
    assert fault.value.exit_code == 4
    assert os.strerror(number) in str(fault.value)
    assert said in str(fault.value)
    assert str(fault.value).endswith("choose another folder with --output.")


def test_a_file_where_a_folder_above_the_study_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    check_unwritable(f"{tmp_path}/file/kd must be writable", errno.ENOTDIR, output=tmp_path / "file" / "kd")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("place", ["mkdir", "open", "iterdir"])
def test_a_study_that_cannot_be_begun_for_want_of_rights_is_told(
    place: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "iterdir":
        FOLDER.mkdir()
    real, refuse = getattr(Path, place), refused(number)
    monkeypatch.setattr(Path, place, lambda path, *a, **k: (refuse if "s" in path.parts else real)(path, *a, **k))
    check_unwritable("s must be writable", number)


@pytest.mark.parametrize("name", ["write_identity", "settle_warm_start", "Ledger.event"])
def test_a_study_that_may_be_locked_and_not_written_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"study.driver.{name}", refused(errno.EROFS))
    check_unwritable("s must be writable", errno.EROFS)


def test_a_report_that_may_not_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    launch()
    monkeypatch.setattr(driver, "write_snapshots", refused(errno.EROFS))
    check_unwritable("s must be writable", errno.EROFS, part="report")
    PAGE.unlink()
    check_unwritable("s must be writable", errno.EROFS)


# ---------------------------------------------------------------- what a kill leaves of the identity


def test_a_space_is_stored_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at each step that makes a name for it, a study has all of its space in the end."""
    real, is_whole = Path.replace, KD.read_bytes()
    for last in ("before", "after"):

        def replace(path: Path, target: Path, last: str = last) -> Path:
            if target.name != "space.yaml":
                return real(path, target)
            assert path.read_bytes() == is_whole
            if last == "after":
                real(path, target)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises(Killed):
                launch()
        stored = FOLDER / "space.yaml"
        assert not stored.exists() if last == "before" else stored.read_bytes() == is_whole
    assert not list(FOLDER.glob("space.yaml.*")), "nothing is left beside it"
    assert launch() == 0
    assert (FOLDER / "space.yaml").read_bytes() == is_whole
