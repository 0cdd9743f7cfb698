"""What is left of dead drivers' sessions is ended and removed; nobody else's is touched."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from study.engine import ray_cluster
from study.engine.leftovers import MARK, clean_up, mark_session, remove_run
from study.engine.ray_tune import RayTuneEngine
from study.lease import process_birth

IGNORE_TERM = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)
WAIT = "import sys, time; print(1, flush=True); time.sleep(60)"


@pytest.fixture
def started():
    processes = []

    def start(code, *arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, **options
        )
        assert process.stdout is not None
        process.stdout.readline()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def a_session(root, name="session_x", **driver):
    session = root / name
    (session / "logs").mkdir(parents=True)
    dead = {"pid": 2**22 - 7, "birth": "1", "host": socket.gethostname()}
    (session / MARK).write_text(json.dumps(dead | driver))
    return session


def ended(process):
    deadline = time.monotonic() + 5
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.poll()


def test_processes_that_name_the_session_or_hold_its_files_are_ended(tmp_path, started):
    session = a_session(tmp_path)
    named = started(WAIT, session / "logs")
    with (session / "logs" / "worker.out").open("w") as log:
        holding = started(WAIT, stderr=log)
    stubborn = started(IGNORE_TERM, session)
    other = started(WAIT, tmp_path / "session_y")
    assert clean_up(tmp_path) == ["session_x"]
    assert ended(named) == -signal.SIGTERM
    assert ended(holding) == -signal.SIGTERM
    assert ended(stubborn) == -signal.SIGKILL
    assert other.poll() is None
    assert not session.exists()


@pytest.mark.parametrize(
    "driver",
    [
        {"pid": os.getpid(), "birth": process_birth(os.getpid())},
        {"host": "elsewhere"},
        {"birth": None},
    ],
)
def test_a_session_whose_driver_may_live_is_left_alone(tmp_path, started, driver):
    session = a_session(tmp_path, **driver)
    process = started(WAIT, session)
    assert clean_up(tmp_path) == []
    assert process.poll() is None
    assert session.exists()


@pytest.mark.parametrize("text", [None, "", "[1]", "{torn"])
def test_a_session_without_a_readable_mark_is_somebody_elses(tmp_path, text):
    session = a_session(tmp_path)
    (session / MARK).unlink()
    if text is not None:
        (session / MARK).write_text(text)
    assert clean_up(tmp_path) == []
    assert session.exists()


def test_a_marked_session_is_kept_while_its_driver_runs_and_ended_afterwards(tmp_path):
    session = tmp_path / "session_x"
    session.mkdir()
    mark_session(session)
    assert clean_up(tmp_path) == []
    mark = json.loads((session / MARK).read_text())
    (session / MARK).write_text(json.dumps(mark | {"birth": "0"}))  # the id was given to another process since
    assert clean_up(tmp_path) == ["session_x"]


def test_only_the_folders_of_the_run_are_removed_from_a_session(tmp_path):
    mine = ["jobs/jobs-1/trial", "artifacts/10-00/jobs-1/working_dirs", "artifacts/11-00/jobs-1/working_dirs"]
    others = ["jobs/jobs-2/trial", "artifacts/10-00/jobs-2/working_dirs", "logs"]
    for folder in (*mine, *others):
        (tmp_path / folder).mkdir(parents=True)
    remove_run(tmp_path, "jobs-1")
    assert not any((tmp_path / folder).parent.exists() for folder in mine)
    assert not (tmp_path / "artifacts" / "11-00").exists()
    assert all((tmp_path / folder).is_dir() for folder in others)
    remove_run(tmp_path / "none", "jobs-1")


# ---------------------------------------------------------------- a driver that is killed while Ray starts


class Killed(BaseException):
    """Stands for a signal."""


@pytest.fixture
def init(tmp_path, monkeypatch):
    """Let `ray.init` make its session's folders, as the installed Ray does, and be interrupted there."""
    ended = []

    def init(**_):
        given = SimpleNamespace(temp_dir=None, runtime_env_dir_name="runtime_resources")
        node = object.__new__(ray_cluster.RayNode)
        node._ray_params, node.head, node._session_name = given, True, "session_x"
        node._init_temp(None)
        raise Killed

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: ended.append("shutdown"))
    return ended


def test_a_session_is_marked_before_ray_starts_its_processes_and_ray_is_shut_down(tmp_path, init):
    make_folders = ray_cluster.RayNode._init_temp
    with pytest.raises(Killed):
        RayTuneEngine().start()
    assert init == ["shutdown"]
    assert json.loads((tmp_path / "ray" / "session_x" / MARK).read_text())["pid"] == os.getpid()
    assert ray_cluster.RayNode._init_temp is make_folders


@pytest.mark.usefixtures("init")
def test_the_next_start_looks_for_leftovers_where_ray_keeps_its_sessions(tmp_path):
    left = a_session(tmp_path / "ray", "session_y")
    with pytest.raises(Killed):
        RayTuneEngine().start()
    assert not left.exists()


def test_a_ray_that_somebody_else_has_started_in_this_process_goes_on(init, monkeypatch):
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: True)
    with pytest.raises(Killed):
        RayTuneEngine().start()
    assert init == []


def test_without_any_session_there_is_nothing_to_do(tmp_path):
    assert clean_up(tmp_path / "ray") == []
