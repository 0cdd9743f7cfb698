"""Small files that survive a kill at any instruction: written whole or not at all, and on disk before anybody is told.

A reader never sees half a JSON document; of a file of lines only the last line can be torn, and readers skip it.
What the files mean is the ledger's business.
"""

import errno
import json
import math
import os
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
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


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(path: Path, document: Mapping[str, Any]) -> Path:
    """Write the document under a name nobody else uses, in the same folder, and wait for the disk."""
    text = json.dumps(plain(document), indent=1, allow_nan=False) + "\n"
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return beside


def replace_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a part.

    Args:
        path: File to write; its folder is made where it is missing.
        document: Content; see `plain` for what becomes of numpy and of numbers that are not finite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _write_beside(path, document)
    try:
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
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
    beside = _write_beside(path, document)
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


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object.

    Returns:
        The object, or None where there is no such file.

    Raises:
        EnvironmentFault: If the file holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path} is damaged: not a JSON document ({error}). Restore it or delete it.") from error
    if not isinstance(document, dict):
        raise EnvironmentFault(f"{path} must hold a JSON object, but holds {type(document).__name__}.")
    return document


def append_line(path: Path, document: Mapping[str, Any]) -> None:
    """Append one JSON line; a torn line that an earlier kill left behind is cut off first."""
    line = (json.dumps(plain(document), allow_nan=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        whole = _end_of_last_whole_line(path)
        if whole != stream.seek(0, os.SEEK_END):
            stream.truncate(whole)
        stream.write(line)


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
    """Yield the JSON objects of a file of lines; what cannot be read (a torn line) is skipped."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in stream:
            try:
                document = json.loads(line)
            except ValueError:
                continue
            if isinstance(document, dict):
                yield document
