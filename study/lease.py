"""Who is working on a job right now: numbered attempts with a heartbeat, and the lock of the one driver.

Liveness is told by the age of a file, and on the same machine by the process itself, so that a killed worker is
noticed at once and one that outlived its driver is left alone.
"""

import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, final

from study.durable import make_own_folder, open_own, own_file, read_json, replace_json, writable
from study.errors import EnvironmentFault

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What file systems say that have no `flock`."""
HEARTBEAT_S = 15.0
"""Seconds between two touches of a lease."""


def utc_now() -> str:
    """Return the time as ISO-8601 text in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def process_birth(pid: int) -> str | None:
    """Return a mark that tells a process from a later one with the same id; None where it is gone or unknowable."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    is_zombie = fields[0] == "Z"
    return None if is_zombie else fields[19]


def _is_surely_dead(holder: dict[str, Any]) -> bool:
    """Say whether the process of a lease has ended, as far as this machine can know."""
    birth = holder.get("birth")
    return birth is not None and holder.get("host") == socket.gethostname() and process_birth(holder["pid"]) != birth


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"pid": pid, "host": socket.gethostname(), "start": utc_now(), "birth": process_birth(pid)}


@final
class Attempt:
    """One try at a job: a numbered folder whose lease is touched while the `with` block runs.

    Attributes:
        number: 1 for the first attempt at this job.
        folder: `attempts/NN` below the job's folder.
        started: ISO time at which the attempt began.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self.folder = folder
        self._lease = folder / "lease.json"
        self._ended = threading.Event()
        self._clock = time.monotonic()
        holder = {"schema": 1, "attempt": number, **_myself()}
        self.started: str = holder["start"]
        replace_json(self._lease, holder, synced=False)  # after a power cut nobody is at work, whatever it says

    @property
    def seconds(self) -> float:
        """Wall time since the attempt began."""
        return time.monotonic() - self._clock

    def __enter__(self) -> Self:
        threading.Thread(target=self._beat, name=f"lease-{self.folder.parent.parent.name}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        # a full disk must not turn a committed outcome into a crash
        with contextlib.suppress(OSError, EnvironmentFault):
            replace_json(self._lease, {**(read_json(self._lease) or {}), "ended": utc_now()}, synced=False)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self._lease)


def begin_attempt(job_folder: Path) -> Attempt:
    """Take the next free attempt number of a job; two callers never get the same one.

    Raises:
        EnvironmentFault: If the folder of the attempts is a symbolic link.
    """
    attempts = job_folder / "attempts"
    make_own_folder(attempts)
    number = max((int(entry.name) for entry in attempts.iterdir() if entry.name.isdigit()), default=0)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            folder = attempts / f"{number:02d}"
            folder.mkdir()
            return Attempt(number, folder)


def is_fresh(job_folder: Path, max_age_s: float) -> bool:
    """Say whether some attempt at the job is still alive.

    Args:
        job_folder: Folder of the job.
        max_age_s: Seconds without a heartbeat after which a lease counts as lost; at least 4 heartbeats on NFS. One
            dated further ahead than that counts as lost too: no heart that beats is.
    """
    for lease in sorted((job_folder / "attempts").glob("*/lease.json"), reverse=True):
        holder = _holder_of(lease)
        if holder is None or "ended" in holder or _is_surely_dead(holder):
            continue
        with contextlib.suppress(FileNotFoundError):
            if abs(_time_in(lease.parent) - lease.stat().st_mtime) <= max_age_s:
                return True
    return False


def _time_in(folder: Path) -> float:
    """Tell the time by the clock that dates a folder's files, on a network not this machine's, as a new file shows."""
    try:
        with tempfile.TemporaryFile(dir=folder) as new:
            return os.fstat(new.fileno()).st_mtime
    except OSError:  # full, or read-only
        return time.time()


def _holder_of(lease: Path) -> dict[str, Any] | None:
    """Read a lease; a power cut, which nobody survives, may have left it empty."""
    try:
        return read_json(lease)
    except EnvironmentFault:
        return None


def _try_lock(stream: IO[str], tries: int = 5) -> bool:
    """Lock without waiting; a reader that looks for a moment is given way."""
    for left in range(tries - 1, -1, -1):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(0.1)
        else:
            return True
    return False


@contextlib.contextmanager
def driver_lock(path: Path) -> Iterator[None]:
    """Be the only driver of a study while the block runs.

    Args:
        path: The lock file; it stays, holding who drove last.

    Raises:
        EnvironmentFault: If another driver is running, whose host and process id are named, or the folder cannot be
            written, or its file system has no locks.
    """
    with contextlib.ExitStack() as held:
        with writable(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = held.enter_context(open(path, "a+", encoding="utf-8", opener=own_file))
        with _with_locks(path.parent):
            is_mine = _try_lock(stream)
        if not is_mine:
            stream.seek(0)
            holder = _holder_in(stream.read())
            raise EnvironmentFault(
                f"One driver per study, but {path.parent} is driven by process {holder.get('pid', 'unknown')} on "
                f"{holder.get('host', 'an unknown host')} since {holder.get('start', 'an unknown time')}. "
                "Wait for it, stop it, or choose another folder with --output."
            )
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, without a name
            replace_content(stream, _myself())
        yield


@contextlib.contextmanager
def _with_locks(folder: Path) -> Iterator[None]:
    """Say of a file system without locks what to do; nothing else would keep a second driver away."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise EnvironmentFault(
            f"A study needs a file system with locks (flock), which keep a second driver away, but {folder} has none "
            f"({error.strerror}). Mount it with locks, or choose another folder with --output."
        ) from error


def replace_content(stream: IO[str], holder: dict[str, Any]) -> None:
    """Overwrite an open lock file in place; its inode carries the lock, so it cannot be replaced."""
    stream.seek(0)
    stream.truncate()
    stream.write(f"{holder['pid']} {holder['host']} {holder['start']}\n")
    stream.flush()


def _holder_in(text: str) -> dict[str, str]:
    return dict(zip(("pid", "host", "start"), text.split(), strict=False))


def current_driver(path: Path) -> dict[str, str] | None:
    """Return pid, host and start of the driver that holds the lock now, or None; needs only read access."""
    try:
        stream = open_own(path)
    except OSError:  # there is none, or somebody put something else there: nobody drives through that
        return None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder_in(stream.read().decode(errors="replace"))
        except OSError:  # a file system without locks, where nobody can drive
            return None
    return None
