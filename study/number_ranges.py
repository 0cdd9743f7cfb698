"""Sets of trial numbers, written as ranges: of 10,000 trials that are over but for a few, the few gaps are all there
is to say.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import final

Ranges = list[list[int]]
"""Pairs of first and last number, both belonging to the set, ascending and apart."""


@final
class NumberSet:
    """Whole numbers, kept as ranges; adding one costs as much as there are gaps."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        """Begin with some numbers, in any order."""
        self._first: list[int] = []
        self._last: list[int] = []
        for number in sorted(numbers):
            self.add(number)

    def add(self, number: int) -> None:
        """Add a number; one that is there already changes nothing."""
        place = bisect_right(self._first, number)
        if place and number <= self._last[place - 1]:
            return
        self._first.insert(place, number)
        self._last.insert(place, number)
        self._join(place)
        self._join(place - 1)

    def _join(self, place: int) -> None:
        """Make one of a range and the next where nothing lies between them."""
        if 0 <= place < len(self._first) - 1 and self._last[place] + 1 == self._first[place + 1]:
            del self._first[place + 1], self._last[place]

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._first, number)
        return place > 0 and number <= self._last[place - 1]

    def __iter__(self) -> Iterator[int]:
        return iter(numbers_in(self.ranges))

    @property
    def ranges(self) -> Ranges:
        """The numbers as pairs of first and last."""
        return [[first, last] for first, last in zip(self._first, self._last, strict=True)]


def numbers_in(ranges: Iterable[int | Sequence[int]]) -> list[int]:
    """Return the numbers that a record names.

    Args:
        ranges: Pairs of first and last number; single numbers, as studies before 2026-12 wrote them, stand for
            themselves.
    """
    pairs = ((entry, entry) if isinstance(entry, int) else entry for entry in ranges)
    return [number for first, last in pairs for number in range(first, last + 1)]
