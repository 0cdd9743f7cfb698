"""Third stage: what may belong to the front is measured again, on val_front, with the real attacks (S18)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from study.checks.verdicts import Trust
from study.durable import replace_json
from study.errors import StudyFailed
from study.feasibility import objections
from study.fronts import near_front, next_after_front, non_dominated
from study.stages import front_checks, race
from study.stages.batch import Batch, Planned
from study.stages.context import Context
from study.stages.pipeline import Stage
from study.stages.searches import STUDENTS, Searched, front_key, identity, trial_number
from study.stages.teachers import (
    FRONT_SPLIT,
    attack_settings,
    front_images,
    front_pool_key,
    planned_attack,
    teacher_names,
)
from study.statistics import standard_error

NEAR = 2.0
"""Standard errors within which a trial may still belong to the search front."""
FILL_UP_WITHIN = 1.0
"""Standard errors within which dominated students fill up a short front."""
FEWEST_STUDENTS = 3
SELECTION = STUDENTS.selection
RULE = (
    f"trials within {NEAR:g} standard errors of the search front are attacked on val_front "
    "(APGD-CE, APGD-T, transfer); "
    f"chosen is the front there and, where it has fewer than {FEWEST_STUDENTS}, the next within "
    f"{FILL_UP_WITHIN:g} standard error"
)
CHECKED = "; whom a check calls unreliable there is left out, and what is left has its own front"
ALL_DOUBTED = "; a check calls every completed trial unreliable there, so nobody is left out"
RACED = (
    "; a candidate that another one, at least as accurate, surely beats (exact McNemar test, Holm-adjusted) is not "
    "attacked further and cannot be chosen"
)
EVERYONE = "every completed trial is attacked on test (robustness.select: all); no front is chosen on val_front"


def stages(context: Context, searched: Searched = STUDENTS) -> Iterator[Stage]:
    """Measure a search's candidates on val_front, then write down which of its networks are attacked on test.

    Where every student goes to test, nothing is chosen, and nothing is measured for a choice.
    """
    if context.space.robustness.select == "all":
        write_everyone(context, searched)
        return
    for name in teacher_names(context):
        context.metrics(front_pool_key(name))
    name = searched.stage("front")
    yield from _checks(context, searched)
    trials, against = candidates(context, searched)
    _say_who_is_doubted(context, trials, against)
    if is_race(context, trials):
        yield from race.stages(context, trials, name)
    else:
        yield Batch(context, name, [_candidate_job(context, key) for key in trials])
    write_selection(context, searched)


def _checks(context: Context, searched: Searched) -> Iterator[Stage]:
    """Check the candidates, then those who stand on the front without the doubted ones, until no new one does."""
    front_checks.reopen_crashed(context, feasible(context, searched))
    asked = set[str]()
    while new := [key for key in candidates(context, searched)[0] if key not in asked]:
        asked.update(new)
        if checks := front_checks.jobs(context, new):
            yield Batch(context, f"{searched.stage('front')} checks", checks)


def _say_who_is_doubted(context: Context, trials: Sequence[str], against: Mapping[str, Trust]) -> None:
    for key, trust in against.items():
        what = "cannot be chosen" if key not in trials else "may be chosen, as a check speaks up about every trial"
        context.observer.note(f"{key} {what}: {trust.reasons[0]}")


def is_race(context: Context, trials: Sequence[str]) -> bool:
    """Tell whether the candidates race; not where an earlier launch measured some of them whole."""
    whole = any(context.is_complete(front_key(trial)) for trial in trials)
    return context.space.robustness.racing and not whole


def candidates(context: Context, searched: Searched = STUDENTS) -> tuple[list[str], dict[str, Trust]]:
    """Return the candidates whom no check calls unreliable, and the trials whom one does.

    Who is doubted is taken away before the front of the search is drawn, as he must not send others off. Where that is
    everybody, all have the same fault, and the candidates are those of the whole search.

    Raises:
        StudyFailed: If no trial completed, or all failed the checks of the search (S16).
        EnvironmentFault: If what a check measured cannot be read.
    """
    trials, against = feasible(context, searched), dict[str, Trust]()
    while True:
        found = _near_front(context, [key for key in trials if key not in against] or trials)
        new = {key: trust for key, trust in front_checks.doubted(context, found).items() if key not in against}
        if not new:
            return found, against
        against |= new


def _near_front(context: Context, trials: Sequence[str]) -> list[str]:
    """Return those of some trials that are within two standard errors of their front in the search (S18)."""
    points, errors = [], []
    for key in trials:
        outcome = context.ledger.outcome(key) or {}
        values, metrics = outcome["values"], outcome["metrics"]
        point = [values["accuracy"], values["adversarial_accuracy"]]
        points.append(point)
        errors.append(standard_error(point, [metrics["n"], metrics["n_adversarial"]]))
    near = near_front(points, np.array(errors), NEAR)
    return [key for key, is_near in zip(trials, near, strict=True) if is_near]


def write_selection(context: Context, searched: Searched = STUDENTS) -> None:
    """Choose the networks for test by what val_front shows.

    A choice once made stays while its candidates and the settings of their checks do: more images may show a fault.
    """
    trials, against = candidates(context, searched)
    found, raced = _measured(context, trials)
    measured, points, errors = list(found), [], []
    for metrics in found.values():
        point = [metrics["accuracy"], metrics["robust"][0]["robust_accuracy"]]
        points.append(point)
        errors.append(standard_error(point, [metrics["n"], metrics["n"]]))
    numbers = [trial_number(key) for key in measured]
    front = np.flatnonzero(non_dominated(points))
    extra = next_after_front(points, np.array(errors), FEWEST_STUDENTS, FILL_UP_WITHIN)
    # Most accurate first; where the front is larger than the limit, evenly along it, both ends kept.
    ordered = sorted(front.tolist(), key=lambda i: (-points[i][0], numbers[i]))
    chosen = _thin(ordered, context.space.robustness.max_students) + extra.tolist()
    replace_json(
        context.ledger.root / searched.selection,
        {
            "schema": 1,
            "rule": RULE + _about_checks(context, trials, against) + ("" if raced is None else RACED),
            "candidates": numbers,
            "front": sorted(numbers[i] for i in front),
            "attacked": sorted(numbers[i] for i in chosen[: context.space.robustness.max_students]),
            "race": raced,
            "doubted": {f"{trial_number(key):06d}": list(trust.reasons) for key, trust in against.items()},
        },
    )
    if not chosen:
        raise StudyFailed(
            f"At least one candidate must be measured on {FRONT_SPLIT}, but all failed; "
            f"see {context.ledger.root}/front."
        )


def _about_checks(context: Context, trials: Sequence[str], against: Collection[str]) -> str:
    if not front_checks.are_wanted(context):
        return ""
    return ALL_DOUBTED if any(key in against for key in trials) else CHECKED


def write_everyone(context: Context, searched: Searched = STUDENTS) -> None:
    """Choose every completed trial, as a designed experiment needs."""
    attacked = [trial_number(key) for key in completed(context, searched)]
    selection = {"schema": 1, "rule": EVERYONE, "candidates": [], "front": [], "attacked": attacked}
    replace_json(context.ledger.root / searched.selection, selection)


def feasible(context: Context, searched: Searched = STUDENTS) -> list[str]:
    """Return the trials that ended well and passed their checks.

    Raises:
        StudyFailed: If there is none.
    """
    trials = completed(context, searched)
    against = {key: objections(context.ledger.outcome(key) or {}) for key in trials}
    if all(against.values()):
        raise StudyFailed(
            f"At least one trial must pass the checks of its gradients, but all {len(trials)} that completed fail, "
            f"e.g. {trials[0]}: {against[trials[0]][0]}. What attacks follow is said by student.gradient and "
            f"attack.gradient; see all reasons with: python -m study.show {context.ledger.root}"
        )
    return [key for key in trials if not against[key]]


def completed(context: Context, searched: Searched = STUDENTS) -> list[str]:
    """Return the trials that ended well.

    Raises:
        StudyFailed: If there is none.
    """
    keys = context.ledger.numbered(searched.folder)
    trials = [key for key in keys if context.is_complete(key)]
    if not trials:
        raise StudyFailed(
            f"At least one {searched.stage('trial')} must complete, but of {len(keys)} none did. "
            f"See the reasons with: python -m study.show {context.ledger.root}"
        )
    return trials


def selected(context: Context, searched: Searched = STUDENTS) -> list[int]:
    """Return the numbers of the networks of a search that are attacked on test."""
    selection = context.ledger.document(searched.selection)
    assert selection is not None, "the front stage wrote its selection"
    return list(selection["attacked"])


def _measured(context: Context, trials: Sequence[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """Return what was measured on all images of val_front, by trial, and the record of the race, if there was one."""
    if is_race(context, trials):
        standing = race.standing(context, trials)
        return race.measured(context, standing), standing.record(context)
    whole = [trial for trial in trials if context.is_complete(front_key(trial))]
    return {trial: context.metrics(front_key(trial)) for trial in whole}, None


def _thin(ordered: list[int], most: int) -> list[int]:
    if len(ordered) <= most:
        return ordered
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, most).round().astype(int)]


def _candidate_job(context: Context, trial: str) -> Planned:
    search = context.space.search
    settings = attack_settings(
        context,
        network=trial,
        split=FRONT_SPLIT,
        images=front_images(context),
        norm=search.norm,
        epsilons=[context.epsilon],
        attacks="front",
        pool={f"transfer-{name}": front_pool_key(name) for name in teacher_names(context)},
        identity=identity(trial),
    )
    return planned_attack(context, front_key(trial), settings)
