"""Distillation through logits (S6): L = (1 - alpha) * CE + alpha * kl_scale * KL(teacher || student)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nodekd.shapes import Labels, Logits

KlScale = Literal["temperature_squared", "none"]


@final
@dataclass(frozen=True)
class Distillation:
    """How a student learns from a teacher's logits."""

    alpha: float = 0.9
    """Weight of the teacher in [0, 1]; 0 is training on the labels alone."""
    temperature: float = 4.0
    """Softens both networks' probabilities; > 0, 1 leaves them as they are."""
    kl_scale: KlScale = "temperature_squared"
    """Factor of the KL term: temperature squared keeps its gradient's size, `none` is 1 (a paper may not state it)."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"`0 <= alpha <= 1` must hold, but got alpha={self.alpha}.")
        if not self.temperature > 0:
            raise ValueError(f"`temperature > 0` must hold, but got temperature={self.temperature}.")
        if self.kl_scale not in ("temperature_squared", "none"):
            raise ValueError(f"`kl_scale` must be temperature_squared or none, but got {self.kl_scale!r}.")

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher's logits enter the loss at all."""
        return self.alpha > 0

    @property
    def kl_factor(self) -> float:
        """What the KL term is multiplied by, besides alpha."""
        return self.temperature**2 if self.kl_scale == "temperature_squared" else 1.0


PLAIN = Distillation(alpha=0.0)
"""Training on the labels alone."""


def kl_divergence(student_logits: Logits, teacher_logits: Logits, temperature: float) -> Tensor:
    """Return KL(teacher || student) of the softened probabilities, summed over classes, averaged over images.

    Args:
        student_logits: (b k); receives gradient.
        teacher_logits: (b k); a constant.
        temperature: > 0.

    Returns:
        Scalar in nats, computed from log-softmax in float32.

    Raises:
        ValueError: If the two disagree in shape or the temperature is not positive.

    Source:
        [hinton2015distilling] Sec. 2, without its factor temperature squared, which is `Distillation.kl_scale`.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)} "
            "must come from the same images and classes."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature > 0` must hold, but got temperature={temperature}.")
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def distillation_loss(
    student_logits: Logits, teacher_logits: Logits | None, labels: Labels, distillation: Distillation
) -> Tensor:
    """Return (1 - alpha) * CE + alpha * kl_scale * KL(teacher || student).

    Args:
        student_logits: (b k); receives gradient.
        teacher_logits: (b k) in eval mode, not softmaxed; may be None at alpha 0.
        labels: (b,) class indices.
        distillation: alpha, temperature and the KL term's factor.

    Returns:
        Scalar in nats.

    Raises:
        ValueError: If alpha > 0 and there are no teacher logits.

    Source:
        [hinton2015distilling] Sec. 2; both terms are means over images, and the factor stands at every alpha.
    """
    if not distillation.uses_teacher:
        return F.cross_entropy(student_logits, labels)
    if teacher_logits is None:
        raise ValueError(f"alpha={distillation.alpha} needs teacher logits, but got None.")
    divergence = kl_divergence(student_logits, teacher_logits, distillation.temperature)
    soft = distillation.alpha * distillation.kl_factor * divergence
    if distillation.alpha == 1:
        return soft
    return (1 - distillation.alpha) * F.cross_entropy(student_logits, labels) + soft


def born_again_loss(student_logits: Logits, teacher_logits: Logits, labels: Labels) -> Tensor:
    """Return CE + KL(teacher || student) at temperature 1, both with weight 1.

    Args:
        student_logits: (b k); receives gradient.
        teacher_logits: (b k) of the generation before, in eval mode.
        labels: (b,) class indices.

    Returns:
        Scalar in nats.

    Source:
        [furlanello2018born], without softened logits, as [park2020feature] compares with. We write KL where
        the paper has the cross-entropy with the teacher's probabilities; they differ by a constant, the teacher's
        entropy, so the gradient is the same.
    """
    return F.cross_entropy(student_logits, labels) + kl_divergence(student_logits, teacher_logits, 1.0)


def entropy(logits: Logits, temperature: float) -> float:
    """Return the mean entropy, in nats, of the softened probabilities of logits (n k), or a table of them (n views k).

    Args:
        logits: (... k); every entry of the leading axes counts alike.
        temperature: > 0.
    """
    log_probabilities = F.log_softmax(logits.float() / temperature, dim=-1)
    return float(-(log_probabilities.exp() * log_probabilities).sum(dim=-1).mean())


def agreement(student_logits: Logits, teacher_logits: Logits) -> float:
    """Return the share of images on which both networks choose the same class."""
    return float((student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).float().mean())


def ensemble_accuracy(logits: Sequence[Logits], labels: Labels) -> float:
    """Return the share of images whose label is the largest entry of the mean of several networks' logits."""
    return float((torch.stack(list(logits)).mean(dim=0).argmax(dim=1) == labels).float().mean())
