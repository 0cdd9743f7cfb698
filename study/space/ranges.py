"""The entries of `space`: a range, a choice, or a bare value that fixes a key.

Their conditions are left to `conditions`.
"""

from dataclasses import dataclass, field
from typing import Any, final

from study.space.network_sections import DISCRETISATIONS, Train
from study.space.parameters import Choice, Parameter
from study.space.problems import Place, Problems
from study.space.quantities import NOT_AVAILABLE, Flag, Number, RefusedError, first_double, got
from study.space.schema import HOME, RULES
from study.space.sections import Sections, note_unknown, validated
from study.space.tree import Entry, Mapping, Node, Sequence, value_of

KINDS = ("float", "int", "choice")
RANGE_KEYS = (*KINDS, "log", "step", "when")
SOLVE_CHOICES = ("discretisation", *DISCRETISATIONS)
"""Keys whose null says that another of them is meant."""


@final
@dataclass
class Draft:
    """A parameter whose conditions have not been read."""

    parameter: Parameter
    place: Place
    """Of its key."""
    when: Entry | None = None


@final
@dataclass
class Drafts:
    """What stands under `space`."""

    by_name: dict[str, Draft] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Names whose range cannot be read; checks that need them are skipped."""
    dropped: set[str] = field(default_factory=set)
    """Names that an override put out of effect; anchors may still mention them."""

    def drop(self, name: str) -> None:
        """Take a parameter out of the space because an override leaves it without effect."""
        self.by_name.pop(name, None)
        self.dropped.add(name)

    def overridden(self, name: str) -> bool:
        """Whether an override fixes the parameter."""
        draft = self.by_name.get(name)
        return draft is not None and draft.place.source.override and not draft.parameter.sampled


def read_ranges(root: Mapping, sections: Sections, problems: Problems) -> Drafts:
    """Read every entry of `space`; a bare `adversarial` moves into `train`, which holds its keys."""
    drafts = Drafts()
    entry = root.entries.get("space")
    if entry is None or value_of(entry.node) in (None, {}):
        place = root.place if entry is None else entry.place
        problems.add(place, "`space` must name at least one parameter, such as {alpha: {float: [0, 1]}}.")
        return drafts
    if not isinstance(entry.node, Mapping):
        what = got(value_of(entry.node))
        problems.add(entry.node.place, f"`space` must be a mapping of parameters to ranges, but got {what}.")
        return drafts
    for name, each in entry.node.entries.items():
        _read_entry(name, each, sections, drafts, problems)
    for name in [*drafts.by_name]:
        _settle_conflict(name, sections, drafts, problems)
    _prefer_overridden_discretisation(sections, drafts)
    return drafts


def _read_entry(name: str, entry: Entry, sections: Sections, drafts: Drafts, problems: Problems) -> None:
    if name not in HOME:
        note_unknown(name, "space", HOME, entry.place, problems)
        drafts.broken.add(name)
    elif name == "adversarial":
        _move_adversarial(entry, sections, problems)
    elif isinstance(entry.node, Mapping):
        parameter = _Range(name, entry.node, problems).read()
        if parameter is None:
            drafts.broken.add(name)
        else:
            drafts.by_name[name] = Draft(parameter, entry.place, entry.node.entries.get("when"))
    else:
        _read_fixed(name, entry, drafts, problems)


def _read_fixed(name: str, entry: Entry, drafts: Drafts, problems: Problems) -> None:
    value = value_of(entry.node)
    if isinstance(value, list):
        message = (
            f"`space.{name}` is a bare list; say what kind of range it is: {{choice: [...]}} or {{float: [low, high]}}."
        )
        problems.add(entry.node.place, message)
        drafts.broken.add(name)
        return
    try:
        fixed: Any = RULES[name](value)
    except RefusedError as refused:
        problems.add(entry.node.place, f"`space.{name}` {refused}", refused.suggestion)
        drafts.broken.add(name)
        return
    if fixed is None and name in SOLVE_CHOICES:
        drafts.dropped.add(name)
        return
    drafts.by_name[name] = Draft(Parameter(name=name, section=HOME[name], kind="fixed", choices=(fixed,)), entry.place)


def _move_adversarial(entry: Entry, sections: Sections, problems: Problems) -> None:
    train = sections.values["train"]
    value = value_of(entry.node)
    if not (value is None or (isinstance(value, dict) and not set(value) & set(RANGE_KEYS))):
        problems.add(entry.place, "`space.adversarial` can only be fixed, such as {epsilon: 1/16, steps: 7} or null.")
        return
    given = sections.given["train"].get("adversarial")
    if given is not None and not entry.place.source.override:
        problems.add(entry.place, "`adversarial` stands under `space` and under `train`; keep one of the two.")
    adversarial = None
    if isinstance(entry.node, Mapping):
        wrapped = Mapping(entry.place, {"adversarial": entry})
        adversarial = validated(Train, wrapped, "space", problems)[0].adversarial
    sections.values["train"] = train.model_copy(update={"adversarial": adversarial})


def _settle_conflict(name: str, sections: Sections, drafts: Drafts, problems: Problems) -> None:
    home = HOME[name]
    given = sections.given.get(home, {}).get(name)
    if given is None or name in {"seed", "teacher"}:  # both may stand beside what they choose from
        return
    draft = drafts.by_name[name]
    if draft.when is not None and (draft.place.source.override or not given.source.override):
        return  # the section's value is that where the conditions do not hold
    if draft.place.source.override and not given.source.override:
        forget(name, sections)
        return
    later, where = (given, f", or override `space.{name}`") if given.source.override else (draft.place, "")
    message = f"`{name}` stands under `space` and under `{home}`; keep one of the two{where}."
    problems.add(later, message)


def forget(name: str, sections: Sections) -> None:
    """Take back a key that a section gives, because an override leaves it without effect."""
    home = HOME[name]
    section = sections.values[home]
    default = type(section).model_fields[name].default
    sections.values[home] = section.model_copy(update={name: default})
    sections.given[home].pop(name, None)


def _prefer_overridden_discretisation(sections: Sections, drafts: Drafts) -> None:
    """Where an override gives steps, step_size or evaluations, the file's other ones are out of effect.

    Not where `discretisation` chooses among them: there, each keeps its own value.
    """
    given = sections.given["student"]
    if "discretisation" in drafts.by_name or "discretisation" in given:
        return
    places = {name: draft.place for name, draft in drafts.by_name.items()} | given
    overridden = [name for name in DISCRETISATIONS if name in places and places[name].source.override]
    for name in DISCRETISATIONS if overridden else ():
        if name in drafts.by_name and not places[name].source.override:
            drafts.drop(name)
        elif name in given and not given[name].source.override:
            forget(name, sections)


@final
class _Range:
    """Reads one mapping such as `{float: [1, 20], log: true}`."""

    def __init__(self, name: str, node: Mapping, problems: Problems) -> None:
        self._name = name
        self._node = node
        self._problems = problems
        self._failed = False

    def read(self) -> Parameter | None:
        """Return the parameter, or None after noting what is wrong."""
        for key, entry in self._node.entries.items():
            if key == "derive":
                self._fail(entry.place, "derive", f"{NOT_AVAILABLE}; give a range.")
            elif key not in RANGE_KEYS:
                self._failed = True
                note_unknown(key, f"space.{self._name}", RANGE_KEYS, entry.place, self._problems)
        kinds = [kind for kind in KINDS if kind in self._node.entries]
        if len(kinds) != 1:
            if not self._failed or kinds:
                said = " and ".join(kinds) if kinds else "none of them"
                self._fail(self._node.place, None, f"must say exactly one of float, int, choice, but says {said}.")
            return None
        parameter = self._choice() if kinds[0] == "choice" else self._numeric(kinds[0])
        return None if self._failed else parameter

    def _fail(self, place: Place, key: str | None, message: str, suggestion: str | None = None) -> None:
        self._failed = True
        self._problems.add(place, f"`{'.'.join(filter(None, ('space', self._name, key)))}` {message}", suggestion)

    def _value(self, node: Node, key: str) -> Choice:
        value = value_of(node)
        try:
            checked: Any = RULES[self._name](value)
        except RefusedError as refused:
            self._fail(node.place, key, str(refused), refused.suggestion)
            return None
        return checked

    def _choice(self) -> Parameter | None:
        node = self._node.entries["choice"].node
        for key in ("log", "step"):
            if key in self._node.entries:
                self._fail(self._node.entries[key].place, key, "goes with float or int, not with choice; remove it.")
        if not isinstance(node, Sequence) or not node.items:
            what = "an empty list" if isinstance(node, Sequence) else got(value_of(node))
            self._fail(node.place, "choice", f"must be a list of at least one value, but got {what}.")
            return None
        values = tuple(self._value(item, "choice") for item in node.items)
        if not self._failed and len(set(values)) < len(values):
            self._fail(node.place, "choice", f"holds {first_double(values)!r} twice; every value stands once.")
        if not self._failed and self._name in SOLVE_CHOICES and None in values:
            self._fail(node.place, "choice", "cannot hold null; use `when:` where it is not meant.")
        return self._parameter(kind="choice", choices=values)

    def _numeric(self, kind: str) -> Parameter | None:
        entry = self._node.entries[kind]
        rule = RULES[self._name]
        if not isinstance(rule, Number):
            self._fail(entry.place, kind, f"cannot be a range: `{self._name}` is no number; use choice.", "choice")
            return None
        if rule.whole and kind == "float":
            self._fail(
                entry.place, "float", f"would give fractions, but `{self._name}` is a whole number; use int.", "int"
            )
            return None
        bounds = self._bounds(entry.node, kind)
        if bounds is None:
            return None
        low, high = bounds
        log = self._log(low)
        step = self._step(kind, low, high, log=log)
        return self._parameter(kind=kind, low=low, high=high, log=log, step=step)

    def _parameter(self, **values: Any) -> Parameter | None:
        return None if self._failed else Parameter(name=self._name, section=HOME[self._name], **values)

    def _bounds(self, node: Node, kind: str) -> tuple[float, float] | None:
        if not isinstance(node, Sequence) or len(node.items) != 2:
            what = f"a list of {len(node.items)}" if isinstance(node, Sequence) else got(value_of(node))
            self._fail(node.place, kind, f"must be two numbers [low, high], but got {what}.")
            return None
        ends = [self._end(item, kind) for item in node.items]
        low, high = ends
        if low is None or high is None:
            return None
        if low >= high:
            suggestion = f"[{high:g}, {low:g}]" if low > high else f"{self._name}: {low:g}"
            self._fail(
                node.place, kind, f"must be [low, high] with low < high, but got [{low:g}, {high:g}].", suggestion
            )
        return low, high

    def _end(self, node: Node, kind: str) -> float | None:
        value = self._value(node, kind)
        if self._failed and value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(node.place, kind, f"must have numbers for its ends, but got {got(value)}.")
            return None
        if kind == "int" and value != int(value):
            self._fail(
                node.place, "int", f"must have whole numbers for its ends, but got {value:g}; use float.", "float"
            )
            return None
        return int(value) if kind == "int" else value

    def _log(self, low: float) -> bool:
        entry = self._node.entries.get("log")
        if entry is None:
            return False
        try:
            log = Flag()(value_of(entry.node))
        except RefusedError as refused:
            self._fail(entry.node.place, "log", str(refused), refused.suggestion)
            return False
        if log and low <= 0:
            self._fail(entry.place, "log", f"needs low > 0, but got low = {low:g}; raise low or remove log.")
        return log

    def _step(self, kind: str, low: float, high: float, *, log: bool) -> float | None:
        entry = self._node.entries.get("step")
        if entry is None:
            return None
        if log:
            self._fail(entry.place, "step", "and `log` exclude each other; keep one of the two.")
            return None
        try:
            step = Number(low=0, above_low=True, whole=kind == "int")(value_of(entry.node))
        except RefusedError as refused:
            self._fail(entry.node.place, "step", str(refused), refused.suggestion)
            return None
        assert isinstance(step, int | float), "a number without words is a number"
        n_steps = (high - low) / step
        if not self._failed and (n_steps > 10**6 or round(n_steps) < 1 or abs(n_steps - round(n_steps)) > 1e-9):
            self._fail(
                entry.node.place, "step", f"must lead from {low:g} to {high:g} in whole steps, but got {step:g}."
            )
        return step
