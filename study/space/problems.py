"""What is wrong with a search space, where, and what was probably meant; all of it told at once.

A problem stands at a place: line and column of the file, or an override of the command line. Finding the problems is
left to the readers of each part.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from study.errors import SpaceError

WIDTH = 120
"""Longest piece of a source line that is shown."""

MAX_PROBLEMS = 100
"""Most problems that are told; a file with more is no search space, and reading on would only take time."""


@final
@dataclass(frozen=True, eq=False)
class Source:
    """A text that problems point into: the file, or one override."""

    name: str
    """What the user calls it, e.g. `search_spaces/kd.yaml` or `override #2 'budget.trails=4'`."""
    lines: tuple[str, ...]
    """Its lines without line ends."""
    override: bool = False
    """Whether it came from the command line."""


@final
@dataclass(frozen=True)
class Place:
    """A position in a source; line and column count from 0 here and from 1 in messages."""

    source: Source
    line: int
    column: int

    def __str__(self) -> str:
        if self.source.override:
            return f"{self.source.name}:"
        return f"{self.source.name}:{self.line + 1}:{self.column + 1}"

    @property
    def excerpt(self) -> str:
        """The source line, cut to `WIDTH`, and a caret below the column; empty where there is no such line."""
        if self.line >= len(self.source.lines):
            return ""
        line = "".join(letter if letter.isprintable() else " " for letter in self.source.lines[self.line])
        start = max(0, self.column - WIDTH // 2) if len(line) > WIDTH else 0
        return f"    {line[start : start + WIDTH]}\n    {' ' * (self.column - start)}^"


@final
@dataclass(frozen=True)
class Problem:
    """One broken rule."""

    place: Place
    message: str
    """Rule, what was got, what to do; without the place."""
    suggestion: str | None = None
    """What was probably meant."""

    def __str__(self) -> str:
        lines = [f"{self.place} {self.message}", self.place.excerpt]
        if self.suggestion is not None:
            lines.append(f"    did you mean {self.suggestion!r}?")
        return "\n".join(line for line in lines if line).encode("utf-8", "backslashreplace").decode()


@final
@dataclass
class Problems:
    """Gathers problems until all parts of the space have been read."""

    found: dict[Problem, None] = field(default_factory=dict)
    """In the order of discovery, each once."""
    unreadable: set[Place] = field(default_factory=set)
    """Places whose value could not be read at all; further complaints about them would only repeat."""

    def add(self, place: Place, message: str, suggestion: str | None = None) -> None:
        """Note a broken rule; the same sentence at the same place is noted once."""
        if place not in self.unreadable:
            self.found[Problem(place, message, suggestion)] = None
        if len(self.found) > MAX_PROBLEMS:
            self.raise_if_any()

    def add_unreadable(self, place: Place, message: str) -> None:
        """Note a value that cannot be read, and silence what later readers say about it."""
        self.add(place, message)
        self.unreadable.add(place)

    def raise_if_any(self) -> None:
        """End the reading with every problem, the file's in order of lines, then the overrides'.

        Raises:
            SpaceError: If a problem was noted.
        """
        if self.found:
            told = [str(problem) for problem in sorted(self.found, key=_position)[:MAX_PROBLEMS]]
            if len(self.found) > MAX_PROBLEMS:
                told.append(f"and more; these are the first {MAX_PROBLEMS}.")
            raise SpaceError("\n\n".join(told))


def _position(problem: Problem) -> tuple[bool, str, int, int]:
    place = problem.place
    return (place.source.override, place.source.name, place.line, place.column)


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` resembles most, ties by common beginning; None where none comes near."""
    by_lower = {name.lower(): name for name in known}
    word = word[:60].lower()
    matches = difflib.get_close_matches(word, by_lower, n=5, cutoff=0.6)
    if not matches:
        return None
    likeness = {match: difflib.SequenceMatcher(None, match, word).ratio() for match in matches}
    best = max(matches, key=lambda match: (likeness[match], _shared_beginning(match, word)))
    return by_lower[best]


def _shared_beginning(first: str, second: str) -> int:
    return next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
