"""Fourth stage: alpha-0 twins are trained, then students, twins and teachers are attacked on test, once (S8, S17)."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from study.durable import replace_json
from study.jobs.attack import ATTACK_SETS
from study.jobs.subset import count_shards
from study.stages.batch import Batch, Planned
from study.stages.context import Context
from study.stages.front import selected
from study.stages.pipeline import Stage
from study.stages.search import trial_key
from study.stages.teachers import (
    attack_settings,
    planned_attack,
    teacher_keys,
    teacher_model,
    teacher_names,
    undistilled,
)

SPLIT = "test"
SPECIFICATION = "robustness/specification.json"
"""Which specification is in force; attacks under earlier ones stay on disk and are not shown."""
CLASSICAL_TEST = "baselines/classical-test"


def stages(context: Context) -> Iterator[Stage]:
    """Train the twins while the teachers are attacked, whose images become the pool; then attack students and twins."""
    numbers = selected(context)
    wanted = numbers if context.space.robustness.twins else []
    twins = [_twin_job(context, number) for number in wanted if _is_distilled(context, number)]
    record_access(context, numbers)
    teachers = _teacher_jobs(context)
    yield Batch(context, "twins, and teachers on test", [*teachers, *twins, _classical_job(context)])
    for planned in teachers:
        context.metrics(planned.job.key)
    replace_json(context.ledger.root / SPECIFICATION, {"schema": 1, "specification": specification(context)})
    models = {f"student-{number:06d}": (trial_key(number), "student", number) for number in numbers}
    for twin in (planned.job.key for planned in twins):
        number = int(twin.rpartition("-")[2])
        if context.is_complete(twin):
            models[f"twin-{number:06d}"] = (twin, "twin", number)
    yield Batch(
        context, "robustness", [job for name, model in models.items() for job in _model_jobs(context, name, *model)]
    )


def twin_key(number: int) -> str:
    """Return the job key of a trial's alpha-0 twin."""
    return f"baselines/twin-{number:06d}"


def specification(context: Context) -> str:
    """Return a short hash of how networks are attacked on test: norm, epsilons, attacks, images and seed."""
    robustness = context.space.robustness
    parts = {
        "norm": robustness.norm,
        "epsilons": list(robustness.epsilons),
        "attacks": [attack.record() for attack in ATTACK_SETS[robustness.tier]],
        "images": robustness.images,
        "shard": robustness.shard,
        "seed": context.space.study.seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def record_access(context: Context, numbers: list[int]) -> None:
    """Write down that test is read, by which networks and attacks; the same access resumed is written once."""
    access = {
        "specification": specification(context),
        "split_hash": context.facts.split_hash,
        "students": numbers,
        "teachers": teacher_keys(context),
        "norm": context.space.robustness.norm,
        "epsilons": list(context.space.robustness.epsilons),
        "tier": context.space.robustness.tier,
        "images": context.space.robustness.images,
    }
    write_access(context, access)


def write_access(context: Context, access: dict[str, Any]) -> None:
    """Note an access to test, unless the same one stands in the events already."""
    known = [event for event in context.ledger.events() if event["type"] == "test_access"]
    if not any(all(event.get(name) == value for name, value in access.items()) for event in known):
        context.ledger.event("test_access", **access)


def _is_distilled(context: Context, number: int) -> bool:
    distill = _settings(context, number)["distill"]
    return distill["method"] != "none" and distill.get("alpha") != 0


def _settings(context: Context, number: int) -> dict[str, Any]:
    config = context.ledger.config(trial_key(number))
    assert config is not None, f"trial {number} has a config"
    return config["settings"]


def _twin_job(context: Context, number: int) -> Planned:
    settings = undistilled(_settings(context, number))
    job = context.job(twin_key(number), "student", settings=settings, teachers=[], search=None)
    return Planned(job, {"settings": settings, "twin_of": number})


def _shards(context: Context) -> int:
    robustness = context.space.robustness
    return count_shards(robustness.images, context.facts.sizes[SPLIT], robustness.shard)


def _test_attack(context: Context, network: str, shard: int, **particulars: Any) -> dict[str, Any]:
    robustness = context.space.robustness
    return attack_settings(
        context,
        network=network,
        split=SPLIT,
        images=robustness.images,
        shard=shard,
        shards=_shards(context),
        epsilons=list(robustness.epsilons),
        attacks=robustness.tier,
        **particulars,
    )


def _job_key(context: Context, model: str, shard: int) -> str:
    """Name an attack by its model, its specification and its shard, so that other epsilons are other files."""
    return f"robustness/{model}/{specification(context)}-{shard:03d}"


def test_attack_keys(context: Context, model: str, shards: int) -> list[str]:
    """Return the jobs that attack a model on test under the specification in force."""
    return [_job_key(context, model, shard) for shard in range(shards)]


def _spec(context: Context) -> dict[str, str]:
    return {"specification": specification(context)}


def _teacher_jobs(context: Context) -> list[Planned]:
    planned: list[Planned] = []
    for key in dict.fromkeys(teacher_keys(context)):
        model = teacher_model(key)
        identity = {"model": model, "kind": "teacher", "trial": None, "teacher": key, **_spec(context)}
        for shard in range(_shards(context)):
            settings = _test_attack(context, key, shard, keep_images=True, identity=identity)
            planned.append(planned_attack(context, _job_key(context, model, shard), settings))
    return planned


def _classical_job(context: Context) -> Planned:
    return Planned(context.job(CLASSICAL_TEST, "classical", splits=[SPLIT]), {"settings": {"splits": [SPLIT]}})


def _model_jobs(context: Context, model: str, network: str, kind: str, number: int) -> list[Planned]:
    identity = {"model": model, "kind": kind, "trial": number, **_spec(context)}
    planned: list[Planned] = []
    for shard in range(_shards(context)):
        pool = {
            f"transfer-{name}": _job_key(context, teacher_model(key), shard)
            for name, key in teacher_names(context).items()
        }
        settings = _test_attack(context, network, shard, pool=pool, identity=identity)
        planned.append(planned_attack(context, _job_key(context, model, shard), settings))
    return planned
