"""Overrides of the command line, `key.key=value`, laid over the tree of the file.

The value is read as YAML; a list is entered by index. An override that is wrong is cited by number and text. The keys
themselves are checked later, with the file's.
"""

from collections.abc import Sequence as SequenceType

from study.space.problems import Place, Problems, Source
from study.space.tree import Entry, Mapping, Node, Scalar, Sequence, parse

MAX_LENGTH = 10_000
"""Longest override that is read."""


def apply_overrides(root: Mapping, overrides: SequenceType[str], problems: Problems) -> None:
    """Replace or add values in the tree, in order; a later override wins.

    Args:
        root: The file's tree; changed.
        overrides: Texts such as `budget.trials=4`, `teachers.0.arch=resnet32`, `space.solver=rk4`.
        problems: Receives overrides that cannot be laid over the tree.
    """
    for number, text in enumerate(overrides, start=1):
        shown = text if len(text) <= 200 else text[:200] + "..."
        source = Source(f"override #{number} {shown!r}", tuple(text.split("\n")), override=True)
        _apply(root, text, source, problems)


def _apply(root: Mapping, text: str, source: Source, problems: Problems) -> None:
    start = Place(source, 0, 0)
    key, equals, value = text.partition("=")
    keys = key.split(".")
    if not equals or not all(keys) or len(text) > MAX_LENGTH or "\n" in key:
        problems.add(start, "must be key=value with a dotted key, such as budget.trials=4.")
        return
    known = len(problems.found)
    node = parse(" " * (len(key) + 1) + value, source, problems)
    if node is None and len(problems.found) == known:
        node = Scalar(Place(source, 0, len(key) + 1), "", plain=True)
    if node is not None:
        _lay(root, keys, node, source, problems)


def _lay(root: Mapping, keys: list[str], node: Node, source: Source, problems: Problems) -> None:
    parent: Node = root
    for depth, key in enumerate(keys):
        place = Place(source, 0, len(".".join(keys[:depth])) + (depth > 0))
        inner = node if depth == len(keys) - 1 else None
        follower = keys[depth + 1] if inner is None else ""
        if isinstance(parent, Scalar) or (isinstance(parent, Sequence) and not _fits(parent, key)):
            whole = ".".join(keys[:depth])
            size = f"a list of {len(parent.items)}" if isinstance(parent, Sequence) else "a single value"
            problems.add(place, f"`{whole}` is {size} and has no `{key[:60]}`; override what is there.")
            return
        parent = _descend(parent, key, place, inner, follower)


def _fits(parent: Sequence, key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 6 and int(key) <= len(parent.items)


def _descend(parent: Mapping | Sequence, key: str, place: Place, node: Node | None, follower: str) -> Node:
    """Return the child at `key`: `node` put there if given, else what is there, else a new empty list or mapping."""
    empty: Node = Sequence(place) if follower.isdigit() else Mapping(place)
    if isinstance(parent, Mapping):
        old = parent.entries.get(key)
        child = node or (old.node if old is not None and not _empty(old.node) else empty)
        if old is None or child is not old.node:
            parent.entries[key] = Entry(place, child)
        return child
    index = int(key)
    child = node or (parent.items[index] if index < len(parent.items) else empty)
    parent.items[index : index + 1] = [child]
    return child


def _empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and node.text in {"", "~", "null"}
