"""Whether the gradients that attacks follow are those of the network: they exist, fit differences, agree backwards."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import Loss, cross_entropy, logit_scale, margin
from nodekd.attacks.isolation import ascent_gradient, isolated_logits
from nodekd.attacks.threat import Threat
from nodekd.scoring import correct
from nodekd.shapes import Images, Labels

DIFFERENCE = 3e-3
"""Step of the central differences, in units of the images. A longer one goes over more edges between two classes, which
is no fault of the gradient; a shorter one sees more of an adaptive solver's choice of steps."""
SPARED = 2
"""Images that disagree most and have no say, as one or two never decide (S22): over one edge, a gradient may jump."""
DIRECTIONS = 8
"""Random sign directions per image."""
NEAR = 8 / 255
"""Side of the cube around an image in which the loss is called smooth or rough."""


@final
@dataclass(frozen=True)
class Zeros:
    """G1: images whose gradient is exactly zero or not finite."""

    margin: int
    """By the margin, at the clean image or at a random start."""
    cross_entropy: int
    """By the cross-entropy."""
    n: int
    """Images classified correctly, the only ones looked at."""


def zero_gradients(model: nn.Module, images: Images, labels: Labels, threat: Threat, seed: int) -> Zeros:
    """Count images at which a loss has no gradient, at the clean image or at a random start (G1).

    Args:
        model: Whose gradients attacks follow.
        images: (n c h w) in [0, 1].
        labels: (n,) true classes; images classified wrongly are left out, as their gradients may vanish in health.
        threat: Ball of the random start.
        seed: Seed of the random start.

    Returns:
        Counts per loss.

    Source:
        [athalye2018obfuscated] Sec. 3: gradients that do not exist, or are lost in saturation.
    """
    with frozen(model):
        right = correct(model, images, labels)
        images, labels = images[right], labels[right]
        if len(images) == 0:
            return Zeros(0, 0, 0)
        starts = (images, threat.random_start(images, streams.generator(seed, "G1")))
        lost = [
            torch.stack([_is_lost(gradient_of(model, start, labels, loss)) for start in starts]).any(dim=0)
            for loss in (margin, cross_entropy)
        ]
    return Zeros(margin=int(lost[0].sum()), cross_entropy=int(lost[1].sum()), n=len(images))


def gradient_of(model: nn.Module, images: Images, labels: Labels, loss: Loss = margin) -> Images:
    """Return the gradient (b c h w) of a loss by the images; NaN where the network fails on an image alone."""
    seen = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = isolated_logits(model, seen)
        values = loss(logits, labels, logit_scale(logits))
    gradient = ascent_gradient(values, seen)
    failed = ~torch.isfinite(values.detach())
    return torch.where(failed.view(-1, *[1] * (images.dim() - 1)), torch.nan, gradient)


def _is_lost(gradient: Images) -> Tensor:
    flat = gradient.flatten(1)
    return (flat == 0).all(dim=1) | ~torch.isfinite(flat).all(dim=1)


@final
@dataclass(frozen=True)
class Differences:
    """G2: what central differences of the margin say against the gradient."""

    correlation: float
    """Pearson's, over random sign directions and all images but the spared; NaN where nothing varies."""
    ratio: float
    """Median over images of difference over gradient along the gradient's sign; 1 is perfect, NaN without any."""
    n: int
    """Images."""


