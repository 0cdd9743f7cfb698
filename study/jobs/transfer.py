"""Show one trained network what all other networks of the study failed on: the closed pool (S21)."""

from typing import Any

import torch
from torch import Tensor

from nodekd.attacks.threat import Threat
from nodekd.attacks.transfer import Transfers
from study.jobs.attack import scoring_protocol
from study.jobs.networks import trained_network
from study.jobs.subset import subset
from study.jobs.survivors import images_digest, read_versions, write_transfers
from study.jobs.work import Result, Work


def run_transfer(work: Work) -> Result:
    """Write `survivors.npz`: which images each other network's stored ones break, each alone, at every epsilon.

    The payload names the network's job, the split, subset and shard, the norm and epsilons, the whole pool (job keys by
    model, the network's own among them) and the network's own name, which is left out.
    """
    payload = work.payload
    dataset = work.dataset("train", payload["split"])
    split = dataset.splits[payload["split"]]
    rows = subset(split, payload["images"], payload["shard"], payload["shards"])
    images, labels, ids = split.images(rows), split.labels[rows], split.ids[rows]
    network = trained_network(work, payload["network"], dataset)
    transfers = Transfers(network, images, labels)
    others = {name: key for name, key in sorted(payload["pool"].items()) if name != payload["identity"]["model"]}
    bits = [
        transfers.broken(
            threat,
            {name: read_versions(work.ledger.folder(key), ids, index, images, threat) for name, key in others.items()},
        )
        for index, threat in enumerate(Threat(payload["norm"], epsilon) for epsilon in payload["epsilons"])
    ]
    names = [f"transfer-{name}" for name in others]
    write_transfers(work.folder, ids, labels, transfers.clean_correct, names, torch.stack(bits))
    pool = {"columns": names, "hash": images_digest(work.ledger, payload["pool"])}
    return Result(metrics=_metrics(work, transfers.clean_correct, pool) | {"scoring": scoring_protocol(network)})


def _metrics(work: Work, correct: Tensor, pool: dict[str, Any]) -> dict[str, Any]:
    payload = work.payload
    kept = ("split", "shard", "shards", "norm", "epsilons")
    return {
        **payload["identity"],
        **{name: payload[name] for name in kept},
        "pool": pool,
        "n": len(correct),
        "accuracy": float(correct.float().mean()),
    }
