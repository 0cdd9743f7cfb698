"""What every engine promises, shown on the one without processes; tests/e2e runs the same body on Ray."""

import os
import signal
import threading
import time

import pytest

from study.engine.dispatch import Dispatch
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.engine.machine import usable_cpus
from study.engine.signals import Stopped, watched_signals
from study.errors import Interrupted, StudyError


class Phases:
    """A source of phases of jobs; the next phase begins when the last is settled, as the stages of a study do."""

    def __init__(self, *phases):
        self.waiting = [list(phase) for phase in phases]
        self.in_flight = {}
        self.log = []
        self.most_at_once = 0

    @property
    def finished(self):
        return not any(self.waiting)

    def next(self):
        while self.waiting and not self.waiting[0]:
            if self.in_flight:
                return None
            self.waiting.pop(0)
        if not self.waiting:
            return None
        job = self.waiting[0].pop(0)
        self.in_flight[job.key] = job
        self.most_at_once = max(self.most_at_once, len(self.in_flight))
        self.log.append(("start", job.key))
        return job

    def pause(self):
        self.log.append(("pause", ""))

    def settled(self, job, error):
        assert self.in_flight.pop(job.key) == job
        self.log.append(("end", job.key, error))

    @property
    def errors(self):
        return {entry[1]: entry[2] for entry in self.log if entry[0] == "end"}


def jobs(root, count, prefix="trials", **payload):
    return [Job(str(root), f"{prefix}/{n:06d}", "stub", payload) for n in range(count)]


def check_phases_are_kept(engine, execute, root):
    """Contract: every job once, errors as text, a phase begins after the last one ended, an empty source ends."""
    first, second = jobs(root, 6, seconds=0.01), jobs(root, 3, "front", seconds=0.01)
    first[2] = Job(str(root), first[2].key, "stub", {"fate": "raise"})
    first[3] = Job(str(root), first[3].key, "stub", {"fate": "exit"})
    source = Phases(first, second)
    engine.run(source, execute)
    assert source.finished
    assert not source.in_flight
    assert sorted(source.errors) == sorted(job.key for job in first + second)
    assert source.errors["trials/000002"] == "ValueError: stub says no"
    assert source.errors["trials/000003"] == "SystemExit: 3"
    assert {key for key, error in source.errors.items() if error is None} == set(source.errors) - {
        "trials/000002",
        "trials/000003",
    }
    ends = [index for index, entry in enumerate(source.log) if entry[:2] in {("end", job.key) for job in first}]
    starts = [index for index, entry in enumerate(source.log) if entry[:2] in {("start", job.key) for job in second}]
    assert max(ends) < min(starts)
    engine.run(Phases(), execute)


class Faulty(Phases):
    def __init__(self, where, *phases):
        super().__init__(*phases)
        self.where = where

    def next(self):
        if self.where == "next" and self.log:
            raise RuntimeError("bug in next")
        return super().next()

    def settled(self, job, error):
        super().settled(job, error)
        if self.where == "settled":
            raise RuntimeError("bug in settled")

    @property
    def finished(self):
        if self.where == "finished" and self.log:
            raise RuntimeError("bug in finished")
        return super().finished


class Stuck(Phases):
    @property
    def finished(self):
        return False


def check_source_faults_end_the_run(engine, execute, root, where):
    """Contract: a fault of the source ends the run with that fault and never hangs."""
    source = Faulty(where, jobs(root, 4, f"faulty-{where}", seconds=0.01))
    with pytest.raises(RuntimeError, match=f"bug in {where}"):
        engine.run(source, execute)


def check_stuck_source_ends_the_run(engine, execute, root):
    with pytest.raises(StudyError, match="job source is stuck"):
        engine.run(Stuck(jobs(root, 1, "stuck", seconds=0.01)), execute)


def execute_here(job):
    match job.payload.get("fate"):
        case "raise":
            raise ValueError("stub says no")
        case "exit":
            raise SystemExit(3)
        case "signal":
            try:
                os.kill(os.getpid(), job.payload["signal"])
                threading.Event().wait(5)
            except Exception:  # noqa: BLE001  a job that swallows everything must not swallow the signal
                pass


