"""Epochs as they happen: a job says in its worker that one is over, and whoever runs the job sends it on as numbers."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol, final

TRIALS = "trials"
"""Folder of the students' trials; other jobs are not counted."""
_listeners: list[Callable[[], object]] = []
"""Of this process, which runs one job at a time."""


class Meter(Protocol):
    """Takes numbers and passes them on, or drops them."""

    def set(self, name: str, value: float, **tags: str) -> None:
        """Give a gauge its value."""
        ...

    def add(self, name: str, value: float, **tags: str) -> None:
        """Add to a counter."""
        ...


def epoch_is_over() -> None:
    """Tell whoever listens; nobody's fault reaches the training."""
    for listener in _listeners:
        with contextlib.suppress(Exception):
            listener()


@contextlib.contextmanager
def epochs_sent(meter: Callable[[], Meter], key: str) -> Iterator[None]:
    """Send the epochs of the block as the counter `epochs` and the gauge `epochs_per_second`, by trial.

    Args:
        meter: Returns what takes the numbers; asked at the first epoch.
        key: The job's; nothing is sent where it is no trial.
    """
    if not is_trial(key):
        yield
        return
    pace = _Pace(meter, key.rpartition("/")[2])
    _listeners.append(pace.epoch_is_over)
    try:
        yield
    finally:
        _listeners.remove(pace.epoch_is_over)
        with contextlib.suppress(Exception):
            pace.stand_still()


def is_trial(key: str) -> bool:
    """Tell whether a job is one of the students' trials."""
    return key.startswith(f"{TRIALS}/")


@final
class _Pace:
    """How fast one trial goes from epoch to epoch, what is measured between them included."""

    def __init__(self, meter: Callable[[], Meter], trial: str) -> None:
        self._meter, self._trial = meter, trial
        self._last = time.monotonic()
        self._is_moving = False

    def epoch_is_over(self) -> None:
        """Send one epoch, and how many a second there would be if all were like it."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._meter().add("epochs", 1, trial=self._trial)
        self._is_moving = True
        self._meter().set("epochs_per_second", 1 / max(seconds, 1e-9), trial=self._trial)

    def stand_still(self) -> None:
        """Send that nothing moves any more; a gauge keeps its value, and the trial is over."""
        if self._is_moving:
            self._meter().set("epochs_per_second", 0.0, trial=self._trial)
