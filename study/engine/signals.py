"""SIGINT and SIGTERM while an engine runs: remembered, or raised at once where the work is to be interrupted."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import final

from study.errors import Interrupted

_WATCHED = (signal.SIGINT, signal.SIGTERM)


@final
class Stopped(BaseException):
    """Raised in the middle of the work; no `except Exception` of a job or a library takes it for a fault."""


@final
class Signals:
    """What has been received.

    Attributes:
        received: The first signal, or None.
        at_once: Whether the next signal shall raise `Stopped` where it finds the main thread. A second one always does.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.at_once = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Remember the signal; raise for a second one."""
        is_second = self.received is not None
        self.received = self.received or signal.Signals(number)
        if self.at_once or is_second:
            raise Stopped

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Let a signal interrupt the block, also one that came just before."""
        self.at_once = True
        try:
            if self.received is not None:
                raise Stopped
            yield
        finally:
            self.at_once = False

    def interruption(self, settled: int) -> Interrupted:
        """Return the error that ends a run."""
        number = self.received or signal.SIGINT
        return Interrupted(
            f"{number.name} stopped the study after {settled} jobs of this launch; the same command continues it.",
            exit_code=128 + number,
        )


@contextlib.contextmanager
def watched_signals() -> Iterator[Signals]:
    """Take over SIGINT and SIGTERM for the block and give them back; does nothing outside the main thread."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.getsignal(number) for number in _WATCHED}
    for number in _WATCHED:
        signal.signal(number, signals.handle)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
