"""From the values of all keys at a point to those that have an effect there."""

from collections.abc import Mapping
from typing import Any

from nodekd.distill.catalog import CHAINED_METHODS
from nodekd.models.catalog import is_ode
from study.space.needs import idle_keys
from study.space.network_sections import DISCRETISATIONS, TRAINED, Solve
from study.space.solving import discretisation_fault, given_discretisations, laid_over, solve_fault, stated
from study.space.teaching import times_fault

SectionValues = dict[str, dict[str, Any]]


def pruned(sections: SectionValues) -> SectionValues:
    """Leave out what has no effect at a point, and fill in atol.

    Args:
        sections: Every key of `student`, `distill` and `train` with its value.

    Raises:
        ValueError: If a fixed solver cannot be discretised as said, or states be compared at these times.
    """
    values = {key: value for section in sections.values() for key, value in section.items()}
    idle = idle_keys(values)
    kept = {
        name: {key: value for key, value in section.items() if key not in idle} for name, section in sections.items()
    }
    kept["student"] = _with_one_discretisation(kept["student"])
    _check_times(kept)
    if kept["student"].get("atol", 0) is None:
        kept["student"]["atol"] = kept["student"]["rtol"]
    kept["train"]["adversarial"] = _adversarial(kept["train"]["adversarial"], kept["distill"]["method"])
    return kept


def _with_one_discretisation(student: dict[str, Any]) -> dict[str, Any]:
    student = {key: value for key, value in student.items() if not _is_unsaid(key, value)}
    for key in given_discretisations(student):
        fault = discretisation_fault(student["solver"], student["horizon"], key, student[key])
        if fault is not None:
            raise ValueError(f"`{key}` does not fit: {fault}.")
    return student


def _is_unsaid(key: str, value: object) -> bool:
    return value is None and key in {"discretisation", *DISCRETISATIONS}


def _check_times(sections: SectionValues) -> None:
    student, distill = sections["student"], sections["distill"]
    given = given_discretisations(student)
    if "feature_times" in distill and len(given) == 1:
        fault = times_fault(student | {"feature_times": distill["feature_times"]}, given[0])
        if fault is not None:
            raise ValueError(fault)


def _adversarial(adversarial: Mapping[str, Any] | None, method: str) -> dict[str, Any] | None:
    """Return how a method's students are trained on attacked images; None where they are not."""
    if adversarial is None or method not in (adversarial["methods"] or (method,)):
        return None
    return {key: value for key, value in adversarial.items() if key != "methods"}


def reads_one_teacher(distill: Mapping[str, Any]) -> bool:
    """Tell whether a student learns from one teacher of the list, which the position then names."""
    method = distill["method"]
    return method != "none" and method not in CHAINED_METHODS and distill.get("ensemble", 1) == 1


def solves(student: Mapping[str, Any], changes: Mapping[str, Solve]) -> SectionValues:
    """Return what each change does to a student's solve; nothing for students without an ODE.

    Args:
        student: Keys that count at the point.
        changes: By name, in the order in which they are laid over each other.

    Raises:
        ValueError: If a changed solve cannot be done.
    """
    found: SectionValues = {name: {} for name in changes}
    current: Mapping[str, Any] = student
    for name, change in changes.items() if is_ode(student["arch"]) else ():
        said = stated(change)
        if said.get("gradient") == TRAINED and student["gradient"] == "direct":
            del said["gradient"]  # attacks follow it anyway
        if said:
            current = laid_over(current, said)
            found[name] = {key: value for key, value in said.items() if key in current}
            fault = solve_fault(current, said)
            if fault is not None:
                raise ValueError(f"`{name}` cannot be done: {fault}.")
    return found
