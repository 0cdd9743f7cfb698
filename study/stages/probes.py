"""Last stage: what attacked networks look like inside and around their images, where a space asks for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nodekd.streams import seed_of
from study.durable import replace_json
from study.fingerprint import fingerprint
from study.space.settings import Space
from study.stages.access import write_access
from study.stages.batch import Batch, Planned
from study.stages.context import Context
from study.stages.front import selected
from study.stages.models import twin_key
from study.stages.pipeline import Stage
from study.stages.robustness import SPLIT, attack_keys
from study.stages.search import trial_key
from study.stages.teachers import teacher_keys, teacher_model

SPECIFICATION = "probes/specification.json"
"""Which specification is in force; probes under earlier ones stay on disk and are not shown."""

_SIZES = ("split", "images", "severities", "legacy", "corruption_root")
"""Keys of the section that ask for nothing by themselves."""


def stages(context: Context) -> Iterator[Stage]:
    """Probe every attacked student, its twin and the teachers, each in a job of its own."""
    if not is_wanted(context.space):
        return
    replace_json(context.ledger.root / SPECIFICATION, {"schema": 1, "specification": specification(context)})
    models = probed_models(context)
    _record_access(context, list(models))
    yield Batch(context, "probes", [_probe_job(context, name, *model) for name, model in models.items()])


def is_wanted(space: Space) -> bool:
    """Tell whether a space asks for any probe."""
    return any(value for name, value in space.document()["probes"].items() if name not in _SIZES)


def specification(context: Context) -> str:
    """Return a short hash of how networks are probed."""
    parts = {"probes": _without_paths(context), "epsilon": context.epsilon, **_seed(context)}
    return fingerprint(parts)


def _without_paths(context: Context) -> dict[str, Any]:
    probes = dict(context.space.document()["probes"])
    probes["corruption_root"] = probes["corruption_root"] is not None
    return probes


def probed_models(context: Context) -> dict[str, tuple[str, str, int | None]]:
    """Return job key, kind and trial of every network that is probed, by its name in the results."""
    models: dict[str, tuple[str, str, int | None]] = {}
    for number in selected(context):
        models[f"student-{number:06d}"] = (trial_key(number), "student", number)
        if context.is_complete(twin_key(number)):
            models[f"twin-{number:06d}"] = (twin_key(number), "twin", number)
    for key in dict.fromkeys(teacher_keys(context)):
        models[teacher_model(key)] = (key, "teacher", None)
    return models


def _seed(context: Context) -> dict[str, int]:
    return {"seed": seed_of(context.space.study.seed, "probes")}


def _record_access(context: Context, models: list[str]) -> None:
    """Write down that test is read; the same access resumed is written once."""
    probes = context.space.probes
    if probes.split != SPLIT:
        return
    access = {
        "specification": f"probes-{specification(context)}",
        "split_hash": context.facts.split_hash,
        "models": models,
        "images": probes.images,
    }
    write_access(context, access)


def _probe_job(context: Context, model: str, network: str, kind: str, trial: int | None) -> Planned:
    teachers = _compared_with(context, network, kind, trial)
    settings = {
        **_seed(context),
        "network": network,
        "probes": context.space.document()["probes"],
        "norm": context.space.search.norm,
        "epsilon": context.epsilon,
        "teachers": teachers,
        "teacher_attacks": _teacher_attacks(context, teachers),
        "identity": {"model": model, "kind": kind, "trial": trial, "specification": specification(context)},
    }
    root = context.space.probes.corruption_root
    job = context.job(
        f"probes/{model}/{specification(context)}",
        "probe",
        **settings,
        corruption_root=None if root is None else str(Path(root).expanduser().resolve()),
    )
    return Planned(job, {"settings": settings})


def _compared_with(context: Context, network: str, kind: str, trial: int | None) -> list[str]:
    """Return the teachers a network is held against: its own, otherwise those of its twin, otherwise the study's first.

    What distillation adds to the likeness shows only beside students that never saw a teacher.
    """
    if kind == "teacher":
        return []
    owners = [network] if trial is None else [network, trial_key(trial)]
    own = [(context.ledger.config(owner) or {}).get("teachers") for owner in owners]
    return next((teachers for teachers in own if teachers), teacher_keys(context)[:1])


def _teacher_attacks(context: Context, teachers: list[str]) -> list[str]:
    """Return the jobs that attacked a student's first teacher on test, all its shards."""
    if not teachers or context.space.probes.split != SPLIT:
        return []
    return attack_keys(context, teacher_model(teachers[0]))
