"""Rules between keys: what has no effect, how solvers are discretised (S12), what a sampler can do, who teaches.

Every rule is checked in every combination of choices that can be reached, before anything runs.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

from nodekd.ode.integrator import ADAPTIVE, FIXED
from study.space.conditions import branches
from study.space.parameters import Parameter
from study.space.problems import Place, Problems
from study.space.quantities import Name
from study.space.ranges import Drafts, forget
from study.space.schema import DEFAULT_EVALUATIONS, DISCRETISATIONS, HOME, MAX_STEPS, RULES, TOLERANCES
from study.space.sections import Sections

Branch = dict[str, Any]


@final
@dataclass(frozen=True)
class Need:
    """A key that only matters for some values of another key."""

    key: str
    parent: str
    met: Callable[[Any], bool]
    """Whether the key matters at this value of the parent."""


NEEDS: tuple[Need, ...] = (
    *(Need(key, "solver", FIXED.__contains__) for key in DISCRETISATIONS),
    *(Need(key, "solver", ADAPTIVE.__contains__) for key in TOLERANCES),
    Need("momentum", "optimizer", "sgd".__eq__),
    *(Need(key, "method", "kd".__eq__) for key in ("temperature", "alpha", "kl_scale")),
    *(Need(key, "alpha", lambda alpha: alpha != 0) for key in ("temperature", "kl_scale")),
)
"""What `Space.settings` leaves out, and what a range must not be wasted on. Order: parents are settled first."""


def discretisation_fault(solver: str, horizon: float, key: str, value: float) -> str | None:
    """Say why a fixed solver cannot be discretised like this, or None where it can (S12)."""
    if key == "step_size":
        steps = math.ceil(horizon / value - 1e-9) if horizon / value < 1e9 else 10**9
    elif key == "steps":
        steps = int(value)
    else:
        stages = FIXED[solver]
        if value % stages:
            return f"{solver} needs a multiple of its {stages} stages, but got {value:g} evaluations"
        steps = int(value) // stages
    if steps > MAX_STEPS:
        return f"{key} {value:g} at horizon {horizon:g} makes more than {MAX_STEPS} steps"
    return None


@final
class Rules:
    """Checks one space as read; each check notes what it finds."""

    def __init__(
        self, parameters: tuple[Parameter, ...], drafts: Drafts, sections: Sections, root: Place, problems: Problems
    ) -> None:
        self._parameters = parameters
        self._drafts = drafts
        self._sections = sections
        self._root = root
        self._problems = problems

    def check(self) -> None:
        """Run every check whose keys could be read."""
        try:
            for need in NEEDS:
                self._check_effect(need)
            self._check_solver()
        except OverflowError as error:
            self._problems.add(self._root, f"`space` has {error} Remove choices or conditions.")
        self._check_sampler()
        self._check_teachers()

    def _known(self, *names: str) -> bool:
        broken = {f"{HOME[name]}.{name}" for name in names} & self._sections.broken
        return not broken and not set(names) & self._drafts.broken

    def _place(self, name: str) -> Place:
        """Return where a key is given: under `space`, in its section, or else the top of the file."""
        if name in self._drafts.by_name:
            return self._drafts.by_name[name].place
        return self._sections.given.get(HOME[name], {}).get(name, self._root)

    def _effective(self, name: str, branch: Branch) -> Any:
        """Return a key's value in a branch: of the space, else of its section (a `Parameter` where it is a range)."""
        return branch[name] if name in branch else getattr(self._sections.values[HOME[name]], name)

    def _check_effect(self, need: Need) -> None:
        parameter = next((each for each in self._parameters if each.name == need.key), None)
        given = parameter is not None or need.key in self._sections.given[HOME[need.key]]
        if not given or not self._known(need.key, need.parent):
            return
        values: list[Any] = []
        for branch in branches(self._parameters, (need.key, need.parent)):
            if parameter is None or need.key in branch:
                values.append(self._effective(need.parent, branch))
        idle = [value for value in values if not isinstance(value, Parameter) and not need.met(value)]
        sampled = parameter is not None and parameter.sampled
        wholly = len(idle) == len(values)
        # A single value may stand beside choices that ignore it; and only solver keys must not be idle altogether.
        if idle and (sampled or (wholly and need.parent == "solver")):
            self._note_idle(need, idle[0], wholly=wholly)

    def _note_idle(self, need: Need, value: Any, *, wholly: bool) -> None:
        place = self._place(need.key)
        rule = RULES[need.parent]
        good = [name for name in rule.names if need.met(name)] if isinstance(rule, Name) else []
        used = [
            each
            for parameter in self._parameters
            if parameter.name == need.parent and parameter.kind == "choice"
            for each in parameter.choices
            if need.met(each)
        ]
        reason = f"has no effect where {need.parent} is {value}"
        if need.key in DISCRETISATIONS:
            reason = f"is given for {value}, an adaptive solver, which chooses its own steps"
        advice = f"add when: {{{need.parent}: [{', '.join(map(str, used))}]}}" if used and not wholly else "remove it"
        if not used and good:
            advice = f"remove it, or choose {need.parent} from {', '.join(good)}"
        self._problems.add(place, f"`{need.key}` {reason}; {advice}.")

    def _check_solver(self) -> None:
        names = ("solver", "gradient", "horizon", *DISCRETISATIONS)
        if not self._known("solver", *DISCRETISATIONS):
            return
        for branch in branches(self._parameters, names):
            solver = self._effective("solver", branch)
            if solver in ADAPTIVE:
                continue
            if solver == "rk4_classic" and self._effective("gradient", branch) == "adjoint":
                message = "rk4_classic has no adjoint; choose rk4 (the 3/8 rule) or gradient direct."
                self._problems.add(self._place("gradient"), message)
            self._check_discretisation(solver, branch)

    def _check_discretisation(self, solver: str, branch: Branch) -> None:
        given = [name for name in DISCRETISATIONS if self._effective(name, branch) is not None]
        if len(given) > 1:
            message = f"{solver} gets {' and '.join(given)}; give exactly one of {', '.join(DISCRETISATIONS)}."
            self._problems.add(max((self._place(name) for name in given), key=_after), message)
        elif given:
            self._check_values(solver, given[0], branch)
        else:
            message = f"{solver} gets none of {', '.join(DISCRETISATIONS)}; give exactly one wherever it is chosen."
            self._problems.add(self._place("solver"), message)

    def _check_values(self, solver: str, key: str, branch: Branch) -> None:
        value = self._effective(key, branch)
        horizon = self._effective("horizon", branch)
        longest = float(horizon.high or 0) if isinstance(horizon, Parameter) else horizon
        for corner in _corners(value, FIXED[solver]):
            fault = discretisation_fault(solver, longest, key, corner)
            if fault is not None:
                self._problems.add(self._place(key), f"`{key}` does not fit every solver: {fault}.")
                return

    def _check_sampler(self) -> None:
        sampler = self._sections.values["sampler"]
        place = self._sections.given["sampler"].get("startup_trials")
        if place is not None and sampler.name not in {"tpe", "gp"} and not self._sampler_overridden(place):
            message = f"`sampler.startup_trials` has no effect on {sampler.name}; remove it or choose tpe or gp."
            self._problems.add(place, message)
        for parameter in self._parameters if sampler.name == "grid" else ():
            if parameter.kind == "float" and parameter.step is None:
                message = f"a grid needs finitely many values, but `{parameter.name}` is a {parameter.described}; "
                self._problems.add(self._place(parameter.name), message + "use choice, int or step.")

    def _sampler_overridden(self, place: Place) -> bool:
        name = self._sections.given["sampler"].get("name")
        return name is not None and name.source.override and not place.source.override

    def _check_teachers(self) -> None:
        count = len(self._sections.values["teachers"])
        draft = self._drafts.by_name.get("teacher")
        if draft is None:
            if count > 1 and "teacher" not in self._drafts.broken:
                message = f"`teachers` lists {count}, but only the first would teach; "
                advice = f"add teacher: {{choice: [{', '.join(map(str, range(count)))}]}} under `space`, or list one."
                self._problems.add(self._place("teacher"), message + advice)
            return
        parameter = draft.parameter
        listed = [each for each in parameter.choices if isinstance(each, int)]
        largest = int(parameter.high) if parameter.high is not None else max(listed)
        if largest >= count:
            message = f"`space.teacher` goes up to {largest}, but `teachers` lists {count}, counted from 0."
            self._problems.add(draft.place, message)


