"""Rules of solvers: how they are discretised (S12, S13), and how trained students are solved another way."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nodekd.models.catalog import UNTIED_STUDENTS, is_ode, is_stepped
from nodekd.ode.integrator import ADAPTIVE, FIXED
from study.space.network_sections import (
    DEFAULT_EVALUATIONS,
    DISCRETISATIONS,
    MAX_STEPS,
    TOLERANCES,
    TRAINED,
    Solve,
)
from study.space.parameters import Parameter
from study.space.ranges import Drafts
from study.space.reading import Branch, Reading, after, highest
from study.space.section import dump
from study.space.sections import Sections

KEYS = ("arch", "solver", "gradient", "horizon", "discretisation", *DISCRETISATIONS)
"""What describes a student's solve, as far as rules between keys go."""

CHANGES = ("evaluate", "attack")
"""Sections that solve a trained student another way, each laid over those before it."""


def steps_of(solver: str, horizon: float, key: str, value: float) -> int:
    """Return the number of steps of a fixed solver (S12); evaluations are taken to be a multiple of its stages."""
    if key == "step_size":
        return max(1, math.ceil(horizon / value - 1e-9)) if horizon / value < 1e9 else 10**9
    return int(value) if key == "steps" else int(value) // FIXED[solver]


def discretisation_fault(solver: str, horizon: float, key: str, value: float) -> str | None:
    """Say why a fixed solver cannot be discretised like this, or None where it can (S12)."""
    stages = FIXED[solver]
    if key == "evaluations" and value % stages:
        return f"{solver} needs a multiple of its {stages} stages, but got {value:g} evaluations"
    if steps_of(solver, horizon, key, value) > MAX_STEPS:
        return f"{key} {value:g} at horizon {horizon:g} makes more than {MAX_STEPS} steps"
    return None


def check_solvers(reading: Reading) -> None:
    """Check every solve that can be reached: of training, of evaluation, and of attacks."""
    if not reading.known("arch", "solver", "discretisation", *DISCRETISATIONS):
        return
    for branch in reading.branches(KEYS):
        if is_stepped(reading.effective("arch", branch)):
            _check_solve(reading, branch)
    _check_changes(reading)


def _check_solve(reading: Reading, branch: Branch) -> None:
    arch, solver = reading.effective("arch", branch), reading.effective("solver", branch)
    if arch in UNTIED_STUDENTS and solver != "euler":
        place = reading.place("solver") if reading.place("solver") is not reading.root else reading.place("arch")
        message = f"{arch} takes Euler steps with weights of their own, but solver is {solver}; choose solver: euler."
        reading.problems.add(place, message)
        return
    if solver in ADAPTIVE:
        return
    if solver == "rk4_classic" and reading.effective("gradient", branch) == "adjoint":
        message = "rk4_classic has no adjoint; choose rk4 (the 3/8 rule) or gradient direct."
        reading.problems.add(reading.place("gradient"), message)
    _check_discretisation(reading, solver, branch)


def given_discretisations(values: Mapping[str, Any]) -> list[str]:
    """Return which of the three keys count: the chosen one, or all that are given."""
    given = [name for name in DISCRETISATIONS if values.get(name) is not None]
    chosen = values.get("discretisation")
    return given if chosen is None else [name for name in given if name == chosen]


def _check_discretisation(reading: Reading, solver: str, branch: Branch) -> None:
    values = {name: reading.effective(name, branch) for name in ("discretisation", *DISCRETISATIONS)}
    given, chosen = given_discretisations(values), values["discretisation"]
    if len(given) > 1:
        message = f"{solver} gets {' and '.join(given)}; give exactly one of {', '.join(DISCRETISATIONS)}"
        message += ", or choose one by `discretisation`." if len(given) == len(DISCRETISATIONS) else "."
        reading.problems.add(max((reading.place(name) for name in given), key=after), message)
    elif given:
        _check_values(reading, solver, given[0], branch)
    elif chosen is not None:
        message = f"`discretisation` chooses {chosen}, but `{chosen}` is not given for {solver}; give it."
        reading.problems.add(reading.place("discretisation"), message)
    else:
        message = f"{solver} gets none of {', '.join(DISCRETISATIONS)}; give exactly one wherever it is chosen."
        reading.problems.add(reading.place("solver"), message)


def _check_values(reading: Reading, solver: str, key: str, branch: Branch) -> None:
    longest = float(highest(reading.effective("horizon", branch)))
    for corner in corners(reading.effective(key, branch), FIXED[solver]):
        fault = discretisation_fault(solver, longest, key, corner)
        if fault is not None:
            reading.problems.add(reading.place(key), f"`{key}` does not fit every solver: {fault}.")
            return


