"""Copies a finished study to any file system that pyarrow knows: a bucket, HDFS, another folder.

`study.json` goes last, and an older one is removed first, so that a torn copy is never taken for a study. A copy that
was interrupted is continued: what is there already is compared and left.
"""

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from pyarrow import ArrowException, fs

from study.documents import read_document
from study.errors import EnvironmentFault

IDENTITY = "study.json"
PATIENCE_S = 30.0
"""Seconds in which a target must have shown that it can be written."""
_CHUNK = 2**20
_AT_ONCE = 16
_WITHOUT_FOLDERS = frozenset({"s3", "gcs"})
_SKIPPED_FOLDERS = frozenset({"checkpoint"})
_SKIPPED_NAMES = frozenset({"driver.lock", "pause", IDENTITY})
_SKIPPED_ENDS = ("-wal", "-shm", ".tmp")
_T = TypeVar("_T")


@final
@dataclass(frozen=True)
class Target:
    """A folder on some file system."""

    filesystem: fs.FileSystem
    path: str
    """Of the folder on it."""
    uri: str
    """As it was asked for."""

    def at(self, name: str) -> str:
        """Return the path of a file in it.

        Args:
            name: Relative to the folder, with slashes.
        """
        return f"{self.path.rstrip('/')}/{name}"


@final
@dataclass(frozen=True)
class Copied:
    """What a copy took."""

    files: int
    """Copied now."""
    bytes: int
    """In those files."""
    unchanged: int
    """Files that were there already."""


def open_target(uri: str, study: str | None = None) -> Target:
    """Find out whether a study can be copied somewhere, by writing there.

    Args:
        uri: For example `s3://bucket/results/kd` or `file:///archive/kd`; credentials come from where the file system
            looks for them.
        study: Id of the study; None where it has none yet.

    Raises:
        EnvironmentFault: If the scheme is unknown, nothing can be written there, or another study is there.
    """
    return _within(PATIENCE_S, uri, lambda: _opened(uri, study))


def _opened(uri: str, study: str | None) -> Target:
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (ArrowException, ValueError, OSError, ImportError) as error:
        raise EnvironmentFault(
            f"--copy-to takes the address of a folder on a file system that pyarrow knows (file, s3, gs, abfs, hdfs), "
            f"but got {uri!r}: {_first_line(error)}. For example s3://bucket/results/kd or file:///archive/kd."
        ) from error
    target = Target(filesystem, path, uri)
    check_writable(target)
    check_same(target, study)
    return target


def check_writable(target: Target) -> None:
    """Write a small file there and remove it again.

    Raises:
        EnvironmentFault: If that fails.
    """
    name = target.at(f".probe-{uuid.uuid4().hex[:12]}")
    try:
        target.filesystem.create_dir(target.path, recursive=True)
        with target.filesystem.open_output_stream(name) as stream:
            stream.write(b"probe")
        with target.filesystem.open_input_stream(name) as stream:
            is_kept = stream.read() == b"probe"
        target.filesystem.delete_file(name)
    except (ArrowException, OSError, NotImplementedError) as error:
        raise EnvironmentFault(
            f"--copy-to must name a folder that can be written, but {target.uri} cannot: {_first_line(error)}. Check "
            "address, credentials and rights."
        ) from error
    if not is_kept:
        raise EnvironmentFault(f"--copy-to needs a file system that keeps what is written, but {target.uri} does not.")


def check_same(target: Target, study: str | None) -> None:
    """See that no other study is there.

    Args:
        target: Where the copy goes.
        study: Id of the study; None where it has none yet.

    Raises:
        EnvironmentFault: If one is.
    """
    there = _identity_at(target)
    if there is not None and there.get("id") != study:
        raise EnvironmentFault(
            f"--copy-to must name a folder of its own, but {target.uri} holds another study, {there.get('name')!r} "
            f"begun {there.get('created')}. Name another folder, or remove that copy."
        )


def _identity_at(target: Target) -> dict[str, Any] | None:
    path = target.at(IDENTITY)
    if target.filesystem.get_file_info(path).type != fs.FileType.File:
        return None
    with target.filesystem.open_input_stream(path) as stream:
        try:
            found = json.loads(stream.read())
        except ValueError:
            return {}
    return found if isinstance(found, dict) else {}


