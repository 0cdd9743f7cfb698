"""Random signs: the weakest attack, which no honest network survives less often than a gradient attack."""

import torch
from torch import nn

from nodekd.attacks.gradient import misclassified
from nodekd.attacks.threat import Threat
from nodekd.shapes import Images, Labels

TOGETHER = 256
"""Images that are answered at once: of a few images, several draws."""


def sign_noise(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    draws: int,
    generator: torch.Generator,
) -> Images:
    """Add independent random signs of the threat's full length, several times.

    Args:
        model: Network that is queried; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        draws: How often; an image that is misclassified is not drawn again, beyond those that are answered with it.
        generator: CPU generator of all signs, so that they are equal on every device.

    Returns:
        The first misclassified image where there is one, otherwise the last draw.

    Source:
        [carlini2019evaluating] (random noise as a check of gradient attacks).
    """
    found = images.clone()
    rows = torch.arange(len(images), device=images.device)
    left = draws
    while left > 0 and len(rows) > 0:
        together = min(left, max(1, TOGETHER // len(rows)))
        clean = images[rows].repeat(together, 1, 1, 1)
        signs = torch.randint(0, 2, clean.shape, generator=generator, dtype=torch.int8).to(clean) * 2.0 - 1.0
        noisy = threat.project(clean + threat.epsilon * threat.direction(signs), clean)
        wrong = misclassified(model, noisy, labels[rows].repeat(together)).view(together, len(rows))
        chosen = torch.where(wrong.any(dim=0), wrong.int().argmax(dim=0), together - 1)
        found[rows] = noisy[chosen * len(rows) + torch.arange(len(rows), device=rows.device)]
        rows = rows[~wrong.any(dim=0)]
        left -= together
    return found
