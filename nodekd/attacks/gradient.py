"""FGSM and PGD in a loop of our own, which keeps each image's best iterate and a trace of every step.

Random starts, restarts and seeds belong to `spec.py`; here everything is determined by the arguments.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nodekd.attacks.isolation import ascent_gradient, isolated_logits
from nodekd.attacks.threat import Threat
from nodekd.scoring import correct_rows
from nodekd.shapes import Images, Labels, Logits

Distance = Literal["l1", "l2"]
Loss = Callable[[Logits, Labels, Tensor], Tensor]
"""(logits (b k), labels (b,), scale (b,)) -> loss (b,), which the attack makes large."""


def cross_entropy(logits: Logits, labels: Labels, scale: Tensor) -> Tensor:
    """Return the cross-entropy of each image in nats; its gradient vanishes where logits are large.

    Args:
        logits: Scores (b k).
        labels: True classes (b,).
        scale: Not used.

    Returns:
        Loss (b,).

    Source:
        [goodfellow2015explaining] Sec. 4.
    """
    del scale
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Logits, labels: Labels, scale: Tensor) -> Tensor:
    """Return by how much the best wrong class leads the true one, in units of the scale.

    L = (max_{j != y} z_j - z_y) / scale; positive means misclassified.

    Args:
        logits: z (b k), at least 2 classes.
        labels: y (b,).
        scale: Positive unit (b,), constant in the gradient; see `logit_scale`.

    Returns:
        Loss (b,), unchanged when all logits and the scale are multiplied by one number.

    Source:
        [croce2020reliable] Eq. 6 (DLR) divides by z_(1) - z_(3) of the present iterate and needs 3 classes. We divide
        by a constant per image, so that 2 classes suffice and the loss orders iterates as the margin does.
    """
    true = logits.gather(1, labels[:, None]).squeeze(1)
    best_wrong = logits.scatter(1, labels[:, None], -torch.inf).max(dim=1).values
    return (best_wrong - true) / scale


def distance_from(features: Tensor, norm: Distance) -> Loss:
    """Return a loss that grows as rows of numbers move away from where they were.

    L_i = sum_j |f_ij - f0_ij| for l1, and the root of the sum of squares for l2.

    Args:
        features: f0 (b f), of the clean images of the batch that is attacked.
        norm: l1 or l2.

    Returns:
        A loss (b,) of features (b f), which needs no labels.

    Source:
        [kang2021stable], whose defence others broke through the features in front of its ODE.
    """

    def distance(now: Tensor, labels: Labels, scale: Tensor) -> Tensor:
        del labels, scale
        return torch.linalg.vector_norm(now - features, ord=1 if norm == "l1" else 2, dim=1)

    return distance


LOSSES: Mapping[str, Loss] = {"cross-entropy": cross_entropy, "margin": margin}
"""Losses by the name that stands in records."""


def logit_scale(logits: Logits) -> Tensor:
    """Return the standard deviation (b,) of each image's logits over the classes; 1 where it is zero or not finite."""
    spread = logits.detach().std(dim=1, correction=0)
    return torch.where(torch.isfinite(spread) & (spread > 0), spread, 1.0)


@final
@dataclass(frozen=True)
class Trace:
    """What one run of a gradient attack found, step by step."""

    images: Images
    """(b c h w) best iterate: the first misclassified one, otherwise the one with the largest loss."""

    loss: Tensor
    """(steps + 1, b) loss of every iterate, the start first; NaN after an image left the attack, or if not finite."""

    broken_at: Tensor
    """(b,) int64 step of the first misclassified iterate, 0 = the start; -1 = never."""

    last: Images
    """(b c h w) last iterate of every image, what adversarial training trains on; an image that left keeps its best."""

    @property
    def made_at(self) -> Tensor:
        """(b,) int64 step of the best iterate."""
        highest = torch.nan_to_num(self.loss, nan=-torch.inf).argmax(dim=0)
        return torch.where(self.broken_at >= 0, self.broken_at, highest)


