"""Rules of teaching: which teachers are read, whether feature maps fit, and what robust distillation needs."""

from typing import Any

from nodekd.data.catalog import DATASETS
from nodekd.distill.catalog import (
    ATTACKING_METHODS,
    CHAINED_METHODS,
    ENSEMBLE_METHODS,
    FEATURE_METHODS,
    FEED_METHODS,
)
from nodekd.models.catalog import is_ode
from nodekd.models.feature_maps import last_map
from nodekd.models.geometry import SMALLEST_MAP
from nodekd.ode.integrator import FIXED
from study.space.parameters import Parameter
from study.space.reading import Branch, Reading, highest
from study.space.solving import KEYS as SOLVE_KEYS
from study.space.solving import given_discretisations, steps_of

ENSEMBLE_KEYS = ("method", "teacher", "ensemble", "repeat_teacher")
MAP_KEYS = (*ENSEMBLE_KEYS, "arch", "channels", "translator_shared")
ENLARGED = 32
"""Side of the images at which every network has a map of 4x4 or more."""


def teachers_read(method: str, *, teacher: int, ensemble: int, repeat: bool) -> list[int]:
    """Return the positions of the teachers that a student learns from; one may stand there several times."""
    if method == "none" or method in CHAINED_METHODS:
        return []
    several = ensemble if method in ENSEMBLE_METHODS else 1
    if several == 1:
        return [teacher]
    return [0] * several if repeat else list(range(several))


def _read_in(reading: Reading, branch: Branch) -> list[int]:
    """Return the teachers of a branch, where ranges take their highest values."""
    return teachers_read(
        reading.effective("method", branch),
        teacher=int(highest(branch.get("teacher", 0))),
        ensemble=int(highest(reading.effective("ensemble", branch))),
        repeat=reading.effective("repeat_teacher", branch),
    )


def check_teachers(reading: Reading) -> None:
    """Check that every teacher that is asked for is listed, and every listed one is asked for."""
    if not reading.known("method", "ensemble", "repeat_teacher") or "teacher" in reading.drafts.broken:
        return
    count = len(reading.sections.values["teachers"])
    largest = 1
    for branch in reading.branches(ENSEMBLE_KEYS):
        read = _read_in(reading, branch)
        largest = max(largest, len(set(read)))
        if len(read) > 1 and "teacher" in branch:
            _note_teacher_beside_ensemble(reading, len(read))
    if largest > count:
        message = f"`ensemble` goes up to {largest}, but `teachers` lists {count}; list more of them"
        reading.problems.add(reading.place("ensemble"), f"{message}, or take one several times: repeat_teacher: true.")
    _check_listed(reading, count, largest)


def _note_teacher_beside_ensemble(reading: Reading, size: int) -> None:
    parameter = reading.parameter("ensemble")
    has_one = parameter is not None and parameter.kind == "choice" and 1 in parameter.choices
    advice = "add when: {ensemble: [1]}" if has_one else "remove it"
    message = f"`teacher` has no effect where ensemble is {size}, which takes the first {size} of `teachers`; {advice}."
    reading.problems.add(reading.place("teacher"), message)


def _check_listed(reading: Reading, count: int, largest: int) -> None:
    draft = reading.drafts.by_name.get("teacher")
    if draft is None:
        is_overridden = {"teacher", "ensemble"} & reading.drafts.dropped
        if count > largest and not is_overridden:
            taught = "only the first" if largest == 1 else f"only the first {largest}"
            message = f"`teachers` lists {count}, but {taught} would teach; "
            advice = f"add teacher: {{choice: [{', '.join(map(str, range(count)))}]}} under `space`, or list one."
            if largest > 1:
                advice = f"raise `ensemble`, or list {largest}."
            reading.problems.add(reading.place("teacher"), message + advice)
        return
    listed = [each for each in draft.parameter.choices if isinstance(each, int)]
    highest_index = int(draft.parameter.high) if draft.parameter.high is not None else max(listed)
    if highest_index >= count:
        message = f"`space.teacher` goes up to {highest_index}, but `teachers` lists {count}, counted from 0."
        reading.problems.add(draft.place, message)


def check_alpha(reading: Reading) -> None:
    """Check that a study with undistilled students does not train all of them a second time under another name."""
    if not reading.known("method", "alpha") or reading.parameter("alpha") is not None:
        return
    methods = {reading.effective("method", branch) for branch in reading.branches(("method",))}
    if {"none", "kd"} <= methods and reading.sections.values["distill"].alpha == 0:
        message = "kd with alpha 0 trains what method none trains, which is in the space as well; "
        reading.problems.add(reading.place("alpha"), message + "raise alpha, or take one of them out.")


