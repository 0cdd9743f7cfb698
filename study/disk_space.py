"""Room on the disk: whether there is enough to start a job, and whether a fault means that there was not.

A full disk is no result and no crash. The study waits, says for what, and goes on from its files when there is room.
"""

import contextlib
import errno
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, final

from study.errors import Interrupted, StudyError

LEAST_BYTES = 200_000_000
"""Free bytes below which no job is started: a few networks, their images, and the driver's own files."""
POLL_S = 2.0
"""Seconds between two looks at the disk."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORT_WRITES = ("PytorchStreamWriter failed", "inline_container", "disk I/O error", "requested and")
"""Of messages of torch, SQLite and numpy, which pass on that a write fell short, and not why."""

_Made = TypeVar("_Made")


@final
class NoRoom(StudyError):
    """A job ended without an outcome because its disk is full; it is run again when there is room."""

    exit_code = 4


def is_no_room(error: str | None) -> bool:
    """Tell whether what an engine says of a job is `NoRoom`; it passes errors on as text, their class first."""
    return error is not None and error.startswith(NoRoom.__name__)


def free_bytes(folder: Path) -> int:
    """Return how much an ordinary user can still write on the disk of a folder that exists."""
    return shutil.disk_usage(folder).free


def is_lack_of_room(error: BaseException, folder: Path) -> bool:
    """Tell whether an error comes from a full disk.

    Args:
        error: With what it was raised from.
        folder: Where it was written; looked at where a library tells of a short write and not of its cause.
    """
    chain = list(_chain(error))
    if any(_says_full(each) for each in chain):
        return True
    return any(_tells_of_short_write(each) for each in chain) and free_bytes(folder) < LEAST_BYTES


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from or during, each once."""
    known: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in known:
        known.add(id(following))
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _says_full(error: BaseException) -> bool:
    if isinstance(error, NoRoom):
        return True
    if isinstance(error, sqlite3.Error):
        return "disk is full" in str(error)
    return isinstance(error, OSError) and error.errno in _FULL


def _tells_of_short_write(error: BaseException) -> bool:
    kinds = (RuntimeError, OSError, sqlite3.Error)
    return isinstance(error, kinds) and any(words in str(error) for words in _SHORT_WRITES)


def _never() -> bool:
    return False


@final
class Room:
    """Watches the disk of one study, and says once when it is too full and once when it no longer is.

    How much a job needs is not known. So what the study waits for doubles each time that a write fails although there
    was as much, and falls back when a job has ended.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Watch.

        Args:
            folder: The study's; it exists.
            say: Told the sentences, such as an observer's `note`.
        """
        self._folder = folder
        self._say = say
        self._needed = LEAST_BYTES
        self._is_waiting = False

    @property
    def is_enough(self) -> bool:
        """Whether a job may be started now."""
        free = free_bytes(self._folder)
        is_enough = free >= self._needed
        if is_enough == self._is_waiting:  # it has changed
            self._is_waiting = not is_enough
            there = f"{free // 10**6} MB free in {self._folder}"
            wanted = f"the study waits for {-(-self._needed // 10**6)} MB"
            self._say(f"{there}; the study goes on" if is_enough else f"{there}; {wanted}")
        return is_enough

    def lacked(self, what: str) -> None:
        """Note that a write failed for want of room.

        Args:
            what: Of whom, and the error.
        """
        self._say(f"no room on the disk: {what}")
        if free_bytes(self._folder) >= self._needed:
            self._needed *= 2

    def sufficed(self) -> None:
        """Note that a job has ended otherwise."""
        self._needed = LEAST_BYTES

    def wait(self, is_over: Callable[[], bool] = _never) -> None:
        """Wait until a job may be started.

        Args:
            is_over: Asked now and then; once it is true nobody waits any longer.
        """
        while not is_over() and not self.is_enough:
            time.sleep(POLL_S)

    def retry(self, work: Callable[[], _Made], before_again: Callable[[], object] = _never) -> _Made:
        """Do what goes on from the files wherever it was left, again and again until the disk has room for it.

        Args:
            work: What is done.
            before_again: Done once there is room again, before the work is.

        Raises:
            Exception: Whatever the work raises for another reason.
        """
        while True:
            try:
                return work()
            except Interrupted:
                raise
            except Exception as fault:
                if not is_lack_of_room(fault, self._folder):
                    raise
                self.lacked(f"{type(fault).__name__}: {fault}")
            time.sleep(POLL_S)  # also where there is room by now: what took it may come back
            self.wait()
            before_again()

    @contextlib.contextmanager
    def forgiven(self) -> Iterator[None]:
        """Say that something could not be written for want of room, and go on."""
        try:
            yield
        except Exception as fault:
            if not is_lack_of_room(fault, self._folder):
                raise
            self._say(f"not written, there is no room on the disk: {fault}")
