"""Where a training run stands, on disk: enough to go on after a kill, bit for bit on the CPU.

Batches, views and attacks are drawn from streams that a seed, an epoch and an update name (`nodekd.streams`), so no
random state has to be kept; networks, optimisers, schedules and counters are all there is.
"""

import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

INTERVAL_S = 10.0
"""Seconds of training that a kill can cost."""
LOOK_S = 0.5
"""Least seconds between two questions whether to pause."""


@final
class Paused(BaseException):
    """Raised between two updates, after the run's state was kept; no `except Exception` takes it for a fault."""


def _never() -> bool:
    return False


def write_archive(document: Mapping[str, Any] | Tensor, path: Path) -> None:
    """Write tensors, numbers and text in dictionaries and lists; a reader finds the old file or the new one, whole."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as stream:
            torch.save(document, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # on a full disk a part of it must not take the room that is left


@final
class Savepoint:
    """Keeps the state of one run in one file, and gives it back.

    A file that cannot be read, or that another run wrote, counts as none: the run begins anew.
    """

    def __init__(
        self,
        path: Path,
        run: str,
        *,
        interval_s: float = INTERVAL_S,
        is_paused: Callable[[], bool] = _never,
    ) -> None:
        """Describe the savepoint; nothing is read or written yet.

        Args:
            path: The file.
            run: Names the run; equal for runs that would go the same way.
            interval_s: Least seconds between two savings, except the last.
            is_paused: Asked now and then between updates; once it is true the state is kept and `Paused` raised.
        """
        self._path = path
        self._run = f"{run} torch-{torch.__version__}"
        self._interval_s = interval_s
        self._is_paused = is_paused
        self._saved = self._looked = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return the state that was kept, on the CPU; None where there is none for this run."""
        try:
            stored = torch.load(self._path, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001 - whatever is wrong with the file, training anew is right
            return None
        return stored["state"] if isinstance(stored, dict) and stored.get("run") == self._run else None

    def keep(self, state: Callable[[], dict[str, Any]], *, is_last: bool) -> None:
        """Write the state if it is time, atomically.

        Args:
            state: Makes the state: tensors, numbers and text in dictionaries and lists.
            is_last: Whether the run has ended.

        Raises:
            Paused: If the run is to be interrupted; the state has been written.
        """
        now = time.monotonic()
        paused = not is_last and self._must_pause(now)
        if is_last or paused or now - self._saved >= self._interval_s:
            write_archive({"run": self._run, "state": state()}, self._path)
            self._saved = now
        if paused:
            raise Paused

    def _must_pause(self, now: float) -> bool:
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        return self._is_paused()
