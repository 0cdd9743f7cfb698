"""The bookkeeping between a job source and workers, the same for every engine: slots, jobs in flight, first fault.

It never raises: a fault of the source is kept and the run wound up, because an exception that leaves a scheduler's
callback would be taken for a fault of the scheduler.
"""

from typing import final

from study.engine.job import Job, JobSource
from study.errors import StudyError


@final
class Dispatch:
    """Hands out jobs while there are free slots and tells the source how they ended.

    Attributes:
        fault: What the source raised, or None.
        settled: Jobs that are over.
    """

    def __init__(self, source: JobSource, slots: int) -> None:
        self._source = source
        self._slots = slots
        self._in_flight: dict[str, Job] = {}
        self._exhausted = self._pausing = False
        self.fault: Exception | None = None
        self.settled = 0

    @property
    def over(self) -> bool:
        """Whether no job will be handed out any more."""
        return self._exhausted or self._pausing or self.fault is not None

    @property
    def is_worth_waiting(self) -> bool:
        """Whether a job in flight will soon keep where it stands; see `Job.keeps_state`."""
        return any(job.keeps_state for job in self._in_flight.values())

    def pause(self) -> None:
        """Hand out nothing any more, and ask the jobs in flight to end."""
        if not self._pausing:
            self._pausing = True
            self._source.pause()

    def take(self, ticket: str) -> Job | None:
        """Hand out a job under a ticket of the caller's choice; None if there is none now (or ever: see `over`)."""
        if self.over or len(self._in_flight) >= self._slots:
            return None
        try:
            job = None if self._source.finished else self._source.next()
            self._check(job)
        except Exception as fault:  # noqa: BLE001  kept, and raised by the engine
            self.fault = fault
            return None
        if job is not None:
            self._in_flight[ticket] = job
        return job

    def _check(self, job: Job | None) -> None:
        if job is None:
            self._exhausted = self._source.finished
            if not self._in_flight and not self.over:
                raise StudyError(
                    "The job source is stuck: nothing is in flight, it hands out nothing and is not finished."
                )
        elif any(job.key == other.key for other in self._in_flight.values()):
            raise StudyError(f"A job runs once at a time, but the source handed out {job.key} while it is in flight.")

    def settle(self, ticket: str, error: str | None) -> None:
        """Tell the source that a job is over; a ticket that is not in flight is ignored."""
        job = self._in_flight.pop(ticket, None)
        if job is None or self.fault is not None:
            return
        self.settled += 1
        try:
            self._source.settled(job, error)
        except Exception as fault:  # noqa: BLE001  kept, and raised by the engine
            self.fault = fault
