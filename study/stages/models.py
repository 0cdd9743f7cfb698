"""Which networks are attacked on test, and what has to be trained for that: twins, replicates, random students."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from nodekd.streams import seed_of
from study.fronts import non_dominated
from study.stages.batch import Planned
from study.stages.context import Context
from study.stages.front import SELECTION, completed, selected
from study.stages.search import trial_key
from study.stages.searches import UNDISTILLED, identity, trial_number
from study.stages.teachers import teacher_keys, teacher_model, undistilled


@final
@dataclass(frozen=True)
class Model:
    """A trained network under the name that results give it."""

    name: str
    kind: str
    """student, random, twin, replicate, undistilled or teacher."""
    trial: int | None
    """The student's that it is, or stands beside; of the students' search."""
    network: str
    """The job that trained it."""

    def identity(self, **more: Any) -> dict[str, Any]:
        """Return what the records of its jobs begin with."""
        return {"model": self.name, "kind": self.kind, "trial": self.trial, **more}


def twin_key(number: int) -> str:
    """Return the job key of a trial's alpha-0 twin."""
    return f"baselines/twin-{number:06d}"


def replicate_key(number: int, replicate: int) -> str:
    """Return the job key of a trial that is trained again with another seed, from 1."""
    return f"replicates/{number:06d}-{replicate}"


def trainings(context: Context) -> list[Planned]:
    """Plan the alpha-0 twins of the chosen students (S8) and the replicates of the front (S28)."""
    return [*_twin_jobs(context), *_replicate_jobs(context)]


def attacked_models(context: Context) -> list[Model]:
    """Return every trained network that is attacked on test; one whose training diverged is left out."""
    numbers = selected(context)
    models = [Model(teacher_model(key), "teacher", None, key) for key in dict.fromkeys(teacher_keys(context))]
    models += [Model(f"student-{number:06d}", "student", number, trial_key(number)) for number in numbers]
    models += [
        Model(f"student-{number:06d}", "random", number, trial_key(number)) for number in random_students(context)
    ]
    models += [Model(f"twin-{number:06d}", "twin", number, twin_key(number)) for number in _with_twins(context)]
    for number, replicate in _replicated(context):
        name, key = f"replicate-{number:06d}-{replicate}", replicate_key(number, replicate)
        models.append(Model(name, "replicate", number, key))
    models += [_undistilled_model(number) for number in undistilled_networks(context)]
    return [model for model in models if context.is_complete(model.network)]


def undistilled_networks(context: Context) -> list[int]:
    """Return the numbers of the networks that val_front chose from the search without distillation."""
    return selected(context, UNDISTILLED) if context.space.robustness.undistilled_search else []


def _undistilled_model(number: int) -> Model:
    key = UNDISTILLED.key(number)
    who = identity(key)
    return Model(who["model"], who["kind"], who["trial"], key)


def random_students(context: Context) -> list[int]:
    """Draw trials that the search and the front dismissed, the same ones as long as the trials are the same (S19).

    Where every student is attacked anyway, none is drawn.
    """
    if context.space.robustness.select == "all":
        return []
    trials = completed(context)
    outcomes = [context.ledger.outcome(key) or {} for key in trials]
    points = [[outcome["values"]["accuracy"], outcome["values"]["adversarial_accuracy"]] for outcome in outcomes]
    taken = set(selected(context))
    dominated = [
        trial_number(key)
        for key, on_front in zip(trials, non_dominated(points), strict=True)
        if not on_front and trial_number(key) not in taken
    ]
    wanted = min(context.space.robustness.random_students, len(dominated))
    generator = np.random.default_rng(seed_of(context.space.study.seed, "random-students"))
    return sorted(int(number) for number in generator.choice(dominated, size=wanted, replace=False)) if wanted else []


def _with_twins(context: Context) -> list[int]:
    wanted = selected(context) if context.space.robustness.twins else []
    return [number for number in wanted if _is_distilled(context, number)]


def _twin_jobs(context: Context) -> list[Planned]:
    planned = []
    for number in _with_twins(context):
        settings = undistilled(trial_settings(context, number))
        job = context.job(twin_key(number), "student", settings=settings, teachers=[], search=None)
        planned.append(Planned(job, {"settings": settings, "twin_of": number}))
    return planned


def _replicated(context: Context) -> list[tuple[int, int]]:
    selection = context.ledger.document(SELECTION) or {}
    again = range(1, context.space.robustness.replicates + 1)
    front = [number for number in selection["front"] if number in selection["attacked"]]
    return [(number, replicate) for number in front for replicate in again]


def _replicate_jobs(context: Context) -> list[Planned]:
    """Plan the front's students under new seeds; the same new seeds for every one of them."""
    planned = []
    for number, replicate in _replicated(context):
        config = context.ledger.config(trial_key(number)) or {}
        settings = {**config["settings"], "seed": seed_of(context.space.study.seed, "replicate", replicate)}
        key = replicate_key(number, replicate)
        job = context.job(key, "student", settings=settings, teachers=config["teachers"], search=None)
        planned.append(Planned(job, {"settings": settings, "teachers": config["teachers"], "replicate_of": number}))
    return planned


def _is_distilled(context: Context, number: int) -> bool:
    distill = trial_settings(context, number)["distill"]
    return distill["method"] != "none" and distill.get("alpha") != 0


def trial_settings(context: Context, number: int) -> dict[str, Any]:
    """Return the settings that a trial was trained with."""
    config = context.ledger.config(trial_key(number))
    assert config is not None, f"trial {number} has a config"
    return config["settings"]
