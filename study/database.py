"""The SQLite file behind the sampler: whether it can be read, and what becomes of it if not."""

import contextlib
import itertools
import sqlite3
from pathlib import Path

from study.errors import EnvironmentFault

_BESIDE = ("", "-journal", "-shm", "-wal")
"""What SQLite appends to a database's name for the files that it keeps with it."""


def check_own(path: Path) -> None:
    """See that SQLite, which follows symbolic links, finds none.

    Raises:
        EnvironmentFault: If the database, or a file that belongs to it, is one.
    """
    for file in (path.with_name(path.name + suffix) for suffix in _BESIDE):
        if file.is_symlink():
            raise EnvironmentFault(
                f"{file} must be a file of the study, but is a symbolic link, which is not followed. Remove the link; "
                "the database is rebuilt."
            )


def set_damaged_aside(path: Path) -> None:
    """Rename a database that SQLite cannot read, with its log; the ledger rebuilds it."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            is_sound = database.execute("PRAGMA quick_check").fetchone() == ("ok",)
            database.execute("PRAGMA journal_mode=WAL")
    except sqlite3.DatabaseError:
        is_sound = False
    if is_sound:
        return
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.rename(path.with_name(f"{path.name}.damaged-{number}{suffix}"))
