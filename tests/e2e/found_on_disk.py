"""What the files of a study say that was killed and started again, beside those of one that was not."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.ledger import Ledger
from study.number_ranges import numbers_in


class Tally:
    """Lines that outlive the process which writes them; stands outside the study, so that nobody mends it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, *words: object) -> None:
        """Append a line in one write."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        os.close(descriptor)

    def lines(self, kind: str) -> list[list[str]]:
        """Return the words of the lines that begin with a word, without it."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        return [words[1:] for words in map(str.split, text.splitlines()) if words[0] == kind]

    def count(self, kind: str) -> Counter[str]:
        """Count the lines of a kind by their second word."""
        return Counter(words[0] for words in self.lines(kind))


@dataclass
class Watched:
    """One study's folder, what its launches noted, and what was wrong with it between them."""

    root: Path
    kills: int = 0
    broken: list[str] = field(default_factory=list)
    """Outcomes that vanished or changed from one look to the next."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        self.folder = self.root / "study"
        self.tally = Tally(self.root / "tally")
        self._outcomes: dict[Path, bytes] = {}

    def look(self) -> None:
        """Compare the outcomes with those of the last look."""
        now = {path: path.read_bytes() for path in self.folder.rglob("outcome.json")}
        for path, content in self._outcomes.items():
            if now.get(path) != content:
                self.broken.append(f"{path.parent.name} {'vanished' if path not in now else 'changed'}")
        self._outcomes = now


@dataclass(frozen=True)
class Found:
    """What a finished study's files say."""

    outcomes: dict[str, str]
    points: dict[int, Any]
    seen: dict[int, list[int]]
    told: list[tuple[int, str, tuple[float, ...]]]
    """Rows of Optuna's database: number, state, values."""
    events: list[int]

    @staticmethod
    def in_folder(folder: Path) -> "Found":
        """Read them; Optuna's database by SQL."""
        files = Ledger(folder)
        outcomes = {key: files.outcome(key) or {} for key in files.keys("")}
        configs = [files.config(key) or {} for key in files.keys("trials")]
        return Found(
            {
                key: json.dumps([each.get(name) for name in ("state", "reason", "values")])
                for key, each in outcomes.items()
            },
            {config["number"]: config["params"] for config in configs},
            {config["number"]: numbers_in(config["seen"]) for config in configs},
            rows_of(folder / "optuna.db"),
            [event["seq"] for event in files.events()],
        )


def rows_of(path: Path) -> list[tuple[int, str, tuple[float, ...]]]:
    """Return number, state and values of every trial in a database of Optuna's, by number."""
    query = """SELECT number, state, (SELECT json_group_array(value) FROM
        (SELECT value FROM trial_values WHERE trial_values.trial_id = trials.trial_id ORDER BY objective))
        FROM trials ORDER BY number"""
    with closing(sqlite3.connect(path)) as connection:
        return [(number, state, tuple(json.loads(values))) for number, state, values in connection.execute(query)]


@dataclass
class Score:
    """What kills did to studies; every list but `repeated` must be empty."""

    kills: int = 0
    studies: int = 0
    outcomes_lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    started_again: list[str] = field(default_factory=list)
    told_twice: list[str] = field(default_factory=list)
    differently_told: list[str] = field(default_factory=list)
    differing_suggestions: list[str] = field(default_factory=list)
    differing_seen: list[str] = field(default_factory=list)
    torn_events: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    """Jobs whose work was done again after a kill before its commit; allowed."""

    @property
    def faults(self) -> dict[str, list[str]]:
        """What must not happen and did."""
        allowed = ("kills", "studies", "repeated")
        return {name: found for name, found in vars(self).items() if name not in allowed and found}

    def add(self, study_: Watched, reference: Found, *, same_database: bool = True) -> None:
        """Compare a finished study with the uninterrupted one.

        Args:
            study_: The study.
            reference: Same setting, never killed.
            same_database: Whether the database was left alone between the launches; a rebuilt one is told again.
        """
        found, tally = Found.in_folder(study_.folder), study_.tally
        self.kills += study_.kills
        self.studies += 1
        self.outcomes_lost += [*study_.broken, *_differing(reference.outcomes, found.outcomes)]
        self.duplicated += [key for key, times in tally.count("committed").items() if times > 1]
        self.started_again += [key for key, state in tally.lines("handed") if state == "settled"]
        if same_database:
            self.told_twice += [number for number, times in tally.count("told").items() if times > 1]
        if found.told != reference.told:
            self.differently_told.append(f"{found.told} and not {reference.told}")
        self.differing_suggestions += _differing(reference.points, found.points)
        self.differing_seen += _differing(reference.seen, found.seen)
        if found.events != list(range(len(found.events))):
            self.torn_events.append(f"{found.events}")
        self.repeated += [key for key, times in tally.count("done").items() if times > 1]


def _differing(wanted: dict[Any, Any], found: dict[Any, Any]) -> list[str]:
    keys = sorted({*wanted, *found})
    return [f"{key}: {found.get(key)} and not {wanted.get(key)}" for key in keys if wanted.get(key) != found.get(key)]


def total(scores: Iterable[Score]) -> Score:
    """Add up scores."""
    whole = Score()
    for score in scores:
        for name, value in vars(score).items():
            setattr(whole, name, getattr(whole, name) + value)
    return whole
