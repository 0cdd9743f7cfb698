"""How much a student is like its teacher: same classes, same probabilities, same weaknesses."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from nodekd.attacks.frozen import frozen
from nodekd.distill.logits import kl_divergence
from nodekd.probes.numbers import plain
from nodekd.scoring import correct
from nodekd.shapes import Images, Labels, Logits


@final
@dataclass(frozen=True)
class Likeness:
    """Two networks on the same images."""

    agreement: float
    """Share of all images on which both choose the same class; a failed solve agrees with nothing (S14)."""
    kl: float
    """KL(teacher || student) in nats at temperature 1, mean over the images that both solved; NaN where none."""


def likeness(student_logits: Logits, teacher_logits: Logits) -> Likeness:
    """Compare two networks' logits (n k) of the same images.

    Raises:
        ValueError: If the shapes differ or there is no image.
    """
    if student_logits.shape != teacher_logits.shape or len(student_logits) == 0:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)} must come "
            "from the same images, at least one, and the same classes."
        )
    solved = torch.isfinite(student_logits).all(dim=1) & torch.isfinite(teacher_logits).all(dim=1)
    same = (student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)) & solved
    kl = float(kl_divergence(student_logits[solved], teacher_logits[solved], 1.0)) if bool(solved.any()) else torch.nan
    return Likeness(float(same.double().mean()), kl)


@final
@dataclass(frozen=True)
class Transfer:
    """Adversarial images of the teacher, shown to the student."""

    share: float
    """Of the n images, those that fool the student; NaN at n = 0."""
    n: int
    """Images that both classify correctly clean, and the teacher wrongly when attacked."""

    def record(self) -> dict[str, Any]:
        """Return the metrics `transfer` and `n_transfer`."""
        return {"transfer": plain(self.share), "n_transfer": self.n}


def transfer(
    student: nn.Module,
    teacher: nn.Module,
    images: Images,
    attacked: Images,
    labels: Labels,
    batch_size: int = 512,
) -> Transfer:
    """Count which of the teacher's adversarial images fool the student, too.

    Args:
        student: Left exactly as it was.
        teacher: Left exactly as it was.
        images: Clean images (n c h w) in [0, 1].
        attacked: (n c h w) the same images as attacked against the teacher; what does not fool it is not counted.
        labels: True classes (n,).
        batch_size: Images in one forward.

    Returns:
        Share and number. Images the student misclassifies clean are not counted, as nothing can fool it there.

    Raises:
        ValueError: If clean and attacked images differ in shape.
    """
    if images.shape != attacked.shape:
        raise ValueError(f"attacked must be {tuple(images.shape)} as the images, but got {tuple(attacked.shape)}.")
    with frozen(student, teacher):
        counted = correct(student, images, labels, batch_size) & correct(teacher, images, labels, batch_size)
        counted &= ~correct(teacher, attacked, labels, batch_size)
        fooled = counted & ~correct(student, attacked, labels, batch_size)
    n = int(counted.sum())
    return Transfer(int(fooled.sum()) / n if n else float("nan"), n)
