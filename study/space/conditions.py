"""`when:` conditions: read, checked against the parameters they look at, put in order, and played through.

A condition lists the values of a choice parameter with which another parameter is active; all conditions must hold,
and the parameter they look at must be active itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from study.space.parameters import Choice, Parameter
from study.space.problems import Place, Problems, closest
from study.space.quantities import RefusedError, got
from study.space.ranges import Draft, Drafts
from study.space.schema import HOME, RULES
from study.space.tree import Mapping as MappingNode
from study.space.tree import Node, Sequence, value_of

Conditions = dict[str, tuple[Choice, ...]]

MAX_BRANCHES = 20_000
"""Most combinations of choices that the checks between keys play through."""


def read_conditions(drafts: Drafts, problems: Problems) -> tuple[Parameter, ...]:
    """Check every condition.

    Args:
        drafts: The parameters; those that an override leaves without effect are dropped.
        problems: Receives unknown names and values, circles and conditions that can never hold.

    Returns:
        The parameters in topological order, ties in the schema's order, conditions on fixed parameters resolved.
    """
    _drop_orphans(drafts)
    conditions = {name: _read_when(draft, drafts, problems) for name, draft in drafts.by_name.items()}
    _add_implied(conditions, drafts)
    order, circle = _topological(conditions)
    for name in circle:
        drafts.broken.add(name)
    if circle:
        draft = next(drafts.by_name[name] for name in circle if drafts.by_name[name].when is not None)
        path = " -> ".join([*circle, circle[0]])
        problems.add(_when_place(draft), f"the conditions go in a circle: {path}; remove one of them.")
    for name in order:
        _check_satisfiable(name, conditions, drafts, problems)
    return _resolved(order, conditions, drafts)


def _drop_orphans(drafts: Drafts) -> None:
    """Drop what is conditioned on a parameter that an override took out of the space."""
    for _ in range(len(drafts.by_name)):
        for name, draft in [*drafts.by_name.items()]:
            node = draft.when.node if draft.when is not None else None
            if isinstance(node, MappingNode) and drafts.dropped & set(node.entries):
                drafts.drop(name)


def _when_place(draft: Draft) -> Place:
    return draft.when.place if draft.when is not None else draft.place


def _read_when(draft: Draft, drafts: Drafts, problems: Problems) -> Conditions:
    if draft.when is None:
        return {}
    node, where = draft.when.node, f"`space.{draft.parameter.name}.when`"
    if not isinstance(node, MappingNode) or not node.entries:
        what = "nothing" if value_of(node) in (None, {}) else got(value_of(node))
        problems.add(node.place, f"{where} must be a mapping such as {{solver: [rk4]}}, but got {what}.")
        drafts.broken.add(draft.parameter.name)
        return {}
    conditions: Conditions = {}
    for parent, entry in node.entries.items():
        allowed = _read_condition(parent, entry.place, entry.node, draft, drafts, problems)
        if allowed is None:
            drafts.broken.add(draft.parameter.name)
        else:
            conditions[parent] = allowed
    return conditions


def _read_condition(
    parent: str, place: Place, node: Node, draft: Draft, drafts: Drafts, problems: Problems
) -> tuple[Choice, ...] | None:
    where = f"`space.{draft.parameter.name}.when.{parent}`"
    if parent in drafts.broken:
        return None
    if parent not in drafts.by_name:
        note = f"; `{parent}` is no parameter here, it has one value in `{HOME[parent]}`" if parent in HOME else ""
        suggestion = closest(parent, drafts.by_name) if parent not in HOME else None
        problems.add(place, f"{where} looks at a parameter that does not stand under `space`{note}.", suggestion)
        return None
    looked_at = drafts.by_name[parent].parameter
    if looked_at.kind not in {"choice", "fixed"}:
        problems.add(place, f"{where} can only look at a choice, but `{parent}` is {looked_at.described}.")
        return None
    items = node.items if isinstance(node, Sequence) else [node]
    if not items:
        problems.add(node.place, f"{where} can never hold: the list of values is empty.")
        return None
    values = [_read_value(item, where, looked_at, problems) for item in items]
    if any(value is None for value in values):
        return None
    named = [value[0] for value in values if value is not None]
    return _in_order(named, looked_at)


def _in_order(named: list[Choice], looked_at: Parameter) -> tuple[Choice, ...]:
    known = [choice for choice in looked_at.choices if choice in named]
    return tuple(known + sorted({value for value in named if value not in known}, key=str))


def _read_value(node: Node, where: str, looked_at: Parameter, problems: Problems) -> tuple[Choice] | None:
    written = value_of(node)
    try:
        value: Any = RULES[looked_at.name](written)
    except RefusedError as refused:
        suggestion = closest(str(written), map(str, looked_at.choices)) or refused.suggestion
        problems.add(node.place, f"{where} names a value that does not exist: `{looked_at.name}` {refused}", suggestion)
        return None
    if looked_at.kind == "choice" and not looked_at.contains(value):
        suggestion = closest(value, map(str, looked_at.choices)) if isinstance(value, str) else None
        message = f"{where} names {got(value)}, but `{looked_at.name}` is {looked_at.described}."
        problems.add(node.place, message, suggestion)
        return None
    return (value,)


def _add_implied(conditions: dict[str, Conditions], drafts: Drafts) -> None:
    """At alpha 0 the temperature is inactive (S6): said for the user where alpha is a choice with a 0."""
    alpha = drafts.by_name.get("alpha")
    if alpha is None or alpha.parameter.kind != "choice" or 0.0 not in alpha.parameter.choices:
        return
    positive = tuple(choice for choice in alpha.parameter.choices if choice)
    for name in ("temperature", "kl_scale"):
        draft = drafts.by_name.get(name)
        if draft is None or not draft.parameter.sampled or name in _ancestors("alpha", conditions):
            continue
        allowed = conditions[name].get("alpha", positive)
        conditions[name]["alpha"] = tuple(choice for choice in allowed if choice)


def _ancestors(name: str, conditions: dict[str, Conditions]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        parents = set(conditions.get(waiting.pop(), {})) - found
        found |= parents
        waiting += parents
    return found


def _topological(conditions: dict[str, Conditions]) -> tuple[list[str], list[str]]:
    """Return the names so that parents come first, and one circle of names that cannot be ordered."""
    canonical = [name for name in HOME if name in conditions]
    order: list[str] = []
    while ready := [name for name in canonical if name not in order and set(conditions[name]) <= set(order)]:
        order.append(ready[0])
    left = [name for name in canonical if name not in order]
    if not left:
        return order, []
    walk = [left[0]]
    while True:
        parent = next(name for name in conditions[walk[-1]] if name in left)
        if parent in walk:
            return order, walk[walk.index(parent) :]
        walk.append(parent)


def _demands(name: str, conditions: dict[str, Conditions]) -> Conditions:
    """Return, for every parameter that must be active when `name` is, the values that all conditions leave it."""
    demands: Conditions = {}
    for child in {name, *_ancestors(name, conditions)}:
        for parent, allowed in conditions.get(child, {}).items():
            before = demands.get(parent, allowed)
            demands[parent] = tuple(value for value in before if value in allowed)
    return demands


def _check_satisfiable(name: str, conditions: dict[str, Conditions], drafts: Drafts, problems: Problems) -> None:
    draft = drafts.by_name[name]
    if {name, *_ancestors(name, conditions)} & drafts.broken:
        return
    for parent, allowed in _demands(name, conditions).items():
        looked_at = drafts.by_name[parent].parameter
        possible = [value for value in allowed if looked_at.contains(value)]
        if possible or drafts.overridden(parent):
            continue
        what = (
            f"`{parent}` is fixed to {looked_at.value!r}"
            if not looked_at.sampled
            else f"no value of `{parent}` is left"
        )
        problems.add(_when_place(draft), f"`space.{name}` can never be active: {what} by its conditions.")
        drafts.broken.add(name)


def _resolved(order: list[str], conditions: dict[str, Conditions], drafts: Drafts) -> tuple[Parameter, ...]:
    """Drop conditions on fixed parameters that hold, and parameters whose conditions an override rules out."""
    parameters: list[Parameter] = []
    for name in order:
        parents = {parent: drafts.by_name.get(parent) for parent in conditions[name]}
        fixed = {parent: draft.parameter for parent, draft in parents.items() if draft and not draft.parameter.sampled}
        ruled_out = any(draft is None for draft in parents.values()) or any(
            parameter.value not in conditions[name][parent] for parent, parameter in fixed.items()
        )
        if ruled_out and name not in drafts.broken:
            drafts.drop(name)
            continue
        left = tuple((parent, allowed) for parent, allowed in conditions[name].items() if parent not in fixed)
        parameters.append(replace(drafts.by_name[name].parameter, conditions=left))
    return tuple(parameters)


def branches(parameters: Iterable[Parameter], names: Iterable[str]) -> Iterator[dict[str, Parameter | Choice]]:
    """Play through every combination of choices that `names` depend on.

    Args:
        parameters: All of the space, in topological order.
        names: The keys of interest; parameters they are conditioned on are added.

    Yields:
        One mapping per combination: a value per active choice or fixed parameter, the parameter itself for an active
        range; inactive parameters are absent.

    Raises:
        OverflowError: After `MAX_BRANCHES` combinations.
    """
    ordered = tuple(parameters)
    conditions = {parameter.name: parameter.when for parameter in ordered}
    wanted = {each for name in names for each in (name, *_ancestors(name, conditions))}
    chain = [parameter for parameter in ordered if parameter.name in wanted]
    for count, branch in enumerate(_extend(chain, {})):
        if count >= MAX_BRANCHES:
            raise OverflowError(f"more than {MAX_BRANCHES} combinations of choices.")
        yield branch


def _extend(
    chain: list[Parameter], before: Mapping[str, Parameter | Choice]
) -> Iterator[dict[str, Parameter | Choice]]:
    if not chain:
        yield dict(before)
        return
    first, rest = chain[0], chain[1:]
    if not first.active(before):
        yield from _extend(rest, before)
        return
    for value in first.choices or (first,):
        yield from _extend(rest, {**before, first.name: value})
