"""SIGINT and SIGTERM while an engine runs: remembered, or raised at once where the work is to be interrupted."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TextIO, final

from study.errors import Interrupted

GRACE_S = 15.0
"""Seconds that jobs get to keep where they stand."""
_WATCHED = (signal.SIGINT, signal.SIGTERM)


@final
class Stopped(BaseException):
    """Raised in the middle of the work; no `except Exception` of a job or a library takes it for a fault."""


@final
class Farewell:
    """Tells a person, once and at the first signal, that something stops and which command goes on with it."""

    def __init__(self, what: str, command: str) -> None:
        """Prepare what is said.

        Args:
            what: What becomes of the work.
            command: Goes on.
        """
        self._text = f"Stopping: {what}. A second signal ends it at once.\nContinue with: {command}"
        self._is_said = False

    def say(self, stream: TextIO | None = None) -> None:
        """Say it, unless it has been said; what could not be written has not, and is tried again by the next call.

        Args:
            stream: Where to; the standard error stream by default.
        """
        if self._is_said:
            return
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # closed, or interrupted amid a write of its own
            print(self._text, file=stream or sys.stderr, flush=True)
            self._is_said = True


@final
class Signals:
    """What has been received.

    Attributes:
        received: The first signal, or None.
        is_impatient: Whether a second one came.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[signal.Signals], None] | None = None) -> None:
        """Watch.

        Args:
            on_first: Called with the first signal, in the main thread.
            on_second: Called with a second one, which raises where there is nothing to call.
        """
        self.received: signal.Signals | None = None
        self.is_impatient = False
        self._on_first = on_first
        self._on_second = on_second
        self._grace_s: float | None = None
        self._alarm: threading.Timer | None = None
        self._is_over = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Remember the signal; raise for a second one, and in `raised` once the grace is over."""
        if self._is_over:
            raise Stopped
        if self.received is not None:
            self.is_impatient = True
            if self._on_second is not None:
                self._on_second(signal.Signals(number))
            raise Stopped
        self.received = signal.Signals(number)
        self._on_first()
        if self._grace_s is not None:
            self._interrupt(self._grace_s)

    @property
    def has_raised(self) -> bool:
        """Whether `Stopped` was raised amid the work; compiled code may pass it on as an error of its own."""
        return self.is_impatient or self._is_over

    @contextlib.contextmanager
    def raised(self, grace_s: float = 0.0) -> Iterator[None]:
        """Let a signal interrupt the block, also one that came just before.

        Args:
            grace_s: Seconds that the block has to end by itself first.
        """
        self._grace_s = grace_s
        try:
            if self.received is not None:
                raise Stopped
            yield
        finally:
            self._grace_s = None
            if self._alarm is not None:
                self._alarm.cancel()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a signal end the block, with the error that ends a run.

        Raises:
            Interrupted: After a signal.
        """
        try:
            with self.raised():
                yield
        except BaseException:  # `Stopped`, or what compiled code that it came into made of it
            if self.received is None:
                raise
            raise self.interruption() from None

    def heard(self, interruption: Interrupted) -> None:
        """Take the signal that somebody else received for the first one, so that the next is a second."""
        self.received = self.received or signal.Signals(interruption.exit_code - 128)

    def _interrupt(self, grace_s: float) -> None:
        if grace_s == 0:
            raise Stopped
        self._alarm = threading.Timer(grace_s, self._end_grace)
        self._alarm.daemon = True
        self._alarm.start()

    def _end_grace(self) -> None:
        self._is_over = True
        os.kill(os.getpid(), self.received or signal.SIGINT)  # handled in the main thread, where it raises

    def interruption(self, settled: int | None = None) -> Interrupted:
        """Return the error that ends a run.

        Args:
            settled: Jobs that are over; None where they were not counted.
        """
        number = self.received or signal.SIGINT
        after = "" if settled is None else f" after {settled} jobs of this launch"
        return Interrupted(
            f"{number.name} stopped the study{after}; the same command continues it.",
            exit_code=128 + number,
            is_impatient=self.is_impatient,
        )


def leave(number: signal.Signals) -> NoReturn:
    """End the process where it stands, as a kill could: an exception would have to find its way through compiled code,
    and whatever is being tidied up takes longer than somebody who asked twice will wait.
    """
    text = f"{number.name} came twice: stopped at once; the same command continues the study.\n"
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more, as where `tee` ended by the same Ctrl-C
        os.write(sys.stderr.fileno(), text.encode())
    os._exit(128 + number)


@contextlib.contextmanager
def watched_signals(
    on_first: Callable[[], None] = lambda: None, on_second: Callable[[signal.Signals], None] | None = None
) -> Iterator[Signals]:
    """Take over SIGINT and SIGTERM for the block and give them back; does nothing outside the main thread."""
    signals = Signals(on_first, on_second)
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
