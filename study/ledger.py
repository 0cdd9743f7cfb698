"""The truth about a study: its folder of jobs, each with one config, numbered attempts and at most one outcome.

A job is named by its key, the posix path of its folder below the study's. Whoever runs it commits `outcome.json`,
which is linked once: a second result for the same job is discarded in favour of the first. Nothing here knows what
the jobs are, who runs them or how points are chosen.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, final

from study.documents import read_document
from study.durable import append_line, link_json_once, plain, read_json, read_lines, replace_json
from study.errors import EnvironmentFault, ResumeConflict, StudyError
from study.lease import Attempt, begin_attempt, current_driver, driver_lock, is_fresh, utc_now

SCHEMA = 1
STATES = ("COMPLETE", "PRUNED", "FAIL")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_KEY = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern})*")
_PAUSE = "pause"
_MARKS = ("launched", "interrupted", "ended", "finished")
_INSIDE_A_JOB = frozenset({"attempts", "checkpoint"})


@final
class Ledger:
    """Reads and writes the files of one study; holds no state that a restart could lose.

    Attributes:
        root: Folder of the study.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._next_event: int | None = None

    def folder(self, key: str) -> Path:
        """Return the folder of a job; it need not exist.

        Args:
            key: For example `trials/000012`.

        Raises:
            StudyError: If the key would lead out of the study's folder.
            EnvironmentFault: If a symbolic link on the way would.
        """
        if not _KEY.fullmatch(key):
            raise StudyError(
                f"A job key is a path of letters, digits, '.', '_' and '-' below the study, "
                f"but got {key!r} in {self.root}."
            )
        return self._inside(key)

    def document(self, name: str) -> dict[str, Any] | None:
        """Return a JSON file of the study that is no job's, such as `front/selection.json`; None where there is none.

        Raises:
            EnvironmentFault: If it is damaged, or a symbolic link on the way would lead out of the study.
        """
        return read_document(self._inside(name))

    def _inside(self, name: str) -> Path:
        path = self.root
        for part in name.split("/"):
            path /= part
            if path.is_symlink():
                raise EnvironmentFault(
                    f"A study's files lie in its own folder, but {path} is a symbolic link, which is not followed. "
                    "Put the files there, or the whole study where there is room."
                )
        return path

    def write_config(self, key: str, config: Mapping[str, Any]) -> None:
        """Store what a job is to do; the same content may be written again.

        Raises:
            ResumeConflict: If the job has an outcome already and was run with another config.
        """
        path = self.folder(key) / "config.json"
        stored = self.config(key)
        if stored is not None and stored == _as_read(config):
            return
        if stored is not None and self.outcome(key) is not None:
            changed = sorted(name for name in {*stored, *config} if stored.get(name) != _as_read(config).get(name))
            raise ResumeConflict(
                f"{path}: the job is done and its config differs in {', '.join(changed)}. "
                "Start another study for another config."
            )
        replace_json(path, config)

    def config(self, key: str) -> dict[str, Any] | None:
        """Return the job's config, or None where it has none."""
        return read_document(self.folder(key) / "config.json")

    def begin(self, key: str) -> Attempt:
        """Start an attempt at the job; use it as a context manager, so that others see it is alive."""
        return begin_attempt(self.folder(key))

    def commit(self, key: str, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Settle a job for good; of several commits the first one counts.

        Args:
            key: The job.
            outcome: `state` (COMPLETE, PRUNED or FAIL), `reason`, `values`, `metrics`, `attempt`, `started`, `seconds`.
                Numbers that are not finite are stored as null.

        Returns:
            The outcome in force, read back: this one, or that of whoever was first.

        Raises:
            ValueError: If the state is not one of the three.
        """
        if outcome.get("state") not in STATES:
            raise ValueError(f"State must be one of {', '.join(STATES)}, but got {outcome.get('state')!r} for {key}.")
        blank = {"schema": SCHEMA, "key": key, "state": None, "reason": None, "values": None, "metrics": {}}
        path = self.folder(key) / "outcome.json"
        link_json_once(path, {**blank, **outcome, "schema": SCHEMA, "key": key})
        winner = read_json(path)
        assert winner is not None, f"{path} was linked and then removed by somebody"
        return winner

    def outcome(self, key: str) -> dict[str, Any] | None:
        """Return the job's one outcome, or None while it has none."""
        return read_document(self.folder(key) / "outcome.json")

    def attempts(self, key: str) -> int:
        """Return how often the job was begun."""
        folder = self.folder(key) / "attempts"
        return sum(entry.name.isdigit() for entry in folder.iterdir()) if folder.is_dir() else 0

    def reopen(self, key: str) -> None:
        """Set a job's outcome aside, into the folder of its last attempt, so that it can be run again."""
        folder = self.folder(key)
        aside = self._inside(f"{key}/attempts/{max(1, self.attempts(key)):02d}/outcome.json")
        aside.parent.mkdir(parents=True, exist_ok=True)
        (folder / "outcome.json").replace(aside)

    def lease_is_fresh(self, key: str, max_age_s: float = 60.0) -> bool:
        """Say whether somebody is working on the job: a heartbeat within `max_age_s` and no sign of its end."""
        return is_fresh(self.folder(key), max_age_s)

    def ask_to_pause(self) -> None:
        """Ask all workers of the study to keep where they stand and to end."""
        with contextlib.suppress(OSError):  # on a full disk nobody is asked; the engine ends them all the same
            (self.root / _PAUSE).touch()

    def clear_pause(self) -> None:
        """Take the request back, for a new launch."""
        (self.root / _PAUSE).unlink(missing_ok=True)

    @property
    def is_pausing(self) -> bool:
        """Whether the workers have been asked to end."""
        return (self.root / _PAUSE).exists()

    def event(self, type: str, **fields: Any) -> None:
        """Append to events.jsonl; only the driver may call this."""
        path = self.root / "events.jsonl"
        number = self._next_event
        if number is None:
            given = (event.get("seq") for event in self.events())
            number = max((seq for seq in given if isinstance(seq, int)), default=-1) + 1
        append_line(path, {"schema": SCHEMA, "seq": number, "ts": utc_now(), "type": type, **fields})
        self._next_event = number + 1

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events in order; a torn line is skipped."""
        return read_lines(self.root / "events.jsonl")

    def keys(self, prefix: str = "") -> list[str]:
        """List the jobs below a folder, sorted: every folder that holds a config or an outcome.

        Args:
            prefix: For example `trials` or `robustness/student-000012`; empty for all.

        Raises:
            EnvironmentFault: If the folder is a symbolic link; links below it are left out.
        """
        start = self.folder(prefix) if prefix else self.root
        found = (path.relative_to(self.root).as_posix() for path, entries in _folders(start) if _is_job(entries))
        return sorted(key for key in found if _KEY.fullmatch(key))

    def numbered(self, folder: str) -> list[str]:
        """List the jobs of a folder that are named by their number, such as trials; see `by_number`."""
        return list(by_number(self.keys(folder), folder).values())

    def strays(self) -> list[str]:
        """List what lies between the jobs and is never read: symbolic links, and folders whose name no job can have."""
        found = [entry for _, entries in _folders(self.root) for entry in entries if _is_stray(entry)]
        return sorted(Path(entry.path).relative_to(self.root).as_posix() for entry in found)

    def lock(self) -> AbstractContextManager[None]:
        """Be the only driver while the block runs; raises EnvironmentFault, naming the other one."""
        return driver_lock(self.root / "driver.lock")

    def driver(self) -> dict[str, str] | None:
        """Return pid, host and start of the driver that runs now, or None."""
        return current_driver(self.root / "driver.lock")


def by_number(keys: Iterable[str], folder: str) -> dict[int, str]:
    """Give those jobs of a folder that are named as trials are; somebody's copy `000012-before` is none.

    Args:
        keys: Of jobs, some of them not of that folder.
        folder: For example `trials`.
    """
    names = {key: key.removeprefix(f"{folder}/") for key in keys}
    return {int(name): key for key, name in names.items() if is_number(name)}


def is_number(name: str) -> bool:
    """Tell whether a job's folder is named as a trial's is: by at least six digits."""
    return name.isdecimal() and name == f"{int(name):06d}"


def last_mark(events: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the last event with which a launch began or ended, empty before the first."""
    last: Mapping[str, Any] = {}
    for event in events:
        if event.get("type") in _MARKS:
            last = event
    return last


def _as_read(document: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(plain(document)))


def _folders(start: Path) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Walk down through the folders that jobs may have, not into attempts and checkpoints, and never along a link."""
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        if not folder.is_dir():
            continue
        with os.scandir(folder) as scan:
            entries = list(scan)
        yield folder, entries
        waiting += [Path(entry.path) for entry in entries if _is_walked(entry)]


def _is_walked(entry: os.DirEntry[str]) -> bool:
    is_named = _NAME.fullmatch(entry.name) is not None and entry.name not in _INSIDE_A_JOB
    return is_named and entry.is_dir(follow_symlinks=False)


def _is_job(entries: list[os.DirEntry[str]]) -> bool:
    return any(entry.name in ("config.json", "outcome.json") for entry in entries)


def _is_stray(entry: os.DirEntry[str]) -> bool:
    """Tell what somebody may take for a part of the study; hidden folders, such as a notebook's, are not."""
    is_hidden = entry.name.startswith(".") and not entry.name.startswith("..")
    is_odd = _NAME.fullmatch(entry.name) is None and not is_hidden
    return entry.is_symlink() or (is_odd and entry.is_dir(follow_symlinks=False))
