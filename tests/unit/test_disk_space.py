"""A full disk makes a study wait: no job fails of it, none is started, and nothing half written takes the room left."""

import errno
import os
import shutil
import signal
import sqlite3
import threading
from collections import Counter, namedtuple
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import sqlalchemy
import torch

from nodekd.checkpoint import save_weights
from nodekd.savepoint import Savepoint
from study import disk_space
from study.disk_space import LEAST_BYTES, NoRoom, Room, is_lack_of_room, is_no_room
from study.durable import replace_json
from study.engine.dispatch import Dispatch
from study.engine.inline import InlineEngine, describe
from study.engine.job import Job
from study.errors import Interrupted
from study.jobs import execute as worker
from study.jobs.work import Result
from study.ledger import Ledger
from study.stages.batch import MOST_ATTEMPTS, Batch, Handouts, Planned
from study.stages.pipeline import Pipeline

FULL = OSError(errno.ENOSPC, "No space left on device")
Usage = namedtuple("Usage", "total used free")


class Disk:
    """How much is free, as `shutil.disk_usage` tells it."""

    def __init__(self):
        self.free = 10 * LEAST_BYTES

    def __call__(self, _folder):
        return Usage(100 * LEAST_BYTES, 0, self.free)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(shutil, "disk_usage", disk)
    monkeypatch.setattr(disk_space, "POLL_S", 0.01)
    return disk


@pytest.fixture
def context(tmp_path):
    said = []
    observer = SimpleNamespace(
        said=said, note=said.append, stage=lambda *_: None, started=lambda *_: None, settled=lambda *_: None
    )
    return SimpleNamespace(ledger=Ledger(tmp_path / "s"), observer=observer)


def job(context, key="a", kind="stub"):
    return Job(str(context.ledger.root), key, kind)


def pipeline(context, *keys):
    context.ledger.root.mkdir(exist_ok=True)
    room = Room(context.ledger.root, context.observer.note)
    planned = [Planned(job(context, key), {"settings": {}}) for key in keys]
    return Pipeline(iter([Batch(context, "x", planned)]), context.ledger.ask_to_pause, room)


# ---------------------------------------------------------------- which errors mean it


def caught(action) -> BaseException:
    with pytest.raises(Exception) as caught_:  # noqa: PT011 - whatever the library raises
        action()
    return caught_.value