def _after(place: Place) -> tuple[bool, int, int]:
    return (place.source.override, place.line, place.column)


def _corners(value: Any, stages: int) -> Iterable[float]:
    """Return the values of a range that break divisibility or bounds first, if any does."""
    if not isinstance(value, Parameter):
        return (value,)
    assert value.low is not None, "a range has two ends"
    assert value.high is not None, "a range has two ends"
    second = value.low + (value.step or (1 if value.kind == "int" else 0))
    between = [second] if value.kind == "int" and second <= value.high and stages > 1 else []
    return (value.low, *between, value.high)


def fill_discretisation(drafts: Drafts, sections: Sections) -> None:
    """Give fixed solvers `DEFAULT_EVALUATIONS` where neither file nor override says anything about discretisation."""
    said = {*drafts.by_name, *drafts.broken, *drafts.dropped, *sections.given["student"]}
    broken = {f"student.{name}" for name in DISCRETISATIONS} & sections.broken
    if not said & set(DISCRETISATIONS) and not broken:
        student = sections.values["student"].model_copy(update={"evaluations": DEFAULT_EVALUATIONS})
        sections.values["student"] = student


def drop_overridden(drafts: Drafts, sections: Sections) -> None:
    """Drop ranges that an override leaves without effect, e.g. temperature after `space.alpha=0`."""
    for need in NEEDS:
        draft = drafts.by_name.get(need.key)
        if draft is not None and not draft.place.source.override:
            value = _overriding_value(need.parent, drafts, sections)
            if value is not None and not need.met(value[0]):
                drafts.drop(need.key)
        given = sections.given[HOME[need.key]]
        if need.key in given and not given[need.key].source.override and need.parent == "solver":
            value = _overriding_value(need.parent, drafts, sections)
            if value is not None and not need.met(value[0]):
                forget(need.key, sections)


def _overriding_value(name: str, drafts: Drafts, sections: Sections) -> tuple[Any] | None:
    """Return the value to which an override fixes a key, in a tuple; None where none does."""
    if drafts.overridden(name):
        return (drafts.by_name[name].parameter.value,)
    place = sections.given[HOME[name]].get(name)
    if place is None or not place.source.override or name in drafts.by_name:
        return None
    return (getattr(sections.values[HOME[name]], name),)
