"""Adversarial images handed on from one network to another: made to carry far, and judged without an attack."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import margin, pgd
from nodekd.attacks.spec import check_images, correct
from nodekd.attacks.threat import Threat
from nodekd.shapes import Images, Labels

STEPS = 20
"""Steps of the images that are handed on."""
STEP_SIZE = 0.125
"""Length of a step as a fraction of epsilon."""
RECORD = {"method": "pgd", "loss": "margin", "steps": STEPS, "step_size": STEP_SIZE, "start": "clean", "keep": "last"}
"""How they are made, for a JSON file."""


@torch.no_grad()
def pushed(model: nn.Module, images: Images, labels: Labels, threat: Threat, batch_size: int = 256) -> Images:
    """Push every image as far over the model's boundary as the ball allows, for other networks to fail on.

    An attack on the network itself stops at the first success, right behind the boundary, where another network's
    boundary seldom lies.

    Args:
        model: Whose gradients are followed; left exactly as it was.
        images: Clean images (n c h w) float32 in [0, 1].
        labels: True classes (n,) int64.
        threat: Ball around the clean images.
        batch_size: Images at once.

    Returns:
        Last iterates (n c h w) of PGD on the margin, inside the ball, of images that are classified wrongly from the
        start, too.

    Raises:
        AttackError: If images, labels or batch size are not as above.

    Source:
        [madry2018towards] Sec. 2.1, last iterate.
    """
    check_images(images, labels, batch_size)
    if len(images) == 0:
        return images
    with frozen(model):
        parts = [
            pgd(
                model,
                clean,
                true,
                threat,
                loss=margin,
                steps=STEPS,
                step_size=STEP_SIZE * threat.epsilon,
                keep_going=True,
            ).last
            for clean, true in zip(images.split(batch_size), labels.split(batch_size), strict=True)
        ]
    return torch.cat(parts)


@final
class Transfers:
    """What stored images do to one network, each source alone on every image that is right without any change."""

    def __init__(self, target: nn.Module, images: Images, labels: Labels, batch_size: int = 256) -> None:
        check_images(images, labels, batch_size)
        self._target, self._images, self._labels, self._batch_size = target, images, labels, batch_size
        with frozen(target):
            self.clean_correct: Tensor = correct(target, images, labels, batch_size)
        """(n,) bool."""

    def broken(self, threat: Threat, stored: Mapping[str, tuple[Images, ...]]) -> Tensor:
        """Tell which images each source breaks, by any of its versions of the image.

        Args:
            threat: Ball that stored images must lie in to count.
            stored: Versions of the same images (n c h w) by source.

        Returns:
            (s n) bool, sources in the order given; True only where the network was right without any change.
        """
        with frozen(self._target):
            rows = [
                torch.stack([self._wrong(version, threat) for version in versions]).any(dim=0)
                for versions in stored.values()
            ]
        return torch.stack(rows) if rows else torch.zeros(0, len(self._labels), dtype=torch.bool)

    def _wrong(self, version: Images, threat: Threat) -> Tensor:
        tried = (self.clean_correct & threat.contains(version, self._images)).nonzero().flatten()
        wrong = torch.zeros_like(self.clean_correct)
        wrong[tried] = ~correct(self._target, version[tried], self._labels[tried], self._batch_size)
        return wrong
