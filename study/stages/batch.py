"""A stage whose jobs are known when it begins: hand them out, hand a lost one out again, and settle for good."""

import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from study.disk_space import is_no_room
from study.engine.job import NODE_LOST, Job
from study.ledger import Ledger
from study.stages.context import Context, Observer

LOOK_S = 2.0
"""Seconds between two looks at the workers of an earlier launch."""
MOST_ATTEMPTS = 3
"""Times one launch starts a job before the death of its worker counts as the job's outcome."""
MOST_NODES = 10
"""Nodes that may be lost under a job in one launch before that counts as the job's outcome."""


@final
@dataclass(frozen=True)
class Planned:
    """A job and what its `config.json` says."""

    job: Job
    config: Mapping[str, Any]


@final
class Batch:
    """A fixed list of jobs; those settled by an earlier launch are not run again.

    A job that failed by an error or a dead worker, in an earlier launch, is tried again: unlike a diverged network,
    that is no result.
    """

    def __init__(self, context: Context, name: str, planned: Iterable[Planned]) -> None:
        self.name = name
        self._context = context
        self._todo: deque[Planned] = deque()
        self._planned: dict[str, Planned] = {}
        for item in planned:
            self._planned[item.job.key] = item
            reopen_after_error(context, item.job.key)
            if context.ledger.outcome(item.job.key) is None:
                self._todo.append(item)
        self._in_flight: set[str] = set()
        self._handouts = Handouts()
        context.observer.stage(name, len(self._planned), len(self._planned) - len(self._todo))

    @property
    def keys(self) -> Collection[str]:
        """All its jobs."""
        return self._planned.keys()

    def next(self) -> Job | None:
        """Return the next job, or None while there is none to hand out."""
        if not self._todo:
            return None
        item = self._todo.popleft()
        self._context.ledger.write_config(item.job.key, {"schema": 1, "kind": item.job.kind, **item.config})
        self._in_flight.add(item.job.key)
        self._context.observer.started(item.job)
        return self._handouts.start(item.job)

    def settled(self, job: Job, error: str | None) -> None:
        """Take note that a job ended; without an outcome its worker died."""
        self._in_flight.discard(job.key)
        outcome = self._handouts.settle(self._context, job, error)
        if outcome is None:
            self._todo.append(self._planned[job.key])
        else:
            self._context.observer.settled(job, outcome)

    @property
    def finished(self) -> bool:
        """Whether every job is settled."""
        return not self._todo and not self._in_flight


@final
class Handouts:
    """How often one launch has started each job, and under which ones a node was lost."""

    def __init__(self) -> None:
        self._started: Counter[str] = Counter()
        self._nodes_lost: Counter[str] = Counter()

    def start(self, job: Job) -> Job:
        """Return a job as it is handed out."""
        self._started[job.key] += 1
        return replace(job, orphaned=True) if self._nodes_lost[job.key] else job

    def settle(self, context: Context, job: Job, error: str | None) -> dict[str, Any] | None:
        """Return the job's outcome; None if its worker died and it deserves another attempt, or was asked to pause.

        A lost node does not count among the attempts, up to a limit: the job may be what ends the nodes. A job that
        ended because the disk is full is as good as not started.

        Args:
            context: The study.
            job: The job that is over.
            error: What the engine says of it.
        """
        outcome = context.ledger.outcome(job.key)
        if outcome is not None:
            return outcome
        if context.ledger.is_pausing:
            return None
        if is_no_room(error):
            self._started[job.key] -= 1
            return None
        self._nodes_lost[job.key] += bool(error and error.startswith(NODE_LOST))
        lost, started = self._nodes_lost[job.key], self._started[job.key]
        if started - lost < MOST_ATTEMPTS and lost < MOST_NODES:
            context.observer.note(f"{job.key}: its worker was lost ({error or 'no outcome'}); it is started again")
            return None
        reason = f"crashed: {error or 'the worker ended without an outcome'}"[:500]
        failed = {"kind": job.kind, "state": "FAIL", "reason": reason, "attempt": started}
        return context.ledger.commit(job.key, failed)


def is_crash(outcome: Mapping[str, Any]) -> bool:
    """Tell a failure of the program or the machine from a failure of the network."""
    reason = outcome.get("reason") or ""
    return outcome["state"] == "FAIL" and reason.startswith(("error", "crashed"))


def reopen_after_error(context: Context, key: str) -> None:
    """Set the outcome of a crash aside, so that the job can be run again."""
    outcome = context.ledger.outcome(key)
    if outcome is not None and is_crash(outcome):
        context.ledger.reopen(key)


def wait_for_survivors(ledger: Ledger, observer: Observer) -> None:
    """Wait for workers that outlived an earlier driver as long as their hearts beat, so that no job is run twice."""
    said: list[str] = []
    while alive := [key for key in ledger.keys("") if ledger.outcome(key) is None and ledger.lease_is_fresh(key)]:
        if alive != said:
            observer.note(f"waiting for workers of an earlier launch: {', '.join(alive)}")
        said = alive
        time.sleep(LOOK_S)
