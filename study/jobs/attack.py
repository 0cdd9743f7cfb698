"""Attack one trained network on one shard of one split, over ascending epsilons."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import Survival, worst_case
from nodekd.attacks.spec import APGD_CE, APGD_T, PROXY, Attack
from nodekd.attacks.threat import Threat
from nodekd.attacks.tiers import LONGER, SETS
from nodekd.attacks.transfer import RECORD, pushed
from nodekd.data.dataset import Split
from nodekd.gradient_sources import Through, through
from nodekd.models.student import OdeStudent, forward_evaluations
from nodekd.ode.solver_text import solver_text
from nodekd.streams import seed_of
from study.jobs.networks import attack_source, trained_network
from study.jobs.subset import subset
from study.jobs.survivors import images_digest, read_broken, read_pool, write_images, write_survivors
from study.jobs.work import Result, Work

ATTACK_SETS: dict[str, tuple[Attack, ...]] = {
    "search-pool": PROXY,
    "front": (APGD_CE, APGD_T),
    "longer": LONGER,
    **SETS,
}
"""For the stored images of the search, for the choice of the front (S18), for networks that a check calls unreliable,
and by tier on test."""


def run_attack(work: Work) -> Result:
    """Write `survivors.npz` and, where asked, `adversarial.npz`; what is shown later is derived from these bits.

    The payload names the network's job, the split, subset and shard, the norm and epsilons, the set of attacks, the
    pool (job keys by column name), jobs after which this one comes (what they broke is carried), the seed, and whether
    to keep the images.
    """
    payload = work.payload
    split, rows = _images(work)
    images, labels, ids = split.images(rows), split.labels[rows], split.ids[rows]
    dataset = work.dataset("train", payload["split"])
    network = trained_network(work, payload["network"], dataset)
    usual = attack_source(work, payload["network"], network)
    looked = through(ATTACK_SETS[payload["attacks"]], network, usual or network, images, labels)
    folders = {name: work.ledger.folder(key) for name, key in payload["pool"].items()}
    earlier = [work.ledger.folder(key) for key in payload["after"]]
    survivals: list[Survival] = []
    made: list[Tensor] = []
    for index, epsilon in enumerate(payload["epsilons"]):
        threat = Threat(payload["norm"], epsilon)
        before = survivals[-1] if survivals else None
        found = worst_case(
            network,
            images,
            labels,
            threat,
            looked.attacks,
            source=usual,
            sources=looked.sources,
            seed=seed_of(payload["seed"], "attack", payload["split"], payload["shard"], index),
            pool=read_pool(folders, ids, index, images, threat),
            carried=_carried(before, [read_broken(folder, ids, index) for folder in earlier]),
            carried_images=None if before is None else before.images,
        )
        survivals.append(found)
        if payload["keep_images"]:
            made.append(pushed(usual or network, images, labels, threat))
    write_survivors(work.folder, ids, labels, survivals)
    if payload["keep_images"]:
        write_images(work.folder, ids, survivals, made)
    return Result(metrics=_metrics(work, network, images, looked, survivals) | {"followed": solver_of(usual)})


def _carried(before: Survival | None, earlier: Sequence[Tensor]) -> Tensor | None:
    """Return what counts as broken from the start: at a smaller epsilon, or by the jobs before this one."""
    broken = [*([before.broken.any(dim=0)] if before is not None else []), *earlier]
    return torch.stack(broken).any(dim=0) if broken else None


def _images(work: Work) -> tuple[Split, Any]:
    payload = work.payload
    split = work.dataset("train", payload["split"]).splits[payload["split"]]
    return split, subset(split, payload["images"], payload["shard"], payload["shards"])


def _metrics(
    work: Work,
    network: nn.Module,
    images: Tensor,
    looked: Through,
    survivals: list[Survival],
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
        "attacks": looked.records(),
        "attack_seed": payload["seed"],
        "pool": {"columns": list(payload["pool"]), "hash": images_digest(work.ledger, payload["pool"])},
        "after": payload["after"],
        "kept": RECORD if payload["keep_images"] else None,
        "scoring": scoring_protocol(network),
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


def scoring_protocol(network: nn.Module) -> dict[str, Any]:
    """Say how images are scored: in batches, whose mates have no say in any answer (S23), and by which solver."""
    if not isinstance(network, OdeStudent):
        return {"batch": True, "error_control": None, "solver": None}
    control = "fixed steps" if network.integrator.fixed else "per image"
    return {"batch": True, "error_control": control, "solver": solver_of(network)}


def solver_of(network: nn.Module | None) -> str | None:
    """Write how a network is solved, and its gradient if not directly; None of one without an ODE, and of none."""
    if not isinstance(network, OdeStudent):
        return None
    gradient = network.integrator.gradient
    return solver_text(network.integrator) + ("" if gradient == "direct" else f", {gradient}")