@dataclass
class _Progress:
    """Best iterates so far; `active` holds the positions of the images still under attack."""

    best: Images
    loss: Tensor
    broken_at: Tensor
    active: Tensor
    best_loss: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best_loss = torch.full_like(self.loss[0], -torch.inf)

    def observe_(self, step: int, images: Images, values: Tensor, wrong: Tensor) -> None:
        finite = torch.isfinite(values)
        self.loss[step, self.active] = torch.where(finite, values, torch.nan)
        unbroken = self.broken_at[self.active] < 0
        newly = unbroken & wrong
        better = newly | (unbroken & finite & (values > self.best_loss[self.active]))
        rows = self.active[better]
        self.best[rows] = images[better]
        self.best_loss[rows] = values[better]
        self.broken_at[self.active[newly]] = step


@torch.no_grad()
def misclassified(model: nn.Module, images: Images, labels: Labels) -> Tensor:
    """Tell per image (b,) whether the network is wrong; a solve that fails alone is wrong."""
    return ~correct_rows(isolated_logits(model, images), labels)


def pgd(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    loss: Loss,
    steps: int,
    step_size: float,
    start: Images | None = None,
    judge: nn.Module | None = None,
    keep_going: bool = False,
) -> Trace:
    """Climb the loss by steps of fixed length inside the threat's ball, from the clean images or a given start.

    x <- P(x + step_size * d), with d = sign(g) under linf and g / ||g||_2 under l2; P projects on ball and box.

    Args:
        model: Network whose gradients are followed; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        loss: What is climbed, e.g. `margin`.
        steps: Number of steps >= 1; the network is evaluated once more, for the last iterate.
        step_size: Length of a step, in units of the images.
        start: Where to begin (b c h w), projected first; default the clean images.
        judge: Network that decides whether an iterate is misclassified; default `model`. With another judge, this is
            a transfer attack that stops as soon as it succeeds.
        keep_going: Go on with images that are already broken, for complete traces; their best iterate stays the
            first misclassified one. By default they leave the attack, which changes no other image but for rounding.

    Returns:
        Best iterates, losses and steps of success.

    Source:
        [madry2018towards] Sec. 2.1. We keep the best iterate where the paper keeps the last.
    """
    x = images if start is None else threat.project(start, images)
    progress = _Progress(
        best=x.clone(),
        loss=x.new_full((steps + 1, len(x)), torch.nan),
        broken_at=torch.full_like(labels, -1),
        active=torch.arange(len(x), device=x.device),
    )
    clean, scale = images, None
    for step in range(steps + 1):
        if len(x) == 0:
            break
        x = x.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            logits = isolated_logits(model, x)
            scale = logit_scale(logits) if scale is None else scale
            values = loss(logits, labels, scale)
        wrong = ~correct_rows(logits.detach(), labels) if judge is None else misclassified(judge, x.detach(), labels)
        progress.observe_(step, x.detach(), values.detach(), wrong)
        if step == steps:
            break
        gradient = ascent_gradient(values, x)
        x = x.detach()
        if not keep_going and bool(wrong.any()):
            stay = ~wrong
            progress.active = progress.active[stay]
            x, gradient, clean, labels, scale = x[stay], gradient[stay], clean[stay], labels[stay], scale[stay]
        x = threat.project(x + step_size * threat.direction(gradient), clean)
    last = progress.best.clone()
    last[progress.active] = x.detach()
    return Trace(progress.best, progress.loss, progress.broken_at, last)


def fgsm(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    loss: Loss = cross_entropy,
    judge: nn.Module | None = None,
) -> Trace:
    """Take one step of length epsilon from the clean image along the sign (linf) or direction (l2) of the gradient.

    Args:
        model: Network whose gradient is followed; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        loss: What is climbed.
        judge: Network that decides whether the image is misclassified; default `model`.

    Returns:
        Trace of two rows: the clean image and the step.

    Source:
        [goodfellow2015explaining] Sec. 4. We keep the clean image where the step lowers the loss.
    """
    return pgd(model, images, labels, threat, loss=loss, steps=1, step_size=threat.epsilon, judge=judge)
