"""YAML text as a tree of values that know their place.

Built from ruamel.yaml's events, so that nothing of the text is executed, duplicate keys are all seen, and depth and
size stay bounded. Scalars follow YAML 1.2: `no` is text and `1e-4` a number. What the values mean is left to `schema`.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from study.space.problems import Place, Problems, Source

MAX_DEPTH = 20
"""Deepest nesting that is read; a space needs 5."""

MAX_NODES = 5000
"""Most values that are read; a space needs 200."""

MAX_DIGITS = 40
"""Longest number that is read as one."""


@final
@dataclass(frozen=True)
class Scalar:
    """One word, number or quoted text."""

    place: Place
    text: str
    plain: bool
    """Whether it stood without quotes, and so may be a number, a truth value or nothing."""


@final
@dataclass
class Mapping:
    """Keys with their values, in the order of the file."""

    place: Place
    entries: dict[str, "Entry"] = field(default_factory=dict)


@final
@dataclass
class Sequence:
    """A list."""

    place: Place
    items: list["Node"] = field(default_factory=list)


Node = Scalar | Mapping | Sequence
Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]


@final
@dataclass
class Entry:
    """A key's own place and its value."""

    place: Place
    node: Node


def value_of(node: Node) -> Value:
    """Return the plain Python value of a node; fractions such as 1/16 stay text until a number is asked for."""
    if isinstance(node, Mapping):
        return {key: value_of(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [value_of(item) for item in node.items]
    return resolve(node.text) if node.plain else node.text


_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_WHOLE = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def resolve(text: str) -> bool | int | float | str | None:
    """Read an unquoted scalar as YAML 1.2's core schema does; numbers beyond `MAX_DIGITS` letters stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > MAX_DIGITS:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    return float(text) if _REAL.fullmatch(text) else text


def parse(text: str, source: Source, problems: Problems) -> Node | None:
    """Read one YAML document.

    Args:
        text: The document; columns in it are columns of `source`.
        source: What places point into.
        problems: Receives what is wrong: broken syntax (which ends the reading), tags, aliases, double keys.

    Returns:
        The root, or None where the text is broken or empty.
    """
    builder = _Builder(source, problems)
    try:
        for event in _events(text):
            if not builder.take(event):
                return None
    except MarkedYAMLError as error:
        _note_syntax(error, text, source, problems)
        return None
    except ReaderError as error:
        before = text[: error.position]
        place = Place(source, before.count("\n"), len(before) - before.rfind("\n") - 1)
        problems.add(place, f"holds a character that YAML does not allow (code {error.character}); remove it.")
        return None
    except (YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, AssertionError) as error:
        # ruamel's scanner meets some broken escapes and directives with an exception of its own code.
        problems.add(builder.last, f"is not readable as YAML after this place ({error}).")
        return None
    return builder.root


def _events(text: str) -> Iterator[Event]:
    yield from YAML(typ="rt", pure=True).parse(text)


def _note_syntax(error: MarkedYAMLError, text: str, source: Source, problems: Problems) -> None:
    mark = error.problem_mark or error.context_mark
    place = Place(source, mark.line, mark.column) if mark is not None else Place(source, 0, 0)
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        problems.add(place, "a tab stands where YAML wants spaces; replace it by spaces.")
        return
    context = f" {error.context}" if error.context else ""
    problems.add(place, f"broken YAML{context}: {error.problem or 'unreadable'}.")


@final
class _Builder:
    """Grows the tree from events, without recursion, so that hostile nesting meets `MAX_DEPTH`."""

    def __init__(self, source: Source, problems: Problems) -> None:
        self.root: Node | None = None
        self.last = Place(source, 0, 0)
        self._source = source
        self._problems = problems
        self._open: list[Mapping | Sequence] = []
        self._keys: list[tuple[Place, str] | None] = []
        self._nodes = 0
        self._documents = 0

    def take(self, event: Event) -> bool:
        """Use one event; False ends the reading."""
        mark = event.start_mark
        self.last = Place(self._source, mark.line, mark.column) if mark is not None else self.last
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            return self._documents == 1 or self._stop("a second document begins here; a space is one document.")
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._open.pop()
            self._keys.pop()
            return True
        node = self._node(event)
        return node is None or self._place(node)

    def _stop(self, message: str) -> bool:
        self._problems.add(self.last, message)
        return False

    def _node(self, event: Event) -> Node | None:
        if isinstance(event, AliasEvent):
            self._problems.add_unreadable(self.last, "YAML aliases (*name) are not supported; write the value out.")
            return Scalar(self.last, "", plain=True)
        if not isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent):
            return None
        if event.ctag is not None:
            self._problems.add_unreadable(
                self.last, f"YAML tags ({str(event.ctag)[:60]}) are not supported; remove the tag."
            )
        if isinstance(event, MappingStartEvent):
            return Mapping(self.last)
        if isinstance(event, SequenceStartEvent):
            return Sequence(self.last)
        if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in event.value):
            self._problems.add_unreadable(self.last, f"holds a control character: {event.value[:60]!a}.")
        return Scalar(self.last, event.value, plain=event.style is None)

    def _place(self, node: Node) -> bool:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(self._open) >= MAX_DEPTH:
            return self._stop(f"a space has at most {MAX_NODES} values and {MAX_DEPTH} levels; this one has more.")
        self._attach(node)
        if not isinstance(node, Scalar):
            self._open.append(node)
            self._keys.append(None)
        return True

    def _attach(self, node: Node) -> None:
        if not self._open:
            self.root = node
        elif isinstance(parent := self._open[-1], Sequence):
            parent.items.append(node)
        elif self._keys[-1] is None:
            self._keys[-1] = (node.place, self._key(node))
        else:
            self._enter(parent, *self._keys[-1], node)
            self._keys[-1] = None

    def _key(self, node: Node) -> str:
        if isinstance(node, Scalar):
            return node.text
        self._problems.add_unreadable(node.place, "a key must be one word, not a list or a mapping.")
        return ""

    def _enter(self, parent: Mapping, place: Place, key: str, node: Node) -> None:
        first = parent.entries.get(key)
        if first is None:
            parent.entries[key] = Entry(place, node)
        else:
            self._problems.add(
                place, f"`{key}` is given twice (first in line {first.place.line + 1}); keep one of the two."
            )
