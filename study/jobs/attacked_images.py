"""Attacked versions of a network's images: those that its attack cascade stored, otherwise crafted anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import margin, misclassified, pgd
from nodekd.attacks.spec import PGD_20_MARGIN
from nodekd.attacks.threat import Threat
from nodekd.shapes import Images, Labels
from nodekd.streams import generator
from study.durable import DAMAGED
from study.jobs.survivors import read_images
from study.jobs.work import Work

STORED = "stored"
CRAFTED = PGD_20_MARGIN.name


@final
@dataclass(frozen=True)
class Attacked:
    """One attacked version of every image."""

    images: Images
    """(n c h w), inside the ball."""
    stored: Tensor
    """(n,) bool: the cascade broke the network with it; otherwise it was crafted here."""

    def sources(self) -> dict[str, int]:
        """Count the images by where they come from."""
        kept = int(self.stored.sum())
        return {STORED: kept, CRAFTED: len(self.stored) - kept}


def attacked_images(
    work: Work, network: nn.Module, source: nn.Module | None, images: Images, labels: Labels, ids: Tensor
) -> Attacked:
    """Find an attacked version of every image at the payload's epsilon.

    What the cascade stored for an image that it did not break is the clean image, which shows no attack; such images
    are attacked here, and so are those that are wrong without any change.

    Args:
        work: Its payload names `norm`, `epsilon`, `seed` and the cascade's jobs, `shards`.
        network: Network under attack; left exactly as it was.
        source: Whose gradients are followed; None: the network's own.
        images: Clean images (n c h w).
        labels: (n,) true classes.
        ids: (n,) image ids.

    Returns:
        Images, and which of them were stored.
    """
    threat = Threat(work.payload["norm"], work.payload["epsilon"])
    found, stored = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for folder, place in _folders(work):
        _take(folder, place, threat, images, ids, found, stored)
    rows = (~stored).nonzero().flatten()
    if len(rows):
        found[rows] = _crafted(network, source, images[rows], labels[rows], threat, work.payload["seed"])
    return Attacked(found, stored)


def _folders(work: Work) -> list[tuple[Path, int]]:
    """Give the cascade's folders, each with the epsilon's place in its grid; those attacked at others are left out."""
    found: list[tuple[Path, int]] = []
    for key in work.payload["shards"]:
        metrics = (work.ledger.outcome(key) or {}).get("metrics") or {}
        places = [i for i, e in enumerate(metrics.get("epsilons") or []) if np.isclose(e, work.payload["epsilon"])]
        if places and metrics.get("norm") == work.payload["norm"]:
            found.append((work.ledger.folder(key), places[0]))
    return found


def _take(folder: Path, place: int, threat: Threat, images: Images, ids: Tensor, found: Images, stored: Tensor) -> None:
    """Fill in what a shard stored for these images, where it is an attack at all; a damaged file has nothing."""
    try:
        others, kept = read_images([folder], place)
        places, theirs = _common(ids.tolist(), others.tolist())
        made = kept[theirs].to(images)
        moved = threat.contains(made, images[places]) & (made != images[places]).flatten(1).any(dim=1)
    except FileNotFoundError:
        return
    except DAMAGED as error:
        print(f"{folder.name}: its images are left out: {error}")  # noqa: T201 - into the job's log
        return
    rows = torch.tensor(places, dtype=torch.int64, device=images.device)[moved]
    found[rows], stored[rows] = made[moved], True


def _common(ids: Sequence[int], others: Sequence[int]) -> tuple[list[int], list[int]]:
    place_of = {number: place for place, number in enumerate(others)}
    rows = [row for row, number in enumerate(ids) if number in place_of]
    return rows, [place_of[ids[row]] for row in rows]


def _crafted(
    network: nn.Module, source: nn.Module | None, images: Images, labels: Labels, threat: Threat, seed: int
) -> Images:
    """Run `CRAFTED`: the best iterate; of an image that is wrong from the start the last, as its first is no attack."""
    model, judge = (network, None) if source is None else (source, network)
    steps, length = PGD_20_MARGIN.steps or 1, (PGD_20_MARGIN.step_size or 0.0) * threat.epsilon
    starts = generator(seed, "record", "start")
    made: list[Tensor] = []
    with frozen(model, network):
        for x, y in zip(images.split(256), labels.split(256), strict=True):
            trace = pgd(
                model,
                x,
                y,
                threat,
                loss=margin,
                steps=steps,
                step_size=length,
                start=threat.random_start(x, starts),
                judge=judge,
                keep_going=True,
            )
            wrong = misclassified(network, x, y)[:, None, None, None]
            made.append(torch.where(wrong, trace.last, trace.images))
    return torch.cat(made)
