"""Who has read which test set: one file of lines per split beside the studies, which outlives each of them (S29).

Several studies may append at the same time. A line is written by one call and is on disk before the test set is read;
a line that a kill or a full disk tore costs only itself.
"""

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from study.documents import read_document
from study.durable import plain, read_lines, sync_folder
from study.errors import EnvironmentFault
from study.fingerprint import fingerprint
from study.lease import utc_now

FOLDER = ".test-log"
"""Folder beside the studies."""

_HASH = re.compile("[0-9a-f]+")
"""What names a log; a study from elsewhere may say anything."""


@final
@dataclass(frozen=True)
class Reads:
    """How often one test set has been read."""

    own: int
    """Accesses of the study that asks."""
    total: int
    """Accesses of all studies, that one included."""
    studies: int
    """Studies with at least one."""


def access_id(access: Mapping[str, Any]) -> str:
    """Return a short hash of an access: the same models, attacks and images are the same access, however often run."""
    return fingerprint(plain(access), 16)


def log_path(root: Path, split_hash: str) -> Path:
    """Return the log of one split.

    Args:
        root: Folder that holds the studies.
        split_hash: Hash of the split that the test set belongs to.
    """
    return root / FOLDER / f"{split_hash[:16]}.jsonl"


def prepare_log(root: Path) -> None:
    """Find out at launch, rather than before test is read, whether accesses can be logged.

    Raises:
        EnvironmentFault: If the folder cannot be written.
    """
    try:
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        if not os.access(root / FOLDER, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(root / FOLDER, error) from error


def append_access(root: Path, study: str, name: str, access: Mapping[str, Any]) -> bool:
    """Log an access, unless this study has logged the same one.

    Args:
        root: Folder that holds the studies.
        study: The study's `id` in `study.json`.
        name: Its name, for people.
        access: What is read by whom; names the `split_hash`.

    Returns:
        True if the line is new.

    Raises:
        EnvironmentFault: If the folder cannot be written.
    """
    path, identity = log_path(root, access["split_hash"]), access_id(access)
    if any((line.get("study"), line.get("access")) == (study, identity) for line in read_lines(path)):
        return False
    line = {"schema": 1, "ts": utc_now(), "study": study, "name": name, "access": identity, **plain(access)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, json.dumps(line, allow_nan=False).encode())
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    return True


def _unwritable(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"Every access to test is logged beside the studies, but {path} cannot be written ({error.strerror}). "
        "Make it writable and give the same command again, or choose another --output."
    )


def _append(path: Path, line: bytes) -> None:
    """Add a line by one call, after the end of a torn one where there is one, and wait for the disk."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # what another study is writing at this moment would look torn
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        whole = (b"\n" if torn else b"") + line + b"\n"
        if os.write(descriptor, whole) != len(whole):
            raise OSError(errno.ENOSPC, "the disk took only part of a line")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reads_of_test(folder: Path, study: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> Reads:
    """Count the accesses to a study's test set over all studies of its results root, also those deleted since.

    Studies from before there was a log are counted by their own events, as long as they stand beside this one.

    Args:
        folder: The study's folder.
        study: Its `study.json`.
        events: Its events.
    """
    split = str(study.get("split_hash", ""))
    own = folder.resolve()
    found = _logged(own.parent, split)
    noted = {own: (study, events)} | {path: _study(path) for path in _beside(own)}
    counts: dict[str, int] = {}
    for path, (identity, past) in noted.items():
        if identity.get("split_hash") == study.get("split_hash"):
            name = str(identity.get("id", path))
            events_of = sum(event.get("type") == "test_access" for event in past)
            counts[name] = max(counts.get(name, 0), len(found.pop(name, ())), events_of)
    mine = counts[str(study.get("id", own))]
    rest = [len(accesses) for accesses in found.values()]
    everybody = [count for count in [*counts.values(), *rest] if count]
    return Reads(mine, sum(everybody), len(everybody))


def _logged(root: Path, split_hash: str) -> dict[str, set[str]]:
    """Return the accesses that each study has logged."""
    found: dict[str, set[str]] = {}
    for line in read_lines(log_path(root, split_hash)) if _HASH.fullmatch(split_hash) else ():
        if isinstance(line.get("study"), str) and isinstance(line.get("access"), str):
            found.setdefault(line["study"], set()).add(line["access"])
    return found


def _beside(own: Path) -> list[Path]:
    return [path.parent for path in sorted(own.parent.glob("*/study.json")) if path.parent != own]


def _study(folder: Path) -> tuple[Mapping[str, Any], Iterable[Mapping[str, Any]]]:
    try:
        return read_document(folder / "study.json") or {}, read_lines(folder / "events.jsonl")
    except EnvironmentFault:
        return {}, ()