def differences(model: nn.Module, images: Images, labels: Labels, seed: int, spared: int = SPARED) -> Differences:
    """Compare the gradient of the margin with central differences (G2).

    (L(x + h u) - L(x - h u)) / 2h against <grad L(x), u>, for random signs u and for u = sign(grad).

    Args:
        model: Whose gradients attacks follow.
        images: (n c h w) in [0, 1].
        labels: (n,) true classes.
        seed: Seed of the directions.
        spared: Images that disagree most and are left out of the correlation.

    Returns:
        Correlation and median ratio. Blind to whatever changes loss and gradient alike, such as a softmax at the end.
    """
    generator = streams.generator(seed, "G2")
    with frozen(model):
        logits = isolated_logits(model, images).detach()
        scale = logit_scale(logits)
        gradient = torch.nan_to_num(gradient_of(model, images, labels))

        def slope(direction: Images) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                ahead, behind = (
                    margin(isolated_logits(model, images + sign * DIFFERENCE * direction), labels, scale)
                    for sign in (1.0, -1.0)
                )
            return (ahead - behind) / (2 * DIFFERENCE), (gradient * direction).flatten(1).sum(dim=1)

        pairs = [slope(_signs(images, generator)) for _ in range(DIRECTIONS)]
        along, expected = slope(gradient.sign())
    measured, predicted = (torch.stack(column, dim=1) for column in zip(*pairs, strict=True))
    kept = _least_apart(measured, predicted, len(images) - spared)
    usable = torch.isfinite(along) & (expected > 0)
    return Differences(
        correlation=_correlation(measured[kept], predicted[kept]),
        ratio=float((along[usable] / expected[usable]).median()) if bool(usable.any()) else float("nan"),
        n=len(images),
    )


def _signs(images: Images, generator: torch.Generator) -> Images:
    drawn = torch.randint(0, 2, images.shape, generator=generator) * 2 - 1
    return drawn.to(images)


def _least_apart(measured: Tensor, predicted: Tensor, count: int) -> Tensor:
    """Return the rows of two tables (n d) that agree best; a number of all would speak of the other ones alone."""
    distance = torch.nan_to_num((measured - predicted).square()).sum(dim=1)
    return distance.argsort(stable=True)[: max(count, 0)]


def _correlation(first: Tensor, second: Tensor) -> float:
    """Return Pearson's correlation of two tensors of a shape, over the places where both are finite."""
    finite = torch.isfinite(first) & torch.isfinite(second)
    first, second = first[finite].double(), second[finite].double()
    if len(first) < 2 or float(first.std()) == 0 or float(second.std()) == 0:
        return float("nan")
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def agreement(model: nn.Module, reference: nn.Module, images: Images, labels: Labels) -> float:
    """Return the median cosine between two networks' gradients of the margin (G3).

    Args:
        model: Whose gradients attacks follow.
        reference: The same weights under another backward pass, or a finer solver.
        images: (n c h w) in [0, 1].
        labels: (n,) true classes.

    Returns:
        Median over images with two gradients; NaN without any.
    """
    with frozen(model, reference):
        one, other = (gradient_of(network, images, labels).flatten(1) for network in (model, reference))
    lengths = one.norm(dim=1) * other.norm(dim=1)
    cosine = (one * other).sum(dim=1) / lengths
    usable = torch.isfinite(cosine)
    return float(cosine[usable].median()) if bool(usable.any()) else float("nan")


def roughness(model: nn.Module, images: Images, labels: Labels, seed: int, draws: int = 100) -> float:
    """Return by how much the loss changes over random small steps, relative to the loss (G4).

    mean over images and draws of min(1, |L(x) - L(x + d)| / |L(x)|), d uniform in a cube of side 8/255, L the margin.

    Args:
        model: Whose loss attacks climb.
        images: (n c h w) in [0, 1].
        labels: (n,) true classes.
        seed: Seed of the draws.
        draws: Random steps per image.

    Source:
        [pintor2022indicators], increased loss roughness.
    """
    generator = streams.generator(seed, "G4")
    with frozen(model), torch.no_grad():
        logits = isolated_logits(model, images)
        scale = logit_scale(logits)
        here = margin(logits, labels, scale)
        changes: list[Tensor] = []
        for _ in range(draws):
            step = (torch.rand(images.shape, generator=generator).to(images) - 0.5) * NEAR
            there = margin(isolated_logits(model, images + step), labels, scale)
            changes.append(((there - here).abs() / here.abs().clamp_min(1e-12)).clamp_max(1.0))
    return float(torch.stack(changes).nanmean())