def full_database(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE t (x)")
        database.execute("PRAGMA max_page_count=2")
        database.execute("INSERT INTO t VALUES (zeroblob(100000))")


def full_study(tmp_path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'o.db'}")
    study = optuna.create_study(storage=storage)
    storage.engine.dispose()
    sqlalchemy.event.listen(storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count=1"))
    for number in range(100):
        study.set_user_attr(f"a{number}", "x" * 2000)


def wrapped():
    try:
        raise FULL
    except OSError as error:
        raise RuntimeError("could not write") from error


def during_another():
    try:
        raise FULL
    finally:
        raise ValueError("while tidying up")


def hidden():
    try:
        raise FULL
    except OSError:
        raise ValueError("of another kind") from None


def test_a_full_disk_is_recognised_whoever_tells_of_it(tmp_path, disk):
    assert is_lack_of_room(FULL, tmp_path)
    assert is_lack_of_room(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path)
    assert is_lack_of_room(NoRoom("in a worker"), tmp_path)
    for action in (wrapped, during_another, lambda: full_database(tmp_path), lambda: full_study(tmp_path)):
        assert is_lack_of_room(caught(action), tmp_path)


def save_to_a_stream():
    with open("/dev/full", "wb") as stream:  # noqa: PTH123 - a device
        torch.save({"w": torch.zeros(100000)}, stream)


@pytest.mark.parametrize(
    ("write", "says_why"),
    [
        (lambda: torch.save({"w": torch.zeros(100000)}, "/dev/full"), False),
        (lambda: np.zeros(100000).tofile("/dev/full"), False),
        (save_to_a_stream, True),
    ],
    ids=["torch", "numpy", "torch to a stream"],
)
def test_what_libraries_say_of_a_full_device(write, says_why, tmp_path, disk):
    """The device that is always full: the errors are real, and one that does not say why counts if the disk is full."""
    error = caught(write)
    assert is_lack_of_room(error, tmp_path) == says_why, repr(error)
    disk.free = LEAST_BYTES - 1
    assert is_lack_of_room(error, tmp_path), repr(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        OSError(errno.EIO, "Input/output error"),
        sqlite3.OperationalError("database is locked"),
        RuntimeError("CUDA error: out of memory"),
        ValueError("No space left on device"),
        Interrupted("SIGTERM stopped the study"),
    ],
)
def test_other_errors_are_none(error, tmp_path, disk):
    disk.free = 0
    assert not is_lack_of_room(error, tmp_path)
    assert not is_lack_of_room(caught(hidden), tmp_path)
    assert not is_no_room(describe(error))
    assert is_no_room(describe(NoRoom("full")))


# ---------------------------------------------------------------- waiting


def test_it_says_once_that_it_waits_and_once_that_it_goes_on(tmp_path, disk):
    said, looks = [], []
    room = Room(tmp_path, said.append)
    assert room.is_enough
    assert said == []
    disk.free = 3_000_000

    def look():
        looks.append(1)
        disk.free = 3_000_000 if len(looks) < 5 else 250_000_000
        return False

    room.wait(look)
    assert len(looks) == 5
    assert said == [
        f"3 MB free in {tmp_path}; the study waits for 200 MB",
        f"250 MB free in {tmp_path}; the study goes on",
    ]


def test_what_is_waited_for_grows_with_what_did_not_suffice(tmp_path, disk):
    said = []
    room = Room(tmp_path, said.append)
    disk.free = LEAST_BYTES
    room.lacked("trials/000001: NoRoom")
    assert said == ["no room on the disk: trials/000001: NoRoom"]
    assert not room.is_enough
    disk.free = 2 * LEAST_BYTES
    assert room.is_enough
    disk.free = 0
    room.lacked("again")
    disk.free = 2 * LEAST_BYTES
    assert room.is_enough, "nobody knows that so much would not have sufficed"
    room.sufficed()
    disk.free = LEAST_BYTES
    assert room.is_enough


def test_the_drivers_own_work_is_done_again_when_there_is_room(tmp_path, disk):
    tries, said = [], []

    def work():
        tries.append(1)
        if len(tries) < 3:
            raise FULL
        return "done"

    assert Room(tmp_path, said.append).retry(work) == "done"
    assert len([text for text in said if "No space left" in text]) == 2

    def broken():
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        Room(tmp_path, said.append).retry(broken)
    with Room(tmp_path, said.append).forgiven():
        raise FULL
    assert said[-1].startswith("not written")


# ---------------------------------------------------------------- the driver


def test_no_job_is_handed_out_while_the_disk_is_full(context, disk):
    source = pipeline(context, "a", "b")
    first = source.next()
    disk.free = 0
    assert source.next() is None, "one is in flight: nobody waits in here"
    assert not source.finished
    context.ledger.commit("a", {"state": "COMPLETE"})
    source.settled(first, None)
    threading.Timer(0.1, lambda: setattr(disk, "free", LEAST_BYTES)).start()
    following = source.next()
    assert disk.free == LEAST_BYTES, "it waited"
    assert following.key == "b"
    assert [text.partition("; ")[2] for text in context.observer.said] == [
        "the study waits for 200 MB",
        "the study goes on",
    ]


def test_a_signal_ends_the_wait(context, disk):
    disk.free = 0
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted) as interrupted:
        InlineEngine().run(pipeline(context, "a"), lambda job: pytest.fail("nothing may start"))
    assert interrupted.value.exit_code == 143


