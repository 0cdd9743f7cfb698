"""The kinds of values a key can take: numbers with bounds, names, truth values, text, lists of numbers.

Each kind is a callable that returns the value in its one canonical form (so that 1/16, 0.0625 and 6.25e-2 are equal)
or raises `RefusedError` with a sentence that continues "`section.key` ...". pydantic runs them inside the sections;
ranges and choices run them directly.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import final

from study.space.problems import closest
from study.space.tree import MAX_DIGITS, resolve

NOT_AVAILABLE = "is not available in this version"

_FRACTION = re.compile(r"\s*[-+]?[0-9]+\s*/\s*[0-9]+\s*")


@final
class RefusedError(ValueError):
    """A value breaks its key's rule; carries what was probably meant."""

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


def got(value: object) -> str:
    """Describe a value with the type YAML gave it, e.g. `'no' (text)`."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return f"{str(value).lower()} (a truth value)"
        case str():
            return f"{value[:60]!r} (text)"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return repr(value)


def number(value: object) -> float | int:
    """Return a finite number; fractions `N/M` are divided exactly.

    Raises:
        RefusedError: If it is no number, not finite, or a fraction over zero.
    """
    if isinstance(value, str) and _is_fraction(value):
        upper, lower = value.split("/")
        if int(lower) == 0:
            raise RefusedError(f"must be a number, but got {value!r}, which divides by zero.")
        value = float(Fraction(int(upper), int(lower)))
    if isinstance(value, str):
        quoted = isinstance(resolve(value), int | float) and not isinstance(resolve(value), bool)
        raise RefusedError(f"must be a number, but got {got(value)}{'; remove the quotes' if quoted else ''}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f"must be a number, but got {got(value)}.")
    if not math.isfinite(value):
        raise RefusedError(f"must be a finite number, but got {value}.")
    return value


def _is_fraction(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_DIGITS and _FRACTION.fullmatch(value) is not None


@final
@dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number within bounds, or one of a few words."""

    low: float = -math.inf
    high: float = math.inf
    above_low: bool = False
    """Whether `low` itself is excluded."""
    below_high: bool = False
    """Whether `high` itself is excluded."""
    whole: bool = False
    whole_above: float = math.inf
    """Beyond this only whole numbers make sense (a fraction of one GPU, but not of two)."""
    words: tuple[str, ...] = ()
    nullable: bool = False

    def __call__(self, value: object) -> float | int | str | None:
        """Return the canonical value or raise `RefusedError`."""
        if value is None and self.nullable:
            return None
        if isinstance(value, str) and value in self.words:
            return value
        try:
            parsed = number(value)
        except RefusedError as refused:
            is_meant_as_number = isinstance(value, float) or _is_fraction(value)
            if not self.words or is_meant_as_number:
                raise
            word = closest(value, self.words) if isinstance(value, str) else None
            raise RefusedError(f"must be {self.described}, but got {got(value)}.", word) from refused
        return self._bounded(parsed, value)

    def _bounded(self, parsed: float | int, written: object) -> float | int:
        too_low = parsed < self.low or (self.above_low and parsed == self.low)
        too_high = parsed > self.high or (self.below_high and parsed == self.high)
        integral = parsed == math.floor(parsed)
        broken = (self.whole or parsed > self.whole_above) and not integral
        if too_low or too_high or broken:
            raise RefusedError(f"must be {self.described}, but got {written}.")
        if self.whole:
            return int(parsed)
        return float(parsed) + 0.0  # -0.0 becomes 0.0, so that one value has one spelling

    @property
    def described(self) -> str:
        """The rule in words, e.g. `a whole number >= 1 or 'auto'`."""
        bounds = []
        if math.isfinite(self.low):
            bounds.append(f"{'>' if self.above_low else '>='} {self.low:g}")
        if math.isfinite(self.high):
            bounds.append(f"{'<' if self.below_high else '<='} {self.high:g}")
        if math.isfinite(self.whole_above):
            bounds.append(f"whole above {self.whole_above:g}")
        kind = f"a {'whole ' if self.whole else ''}number {' and '.join(bounds)}".rstrip()
        nothing = ["null"] if self.nullable else []
        return " or ".join([kind, *map(repr, self.words), *nothing])


