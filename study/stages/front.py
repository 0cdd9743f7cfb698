"""Third stage: what may belong to the front is measured again, on val_front, with the real attacks (S18)."""

from collections.abc import Iterator

import numpy as np

from study.durable import read_json, replace_json
from study.errors import StudyFailed
from study.fronts import near_front, next_after_front, non_dominated
from study.stages.batch import Batch, Planned
from study.stages.context import Context
from study.stages.pipeline import Stage
from study.stages.search import trial_number
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
SELECTION = "front/selection.json"
RULE = (
    f"trials within {NEAR:g} standard errors of the search front are attacked on val_front "
    "(APGD-CE, APGD-T, transfer); "
    f"chosen is the front there and, where it has fewer than {FEWEST_STUDENTS}, the next within "
    f"{FILL_UP_WITHIN:g} standard error"
)
EVERYONE = "every completed trial is attacked on test (robustness.select: all); no front is chosen on val_front"


def stages(context: Context) -> Iterator[Stage]:
    """Measure the candidates on val_front, then write down which students are attacked on test.

    Where every student goes to test, nothing is chosen, and nothing is measured for a choice.
    """
    if context.space.robustness.select == "all":
        write_everyone(context)
        return
    for name in teacher_names(context):
        context.metrics(front_pool_key(name))
    yield Batch(context, "front", [_candidate_job(context, key) for key in candidates(context)])
    write_selection(context)


def candidates(context: Context) -> list[str]:
    """Return the completed trials within two standard errors of the search front.

    Raises:
        StudyFailed: If no trial completed.
    """
    trials = completed(context)
    points, errors = [], []
    for key in trials:
        outcome = context.ledger.outcome(key) or {}
        values, metrics = outcome["values"], outcome["metrics"]
        point = [values["accuracy"], values["adversarial_accuracy"]]
        points.append(point)
        errors.append(standard_error(point, [metrics["n"], metrics["n_adversarial"]]))
    near = near_front(points, np.array(errors), NEAR)
    return [key for key, is_near in zip(trials, near, strict=True) if is_near]


def candidate_key(trial: str) -> str:
    """Return the job that measures a trial on val_front."""
    return f"front/{trial.rpartition('/')[2]}"


def write_selection(context: Context) -> None:
    """Choose the students for test by what val_front shows; a choice once made stays while its candidates do."""
    measured = [key for key in candidates(context) if context.is_complete(candidate_key(key))]
    points, errors = [], []
    for key in measured:
        metrics = context.metrics(candidate_key(key))
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
        context.ledger.root / SELECTION,
        {
            "schema": 1,
            "rule": RULE,
            "candidates": numbers,
            "front": sorted(numbers[i] for i in front),
            "attacked": sorted(numbers[i] for i in chosen[: context.space.robustness.max_students]),
        },
    )
    if not chosen:
        raise StudyFailed(
            f"At least one candidate must be measured on {FRONT_SPLIT}, but all failed; "
            f"see {context.ledger.root}/front."
        )


def write_everyone(context: Context) -> None:
    """Choose every completed trial, as a designed experiment needs."""
    attacked = [trial_number(key) for key in completed(context)]
    selection = {"schema": 1, "rule": EVERYONE, "candidates": [], "front": [], "attacked": attacked}
    replace_json(context.ledger.root / SELECTION, selection)


def completed(context: Context) -> list[str]:
    """Return the trials that ended well.

    Raises:
        StudyFailed: If there is none.
    """
    trials = [key for key in context.ledger.keys("trials") if context.is_complete(key)]
    if not trials:
        raise StudyFailed(
            f"At least one trial must complete, but of {len(context.ledger.keys('trials'))} none did. "
            f"See the reasons with: python -m study.show {context.ledger.root}"
        )
    return trials


def selected(context: Context) -> list[int]:
    """Return the numbers of the students that are attacked on test."""
    selection = read_json(context.ledger.root / SELECTION)
    assert selection is not None, "the front stage wrote its selection"
    return list(selection["attacked"])


def _thin(ordered: list[int], most: int) -> list[int]:
    if len(ordered) <= most:
        return ordered
    return [ordered[i] for i in np.linspace(0, len(ordered) - 1, most).round().astype(int)]


def _candidate_job(context: Context, trial: str) -> Planned:
    number, search = trial_number(trial), context.space.search
    settings = attack_settings(
        context,
        network=trial,
        split=FRONT_SPLIT,
        images=front_images(context),
        norm=search.norm,
        epsilons=[search.epsilon],
        attacks="front",
        pool={f"transfer-{name}": front_pool_key(name) for name in teacher_names(context)},
        identity={"model": f"student-{number:06d}", "kind": "student", "trial": number},
    )
    return planned_attack(context, candidate_key(trial), settings)
