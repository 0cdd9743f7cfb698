"""First stages: teachers (trained once and shared by later studies), the undistilled anchor, and the search's pool."""

import hashlib
import math
import shutil
import uuid
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nodekd.streams import seed_of
from study.durable import link_or_copy
from study.errors import EnvironmentFault
from study.fingerprint import fingerprint
from study.points import Parameter, walk
from study.space.settings import Space
from study.stages.batch import Batch, Planned, is_crash
from study.stages.context import Context
from study.stages.pipeline import Stage

CACHE = ".teachers"
"""Folder beside the studies in which teachers are kept for later ones."""

RECIPE = 1
"""Raised when teachers would come out differently from the same settings."""

ANCHOR = "baselines/anchor"
CLASSICAL = "baselines/classical"
SEARCH_SPLIT = "val_search"
FRONT_SPLIT = "val_front"


def stages(context: Context) -> Iterator[Stage]:
    """Train the teachers."""
    keys = teacher_keys(context)
    for key in keys:
        take_from_cache(context, key)
    yield Batch(context, "teachers", [*_teacher_jobs(context), _classical_job(context)])
    for key in keys:
        context.metrics(key)
        give_to_cache(context, key)


def anchor_and_pools(context: Context) -> Iterator[Stage]:
    """Train the anchor while the teachers are attacked for search (S16) and front (S18)."""
    pools = [pool for name, key in teacher_names(context).items() for pool in _pool_jobs(context, name, key)]
    yield Batch(context, "anchor and pools", [*pools, _anchor_job(context)])
    for pool in pools:
        context.metrics(pool.job.key)
    anchor = context.ledger.outcome(ANCHOR)
    if anchor is None or is_crash(anchor):  # a diverged anchor is a result; a crash would change the pool on resume
        context.metrics(ANCHOR)


def teacher_keys(context: Context) -> list[str]:
    """Return the job keys of the study's teachers, in the order of the space."""
    return [f"teachers/{_identity(context, settings)}" for settings in teacher_settings(context)]


def teacher_settings(context: Context) -> list[dict[str, Any]]:
    """Return every teacher's settings as plain values."""
    return [dict(teacher) for teacher in context.space.document()["teachers"]]


def _identity(context: Context, settings: dict[str, Any]) -> str:
    """Hash everything that makes a teacher: settings or checkpoint content, data, its split, and the versions."""
    made_by = {
        "recipe": RECIPE,
        "settings": {name: value for name, value in settings.items() if name != "checkpoint"},
        "checkpoint": _content(settings["checkpoint"]) if settings.get("checkpoint") else None,
        "data": context.space.data.name,
        "image_size": context.space.data.image_size,
        "split": context.facts.split_hash,
        "torch": version("torch"),
    }
    return fingerprint(made_by, 16)


def checkpoint_path(name: str) -> Path:
    """Return the absolute path of a teacher's checkpoint.

    Raises:
        EnvironmentFault: If there is no such file.
    """
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise EnvironmentFault(
            f"teachers[].checkpoint must name a file, but there is none at {path}. Correct the path."
        )
    return path


def _content(name: str) -> str:
    path = checkpoint_path(name)
    seen = path.stat()
    return _digest(path, seen.st_mtime_ns, seen.st_size)


@lru_cache
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    """Hash a file that is asked about at every trial once, as long as it is not touched."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _teacher_jobs(context: Context) -> list[Planned]:
    planned: dict[str, Planned] = {}
    for key, settings in zip(teacher_keys(context), teacher_settings(context), strict=True):
        checkpoint = str(checkpoint_path(settings["checkpoint"])) if settings.get("checkpoint") else None
        job = context.job(key, "teacher", settings=settings, checkpoint=checkpoint)
        planned[key] = Planned(job, {"settings": settings})
    return list(planned.values())


def _anchor_job(context: Context) -> Planned:
    """Plan the undistilled anchor: the space's reference point at alpha 0, whose adversarial images are kept."""
    settings = undistilled(context.space.settings(reference_point(context.space)))
    search = search_attacks(context, pool={}, keep_images=True)
    job = context.job(ANCHOR, "student", settings=settings, teachers=[], search=search)
    return Planned(job, {"settings": settings})


def search_attacks(context: Context, *, pool: dict[str, str], keep_images: bool) -> dict[str, Any]:
    """Return how the search attacks a student; the same for all of them."""
    search = context.space.search
    return {
        "epsilon": context.epsilon,
        "norm": search.norm,
        "images": search.images,
        "pool": pool,
        "keep_images": keep_images,
        "seed": seed_of(context.space.study.seed, "search-attacks"),
    }


def reference_point(space: Space) -> dict[str, Any]:
    """Return the space's first anchor; without one, the middle of every range and the first of every choice."""
    return dict(space.anchors[0]) if space.anchors else walk(space.parameters, _middle)


