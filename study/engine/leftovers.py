"""What a killed driver leaves of its private Ray: agents that outlive it by minutes, and the session's files.

A session is ours if it holds our mark, and left over if the driver that the mark names has ended. Nothing else is
touched: neither a session that somebody started by hand nor one whose driver still runs.
"""

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from study.durable import read_json, replace_json
from study.errors import EnvironmentFault
from study.lease import process_birth

MARK = "nodekd-driver.json"
"""In the folder of a session that a driver of ours started."""
GRACE_S = 3.0
"""Seconds that processes get to end by themselves."""


def mark_session(session: Path) -> None:
    """Write into the session's folder whose it is."""
    with contextlib.suppress(OSError):  # without a mark it is not cleaned up, and nothing else
        pid = os.getpid()
        replace_json(session / MARK, {"pid": pid, "birth": process_birth(pid), "host": socket.gethostname()})


def clean_up(sessions: Path) -> list[str]:
    """End the processes of dead drivers' sessions and remove their files.

    Args:
        sessions: Folder of all sessions of this machine.

    Returns:
        Names of the sessions that were left over.
    """
    found = list(_left_over(sessions))
    for session in found:
        _end_processes(session)
        shutil.rmtree(session, ignore_errors=True)
    return [session.name for session in found]


def remove_run(session: Path, name: str) -> None:
    """Remove the folders that a run of Tune keeps in a session on this machine; one that was joined goes on without it.

    Args:
        session: Folder of the session.
        name: Of the run.
    """
    shutil.rmtree(session / "jobs" / name, ignore_errors=True)
    for folder in session.glob(f"artifacts/*/{name}"):
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run began in the same second
            folder.parent.rmdir()


def _left_over(sessions: Path) -> Iterator[Path]:
    for mark in sorted(sessions.glob(f"session_*/{MARK}")):
        if mark.parent.is_symlink():  # session_latest
            continue
        try:
            driver = read_json(mark)
        except (EnvironmentFault, OSError):
            continue
        is_of_here = driver is not None and driver.get("host") == socket.gethostname()
        if driver and is_of_here and driver.get("birth") not in (None, process_birth(int(driver["pid"]))):
            yield mark.parent


def _end_processes(session: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _processes_of(session):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        deadline = time.monotonic() + GRACE_S
        while _processes_of(session) and time.monotonic() < deadline:
            time.sleep(0.1)


def _processes_of(session: Path) -> list[int]:
    """Return our own processes that name the session's folder in their command line, or hold a file in it open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # not ours, or gone meanwhile
            is_own = process.stat().st_uid == os.getuid() and int(process.name) != os.getpid()
            if is_own and process_birth(int(process.name)) is not None and _belongs(process, session):
                found.append(int(process.name))
    return found


def _belongs(process: Path, session: Path) -> bool:
    if os.fsencode(session.name) in (process / "cmdline").read_bytes():
        return True
    files = (str(each.readlink()) for each in (process / "fd").iterdir())
    return any(f"/{session.name}/" in file for file in files)