def test_nothing_handed_out_after_a_pause_is_no_fault(context, disk):
    disk.free = 0
    dispatch = Dispatch(pipeline(context, "a"), slots=1)
    threading.Timer(0.1, dispatch.pause).start()
    assert dispatch.take("ticket") is None
    assert dispatch.fault is None


def test_lack_of_room_is_no_attempt(context):
    handouts = Handouts()

    def ends(error):
        return handouts.settle(context, handouts.start(job(context)), error)

    for _ in range(2 * MOST_ATTEMPTS):
        assert ends(describe(NoRoom("full"))) is None
    for _ in range(MOST_ATTEMPTS - 1):
        assert ends("the worker died") is None
    assert ends("the worker died")["state"] == "FAIL"


def test_a_job_that_found_no_room_is_done_when_there_is_some(context, disk):
    tries = []

    def execute(job):
        tries.append(job.key)
        if tries.count("a") < 6 and job.key == "a":
            disk.free = 0
            threading.Timer(0.03, lambda: setattr(disk, "free", 10 * LEAST_BYTES)).start()
            raise NoRoom("OSError: [Errno 28] No space left on device")
        context.ledger.commit(job.key, {"state": "COMPLETE"})

    InlineEngine().run(pipeline(context, "a", "b"), execute)
    assert Counter(tries) == {"a": 6, "b": 1}
    assert context.ledger.outcome("a")["state"] == "COMPLETE"


def test_the_lock_holds_on_a_full_disk(context, monkeypatch):
    def full(*_):
        raise FULL

    monkeypatch.setattr("study.lease.replace_content", full)
    with context.ledger.lock():
        assert context.ledger.driver() == {}
    monkeypatch.setattr("pathlib.Path.touch", full)
    context.ledger.ask_to_pause()


# ---------------------------------------------------------------- the worker


def raising(error):
    def run(_work):
        raise error

    return run


def stub_runner(monkeypatch, run):
    monkeypatch.setitem(worker.RUNNERS, "stub", run)


def test_work_that_finds_no_room_leaves_no_outcome(context, monkeypatch, disk):
    stub_runner(monkeypatch, raising(FULL))
    for _ in range(2):
        with pytest.raises(NoRoom, match="No space left"):
            worker.execute(job(context))
    assert context.ledger.outcome("a") is None
    assert not context.ledger.lease_is_fresh("a")
    assert context.ledger.attempts("a") == 2
    stub_runner(monkeypatch, lambda work: Result(metrics={"accuracy": 0.5}))
    worker.execute(job(context))
    assert context.ledger.outcome("a")["attempt"] == 3


@pytest.mark.parametrize("when", ["begin", "commit"])
def test_files_of_the_ledger_that_find_no_room(when, context, monkeypatch, disk):
    """The lease cannot be written, or the outcome."""
    is_full, fsync = [when == "begin"], os.fsync

    def run(_work):
        is_full[0] = True
        return Result()

    def full_sometimes(descriptor):
        if is_full[0]:
            raise FULL
        fsync(descriptor)

    stub_runner(monkeypatch, run)
    monkeypatch.setattr(os, "fsync", full_sometimes)
    with pytest.raises(NoRoom):
        worker.execute(job(context))
    assert context.ledger.outcome("a") is None
    assert not list(context.ledger.root.rglob("*.tmp")), "what was begun takes no room"


def test_other_faults_of_the_work_are_outcomes_as_ever(context, monkeypatch, disk):
    stub_runner(monkeypatch, raising(ValueError("a bug")))
    worker.execute(job(context))
    assert context.ledger.outcome("a")["reason"] == "error: ValueError: a bug"


# ---------------------------------------------------------------- nothing half written stays


def test_half_written_files_are_removed(tmp_path, monkeypatch):
    def full(*_, **__):
        raise FULL

    network = torch.nn.Linear(2, 2)
    save_weights(network, tmp_path / "weights.pt")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(OSError, match="No space"):
        Savepoint(tmp_path / "s.pt", "run").keep(lambda: {"w": torch.zeros(9)}, is_last=True)
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(network, tmp_path / "weights.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]
