"""A node that is lost costs no attempt, and its worker, which may live on, is outlived before the job is done again."""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from study.engine.job import NODE_LOST, Job
from study.engine.ray_tune import _said_of
from study.jobs import execute as worker
from study.ledger import Ledger
from study.stages.batch import MOST_ATTEMPTS, MOST_NODES, Batch, Planned

FROM_RAY = (
    "The actor died unexpectedly before finishing this task.\tclass_name: job "
    "The actor died because its node has died. Node Id: 12ab "
    "the actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats"
)


AT_FIRST = (
    "Failure # 1 The actor 0364 is unavailable: The actor is temporarily unavailable: RpcError: RPC error: Socket "
    "closed rpc_code: 14. The task may or may not have been executed on the actor."
)


class Notes:
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture
def context(tmp_path):
    return SimpleNamespace(ledger=Ledger(tmp_path / "s"), observer=Notes())


def batch(context, *keys):
    return Batch(context, "x", [Planned(Job(str(context.ledger.root), key, "stub"), {}) for key in keys])


def test_rays_words_tell_a_node_from_a_worker():
    assert _said_of(FROM_RAY).startswith(f"{NODE_LOST}. Node Id: 12ab the actor's node was terminated unexpectedly")
    assert _said_of(AT_FIRST).startswith(f"{NODE_LOST}. RpcError: RPC error: Socket closed")
    assert len(_said_of(FROM_RAY * 9)) <= 300
    assert _said_of("Worker unexpectedly exits").startswith("the worker died (killed, out of memory, or a crash). Work")
    assert _said_of("") == "the worker died (killed, out of memory, or a crash)."


def test_lost_nodes_do_not_use_up_the_attempts_of_a_job(context):
    stage = batch(context, "a")
    for lost in range(MOST_ATTEMPTS + 2):
        job = stage.next()
        assert job.orphaned == (lost > 0)
        stage.settled(job, f"{NODE_LOST}. Node Id: 12ab")
    assert context.ledger.outcome("a") is None
    for _ in range(MOST_ATTEMPTS):
        assert context.ledger.outcome("a") is None
        stage.settled(stage.next(), "the worker died")
    assert context.ledger.outcome("a")["reason"] == "crashed: the worker died"
    assert len(context.observer.notes) == MOST_ATTEMPTS + 2 + MOST_ATTEMPTS - 1


def test_a_job_that_ends_every_node_is_given_up(context):
    stage = batch(context, "a")
    for _ in range(MOST_NODES):
        assert context.ledger.outcome("a") is None
        stage.settled(stage.next(), f"{NODE_LOST}.")
    assert context.ledger.outcome("a")["reason"].startswith(f"crashed: {NODE_LOST}")
    assert stage.finished


def test_an_orphaned_job_waits_for_the_other_worker_and_takes_its_outcome(context, monkeypatch):
    monkeypatch.setattr(worker, "LOOK_S", 0.02)
    monkeypatch.setattr(worker, "RUNNERS", {})  # whoever ran the job would fail
    ledger, attempt = context.ledger, context.ledger.begin("a")

    def other():
        time.sleep(0.3)
        ledger.commit("a", {"state": "COMPLETE"})

    thread = threading.Thread(target=other)
    with attempt:
        thread.start()
        worker.execute(Job(str(ledger.root), "a", "stub", orphaned=True))
        thread.join()
    assert ledger.outcome("a")["state"] == "COMPLETE"
    assert ledger.attempts("a") == 1


def test_an_orphaned_job_goes_on_when_the_heart_no_longer_beats(context, monkeypatch):
    monkeypatch.setattr(worker, "LOOK_S", 0.02)
    ledger = context.ledger
    with ledger.begin("a"):
        earlier = time.time() - 61
        os.utime(ledger.folder("a") / "attempts" / "01" / "lease.json", (earlier, earlier))
        worker._outlive(ledger, "a")
    monkeypatch.undo()
    with ledger.begin("b"):
        ledger.ask_to_pause()
        worker._outlive(ledger, "b")  # asked to pause: nobody waits
