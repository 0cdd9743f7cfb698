"""One parameter of a search space: its range, and when it is active."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

Choice = bool | int | float | str | None
"""A value that can be sampled."""


@final
@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A key of the student, its distillation or its training that the space varies or fixes.

    Both ends of a range belong to it.
    """

    name: str
    """The key, e.g. `temperature`."""
    section: str
    """Where the key belongs: student, distill, train; study for `seed`, teachers for `teacher`."""
    kind: Literal["float", "int", "choice", "fixed"]
    low: float | None = None
    """Smallest value of a float or int range."""
    high: float | None = None
    """Largest value of a float or int range."""
    log: bool = False
    """Whether the logarithm is sampled evenly."""
    step: float | None = None
    """Distance of neighbouring values; None = every value."""
    choices: tuple[Choice, ...] = ()
    """Values of a choice; the one value of a fixed parameter."""
    conditions: tuple[tuple[str, tuple[Choice, ...]], ...] = ()
    """Pairs of a choice parameter's name and the values with which this one is active; all must hold."""

    @property
    def when(self) -> dict[str, tuple[Choice, ...]]:
        """The conditions as a new dictionary."""
        return dict(self.conditions)

    @property
    def sampled(self) -> bool:
        """Whether the sampler chooses it."""
        return self.kind != "fixed"

    @property
    def value(self) -> Choice:
        """The value of a fixed parameter."""
        assert self.kind == "fixed", f"{self.name} is sampled"
        return self.choices[0]

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether every condition holds; `values` has the active parameters before this one."""
        return all(name in values and values[name] in allowed for name, allowed in self.conditions)

    def contains(self, value: object) -> bool:
        """Whether a value of the right type belongs to the range; a step is met within a billionth of it."""
        if self.kind in {"choice", "fixed"}:
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        assert self.low is not None, "a range has two ends"
        assert self.high is not None, "a range has two ends"
        if not self.low <= value <= self.high or (self.kind == "int" and value != int(value)):
            return False
        return self.step is None or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-9

    @property
    def described(self) -> str:
        """The range in words, e.g. `float from 1 to 20`."""
        if self.kind == "fixed":
            return f"fixed to {self.value!r}"
        if self.kind == "choice":
            return f"one of {', '.join(map(repr, self.choices))}"
        step = f" in steps of {self.step:g}" if self.step is not None else ""
        return f"{self.kind} from {self.low:g} to {self.high:g}{step}"

    def record(self) -> dict[str, Any]:
        """Return a JSON-able description; equal parameters give equal records however they were written."""
        record: dict[str, Any] = {"section": self.section, "kind": self.kind}
        if self.kind in {"float", "int"}:
            record |= {"low": self.low, "high": self.high, "log": self.log, "step": self.step}
        else:
            record["choices"] = list(self.choices)
        record["when"] = {name: list(allowed) for name, allowed in sorted(self.conditions)}
        return record


def active_values(parameters: tuple[Parameter, ...], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the active parameters at a point: fixed ones filled in, inactive ones left out.

    Args:
        parameters: In topological order.
        point: A value for each active sampled parameter; one for a fixed parameter replaces it (a twin needs that).

    Raises:
        ValueError: If an active parameter has no value.
    """
    values: dict[str, Any] = {}
    for parameter in parameters:
        if not parameter.active(values):
            continue
        if parameter.name in point:
            values[parameter.name] = point[parameter.name]
        elif parameter.kind == "fixed":
            values[parameter.name] = parameter.value
        else:
            raise ValueError(f"the point needs `{parameter.name}` ({parameter.described}), but has {sorted(point)}.")
    return values