def check_attacking(reading: Reading) -> None:
    """Check that methods which attack the student know how strongly."""
    if not reading.known("method", "adversarial"):
        return
    adversarial = reading.sections.values["train"].adversarial
    for branch in reading.branches(("method",)):
        method = reading.effective("method", branch)
        if method in ATTACKING_METHODS and (adversarial is None or not adversarial.applies(method)):
            message = f"{method} attacks the student in every update and needs `train.adversarial` to say how, such as "
            advice = f"{{epsilon: 1/16, steps: 7, methods: [{method}]}}; add it."
            reading.problems.add(reading.place("method"), message + advice)


def check_features(reading: Reading) -> None:
    """Check that every student's last map can be compared with those of its teachers."""
    if not reading.known(*MAP_KEYS) or "data" in {name.partition(".")[0] for name in reading.sections.broken}:
        return
    for branch in reading.branches(MAP_KEYS):
        if reading.effective("method", branch) in FEATURE_METHODS:
            _check_maps(reading, branch)


def _check_maps(reading: Reading, branch: Branch) -> None:
    method, arch = reading.effective("method", branch), reading.effective("arch", branch)
    channels = int(highest(reading.effective("channels", branch)))
    listed = reading.sections.values["teachers"]
    archs = [listed[index].arch for index in _read_in(reading, branch) if index < len(listed)]
    data = reading.sections.values["data"]
    image_size = data.image_size or DATASETS[data.name].image_size
    for name in (arch, *archs):
        side = last_map(name, channels, image_size)[1]
        if side < SMALLEST_MAP:
            message = (
                f"{method} compares last feature maps of {SMALLEST_MAP}x{SMALLEST_MAP} or more, but {name} leaves "
            )
            advice = f"{side}x{side} of images of {image_size}x{image_size}; set data.image_size: {ENLARGED}."
            reading.problems.add(reading.place("method"), message + advice)
    outgoing = {last_map(name, channels, image_size)[0] for name in archs}
    is_shared = method in FEED_METHODS and reading.effective("translator_shared", branch)
    if is_shared and len(outgoing) > 1:
        message = "`translator_shared` needs teachers whose last maps have equally many channels, but got "
        found = ", ".join(f"{name} with {last_map(name, channels, image_size)[0]}" for name in dict.fromkeys(archs))
        reading.problems.add(reading.place("translator_shared"), f"{message}{found}; set it to false.")


def check_feature_times(reading: Reading) -> None:
    """Check that the times at which states are compared are ends of steps."""
    keys = ("method", "feature_times", *SOLVE_KEYS)
    parameter = reading.parameter("feature_times")
    if not reading.known(*keys) or (parameter is None and reading.sections.values["distill"].feature_times == 1):
        return
    for branch in reading.branches(keys):
        values = {name: reading.effective(name, branch) for name in keys}
        given = given_discretisations(values)
        is_read = values["method"] in FEED_METHODS and is_ode(values["arch"]) and values["solver"] in FIXED
        if is_read and len(given) == 1:
            fault = times_fault(values, given[0])
            if fault is not None:
                reading.problems.add(reading.place("feature_times"), fault)
                return


def times_fault(values: dict[str, Any], key: str) -> str | None:
    """Say why feature_times is no divisor of the steps, or None where it always is.

    Args:
        values: feature_times, solver, horizon and the discretisation `key`, each a value or a range.
        key: Which discretisation counts.
    """
    for times in _all_values(values["feature_times"]) or []:
        if times == 1:
            continue
        steps = _possible_steps(values, key)
        if steps is None:
            return (
                f"`feature_times` {times} must divide the steps, but the range of `{key}` or `horizon` leaves them "
                "open; give `steps` or `evaluations` as a choice."
            )
        odd = next((each for each in steps if each % times), None)
        if odd is not None:
            return (
                f"`feature_times` {times} must divide the steps, but {values['solver']} takes {odd}; choose `{key}` so "
                f"that the steps are a multiple of {times}."
            )
    return None


def _possible_steps(values: dict[str, Any], key: str) -> list[int] | None:
    horizons = _all_values(values["horizon"]) if key == "step_size" else [1.0]
    amounts = _all_values(values[key])
    if horizons is None or amounts is None:
        return None
    return [steps_of(values["solver"], horizon, key, amount) for horizon in horizons for amount in amounts]


def _all_values(value: Any) -> list[Any] | None:
    """Return every value of a range, or None where there are infinitely many."""
    if not isinstance(value, Parameter):
        return [value]
    if value.low is None or value.high is None or (value.kind == "float" and value.step is None):
        return None
    step = value.step or 1
    count = round((value.high - value.low) / step) + 1
    return [value.low + index * step for index in range(count)] if count <= 10_000 else None
