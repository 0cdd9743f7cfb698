"""Whether the attacks have come to their end: the checks A1 to A4 and A8.

Healthy networks lose some images to a longer or a repeated PGD, too. That alone is no reason to doubt the worst case
of all attacks, in which longer and stronger ones take part; so A3 and A4 count what no attack on the network's own
gradient has found.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.gradient import LOSSES, Trace, pgd
from nodekd.attacks.spec import PGD_20, PGD_20_MARGIN, Attack
from nodekd.attacks.threat import Threat
from nodekd.shapes import Images, Labels

BATCH = 256
"""Images attacked at once."""
DOUBLED = replace(PGD_20_MARGIN, steps=40)
"""Twice the steps, from the same start: the first half is `PGD_20_MARGIN` itself (A3)."""
RESTARTS = 4
"""Further random starts (A4)."""
LONG_STEPS = 1000
LONG_STEP_SIZES = (1 / 8, 1 / 16, 1 / 32, 1 / 64)
"""Step sizes as fractions of epsilon, each for its share of the long run's steps."""
LONG_IMAGES = 32
"""Survivors that are attacked for long, at most."""
LAST_STEPS = 10
STILL_RISING = 0.1
"""Share of the whole rise of the loss above which its last steps still matter (A2)."""
UNBOUNDED_IMAGES = 128


@final
class Climber:
    """PGD on one network, judged by one network, with every step kept.

    Args:
        source: Whose gradients are followed.
        judge: Decides what is broken.
        seed: Root seed; attacks and starts have streams of their own.
    """

    def __init__(self, source: nn.Module, judge: nn.Module, seed: int) -> None:
        self.source, self.seed = source, seed
        self.judge = None if judge is source else judge

    def climb(
        self,
        attack: Attack,
        images: Images,
        labels: Labels,
        threat: Threat,
        *,
        start: Images | None = None,
        restart: int = 0,
        keep_going: bool = False,
    ) -> Trace:
        """Run one start of a PGD on images (n c h w), n >= 1, from where `nodekd.attacks.spec` would start it.

        Args:
            attack: With method pgd and a random start.
            images: (n c h w) in [0, 1].
            labels: (n,) true classes.
            threat: Ball around the images.
            start: Another start (n c h w).
            restart: Which random start, where none is given.
            keep_going: See `pgd`.
        """
        parts = []
        for index, rows in enumerate(torch.arange(len(images), device=images.device).split(BATCH)):
            batch_seed = streams.seed_of(self.seed, attack.name, index)
            purpose = ("start",) if restart == 0 else ("start", restart)
            here = images[rows]
            drawn = threat.random_start(here, streams.generator(batch_seed, *purpose)) if start is None else start[rows]
            parts.append(
                pgd(
                    self.source,
                    here,
                    labels[rows],
                    threat,
                    loss=LOSSES[str(attack.loss)],
                    steps=attack.steps or 1,
                    step_size=(attack.step_size or 0.0) * threat.epsilon,
                    start=drawn,
                    judge=self.judge,
                    keep_going=keep_going,
                )
            )
        return joined(parts)

    def broken_by_restarts(self, images: Images, labels: Labels, threat: Threat) -> Images:
        """Return what PGD on the margin makes of images (n c h w) in `RESTARTS` further starts; stops at success."""
        found = images.clone()
        rows = torch.arange(len(images), device=images.device)
        for restart in range(1, RESTARTS + 1):
            if len(rows) == 0:
                break
            trace = self.climb(PGD_20_MARGIN, images[rows], labels[rows], threat, restart=restart)
            found[rows] = trace.images
            rows = rows[trace.broken_at < 0]
        return found

    def broken_by_patience(self, images: Images, labels: Labels, threat: Threat, steps: int = LONG_STEPS) -> Images:
        """Return what many steps of PGD on the margin, ever smaller, make of images (n c h w)."""
        found, start = images.clone(), images
        rows = torch.arange(len(images), device=images.device)
        for size in LONG_STEP_SIZES:
            if len(rows) == 0:
                break
            attack = replace(PGD_20_MARGIN, steps=max(1, steps // len(LONG_STEP_SIZES)), step_size=size)
            trace = self.climb(attack, images[rows], labels[rows], threat, start=start)
            found[rows] = trace.images
            left = trace.broken_at < 0
            rows, start = rows[left], trace.last[left]
        return found

    def broken_without_bounds(self, images: Images, labels: Labels, norm_of: Threat) -> Images:
        """Return what PGD on the cross-entropy makes of images (n c h w) in a ball that reaches everywhere (A8)."""
        return self.climb(PGD_20, images, labels, everywhere(norm_of, images)).images if len(images) else images


def everywhere(threat: Threat, images: Images) -> Threat:
    """Return the ball that holds a mid-grey image around every other: 0.5 in linf, half the box's diagonal in l2."""
    return Threat(threat.norm, 0.5 if threat.norm == "linf" else 0.5 * math.sqrt(images[0].numel()))


def joined(traces: Sequence[Trace]) -> Trace:
    """Lay the traces of several batches side by side."""
    return Trace(
        images=torch.cat([trace.images for trace in traces]),
        loss=torch.cat([trace.loss for trace in traces], dim=1),
        broken_at=torch.cat([trace.broken_at for trace in traces]),
        last=torch.cat([trace.last for trace in traces]),
    )


def still_rising(loss: Tensor) -> Tensor:
    """Tell per image (n,) whether the last steps brought a good part of what the whole attack brought (A2).

    With m_t the largest loss up to step t: (m_T - m_(T-10)) / (m_T - m_0) > 0.1, and m_T > m_0.

    Args:
        loss: (steps + 1, n) of survivors, the start first; NaN where the network failed, which no best loss counts.

    Source:
        [pintor2022indicators], incomplete optimization. We measure the rise by its own size, not by the loss.
    """
    best = torch.nan_to_num(loss, nan=-torch.inf).cummax(dim=0).values
    before = best[-1 - min(LAST_STEPS, len(best) - 1)]
    rise = best[-1] - best[0]
    return torch.isfinite(rise) & (rise > 0) & (best[-1] - before > STILL_RISING * rise)
