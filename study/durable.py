"""Small files that survive a kill at any instruction: written whole or not at all, and on disk before anybody is told.

A reader never sees half a JSON document; of a file of lines only the last line can be torn, and readers skip it.
What the files mean is the ledger's business.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import stat
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np

from study.errors import EnvironmentFault

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    BadZipFile,
    zlib.error,
    RuntimeError,
    MemoryError,
)
"""What numpy and zipfile raise where the bytes of an archive are not what they were."""


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold: numpy scalars become numbers, numbers that are not finite become null.

    Args:
        value: Nested mappings, lists, tuples and scalars.

    Returns:
        The same content as dicts with text keys, lists, text, numbers, booleans and None.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Say of a study's folder that it could not be used in the block, and what to do.

    Args:
        folder: The study's.

    Raises:
        EnvironmentFault: In the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"The study's folder {folder} must be writable, but {error.filename or folder} is not: {_said_of(error)}. "
            "Allow it, or choose another folder with --output."
        ) from error


def _said_of(error: OSError) -> str | None:
    return "a symbolic link, which is not followed" if error.errno == errno.ELOOP else error.strerror


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_of(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain(document), indent=1, allow_nan=False) + "\n").encode()


def _write_beside(path: Path, content: bytes, *, synced: bool = True) -> Path:
    """Write a file under a name nobody else uses, in the same folder, and wait for the disk if asked to."""
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            if synced:
                os.fsync(stream.fileno())
    except OSError:  # a full disk, above all: what was written of it must not take more room
        beside.unlink(missing_ok=True)
        raise
    return beside


def replace_json(path: Path, document: Mapping[str, Any], *, synced: bool = True) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a part.

    Args:
        path: File to write; its folder is made where it is missing.
        document: Content; see `plain` for what becomes of numpy and of numbers that are not finite.
        synced: Whether to wait for the disk; without it a power cut may leave the file empty, or none.
    """
    replace_bytes(path, _bytes_of(document), synced=synced)


def replace_bytes(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part.

    Args:
        path: File to write; its folder is made where it is missing, a symbolic link of its name is replaced.
        content: What it holds.
        synced: Whether to wait for the disk; without it a power cut may leave the file empty, or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _write_beside(path, content, synced=synced)
    try:
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    if synced:
        sync_folder(path.parent)


def link_json_once(path: Path, document: Mapping[str, Any]) -> bool:
    """Give a document its final name if nobody has taken that name yet.

    Args:
        path: File that may come into being once.
        document: Content.

    Returns:
        True if this call made the file, False if it was there already (and was left alone).

    Raises:
        EnvironmentFault: If the file system has no hard links.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _write_beside(path, _bytes_of(document))
    try:
        path.hardlink_to(beside)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise EnvironmentFault(
            f"Results need a file system with hard links, but {path.parent} has none ({error.strerror}). "
            "Choose another folder with --output."
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def link_or_copy(source: Path, target: Path, *, by_link: bool = True) -> None:
    """Give a file another name, or a copy where that cannot be; whoever reads the target finds it whole.

    Args:
        source: A plain file; of a symbolic link the link itself is taken.
        target: In a folder that exists; replaced where it is there.
        by_link: Whether both may be one file, as is right for what is replaced and never changed.
    """
    beside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        if not (by_link and _linked(source, beside)):
            shutil.copyfile(source, beside, follow_symlinks=False)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        return False
    return True


def open_own(path: Path) -> IO[bytes]:
    """Open a file of a study for reading; see `own_file`.

    A folder of results may come from somebody else; a link in it must not show files of whoever looks at it.

    Raises:
        OSError: If there is no such file, or something else has its name.
    """
    return os.fdopen(own_file(str(path), os.O_RDONLY), "rb")


def own_file(path: str, flags: int) -> int:
    """Open a file of a study itself, never what a symbolic link of that name leads to, and never a pipe.

    Args:
        path: The file.
        flags: How to open it; with them this is the `opener` of `open`.

    Returns:
        A file descriptor.

    Raises:
        OSError: If something else has its name, or it cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", path)
    return descriptor


def make_own_folder(folder: Path) -> None:
    """Make a folder of a study where it is missing.

    Raises:
        EnvironmentFault: If a symbolic link has its name: what is written would lie elsewhere.
    """
    if folder.is_symlink():
        raise EnvironmentFault(f"{folder} must be a folder of the study, but is a symbolic link. Remove the link.")
    folder.mkdir(parents=True, exist_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object.

    Returns:
        The object, or None where there is no such file.

    Raises:
        EnvironmentFault: If the file holds something else, or is a link.
    """
    try:
        with open_own(path) as stream:
            document = json.loads(stream.read().decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EnvironmentFault(
            f"{path} must be a file that can be read, but: {_said_of(error)}. Restore it or delete it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise EnvironmentFault(f"{path} is damaged: not a JSON document ({error}). Restore it or delete it.") from error
    if not isinstance(document, dict):
        raise EnvironmentFault(f"{path} must hold a JSON object, but holds {type(document).__name__}.")
    return document


def append_line(path: Path, document: Mapping[str, Any]) -> None:
    """Append one JSON line; a torn line that an earlier kill left behind is cut off first."""
    line = _line_of(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", opener=own_file) as stream:
        whole = _end_of_last_whole_line(path)
        if whole != stream.seek(0, os.SEEK_END):
            stream.truncate(whole)
        stream.write(line)


def replace_lines(path: Path, documents: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of lines so that a reader, or whoever goes on after a kill, finds the old ones or the new ones."""
    replace_bytes(path, b"".join(map(_line_of, documents)))


def _line_of(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain(document), allow_nan=False) + "\n").encode()


def _end_of_last_whole_line(path: Path) -> int:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        step = 4096
        for start in range(size, 0, -step):
            begin = max(0, start - step)
            stream.seek(begin)
            newline = stream.read(start - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
    return 0


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file of lines; what cannot be read (a torn line, a link) is skipped."""
    try:
        stream = open_own(path)
    except OSError:
        return
    with stream:
        for line in stream:
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                yield document
