"""Fourth stage: every chosen network is attacked on test, once; its numbers are checked before they are believed.

Twins and replicates are trained first (S8, S28). Then every network is attacked by itself; the images that broke any of
them are shown to all of them when the last is done, so that no number depends on an order (S21). What a check calls
unreliable is attacked again, longer and by other gradients (S25).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from nodekd.attacks.catalog import TIERS
from nodekd.gradient_sources import looks_through, other_solves
from study.attacked import RECORD, SPECIFICATION, read_attacked
from study.durable import replace_json
from study.fingerprint import fingerprint
from study.jobs.attack import ATTACK_SETS
from study.jobs.subset import count_shards
from study.stages import controls, cube
from study.stages.access import write_access
from study.stages.batch import Batch, Planned
from study.stages.context import Context
from study.stages.front import selected
from study.stages.models import Model, attacked_models, random_students, trainings, undistilled_networks
from study.stages.pipeline import Stage
from study.stages.searches import UNDISTILLED
from study.stages.teachers import attack_settings, planned_attack, teacher_keys

SPLIT = "test"
CLASSICAL_TEST = "baselines/classical-test"
LARGEST_POOL = 32
"""Networks whose images are shown to all others."""


def stages(context: Context) -> Iterator[Stage]:
    """Train what is missing; attack and check every network; show all images to all; attack again what is doubted."""
    record_access(context)
    yield Batch(
        context, "twins and controls", [*trainings(context), *controls.trainings(context), *cube.trainings(context)]
    )
    models = attacked_models(context)
    write_specification(context, models)
    jobs = [job for model in models for job in _cascades(context, model)]
    checks = [_check(context, model) for model in models] if wants_checks(context) else []
    others = [*_control_checks(context), *cube.slices(context, check_specification(context)), _classical_job(context)]
    yield Batch(context, "robustness", [*jobs, *checks, *others])
    models = [model for model in models if all(context.is_complete(key) for key in attack_keys(context, model.name))]
    write_specification(context, models)
    _say_if_thinned(context, models)
    shown = [job for model in models for job in _shown(context, model, models)]
    yield Batch(context, "transfer and records", [*shown, *(_record(context, model) for model in models)])
    doubted = _doubted(context, models)
    yield Batch(context, "adaptive", [job for model in doubted for job in _longer(context, model, pool_of(models))])
    controls.report(context)


def wants_checks(context: Context) -> bool:
    """Tell whether numbers are checked; a first look is an upper bound anyway."""
    return context.space.robustness.tier != TIERS[0]


def specification(context: Context) -> str:
    """Return a short hash of how networks are attacked on test: norm, epsilons, attacks, images and seed."""
    robustness = context.space.robustness
    return fingerprint(
        {
            "norm": robustness.norm,
            "epsilons": list(context.epsilons),
            "attacks": [attack.record() | looks_through(attack) for attack in ATTACK_SETS[robustness.tier]],
            "other_solves": other_solves(),
            "images": robustness.images,
            "shard": robustness.shard,
            "seed": context.space.study.seed,
        }
    )


def check_specification(context: Context) -> str:
    """Return a short hash of how networks are checked."""
    return fingerprint({"attacks": specification(context), "images": context.space.robustness.check_images})


def pool_of(models: Sequence[Model]) -> dict[str, Model]:
    """Choose the networks whose images all others are shown, by name; the same ones in whatever order they come.

    Where there are too many, teachers come first, then the chosen students, then evenly the rest.

    The undistilled baseline's are shown all of them and add none: no other network's number depends on whether a space
    asks for the baseline.
    """
    rank = {"teacher": 0, "student": 1}
    asked = sorted((model for model in models if model.kind != UNDISTILLED.kind), key=lambda model: model.name)
    kept: list[Model] = []
    for place in range(3):
        alike = [model for model in asked if rank.get(model.kind, 2) == place]
        if room := LARGEST_POOL - len(kept):
            kept += alike[:: max(1, -(-len(alike) // room))]
    return {model.name: model for model in kept}


def _say_if_thinned(context: Context, models: Sequence[Model]) -> None:
    kept, all_of_them = len(pool_of(models)), sum(model.kind != UNDISTILLED.kind for model in models)
    if kept < all_of_them:
        context.observer.note(
            f"the images of {kept} of {all_of_them} networks are shown to all others: teachers first, then the chosen "
            "students, then evenly among the rest"
        )


def _pool_identity(pool: dict[str, Model]) -> str:
    return fingerprint({"pool": {name: model.network for name, model in pool.items()}})


def write_specification(context: Context, models: Sequence[Model]) -> None:
    """Say which specification, pool and networks are in force; earlier ones stay on disk and are not shown."""
    document = {
        "schema": 2,
        "specification": specification(context),
        "checks": check_specification(context),
        "pool": _pool_identity(pool_of(models)),
        "cube": list(context.space.robustness.cube),
        "models": {model.name: model.kind for model in models},
        "parts": {"cascade": _shards(context), "transfer": _shards(context), "checks": int(wants_checks(context))},
    }
    replace_json(context.ledger.root / SPECIFICATION, document)


def record_access(context: Context) -> None:
    """Write down that test is read, by which networks and attacks; the same access resumed is written once."""
    write_access(context, access_of(context))


def access_of(context: Context) -> dict[str, Any]:
    """Say all that test is asked by this stage; anything else of it makes another access."""
    robustness = context.space.robustness
    access = {
        "specification": specification(context),
        "split_hash": context.facts.split_hash,
        "students": selected(context),
        "random_students": random_students(context),
        "replicates": robustness.replicates,
        "twins": robustness.twins,
        "teachers": teacher_keys(context),
        "norm": robustness.norm,
        "epsilons": list(context.epsilons),
        "tier": robustness.tier,
        "images": robustness.images,
        "check_images": robustness.check_images,
        "controls": controls.are_wanted(context),
        "cube": list(robustness.cube),
    }
    return access | ({"undistilled": undistilled_networks(context)} if robustness.undistilled_search else {})


def _shards(context: Context) -> int:
    robustness = context.space.robustness
    return count_shards(robustness.images, context.facts.sizes[SPLIT], robustness.shard)


def _on_test(context: Context, model: Model, **particulars: Any) -> dict[str, Any]:
    settings = {
        "network": model.network,
        "split": SPLIT,
        "images": context.space.robustness.images,
        "shards": _shards(context),
        "epsilons": list(context.epsilons),
    }
    return attack_settings(context, **(settings | particulars))


def _key(context: Context, model: str, part: str | int) -> str:
    """Name a job by its model, its specification and its part, so that other epsilons are other files."""
    return f"robustness/{model}/{specification(context)}-{part if isinstance(part, str) else f'{part:03d}'}"


def attack_keys(context: Context, model: str) -> list[str]:
    """Return the jobs that attack a model on test under the specification in force."""
    return [_key(context, model, shard) for shard in range(_shards(context))]


def _transfer_key(context: Context, model: Model, pool: dict[str, Model], shard: int) -> str:
    return _key(context, model.name, f"transfer-{_pool_identity(pool)}-{shard:03d}")


def _cascades(context: Context, model: Model) -> list[Planned]:
    identity = model.identity(part="cascade", specification=specification(context))
    tier = context.space.robustness.tier
    return [
        planned_attack(
            context,
            _key(context, model.name, shard),
            _on_test(context, model, shard=shard, attacks=tier, keep_images=True, identity=identity),
        )
        for shard in range(_shards(context))
    ]


def _check(context: Context, model: Model) -> Planned:
    identity = model.identity(part="checks", specification=check_specification(context))
    brief = context.smoke or model.kind == "random"  # in a smoke study no verdict means anything
    settings = check_settings(context, model.network, identity, brief=brief)
    key = _key(context, model.name, f"checks-{check_specification(context)}")
    return Planned(context.job(key, "check", **settings), {"settings": settings})


def _control_checks(context: Context) -> list[Planned]:
    return controls.checks(context, check_specification(context), functools.partial(check_settings, context))


def check_settings(context: Context, network: str, identity: dict[str, Any], **particulars: Any) -> dict[str, Any]:
    """Return the payload of a diagnosis: every attack alone, on the same images of test for all networks (S20)."""
    settings = attack_settings(
        context,
        network=network,
        split=SPLIT,
        images=context.space.robustness.check_images,
        of_images=context.space.robustness.images,
        epsilons=list(context.epsilons),
        headline=context.headline,
        control=None,
        identity=identity,
    )
    return settings | particulars


def _shown(context: Context, model: Model, models: Sequence[Model]) -> list[Planned]:
    """Plan to show one network everybody's images."""
    pool = pool_of(models)
    identity = model.identity(part="transfer", specification=specification(context), closed_pool=_pool_identity(pool))
    planned: list[Planned] = []
    for shard in range(_shards(context)):
        keys = {name: _key(context, name, shard) for name in pool}
        settings = _on_test(context, model, shard=shard, pool=keys, identity=identity)
        job = context.job(_transfer_key(context, model, pool, shard), "transfer", **settings)
        planned.append(Planned(job, {"settings": settings}))
    return planned


