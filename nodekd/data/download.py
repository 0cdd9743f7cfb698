"""Fetch what is missing through torchvision: one process at a time, in bounded time, silent on stdout.

The network is touched only when torchvision does not find a complete data set below the root.
"""

import contextlib
import fcntl
import http.client
import os
import socket
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from nodekd.data.catalog import DataFacts
from nodekd.errors import DataError

TIMEOUT_S = 20.0
"""Longest silence of a server before a download is given up."""

_FAULTS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    tarfile.TarError,
    zlib.error,
    http.client.HTTPException,
)

T = TypeVar("T")


def found_or_downloaded(facts: DataFacts, root: Path, layout: str, build: Callable[[bool], T]) -> T:
    """Build a data set from the files below `root`, downloading them first where they are missing.

    Args:
        facts: The data set.
        root: Folder of all data.
        layout: What is expected below `root`, for the message.
        build: Makes the data set; its argument says whether it may download.

    Returns:
        What `build` returns.

    Raises:
        DataError: If the files are missing, damaged or wrongly laid out and could not be downloaded.
    """
    try:
        return build(False)
    except _FAULTS:
        pass
    is_new = not root.exists()
    try:
        with _alone(root), _patient(TIMEOUT_S), contextlib.redirect_stdout(sys.stderr):
            return build(True)
    except _FAULTS as fault:
        if is_new:
            with contextlib.suppress(OSError):
                root.rmdir()  # succeeds only if the attempt left it empty
        reason = " ".join(str(fault).split()) or type(fault).__name__
        raise DataError(
            f"{facts.title} was not found whole below {root.absolute()}, where {layout} is expected, and could not be "
            f"downloaded ({reason.rstrip('.')}); fetch it from {facts.home} on a machine with a network and put it "
            f"there, or point data.root at a folder that holds it."
        ) from fault


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the download lock of `root`, so that parallel workers do not write the same archive."""
    root.mkdir(parents=True, exist_ok=True)
    lock = root / ".download.lock"
    while True:
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_current(lock, handle.fileno()):
                continue  # the holder before us removed the file we waited for
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_current(lock: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _patient(seconds: float) -> Iterator[None]:
    """Bound the wait for a silent server; torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
