"""Images attacked while a network is being trained."""

from dataclasses import dataclass
from typing import final

from torch import nn

from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import Loss, cross_entropy, pgd
from nodekd.attacks.threat import Threat
from nodekd.shapes import Images, Labels
from nodekd.streams import generator


@final
@dataclass(frozen=True)
class AdversarialTraining:
    """Train on images attacked by PGD, L-inf, random start, step 2.5 * epsilon / steps.

    Source:
        [madry2018towards] Sec. 5; with a teacher, its logits are those of the clean view ([goldblum2020adversarially]).
    """

    epsilon: float
    """Radius in units of the image range [0, 1]."""
    steps: int
    """PGD steps per update."""


def attacked_images(
    model: nn.Module,
    images: Images,
    labels: Labels,
    adversarial: AdversarialTraining,
    *,
    seed: int,
    update: int,
    loss: Loss = cross_entropy,
) -> Images:
    """Attack a network in eval mode, as it is at this update; return the last iterate (b c h w) of every image.

    Args:
        model: The network in training; left as it was.
        images: Clean images (b c h w) in [0, 1].
        labels: (b,) class indices.
        adversarial: Radius and number of steps.
        seed: Root seed of the run; random starts have their own stream (S7).
        update: Number of updates so far; each has starts of its own.
        loss: What the attack climbs.

    Source:
        [madry2018towards] Sec. 2.1 and 5.
    """
    threat = Threat("linf", adversarial.epsilon)
    with frozen(model):
        trace = pgd(
            model,
            images,
            labels,
            threat,
            loss=loss,
            steps=adversarial.steps,
            step_size=2.5 * adversarial.epsilon / adversarial.steps,
            start=threat.random_start(images, generator(seed, "attacks", update)),
            keep_going=True,
        )
    return trace.last
