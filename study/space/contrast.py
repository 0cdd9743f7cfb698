"""The one question that a study names before its first trial (S30): which two levels of what are compared."""

from dataclasses import dataclass
from typing import Any, final

from study.space.parameters import Choice, Parameter
from study.space.problems import Place, closest
from study.space.quantities import Name, RefusedError, got
from study.space.reading import Reading
from study.space.schema import HOME, RULES
from study.space.sections import note_unknown
from study.space.tree import Entry, Mapping, Node, Sequence, value_of

KEYS = ("measure", "factor", "levels", "where")
MEASURES = Name(names=("accuracy", "robust_accuracy"))
_EXAMPLE = "{measure: accuracy, factor: method, levels: [kd, none]}"


@final
@dataclass(frozen=True)
class Contrast:
    """A difference: the measure at the first level less that at the second, all else equal."""

    measure: str
    factor: str
    """A sampled parameter."""
    levels: tuple[Choice, Choice]
    where: tuple[tuple[str, Choice], ...] = ()
    """Values that other sampled parameters must have."""

    def record(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        found = {"measure": self.measure, "factor": self.factor, "levels": list(self.levels)}
        return {**found, "where": dict(sorted(self.where))}


def read_contrast(entry: Entry | None, reading: Reading) -> Contrast | None:
    """Check the key `contrast`.

    Args:
        entry: The key and its value, or None.
        reading: The rest of the space; receives what is wrong.

    Returns:
        The contrast; None where there is none, or one that is wrong.
    """
    if entry is None or value_of(entry.node) is None:
        return None
    if not isinstance(entry.node, Mapping):
        what = got(value_of(entry.node))
        reading.problems.add(entry.node.place, f"`contrast` must be a mapping such as {_EXAMPLE}, but got {what}.")
        return None
    if _is_overridden(entry.node, reading):
        return None
    known = len(reading.problems.found)
    contrast = _Contrasts(entry.node, reading).read()
    return contrast if len(reading.problems.found) == known else None


def _is_overridden(node: Mapping, reading: Reading) -> bool:
    """Tell whether an override leaves one value of what the file's contrast compares or holds; then it asks nothing."""
    if node.place.source.override:
        return False
    factor, where = node.entries.get("factor"), node.entries.get("where")
    names = [value_of(factor.node)] if factor is not None and not factor.place.source.override else []
    if where is not None and isinstance(where.node, Mapping) and not where.place.source.override:
        names += where.node.entries
    drafts = reading.drafts
    return any(isinstance(name, str) and (name in drafts.dropped or drafts.overridden(name)) for name in names)


@final
class _Contrasts:
    """Reads one mapping."""

    def __init__(self, node: Mapping, reading: Reading) -> None:
        self._node = node
        self._reading = reading
        self._problems = reading.problems

    def read(self) -> Contrast | None:
        """Return the contrast, or None after noting what is wrong."""
        for key, entry in self._node.entries.items():
            if key not in KEYS:
                note_unknown(key, "contrast", KEYS, entry.place, self._problems)
        for key in KEYS[:3]:
            if key not in self._node.entries:
                self._problems.add(self._node.place, f"`contrast.{key}` is missing; give it, as in {_EXAMPLE}.")
                return None
        measure, factor = self._measure(), self._factor()
        levels, where = self._levels(factor), self._where(factor)
        if measure is None or factor is None or levels is None:
            return None
        return Contrast(measure, factor.name, levels, where)

    def _measure(self) -> str | None:
        node = self._node.entries["measure"].node
        try:
            measure = MEASURES(value_of(node))
        except RefusedError as refused:
            self._problems.add(node.place, f"`contrast.measure` {refused}", refused.suggestion)
            return None
        if measure == "robust_accuracy" and self._reading.sections.values["robustness"].select != "all":
            message = "`contrast.measure` robust_accuracy is known of every trial only with robustness.select: all; "
            self._problems.add(node.place, message + "set it, so that no chosen few are compared.")
        return measure

    def _factor(self) -> Parameter | None:
        node = self._node.entries["factor"].node
        name = value_of(node)
        if name == "seed":
            self._problems.add(node.place, "`contrast.factor` cannot be the seed, over which differences are averaged.")
            return None
        return self._sampled(name, node.place, "contrast.factor")

    def _sampled(self, name: object, place: Place, where: str) -> Parameter | None:
        """Look up a sampled parameter; one that an override fixed or dropped, or that is broken, gives None."""
        if not isinstance(name, str):
            self._problems.add(place, f"`{where}` must be the name of a sampled parameter, but got {got(name)}.")
            return None
        parameter = self._reading.parameter(name)
        if parameter is not None and parameter.sampled:
            return parameter
        if name not in self._reading.drafts.broken:
            sampled = [each.name for each in self._reading.parameters if each.sampled]
            fixed = name in HOME or parameter is not None
            reason = "has one value in this study" if fixed else "does not stand under `space`"
            message = f"`{where}` names {name[:60]!r}, which {reason}; name a sampled parameter, or remove `contrast`."
            self._problems.add(place, message, closest(name, sampled) if not fixed else None)
        return None

    def _levels(self, factor: Parameter | None) -> tuple[Choice, Choice] | None:
        node = self._node.entries["levels"].node
        if not isinstance(node, Sequence) or len(node.items) != 2:
            what = f"a list of {len(node.items)}" if isinstance(node, Sequence) else got(value_of(node))
            self._problems.add(node.place, f"`contrast.levels` must be two values [a, b], but got {what}.")
            return None
        if factor is None:
            return None
        first, second = (self._value(factor, item, "contrast.levels") for item in node.items)
        if first is not None and second is not None and first[0] == second[0]:
            self._problems.add(node.place, f"`contrast.levels` must be two different values, but got {first[0]} twice.")
        return None if first is None or second is None else (first[0], second[0])

    def _where(self, factor: Parameter | None) -> tuple[tuple[str, Choice], ...]:
        entry = self._node.entries.get("where")
        if entry is None or value_of(entry.node) is None:
            return ()
        if not isinstance(entry.node, Mapping):
            message = "`contrast.where` must map sampled parameters to values, but got "
            self._problems.add(entry.node.place, f"{message}{got(value_of(entry.node))}.")
            return ()
        found: dict[str, Choice] = {}
        for name, each in entry.node.entries.items():
            parameter = self._sampled(name, each.place, f"contrast.where.{name[:60]}")
            if parameter is not None and factor is not None and parameter.name == factor.name:
                self._problems.add(each.place, f"`contrast.where.{name}` is the factor itself; remove it.")
            value = self._value(parameter, each.node, f"contrast.where.{name}") if parameter is not None else None
            found |= {name: value[0]} if value is not None else {}
        return tuple(sorted(found.items()))

    def _value(self, parameter: Parameter, node: Node, where: str) -> tuple[Choice] | None:
        try:
            value: Any = RULES[parameter.name](value_of(node))
        except RefusedError as refused:
            self._problems.add(node.place, f"`{where}` {refused}", refused.suggestion)
            return None
        if not parameter.contains(value):
            message = (
                f"`{where}` lies outside the space: `{parameter.name}` is {parameter.described}, but got {got(value)}."
            )
            self._problems.add(node.place, message)
            return None
        return (value,)
