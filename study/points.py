"""Points of a search space: which parameters are active, and every point of a finite one. Knows no sampler.

The protocols say what is asked of a space, so that these rules can be tested without reading a file.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from study.errors import SpaceError

Point = dict[str, Any]
"""Values of the active searched parameters, by name."""


class Parameter(Protocol):
    """One searched setting, as the space describes it."""

    @property
    def name(self) -> str:
        """Key under `space:`."""
        ...

    @property
    def kind(self) -> str:
        """float, int, choice or fixed."""
        ...

    @property
    def low(self) -> float | None:
        """Lower end, part of the range."""
        ...

    @property
    def high(self) -> float | None:
        """Upper end, part of the range."""
        ...

    @property
    def log(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        ...

    @property
    def step(self) -> float | None:
        """Distance of neighbouring values; None for a continuous range."""
        ...

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values of a choice; of kind `fixed`, the one value."""
        ...

    @property
    def when(self) -> Mapping[str, tuple[Any, ...]]:
        """Conditions: parent parameter to the values at which this one is active."""
        ...

    def contains(self, value: object) -> bool:
        """Whether a value belongs to the range."""
        ...


class SamplerSettings(Protocol):
    """The `sampler` section of a space."""

    @property
    def name(self) -> str:
        """tpe, nsga2, gp, qmc, random or grid."""
        ...

    @property
    def startup_trials(self) -> int:
        """Random trials before the model is used."""
        ...


class StudySettings(Protocol):
    """The `study` section of a space."""

    @property
    def seed(self) -> int:
        """Seed of the study."""
        ...


class SearchSpace(Protocol):
    """What sampling asks of a space; parameters come parents first."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Parents come before their children."""
        ...

    @property
    def anchors(self) -> Sequence[Mapping[str, Any]]:
        """Points that are tried first, in this order; may be partial."""
        ...

    @property
    def sampler(self) -> SamplerSettings:
        """The `sampler` section."""
        ...

    @property
    def study(self) -> StudySettings:
        """The `study` section."""
        ...


def fixed_value(parameter: Parameter) -> Any:
    """Return the value of a parameter of kind `fixed`."""
    return parameter.choices[0] if parameter.choices else parameter.low


def is_active(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    """Say whether a parameter's conditions hold, given its parents' values (an inactive parent has none)."""
    return all(name in values and values[name] in allowed for name, allowed in parameter.when.items())


def walk(parameters: Sequence[Parameter], choose: Callable[[Parameter], Any]) -> Point:
    """Give every active searched parameter a value, parents first.

    Returns:
        The sampled point; parameters of kind `fixed` steer the conditions but are not part of it.
    """
    point: Point = {}
    values: Point = {}
    for parameter in parameters:
        if not is_active(parameter, values):
            continue
        if parameter.kind == "fixed":
            values[parameter.name] = fixed_value(parameter)
        else:
            values[parameter.name] = point[parameter.name] = choose(parameter)
    return point


def point_in(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> Point:
    """Return the point of a space that has these values; those it does not ask for are left out.

    Raises:
        KeyError: Naming an active parameter that has no value.
        ValueError: Naming one whose value lies outside its range.
    """

    def value(parameter: Parameter) -> Any:
        if parameter.name not in values:
            raise KeyError(f"having no {parameter.name}")
        if not parameter.contains(values[parameter.name]):
            raise ValueError(parameter.name)
        return values[parameter.name]

    return walk(parameters, value)


def grid_values(parameter: Parameter) -> tuple[Any, ...]:
    """List the values a grid tries for one parameter.

    Raises:
        SpaceError: If there are infinitely many.
    """
    if parameter.kind == "choice":
        return tuple(parameter.choices)
    low, high = parameter.low or 0, parameter.high or 0
    if parameter.kind == "int":
        return tuple(range(int(low), int(high) + 1, int(parameter.step or 1)))
    if parameter.step is None:
        raise SpaceError(
            f"A grid needs a finite list of values, but space.{parameter.name} is a range of floats without a step. "
            "Give it a step, list its values under `choice`, or use another sampler."
        )
    count = math.floor((high - low) / parameter.step + 1e-9) + 1
    return tuple(low + index * parameter.step for index in range(count))


def grid_points(parameters: Sequence[Parameter]) -> Iterator[Point]:
    """Yield every point of a grid, conditions kept; lazily, because there may be many."""

    def extend(index: int, point: Point, values: Point) -> Iterator[Point]:
        if index == len(parameters):
            yield point
            return
        parameter = parameters[index]
        name = parameter.name
        if not is_active(parameter, values):
            yield from extend(index + 1, point, values)
        elif parameter.kind == "fixed":
            yield from extend(index + 1, point, {**values, name: fixed_value(parameter)})
        else:
            for value in grid_values(parameter):
                yield from extend(index + 1, {**point, name: value}, {**values, name: value})

    return extend(0, {}, {})


def count_trials(space: SearchSpace, budget: int) -> int:
    """Return how many trials a search has: its budget, or as many points as a grid has within it.

    Args:
        space: What is searched.
        budget: Most trials.
    """
    if space.sampler.name != "grid":
        return budget
    return sum(1 for _ in islice(grid_points(space.parameters), budget))


def identity_of(point: Mapping[str, Any]) -> tuple[Any, ...]:
    """Make points comparable; floats that differ in the last bits only (a grid's, a text's) are the same."""
    return tuple(
        (name, f"{value:.10g}" if isinstance(value, float | int) and not isinstance(value, bool) else repr(value))
        for name, value in sorted(point.items())
    )
