"""What an engine runs: jobs, where they come from, and what every engine promises about them.

A job's result travels through the ledger, never through the engine: the engine only says that a job is over and
whether it ended by itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final


@final
@dataclass(frozen=True)
class Job:
    """One unit of work for one worker."""

    study: str
    """Absolute path of the study's folder, as the workers see it."""
    key: str
    """The job's folder below it, for example `trials/000012`; unique within a run."""
    kind: str
    """Which function does the work, for example `trial`."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    """Whatever that function needs; JSON-able and small."""
    keeps_state: bool = False
    """Whether the work, asked to pause, soon keeps where it stands and ends; a moment's wait saves it some work."""
    orphaned: bool = False
    """Whether the node of an earlier attempt was lost, so that its worker may still be at it where nobody sees it."""


NODE_LOST = "its node was lost"
"""How the error of a job begins whose whole machine went or cannot be reached, which is no fault of the job."""

Execute = Callable[[Job], None]
"""Does a job and commits its outcome itself; an importable function, because workers are other processes."""


class JobSource(Protocol):
    """Hands out jobs and hears how they ended; called by one thread, never twice at once."""

    def next(self) -> Job | None:
        """Return a job to start now, or None: nothing to hand out until something in flight is settled.

        While nothing is in flight, None is allowed only together with `finished`, or after `pause`.
        """
        ...

    def settled(self, job: Job, error: str | None) -> None:
        """Hear that a job is over; `error` is None if it returned, otherwise what went wrong (see `NODE_LOST`)."""
        ...

    def pause(self) -> None:
        """Ask the jobs in flight to keep where they stand and to end; called once, after a signal."""
        ...

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to hand out, now and later."""
        ...


class Engine(Protocol):
    """Runs the jobs of a source until it is finished."""

    def start(self) -> str | None:
        """Get ready; return the address of a dashboard where there is one."""
        ...

    def run(self, source: JobSource, execute: Execute) -> None:
        """Run every job.

        Raises:
            Interrupted: After SIGINT or SIGTERM, once the workers are stopped.
            Exception: Whatever the source raised, once the workers are stopped.
        """
        ...

    def stop(self) -> None:
        """Stop what `start` started; may be called twice."""
        ...