@final
@dataclass(frozen=True, kw_only=True)
class Name:
    """One of the names this version knows."""

    names: tuple[str, ...]
    later: tuple[str, ...] = ()
    """Names that a later version will know."""
    elsewhere: tuple[tuple[str, str, str], ...] = ()
    """Names used by others: the name, what to give instead in words, and the name here that comes nearest."""
    nullable: bool = False

    def __call__(self, value: object) -> str | None:
        """Return the name or raise `RefusedError`."""
        if value is None and self.nullable:
            return None
        if isinstance(value, str) and value in self.names:
            return value
        for name, advice, nearest in self.elsewhere:
            if value == name:
                raise RefusedError(f"has no {name!r}; {advice}.", nearest)
        if isinstance(value, str) and value in self.later:
            raise RefusedError(f"{value!r} {NOT_AVAILABLE}; choose {self.described}.")
        word = value if isinstance(value, str) else str(value).lower()
        raise RefusedError(f"must be {self.described}, but got {got(value)}.", closest(word, self.names))

    @property
    def described(self) -> str:
        """The names in words."""
        nothing = " or null" if self.nullable else ""
        return ("one of " if len(self.names) > 1 else "") + ", ".join(self.names) + nothing


@final
@dataclass(frozen=True)
class Flag:
    """True or false."""

    def __call__(self, value: object) -> bool:
        """Return the truth value or raise `RefusedError`."""
        if isinstance(value, bool):
            return value
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        word = value.lower() if isinstance(value, str) else ""
        suggestion = meant.get(word) or closest(word, ("true", "false"))
        raise RefusedError(f"must be true or false, but got {got(value)}.", suggestion)


@final
@dataclass(frozen=True, kw_only=True)
class Text:
    """Words that are not empty, of a pattern where one is given."""

    pattern: str = r"(?s).+"
    rule: str = "text"
    nullable: bool = False

    def __call__(self, value: object) -> str | None:
        """Return the text or raise `RefusedError`."""
        if value is None and self.nullable:
            return None
        if not isinstance(value, str):
            raise RefusedError(f"must be {self.rule}, but got {got(value)}; put quotes around it if text is meant.")
        if not re.fullmatch(self.pattern, value):
            raise RefusedError(f"must be {self.rule}, but got {value[:60]!r}.")
        return value


@final
@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A list of different numbers, kept in ascending order; words that stand for numbers come first."""

    each: Number
    example: str = "[1/16, 0.1]"
    """Such a list, as it is written."""

    def __call__(self, value: object) -> tuple[float | str, ...]:
        """Return the numbers or raise `RefusedError`; one word alone is a list of itself."""
        if isinstance(value, str) and value in self.each.words:
            return (value,)
        if not isinstance(value, list) or not value:
            what = "[]" if value == [] else got(value)
            words = "".join(f", or {word!r}" for word in self.each.words)
            meant = closest(value, self.each.words) if isinstance(value, str) else None
            raise RefusedError(f"must be a list of numbers such as {self.example}{words}, but got {what}.", meant)
        parsed = [item for item in map(self.each, value) if item is not None]
        if len(set(parsed)) < len(parsed):
            raise RefusedError(f"must be different numbers, but {first_double(parsed)} stands there twice.")
        return tuple(sorted(parsed, key=lambda item: (0.0 if isinstance(item, str) else 1.0, item)))


@final
@dataclass(frozen=True, kw_only=True)
class Listed:
    """A list of different words, kept in the order given; it may be empty."""

    each: Callable[[object], object]
    """Rule of one word."""
    example: str
    """Such a list, as it is written."""
    nullable: bool = False

    def __call__(self, value: object) -> tuple[object, ...] | None:
        """Return the words or raise `RefusedError`."""
        if value is None and self.nullable:
            return None
        if not isinstance(value, list):
            raise RefusedError(f"must be a list such as {self.example}, but got {got(value)}.")
        parsed = tuple(self.each(item) for item in value)
        if len(set(parsed)) < len(parsed):
            raise RefusedError(f"must be different words, but {first_double(parsed)!r} stands there twice.")
        return parsed


Quantity = Number | Name | Flag | Text | Numbers | Listed


def first_double(values: Iterable[object]) -> object | None:
    """Return the first value that stood before, or None where all differ."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