def test_phases_are_kept(tmp_path):
    check_phases_are_kept(InlineEngine(), execute_here, tmp_path)


@pytest.mark.parametrize("where", ["next", "settled", "finished"])
def test_source_faults_end_the_run(tmp_path, where):
    check_source_faults_end_the_run(InlineEngine(), execute_here, tmp_path, where)


def test_stuck_source_ends_the_run(tmp_path):
    check_stuck_source_ends_the_run(InlineEngine(), execute_here, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_interrupts_the_job_and_handlers_come_back(tmp_path, number, code):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    source = Phases(
        [Job(str(tmp_path), "a", "stub"), Job(str(tmp_path), "b", "s", {"fate": "signal", "signal": number})]
    )
    with pytest.raises(Interrupted, match=f"{number.name} stopped the study after 1 jobs") as caught:
        InlineEngine().run(source, execute_here)
    assert caught.value.exit_code == code
    assert source.errors == {"a": None}
    assert {n: signal.getsignal(n) for n in before} == before


@pytest.mark.parametrize("ends_by_itself", [True, False])
def test_a_job_that_keeps_its_state_gets_a_moment_and_no_more(tmp_path, monkeypatch, ends_by_itself):
    monkeypatch.setattr("study.engine.inline.GRACE_S", 0.3 if not ends_by_itself else 30.0)
    source = Phases([Job(str(tmp_path), "a", "stub", keeps_state=True), Job(str(tmp_path), "b", "stub")])

    def execute(job):
        os.kill(os.getpid(), signal.SIGINT)
        assert ("pause", "") in source.log, "the source was told at once"
        if not ends_by_itself:
            threading.Event().wait(30)

    before = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        InlineEngine().run(source, execute)
    assert time.monotonic() - before < 10
    assert (caught.value.exit_code, caught.value.is_impatient) == (130, False)
    assert source.errors == ({"a": None} if ends_by_itself else {}), "nothing is handed out after the signal"
    assert source.log.count(("pause", "")) == 1


def test_a_second_signal_does_not_wait_for_the_moment(tmp_path):
    source = Phases([Job(str(tmp_path), "a", "stub", keeps_state=True)])

    def execute(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(30)

    with pytest.raises(Interrupted) as caught:
        InlineEngine().run(source, execute)
    assert caught.value.is_impatient
    assert source.errors == {}


def test_signal_between_jobs_is_not_lost(tmp_path):
    class Signalling(Phases):
        def settled(self, job, error):
            super().settled(job, error)
            os.kill(os.getpid(), signal.SIGTERM)

    source = Signalling(jobs(tmp_path, 1))
    with pytest.raises(Interrupted):
        InlineEngine().run(source, execute_here)
    assert source.errors == {"trials/000000": None}


def test_second_signal_is_raised_at_once():
    with watched_signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_may_run_an_engine(tmp_path):
    source = Phases(jobs(tmp_path, 2))
    thread = threading.Thread(target=InlineEngine().run, args=(source, execute_here))
    thread.start()
    thread.join(10)
    assert len(source.errors) == 2


def test_slots_are_counted_and_a_key_runs_once_at_a_time(tmp_path):
    source = Phases(jobs(tmp_path, 5))
    dispatch = Dispatch(source, slots=2)
    assert [dispatch.take("x").key, dispatch.take("y").key] == ["trials/000000", "trials/000001"]
    assert dispatch.take("z") is None
    assert not dispatch.over
    dispatch.settle("x", None)
    dispatch.settle("x", None)
    assert dispatch.take("z").key == "trials/000002"
    assert dispatch.settled == 1
    twice = Dispatch(Phases(jobs(tmp_path, 1), jobs(tmp_path, 1)), slots=2)
    twice._source.next = lambda: jobs(tmp_path, 1)[0]
    twice.take("x")
    assert twice.take("y") is None
    assert "runs once at a time" in str(twice.fault)


@pytest.mark.parametrize(("limit", "expected"), [("max 100000", None), ("150000 100000", 1), ("50000 100000", 1)])
def test_container_limit_counts(tmp_path, monkeypatch, limit, expected):
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    monkeypatch.setattr("study.engine.machine._CGROUP_V2", file)
    assert usable_cpus() == (expected or len(os.sched_getaffinity(0)))
