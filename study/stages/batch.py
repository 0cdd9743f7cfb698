"""A stage whose jobs are known when it begins: hand them out, hand a lost one out again, and settle for good."""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from study.engine.job import Job
from study.stages.context import Context

MOST_ATTEMPTS = 3
"""Times one launch starts a job before the death of its worker counts as the job's outcome."""


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
        self._handed_out: Counter[str] = Counter()
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
        self._handed_out[item.job.key] += 1
        self._context.observer.started(item.job)
        return item.job

    def settled(self, job: Job, error: str | None) -> None:
        """Take note that a job ended; without an outcome its worker died."""
        self._in_flight.discard(job.key)
        outcome = settle(self._context, job, error, self._handed_out[job.key])
        if outcome is None:
            self._todo.append(self._planned[job.key])
        else:
            self._context.observer.settled(job, outcome)

    @property
    def finished(self) -> bool:
        """Whether every job is settled."""
        return not self._todo and not self._in_flight


def settle(context: Context, job: Job, error: str | None, handed_out: int) -> dict[str, Any] | None:
    """Return the job's outcome; None if its worker died and it deserves another attempt.

    Args:
        context: The study.
        job: The job that is over.
        error: What the engine says of it.
        handed_out: How often this launch has handed the job out, this time included.
    """
    outcome = context.ledger.outcome(job.key)
    if outcome is not None:
        return outcome
    if handed_out < MOST_ATTEMPTS:
        context.observer.note(f"{job.key}: its worker was lost ({error or 'no outcome'}); it is started again")
        return None
    reason = f"crashed: {error or 'the worker ended without an outcome'}"[:500]
    return context.ledger.commit(job.key, {"kind": job.kind, "state": "FAIL", "reason": reason, "attempt": handed_out})


def is_crash(outcome: Mapping[str, Any]) -> bool:
    """Tell a failure of the program or the machine from a failure of the network."""
    reason = outcome.get("reason") or ""
    return outcome["state"] == "FAIL" and reason.startswith(("error", "crashed"))


def reopen_after_error(context: Context, key: str) -> None:
    """Set the outcome of a crash aside, so that the job can be run again."""
    outcome = context.ledger.outcome(key)
    if outcome is not None and is_crash(outcome):
        context.ledger.reopen(key)
