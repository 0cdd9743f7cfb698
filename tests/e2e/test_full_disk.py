"""A study whose disk really fills up, under the worker and under the driver; for those who may mount a small one."""

import contextlib
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from study import disk_space, driver
from study.disk_space import Room
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.engine.signals import Farewell
from study.jobs import execute as worker
from study.jobs.work import Result
from study.stages.search import Search
from tests.e2e.found_on_disk import Found
from tests.made_up_world import World, a_context

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WANTED = "trials/000002"


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Ballast:
    """Takes all that is free on a disk, and gives it back."""

    def __init__(self, folder: Path, missed_at: str) -> None:
        self.path = folder / "ballast"
        self.missed_at = missed_at
        self.times = 0

    def take(self) -> None:
        self.times += 1
        with self.path.open("ab", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(b"x" * 4096):
                pass

    def give_back_when_missed(self, note: str) -> None:
        """Be somebody who reads what the driver says, and makes room a little later."""
        if self.missed_at in note:
            threading.Timer(0.2, lambda: self.path.unlink(missing_ok=True)).start()


def carry_out(folder: Path, monkeypatch, before=lambda job: None, after=lambda job: None, listener=lambda note: None):
    """Do what the driver does, with a made-up law for training; return the context."""
    context = a_context(folder, "budget.trials=5")
    notes, context.observer.note = context.observer.notes, lambda note: (notes.append(note), listener(note))
    world = World(context.ledger)

    def run(work):
        job = Job(str(folder), work.key, "", work.payload)
        before(job)
        kind = (context.ledger.config(work.key) or {})["kind"]
        found = getattr(world, f"_{kind}", world._other)(job)
        return Result(found.get("metrics", {}), found.get("values"), found["state"], found.get("reason"))

    def execute(job):
        worker.execute(job)
        after(job)

    monkeypatch.setattr(worker, "RUNNERS", dict.fromkeys(worker.RUNNERS, run))
    monkeypatch.setattr(worker, "release_memory", lambda: None)
    monkeypatch.setattr(driver, "execute", execute)
    room = Room(folder, context.observer.note)
    order = SimpleNamespace(part="search")
    room.retry(lambda: driver._run_stages(order, context, InlineEngine(), room, Farewell("", "")))
    return context


@pytest.fixture
def whole(tmp_path, monkeypatch):
    carry_out(tmp_path / "whole", monkeypatch)
    return Found.in_folder(tmp_path / "whole")


def is_as_if_there_had_been_room(folder: Path, whole: Found) -> bool:
    found = Found.in_folder(folder)
    assert (found.outcomes, found.points, found.seen, found.told) == (
        *(whole.outcomes, whole.points, whole.seen),
        whole.told,
    )
    assert found.events == list(range(len(found.events)))
    return True


def test_the_disk_fills_up_under_a_worker(small_disk, whole, monkeypatch):
    monkeypatch.setattr(disk_space, "LEAST_BYTES", 5_000_000)
    monkeypatch.setattr(disk_space, "POLL_S", 0.05)
    ballast = Ballast(small_disk, "the study waits for")

    def before(job):
        if job.key == WANTED and ballast.times < 5:
            ballast.take()

    context = carry_out(small_disk / "s", monkeypatch, before, listener=ballast.give_back_when_missed)
    assert ballast.times == 5
    assert context.ledger.attempts(WANTED) >= 5
    assert is_as_if_there_had_been_room(small_disk / "s", whole)
    said = [note for note in context.observer.notes if "MB" in note]
    assert len(said) == 10
    assert all("the study waits for" in note for note in said[::2])
    assert all(note.endswith("; the study goes on") for note in said[1::2])


@pytest.mark.parametrize("moment", ["before it hears of a trial", "before it asks for one", "between two stages"])
def test_the_disk_fills_up_under_the_driver(moment, small_disk, whole, monkeypatch):
    """Although nothing was handed out without room: the last of it is taken by somebody else, all of it."""
    monkeypatch.setattr(disk_space, "LEAST_BYTES", 0)
    monkeypatch.setattr(disk_space, "POLL_S", 0.05)
    ballast = Ballast(small_disk, "no room on the disk")

    def fill(*_):
        if ballast.times < 1:
            ballast.take()

    def after(job):
        if moment == "before it hears of a trial" and job.key == WANTED:
            fill()

    def asking(self):
        if moment == "before it asks for one" and self._asked == 3:
            fill()
        return ask(self)

    def planning(self, context):
        if moment == "between two stages":
            fill()
        plan(self, context)

    ask, plan = Search._ask, Search.__init__
    monkeypatch.setattr(Search, "_ask", asking)
    monkeypatch.setattr(Search, "__init__", planning)
    context = carry_out(small_disk / "s", monkeypatch, after=after, listener=ballast.give_back_when_missed)
    assert ballast.times == 1
    assert any(note.startswith("no room on the disk: ") for note in context.observer.notes)
    assert is_as_if_there_had_been_room(small_disk / "s", whole)
