"""All stages of a study as one source of jobs, so that one set of workers serves them all."""

from collections.abc import Callable, Collection, Iterator
from typing import Protocol, final

from study.disk_space import Room, is_no_room
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


def _nothing() -> None:
    pass


@final
class Pipeline:
    """Walks through the stages; each is planned from the files when the one before has finished.

    `next` never answers None while nothing is in flight, unless everything is done or the study is to pause: while the
    disk is full it waits.
    """

    def __init__(self, stages: Iterator[Stage], pause: Callable[[], None] = _nothing, room: Room | None = None) -> None:
        """Begin before the first stage.

        Args:
            stages: In order.
            pause: Asks the workers to keep where they stand and to end.
            room: Of the study's disk; None where nobody is to look at it.
        """
        self._stages = stages
        self._pause = pause
        self._room = room
        self._in_flight = 0
        self._is_pausing = False
        self._stage: Stage | None = None
        self._exhausted = False
        self.planned: set[str] = set()
        """Jobs of all stages so far, settled or not."""

    def next(self) -> Job | None:
        """Return the next job of the study."""
        while not self._exhausted and self._has_room():
            if self._stage is not None:
                job = self._stage.next()
                if job is not None:
                    self._in_flight += 1
                    return job
                if not self._stage.finished:
                    return None
            self._stage = next(self._stages, None)
            self.planned |= set(self._stage.keys) if self._stage is not None else set()
            self._exhausted = self._stage is None
        return None

    def _has_room(self) -> bool:
        """Tell whether a job may be started; while none is in flight, wait for it, or for a signal."""
        if self._room is None:
            return True
        if self._in_flight:
            return self._room.is_enough
        self._room.wait(lambda: self._is_pausing)
        return not self._is_pausing

    def settled(self, job: Job, error: str | None) -> None:
        """Pass the end of a job on to the stage that handed it out."""
        assert self._stage is not None, "a job was handed out by a stage"
        self._in_flight -= 1
        if self._room is not None and is_no_room(error):
            self._room.lacked(f"{job.key}: {error}")
        elif self._room is not None:
            self._room.sufficed()
        self._stage.settled(job, error)

    def pause(self) -> None:
        """Ask the jobs in flight to end."""
        self._is_pausing = True
        self._pause()

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self._exhausted