def corners(value: Any, stages: int) -> Iterable[float]:
    """Return the values of a range that break divisibility or bounds first, if any does."""
    if not isinstance(value, Parameter):
        return (value,)
    assert value.low is not None, "a range has two ends"
    assert value.high is not None, "a range has two ends"
    second = value.low + (value.step or (1 if value.kind == "int" else 0))
    between = [second] if value.kind == "int" and second <= value.high and stages > 1 else []
    return (value.low, *between, value.high)


def stated(change: Solve) -> dict[str, Any]:
    """Return the keys of a change that say anything else than what holds anyway."""
    defaults = type(change).model_fields
    return {key: value for key, value in dump(change).items() if value != defaults[key].default}


def laid_over(solve: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a solve with a change laid over it; a new discretisation replaces the old one, whatever it was given by.

    Args:
        solve: Keys of `Student` that count at a point.
        change: Keys of `Solve`, or of `AttackSolve`, that say anything.
    """
    replaced = {"discretisation", *DISCRETISATIONS} if set(change) & set(DISCRETISATIONS) else set()
    replaced |= {"adjoint_steps"} if change.get("gradient") == "adjoint" else set()
    said = {key: value for key, value in change.items() if value != TRAINED}
    merged = {key: value for key, value in solve.items() if key not in replaced} | said
    if merged["solver"] in FIXED:
        kept = {key: value for key, value in merged.items() if key not in TOLERANCES}
        return kept if given_discretisations(kept) else kept | {"evaluations": DEFAULT_EVALUATIONS}
    return {key: value for key, value in merged.items() if key not in {"discretisation", *DISCRETISATIONS}}


def solve_fault(solve: Mapping[str, Any], change: Mapping[str, Any]) -> str | None:
    """Say why a solve cannot be done after a change, or None where it can; gradients are direct unless asked for."""
    if solve["solver"] == "rk4_classic" and "gradient" in change and solve.get("gradient") == "adjoint":
        return "rk4_classic has no adjoint; choose rk4 (the 3/8 rule) or attack.gradient: direct"
    if solve["solver"] not in FIXED:
        return None
    given = given_discretisations(solve)
    if len(given) > 1:
        return f"{solve['solver']} gets {' and '.join(given)}; give exactly one"
    fault = discretisation_fault(solve["solver"], solve["horizon"], given[0], solve[given[0]])
    return None if fault is None else f"{fault}; give a discretisation that fits"


def _check_changes(reading: Reading) -> None:
    changes = {name: stated(reading.sections.values[name]) for name in CHANGES}
    if not any(changes.values()):
        return
    used: dict[str, set[str]] = {name: set() for name in CHANGES}
    is_solved = False
    for solve in _trained_solves(reading):
        is_solved, current = True, solve
        for name, change in changes.items():
            current = laid_over(current, change)
            used[name] |= set(change) & set(current)
            fault = solve_fault(current, change) if change else None
            if fault is not None:
                place = max((reading.place_in(name, key) for key in change), key=after)
                reading.problems.add(place, f"`{name}` cannot be done: {fault}.")
    for name, change in changes.items():
        if change.get("gradient") != "adjoint":
            used[name].discard("adjoint_steps")
        for key in set(change) - used[name]:
            reason = "none of its solvers reads it" if is_solved else "no student has an ODE that could be solved so"
            message = f"`{name}.{key}` has no effect: {reason}; remove it."
            reading.problems.add(reading.place_in(name, key), message)


def _trained_solves(reading: Reading) -> Iterator[dict[str, Any]]:
    """Yield the solves of ODE students at the corners of their ranges, as they are trained."""
    for branch in reading.branches(KEYS):
        values = {name: reading.effective(name, branch) for name in KEYS}
        if not is_ode(values["arch"]):
            continue
        solve = {name: values[name] for name in ("solver", "gradient")}
        solve["horizon"] = float(highest(values["horizon"]))
        given = given_discretisations(values) if values["solver"] in FIXED else []
        if len(given) == 1:
            for corner in corners(values[given[0]], max(FIXED.values())):
                yield solve | {given[0]: corner}
        elif values["solver"] in ADAPTIVE:
            yield solve


def fill_discretisation(drafts: Drafts, sections: Sections) -> None:
    """Give fixed solvers `DEFAULT_EVALUATIONS` where neither file nor override says anything about discretisation."""
    said = {*drafts.by_name, *drafts.broken, *drafts.dropped, *sections.given["student"]}
    broken = {f"student.{name}" for name in DISCRETISATIONS} & sections.broken
    if not said & set(DISCRETISATIONS) and not broken:
        student = sections.values["student"].model_copy(update={"evaluations": DEFAULT_EVALUATIONS})
        sections.values["student"] = student
