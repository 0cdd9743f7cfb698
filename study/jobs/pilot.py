"""Find the radius at which a teacher keeps half its accuracy, by bisection under APGD-CE."""

import math
from collections.abc import Callable
from typing import final

from torch import nn

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.catalog import Norm
from nodekd.attacks.spec import APGD_CE
from nodekd.attacks.threat import Threat
from nodekd.scoring import correct
from nodekd.shapes import Images, Labels
from nodekd.streams import seed_of
from study.jobs.networks import trained_network
from study.jobs.subset import subset
from study.jobs.work import Result, Work

ATTACK = APGD_CE


def run_pilot(work: Work) -> Result:
    """Measure the radius; the driver snaps it to the grid and keeps it.

    The payload names the network's job, the split and how many of its images, the norm, the ends `low` and `high` of
    the radii, the `rounds` and the seed. `radius` in the metrics is null where the network is wrong on every image.
    """
    payload = work.payload
    dataset = work.dataset("train", payload["split"])
    split = dataset.splits[payload["split"]]
    rows = subset(split, payload["images"])
    network = trained_network(work, payload["network"], dataset)
    half = HalfKept(network, split.images(rows), split.labels[rows], payload["norm"], payload["seed"])
    radius = bisected(half, payload["low"], payload["high"], payload["rounds"]) if half.correct else None
    told = {name: payload[name] for name in ("network", "split", "norm", "low", "high")}
    measured = {"radius": radius, "n": len(rows), "clean_correct": half.correct, "rounds": half.tried}
    return Result(metrics={**told, **measured, "attacks": [ATTACK.record()], "attack_seed": payload["seed"]})


def bisected(keeps: Callable[[float], bool], low: float, high: float, rounds: int) -> float:
    """Return where a falling yes-or-no question changes its answer.

    Args:
        keeps: The question; true below some radius and false above it.
        low: Smallest radius that comes into question, > 0.
        high: Largest, > low.
        rounds: How often the interval is halved, by ratio; >= 0.

    Returns:
        The geometric middle of the last interval: within a factor (high / low) ** 2 ** -(rounds + 1) of the change if
        it lies between the ends, otherwise within that factor of the end that is nearer to it.
    """
    for _ in range(rounds):
        middle = math.sqrt(low * high)
        if keeps(middle):
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


@final
class HalfKept:
    """Asks whether a network keeps at least half its clean accuracy at a radius, for a bisection.

    An image that fell at a smaller radius counts as fallen (the larger ball contains the smaller), one that stood at a
    larger radius counts as standing. So a question attacks only the images in between, and no answer contradicts an
    earlier one.

    Attributes:
        correct: Images that are right without attack.
        tried: Per question the epsilon, the survivors, the images attacked, and n.
    """

    def __init__(self, network: nn.Module, images: Images, labels: Labels, norm: Norm, seed: int) -> None:
        self._network, self._images, self._labels, self._seed = network, images, labels, seed
        self._norm: Norm = norm
        self._open = correct(network, images, labels).nonzero().flatten()
        self._standing = 0
        self.correct = len(self._open)
        self.tried: list[dict[str, float | int]] = []

    def __call__(self, epsilon: float) -> bool:
        """Attack at a radius between the last one answered yes and the last one answered no."""
        rows = self._open
        found = worst_case(
            self._network,
            self._images[rows],
            self._labels[rows],
            Threat(self._norm, epsilon),
            (ATTACK,),
            seed=seed_of(self._seed, len(self.tried)),
        )
        fell = found.broken.any(dim=0)
        survivors = self._standing + int((~fell).sum())
        asked = {"epsilon": epsilon, "survivors": survivors, "attacked": len(rows), "n": len(self._labels)}
        self.tried.append(asked)
        kept = 2 * survivors >= self.correct
        if not kept:
            self._standing = survivors
        self._open = rows[fell != kept]
        return kept
