"""`adversarial_accuracy` of a student: the search's attacks on a fixed subset, and what the checks say (S16)."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import Survival
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import Dataset, Split
from nodekd.search_proxy import proxy_survival
from nodekd.streams import seed_of
from study.jobs.networks import as_attacked
from study.jobs.soundness import IMAGES, measure, verdicts
from study.jobs.subset import nested, subset
from study.jobs.survivors import read_pool, write_images
from study.jobs.work import Work

SPLIT = "val_search"


def adversarial(
    work: Work, student: nn.Module, dataset: Dataset, search: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """Return a trained student's adversarial accuracy, and its metrics; keeps the images where `search` asks for it."""
    split, settings = dataset.splits[SPLIT], work.payload["settings"]
    rows = subset(split, search["images"])
    survival = _survival(work, student, split, rows, search)
    if search["keep_images"]:
        write_images(work.folder, split.ids[rows], [survival])
    still = survival.clean_correct.clone()
    columns: dict[str, float] = {}
    for index, name in enumerate(survival.columns):
        still &= ~survival.broken[index]
        columns[name] = float(still.float().mean())
    source = as_attacked(student, settings) if settings.get("attack") else None
    return columns[survival.columns[-1]], {
        "n_adversarial": len(rows),
        "proxy": columns,
        **_soundness(source or student, split, Threat(search["norm"], search["epsilon"]), search),
    }


def quick(work: Work, student: nn.Module, dataset: Dataset, search: dict[str, Any], images: int) -> tuple[float, int]:
    """Return adversarial accuracy on part of the same subset, and on how many images, of a student in training."""
    split = dataset.splits[SPLIT]
    rows = nested(split, images, of=search["images"])
    survival = _survival(work, student, split, rows, search)
    still = survival.clean_correct & ~survival.broken.any(0)
    return float(still.float().mean()), len(rows)


def _survival(work: Work, student: nn.Module, split: Split, rows: Tensor, search: dict[str, Any]) -> Survival:
    settings, whole = work.payload["settings"], subset(split, search["images"])
    threat, places = Threat(search["norm"], search["epsilon"]), torch.searchsorted(whole, rows)
    folders = {name: work.ledger.folder(key) for name, key in search["pool"].items()}
    pool = read_pool(folders, split.ids[whole], 0, split.images(whole), threat)
    return proxy_survival(
        student,
        split.images(rows),
        split.labels[rows],
        threat,
        {name: stored[places] for name, stored in pool.items()},
        seed=seed_of(search["seed"], "search"),
        source=as_attacked(student, settings) if settings.get("attack") else None,
    )


def _soundness(followed: nn.Module, split: Split, threat: Threat, search: dict[str, Any]) -> dict[str, Any]:
    """Check the network whose gradients the attacks followed, on a fixed part of what they attacked."""
    began, rows = time.perf_counter(), subset(split, IMAGES)
    seed = seed_of(search["seed"], "soundness")
    measured = measure(followed.eval(), split.images(rows), split.labels[rows], threat, seed)
    return {**verdicts(measured), "check_seconds": time.perf_counter() - began}