def copy_study(folder: Path, target: Target) -> Copied:
    """Copy a study's files; locks, checkpoints of unfinished work and links stay behind.

    Args:
        folder: Of the study.
        target: From `open_target`.

    Raises:
        EnvironmentFault: If the target fails on the way; the copy has no `study.json` then and can be continued.
    """
    study = read_document(folder / IDENTITY) or {}
    check_same(target, study.get("id"))
    try:
        return _copied(folder, target)
    except (ArrowException, OSError) as error:
        raise EnvironmentFault(
            f"The copy of {folder} to {target.uri} was not finished: {_first_line(error)}. What is there is not taken "
            "for a study; the same command continues it."
        ) from error


def _copied(folder: Path, target: Target) -> Copied:
    names, there = list(files_of(folder)), _sizes_at(target)
    same = _for_each(names, lambda name: there.get(name) is not None and _is_same(folder, target, name, there[name]))
    stale = [name for name, is_there in zip(names, same, strict=True) if not is_there]
    if stale:
        _remove_identity(target)
        _make_folders(target, {name.rpartition("/")[0] for name in stale})
    _for_each(stale, lambda name: _copy_file(folder, target, name))
    if stale or IDENTITY not in there or not _is_same(folder, target, IDENTITY, there[IDENTITY]):
        stale.append(IDENTITY)
        _copy_file(folder, target, IDENTITY)
    return Copied(len(stale), sum((folder / name).stat().st_size for name in stale), len(names) + 1 - len(stale))


def _for_each(names: Sequence[str], work: Callable[[str], _T]) -> list[_T]:
    """Do some work for many files at once: a bucket takes its time over each. After a fault the rest is left."""
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        return list(pool.map(work, names))
    finally:
        pool.shutdown(cancel_futures=True)


def _make_folders(target: Target, names: Iterable[str]) -> None:
    """Make the folders that files go to; buckets have none."""
    if target.filesystem.type_name not in _WITHOUT_FOLDERS:
        for name in sorted(names):
            target.filesystem.create_dir(target.at(name), recursive=True)


def files_of(folder: Path) -> Iterator[str]:
    """Name the files of a study that a copy holds, but for `study.json`, in order; relative, with slashes."""
    return (name for name in _files(folder) if name not in _SKIPPED_NAMES)


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name in _SKIPPED_FOLDERS or path.name.startswith(".probe-"):
            continue
        if path.is_dir():
            yield from (f"{path.name}/{name}" for name in _files(path))
        elif not path.name.endswith(_SKIPPED_ENDS):
            yield path.name


def _sizes_at(target: Target) -> dict[str, int]:
    selector = fs.FileSelector(target.path, recursive=True, allow_not_found=True)
    found = target.filesystem.get_file_info(selector)
    start = len(target.path.rstrip("/")) + 1
    return {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}


def _is_same(folder: Path, target: Target, name: str, size: int) -> bool:
    source = folder / name
    if source.stat().st_size != size:
        return False
    with source.open("rb") as mine, target.filesystem.open_input_stream(target.at(name)) as theirs:
        while ours := mine.read(_CHUNK):
            if ours != _read(theirs):
                return False
    return True


def _read(stream: Any) -> bytes:
    """Read a whole chunk: a stream may give less at a time."""
    parts, left = [], _CHUNK
    while left and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _remove_identity(target: Target) -> None:
    with contextlib.suppress(FileNotFoundError):
        target.filesystem.delete_file(target.at(IDENTITY))


def _copy_file(folder: Path, target: Target, name: str) -> None:
    with (folder / name).open("rb") as reader, target.filesystem.open_output_stream(target.at(name)) as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)


def _within(seconds: float, uri: str, work: Callable[[], _T]) -> _T:
    """Do some work in a thread that is left alone where it takes too long: a bucket's client retries for minutes."""
    results: list[_T] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as fault:  # noqa: BLE001  raised by whoever waits
            faults.append(fault)

    thread = threading.Thread(target=run, name="copy-to", daemon=True)
    thread.start()
    thread.join(seconds)
    if faults:
        raise faults[0]
    if not results:
        raise EnvironmentFault(
            f"--copy-to must name a folder that can be written, but {uri} did not answer within {seconds:g} s. Check "
            "address, network and credentials."
        )
    return results[0]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