def _record(context: Context, model: Model) -> Planned:
    """Plan the records of one network at the headline epsilon, for the explorer."""
    identity = model.identity(part=RECORD.removeprefix("-"), specification=specification(context))
    settings = attack_settings(
        context,
        network=model.network,
        split=SPLIT,
        images=context.space.robustness.check_images,
        of_images=context.space.robustness.images,
        epsilon=context.headline,
        shards=attack_keys(context, model.name),
        identity=identity,
    )
    key = f"robustness/{model.name}/{specification(context)}{RECORD}"
    return Planned(context.job(key, "record", **settings), {"settings": settings})


def _doubted(context: Context, models: Sequence[Model]) -> list[Model]:
    """Return the networks whose numbers are unreliable and not dominated anyway (S25)."""
    if context.space.robustness.tier in (TIERS[0], TIERS[-1]):
        return []
    attacked = read_attacked(context.ledger, [], adaptive=False)  # so that a resumed stage doubts the same
    pool = pool_of(models)
    return [
        model
        for model in models
        if attacked.is_doubted(model.name)
        if all(context.is_complete(_transfer_key(context, model, pool, shard)) for shard in range(_shards(context)))
    ]


def _longer(context: Context, model: Model, pool: dict[str, Model]) -> list[Planned]:
    """Plan the adaptive tier's further attacks on what survived everything so far."""
    pool_identity = _pool_identity(pool)
    identity = model.identity(part="adaptive", specification=specification(context), closed_pool=pool_identity)
    planned = []
    for shard in range(_shards(context)):
        after = [_key(context, model.name, shard), _transfer_key(context, model, pool, shard)]
        settings = _on_test(context, model, shard=shard, attacks="longer", after=after, identity=identity)
        planned.append(
            planned_attack(context, _key(context, model.name, f"adaptive-{pool_identity}-{shard:03d}"), settings)
        )
    return planned


def _classical_job(context: Context) -> Planned:
    return Planned(context.job(CLASSICAL_TEST, "classical", splits=[SPLIT]), {"settings": {"splits": [SPLIT]}})
