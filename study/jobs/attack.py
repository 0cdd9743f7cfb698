"""Attack one trained network on one shard of one split, over ascending epsilons."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import CARRIED, Survival, worst_case
from nodekd.attacks.spec import APGD_CE, APGD_T, PROXY, SCREEN, STANDARD, Attack
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import Split
from nodekd.models.student import OdeStudent, forward_evaluations
from nodekd.streams import seed_of
from study.jobs.networks import attack_source, trained_network
from study.jobs.subset import subset
from study.jobs.survivors import IMAGES, read_pool, write_images, write_survivors
from study.jobs.work import Result, Work

ATTACK_SETS: dict[str, tuple[Attack, ...]] = {
    "search-pool": PROXY,
    "front": (APGD_CE, APGD_T),
    "screen": SCREEN,
    "standard": STANDARD,
}
"""What is run for the stored images of the search, for the choice of the front (S18), and on test."""


def run_attack(work: Work) -> Result:
    """Write `survivors.npz` and, where asked, `adversarial.npz`; what is shown later is derived from these bits.

    The payload names the network's job, the split, subset and shard, the norm and epsilons, the set of attacks, the
    pool (job keys by column name), the seed, and whether to keep the images.
    """
    payload = work.payload
    split, rows = _images(work)
    images, labels, ids = split.images(rows), split.labels[rows], split.ids[rows]
    dataset = work.dataset("train", payload["split"])
    network = trained_network(work, payload["network"], dataset)
    source = attack_source(work, payload["network"], network)
    attacks = ATTACK_SETS[payload["attacks"]]
    folders = {name: work.ledger.folder(key) for name, key in payload["pool"].items()}
    survivals: list[Survival] = []
    for index, epsilon in enumerate(payload["epsilons"]):
        before = survivals[-1] if survivals else None
        # A network whose images others are shown is attacked afresh at every epsilon, with all the room it gives.
        carry = before is not None and not payload["keep_images"]
        found = worst_case(
            network,
            images,
            labels,
            Threat(payload["norm"], epsilon),
            attacks,
            source=source,
            seed=seed_of(payload["seed"], "attack", payload["split"], payload["shard"], index),
            pool=read_pool(folders, ids, index),
            carried=before.broken.any(dim=0) if before is not None and carry else None,
        )
        survivals.append(found if before is None or carry else also_broken_before(found, before))
    write_survivors(work.folder, ids, labels, survivals)
    if payload["keep_images"]:
        write_images(work.folder, ids, survivals)
    return Result(metrics=_metrics(work, network, images, attacks, survivals, folders))


def also_broken_before(found: Survival, before: Survival) -> Survival:
    """Count what a smaller epsilon broke as broken at this one, too: its images lie in the larger ball."""
    missed = before.broken.any(dim=0) & ~found.broken.any(dim=0)
    broken = found.broken.clone()
    broken[found.columns.index(CARRIED)] |= missed
    images = torch.where(missed[:, None, None, None], before.images, found.images)
    return replace(found, broken=broken, images=images)


def _images(work: Work) -> tuple[Split, Any]:
    payload = work.payload
    split = work.dataset("train", payload["split"]).splits[payload["split"]]
    return split, subset(split, payload["images"], payload["shard"], payload["shards"])


def _metrics(
    work: Work,
    network: nn.Module,
    images: Tensor,
    attacks: tuple[Attack, ...],
    survivals: list[Survival],
    folders: dict[str, Path],
) -> dict[str, Any]:
    payload = work.payload
    correct = survivals[0].clean_correct
    n = len(correct)
    return {
        **payload["identity"],
        "split": payload["split"],
        "shard": payload["shard"],
        "shards": payload["shards"],
        "norm": payload["norm"],
        "epsilons": payload["epsilons"],
        "attacks": [attack.record() for attack in attacks],
        "attack_seed": payload["seed"],
        "pool": {"columns": list(folders), "hash": _pool_hash(folders)},
        "n": n,
        "accuracy": float(correct.float().mean()),
        "robust": [
            {
                "epsilon": epsilon,
                "norm": payload["norm"],
                "survivors": int(survival.survivors.sum()),
                "n": n,
                "robust_accuracy": float(survival.survivors.float().mean()),
                "invalid": dict(zip(survival.columns, survival.invalid, strict=True)),
            }
            for epsilon, survival in zip(payload["epsilons"], survivals, strict=True)
        ],
        "nfe": forward_evaluations(network, images) if isinstance(network, OdeStudent) else None,
        "seconds_by_attack": {
            name: sum(survival.seconds[column] for survival in survivals)
            for column, name in enumerate(survivals[0].columns)
        },
    }


def _pool_hash(folders: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, folder in sorted(folders.items()):
        digest.update(name.encode())
        digest.update((folder / IMAGES).read_bytes())
    return digest.hexdigest()[:16]
