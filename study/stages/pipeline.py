"""All stages of a study as one source of jobs, so that one set of workers serves them all."""

from collections.abc import Collection, Iterator
from typing import Protocol, final

from study.engine.job import Job


class Stage(Protocol):
    """One stage: jobs to hand out, and what to do when one ends."""

    name: str

    @property
    def keys(self) -> Collection[str]:
        """The jobs it will see to, settled or not; none where they are made up on the way."""
        ...

    def next(self) -> Job | None:
        """Return the next job, or None while there is none to hand out."""
        ...

    def settled(self, job: Job, error: str | None) -> None:
        """Take note that a job ended."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the stage has nothing left to do or to wait for."""
        ...


@final
class Pipeline:
    """Walks through the stages; each is planned from the files when the one before has finished.

    `next` never answers None while nothing is in flight, unless everything is done.
    """

    def __init__(self, stages: Iterator[Stage]) -> None:
        self._stages = stages
        self._stage: Stage | None = None
        self._exhausted = False
        self.planned: set[str] = set()
        """Jobs of all stages so far, settled or not."""

    def next(self) -> Job | None:
        """Return the next job of the study."""
        while not self._exhausted:
            if self._stage is not None:
                job = self._stage.next()
                if job is not None:
                    return job
                if not self._stage.finished:
                    return None
            self._stage = next(self._stages, None)
            self.planned |= set(self._stage.keys) if self._stage is not None else set()
            self._exhausted = self._stage is None
        return None

    def settled(self, job: Job, error: str | None) -> None:
        """Pass the end of a job on to the stage that handed it out."""
        assert self._stage is not None, "a job was handed out by a stage"
        self._stage.settled(job, error)

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self._exhausted
