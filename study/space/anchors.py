"""Anchors: points that are tried first; each must lie in the space and be complete."""

from typing import Any, final

from study.space.parameters import Parameter
from study.space.problems import Place, Problems, closest
from study.space.quantities import RefusedError, got
from study.space.ranges import Drafts
from study.space.schema import HOME, RULES
from study.space.tree import Entry, Mapping, Node, Sequence, value_of

Anchor = tuple[tuple[str, Any], ...]


def read_anchors(
    entry: Entry | None, parameters: tuple[Parameter, ...], drafts: Drafts, problems: Problems
) -> tuple[Anchor, ...]:
    """Check every anchor.

    Args:
        entry: The key `anchors` and its list, or None.
        parameters: All of the space, in topological order.
        drafts: Says which parameters are broken, or put out of effect by an override.
        problems: Receives what is wrong.

    Returns:
        Per anchor, the values of its active sampled parameters, in topological order.
    """
    if entry is None or value_of(entry.node) is None:
        return ()
    if not isinstance(entry.node, Sequence):
        example = "[{temperature: 4, alpha: 0.9}]"
        what = got(value_of(entry.node))
        problems.add(entry.node.place, f"`anchors` must be a list of points such as {example}, but got {what}.")
        return ()
    reader = _Anchors(parameters, drafts, problems)
    anchors: list[Anchor] = []
    for index, item in enumerate(entry.node.items):
        anchor = reader.read(item, index)
        if anchor in anchors and _has_overrides(drafts):
            continue
        if anchor in anchors:
            problems.add(
                item.place, f"`anchors.{index}` is the same point as an earlier anchor; remove one of the two."
            )
        elif anchor is not None:
            anchors.append(anchor)
    return tuple(anchors)


def _has_overrides(drafts: Drafts) -> bool:
    """Tell whether an override fixed or dropped a parameter, after which two anchors may say the same."""
    return bool(drafts.dropped) or any(drafts.overridden(name) for name in drafts.by_name)


@final
class _Anchors:
    """Reads the anchors of one space."""

    def __init__(self, parameters: tuple[Parameter, ...], drafts: Drafts, problems: Problems) -> None:
        self._parameters = parameters
        self._by_name = {parameter.name: parameter for parameter in parameters}
        self._drafts = drafts
        self._problems = problems

    def read(self, node: Node, index: int) -> Anchor | None:
        """Return one anchor, or None after noting what is wrong with it."""
        if not isinstance(node, Mapping):
            what = got(value_of(node))
            self._problems.add(node.place, f"`anchors.{index}` must map parameters to values, but got {what}.")
            return None
        known = len(self._problems.found)
        values: dict[str, Any] = {}
        for name, entry in node.entries.items():
            self._read_value(name, entry, f"anchors.{index}", values)
        if len(self._problems.found) > known or self._drafts.broken:
            return None
        return self._complete(node, index, values)

    def _read_value(self, name: str, entry: Entry, where: str, values: dict[str, Any]) -> None:
        if name in self._drafts.broken or (name in self._drafts.dropped and not entry.place.source.override):
            return
        parameter = self._by_name.get(name)
        if parameter is None:
            self._note_stranger(name, entry.place, where)
            return
        if self._drafts.overridden(name) and not entry.node.place.source.override:
            return
        try:
            value = RULES[name](value_of(entry.node))
        except RefusedError as refused:
            self._problems.add(entry.node.place, f"`{where}.{name}` {refused}", refused.suggestion)
            return
        if not parameter.contains(value):
            word = closest(value, map(str, parameter.choices)) if isinstance(value, str) else None
            message = (
                f"`{where}.{name}` lies outside the space: `{name}` is {parameter.described}, but got {got(value)}."
            )
            self._problems.add(entry.node.place, message, word)
            return
        values[name] = int(value) if parameter.kind == "int" and isinstance(value, float) else value

    def _note_stranger(self, name: str, place: Place, where: str) -> None:
        if name in HOME:
            message = f"`{where}.{name}` is no parameter here: `{name}` has one value, in `{HOME[name]}`; remove it."
            self._problems.add(place, message)
            return
        message = f"`{where}` names {name[:60]!r}, which does not stand under `space`."
        self._problems.add(place, message, closest(name, self._by_name))

    def _complete(self, node: Mapping, index: int, values: dict[str, Any]) -> Anchor | None:
        active: dict[str, Any] = {}
        for parameter in self._parameters:
            name = parameter.name
            if not parameter.active(active):
                self._check_inactive(parameter, node, index, values)
            elif not parameter.sampled:
                active[name] = parameter.value
            elif name in values:
                active[name] = values[name]
            else:
                message = f"`anchors.{index}` lacks `{name}` ({parameter.described}); add it."
                self._problems.add(node.place, message)
                return None
        return tuple((name, value) for name, value in active.items() if self._by_name[name].sampled)

    def _check_inactive(self, parameter: Parameter, node: Mapping, index: int, values: dict[str, Any]) -> None:
        if parameter.name in values:
            when = ", ".join(f"{name}: [{', '.join(map(str, allowed))}]" for name, allowed in parameter.conditions)
            message = f"`anchors.{index}.{parameter.name}` is not active at this point (when {{{when}}}); remove it."
            self._problems.add(node.entries[parameter.name].place, message)