def _middle(parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return parameter.choices[0]
    low, high = float(parameter.low or 0), float(parameter.high or 0)
    middle = math.sqrt(low * high) if parameter.log else (low + high) / 2
    if parameter.kind == "int" or parameter.step:
        step = parameter.step or 1
        middle = low + round((middle - low) / step) * step
    return int(middle) if parameter.kind == "int" else middle


def _classical_job(context: Context) -> Planned:
    splits = ["val_search", "val_front"]
    return Planned(context.job(CLASSICAL, "classical", splits=splits), {"settings": {"splits": splits}})


def undistilled(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the same settings without a teacher: an alpha-0 twin (S8)."""
    return {**settings, "distill": {"method": "none"}}


def search_pool(context: Context) -> dict[str, str]:
    """Return the stored images that every trial is shown, the teachers' and the anchor's: job key by column name."""
    pool = {f"transfer-{name}": pool_key(name) for name in teacher_names(context)}
    return {**pool, "transfer-anchor": ANCHOR} if context.is_complete(ANCHOR) else pool


def pool_key(name: str) -> str:
    """Return the job that attacked a teacher for the search."""
    return f"pools/{SEARCH_SPLIT}/{name}"


def front_pool_key(name: str) -> str:
    """Return the job that attacked a teacher on val_front."""
    return f"pools/{FRONT_SPLIT}/{name}"


def front_images(context: Context) -> int | str:
    """Return how many images of val_front are attacked: all, but for a smoke study."""
    return context.space.search.images if context.smoke else "all"


def attack_settings(context: Context, **particulars: Any) -> dict[str, Any]:
    """Return the payload of an attack that keeps no images, with one seed for all networks of the study."""
    return {
        "norm": context.space.robustness.norm,
        "pool": {},
        "after": [],
        "shard": 0,
        "shards": 1,
        "images": "all",
        "keep_images": False,
        "seed": seed_of(context.space.study.seed, "robustness"),
        **particulars,
    }


def planned_attack(context: Context, key: str, settings: dict[str, Any]) -> Planned:
    """Plan an attack; its config is its settings."""
    return Planned(context.job(key, "attack", **settings), {"settings": settings})


def teacher_names(context: Context) -> dict[str, str]:
    """Return the teachers' job keys by short name: `teacher`, numbered where there are several."""
    keys = list(dict.fromkeys(teacher_keys(context)))
    return {"teacher" if len(keys) == 1 else f"teacher-{number}": key for number, key in enumerate(keys)}


def teacher_model(key: str) -> str:
    """Return a teacher's name in the results."""
    return f"teacher-{key.rpartition('/')[2]}"


def _pool_jobs(context: Context, name: str, teacher: str) -> list[Planned]:
    """Plan the attacks on a teacher whose images other networks are shown: on val_front, and the search's subset."""
    search = context.space.search
    identity = {"model": name, "kind": "teacher", "trial": None}
    common = {"network": teacher, "norm": search.norm, "epsilons": [context.epsilon], "identity": identity}
    front = attack_settings(
        context, **common, split=FRONT_SPLIT, images=front_images(context), attacks="front", keep_images=True
    )
    seen = attack_settings(
        context, **common, split=SEARCH_SPLIT, images=search.images, attacks="search-pool", keep_images=True
    )
    chosen = context.space.robustness.select == "front"
    return [
        *([planned_attack(context, front_pool_key(name), front)] if chosen else []),
        planned_attack(context, pool_key(name), seen),
    ]


def _cache(context: Context, key: str) -> Path:
    return context.ledger.root.parent / CACHE / key.rpartition("/")[2]


def take_from_cache(context: Context, key: str) -> None:
    """Copy a teacher that an earlier study trained; its outcome comes last, so that a torn copy does not count."""
    cached, folder = _cache(context, key), context.ledger.folder(key)
    if context.ledger.outcome(key) is not None or not (cached / "outcome.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted((path.name for path in cached.iterdir() if path.is_file()), key=lambda name: name == "outcome.json")
    for name in names:
        link_or_copy((cached / name).resolve(), folder / name)


def give_to_cache(context: Context, key: str) -> None:
    """Offer a trained teacher to later studies; whoever is first keeps the place."""
    cached, folder = _cache(context, key), context.ledger.folder(key)
    if cached.exists():
        return
    beside = cached.with_name(f".{cached.name}.{uuid.uuid4().hex[:8]}")
    try:
        beside.mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_file() and path.suffix != ".tmp":
                link_or_copy(path.resolve(), beside / path.name)
        beside.rename(cached)
    except OSError:  # somebody was first, or the folder beside the study cannot be written: the study has its own copy
        shutil.rmtree(beside, ignore_errors=True)
