"""Attack one candidate for the front on one part of val_front, its images in a random order that all share."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nodekd.attacks.cascade import Survival, worst_case
from nodekd.attacks.spec import correct
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import Split
from nodekd.gradient_sources import Through, through
from nodekd.models.student import OdeStudent, forward_evaluations
from nodekd.streams import seed_of
from study.jobs.attack import ATTACK_SETS, scoring_protocol, solver_of
from study.jobs.networks import attack_source, trained_network
from study.jobs.subset import subset
from study.jobs.survivors import SURVIVORS, images_digest, read_images, write_survivors
from study.jobs.work import Result, Work

BATCH = 256
"""Images scored at once, in the count of all as in the attack, so that both call the same images right."""


def run_race(work: Work) -> Result:
    """Write `survivors.npz` of one part; the first part also counts how many of all images are right unchanged.

    The payload names the network's job, the split and subset, where the parts end, which part this is, the norm and
    epsilon, the set of attacks, the pool (job keys by column name) and the seed.
    """
    payload = work.payload
    dataset = work.dataset("train", payload["split"])
    split = dataset.splits[payload["split"]]
    parts = in_parts(split, payload["images"], payload["ends"], payload["split_hash"])
    rows = parts[payload["shard"]]
    images, labels, ids = split.images(rows), split.labels[rows], split.ids[rows]
    network = trained_network(work, payload["network"], dataset)
    usual = attack_source(work, payload["network"], network)
    looked = through(ATTACK_SETS[payload["attacks"]], network, usual or network, images, labels)
    found = worst_case(
        network,
        images,
        labels,
        Threat(payload["norm"], payload["epsilon"]),
        looked.attacks,
        source=usual,
        sources=looked.sources,
        seed=seed_of(payload["seed"], "attack", payload["split"], payload["shard"], 0),
        pool=_pool(work, ids),
        batch_size=BATCH,
    )
    write_survivors(work.folder, ids, labels, [found])
    clean = _clean(network, split, parts) if payload["shard"] == 0 else {}
    return Result(metrics={**_metrics(work, network, images, looked, found), **clean, "followed": solver_of(usual)})


def in_parts(split: Split, images: int | str, ends: list[int], salt: str) -> list[Tensor]:
    """Cut a split's fixed subset into parts, in an order that tells nothing: that of hashes of the image ids.

    Args:
        split: The split.
        images: `all`, or how many.
        ends: Where the parts end, ascending; the last one is the size of the subset.
        salt: What the order depends on besides the ids; of a study its split hash.

    Returns:
        Positions in the split, one tensor per part.
    """
    rows = subset(split, images)
    ids = split.ids[rows].tolist()
    order = sorted(range(len(ids)), key=lambda place: hashlib.sha256(f"{salt}:{ids[place]}".encode()).digest())
    shuffled = rows[torch.tensor(order, device=rows.device)]
    return [shuffled[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def read_robust(folder: Path) -> NDArray[np.bool_]:
    """Read which images (n,) of one part stay right under every attack."""
    with np.load(folder / SURVIVORS, allow_pickle=False) as stored:
        return stored["clean_correct"] & ~stored["broken"][0].any(axis=0)


def _pool(work: Work, ids: Tensor) -> dict[str, Tensor]:
    """Read the stored images of the same clean images; the pool was made of all of them at once."""
    pool: dict[str, Tensor] = {}
    for name, key in work.payload["pool"].items():
        stored, images = read_images([work.ledger.folder(key)], 0)
        place = {identifier: row for row, identifier in enumerate(stored.tolist())}
        missing = [identifier for identifier in ids.tolist() if identifier not in place]
        if missing:
            raise ValueError(
                f"The pool {name} must hold every image that is raced on, but {key} lacks {len(missing)} of "
                f"{len(ids)}; delete that job's folder and start again."
            )
        pool[name] = images[[place[identifier] for identifier in ids.tolist()]].to(ids.device)
    return pool


def _clean(network: nn.Module, split: Split, parts: list[Tensor]) -> dict[str, Any]:
    right = [int(correct(network, split.images(rows), split.labels[rows], BATCH).sum()) for rows in parts]
    return {"clean": {"correct": sum(right), "n": sum(len(rows) for rows in parts)}}


def _metrics(work: Work, network: nn.Module, images: Tensor, looked: Through, found: Survival) -> dict[str, Any]:
    payload, n = work.payload, len(found.clean_correct)
    entry = {"epsilon": payload["epsilon"], "norm": payload["norm"], "survivors": int(found.survivors.sum()), "n": n}
    return {
        **payload["identity"],
        **{name: payload[name] for name in ("split", "shard", "ends", "norm")},
        "shards": len(payload["ends"]),
        "epsilons": [payload["epsilon"]],
        "attacks": looked.records(),
        "attack_seed": payload["seed"],
        "pool": {"columns": list(payload["pool"]), "hash": images_digest(work.ledger, payload["pool"])},
        "scoring": scoring_protocol(network),
        "n": n,
        "accuracy": float(found.clean_correct.float().mean()),
        "robust": [
            {
                **entry,
                "robust_accuracy": entry["survivors"] / n,
                "invalid": dict(zip(found.columns, found.invalid, strict=True)),
            }
        ],
        "nfe": forward_evaluations(network, images) if isinstance(network, OdeStudent) else None,
        "seconds_by_attack": dict(zip(found.columns, found.seconds, strict=True)),
    }
