"""Distillation of robustness: the student is attacked in every update, and the teacher says what it should answer."""

from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nodekd.attacks.gradient import Loss
from nodekd.distill.attacked import AdversarialTraining, attacked_images
from nodekd.distill.logits import Distillation, kl_divergence
from nodekd.distill.objective import Batch, solve_capped
from nodekd.distill.teacher_signal import TeacherSignal
from nodekd.shapes import Images, Labels, Logits

Kind = Literal["ard", "rslad"]


def ard_loss(
    attacked: Logits, clean: Logits, teacher_logits: Logits, labels: Labels, distillation: Distillation
) -> Tensor:
    """Return alpha * kl_scale * KL(T(x) || S(x')) + (1 - alpha) * CE(S(x), y).

    Args:
        attacked: S(x'), (b k); receives gradient.
        clean: S(x), (b k); receives gradient.
        teacher_logits: T(x), (b k), of the clean images.
        labels: y, (b,) class indices.
        distillation: alpha, temperature and the KL term's factor.

    Returns:
        Scalar in nats.

    Source:
        [goldblum2020adversarially], its equation of ARD with kl_scale = temperature squared. KL is summed over the
        classes as in the equation; the authors' code averages over them too, a KL term k times smaller.
    """
    divergence = kl_divergence(attacked, teacher_logits, distillation.temperature)
    hard = F.cross_entropy(clean, labels)
    return distillation.alpha * distillation.kl_factor * divergence + (1 - distillation.alpha) * hard


def rslad_loss(attacked: Logits, clean: Logits, teacher_logits: Logits, distillation: Distillation) -> Tensor:
    """Return kl_scale * (alpha * KL(T(x) || S(x')) + (1 - alpha) * KL(T(x) || S(x))); the labels do not enter.

    Args:
        attacked: S(x'), (b k); receives gradient.
        clean: S(x), (b k); receives gradient.
        teacher_logits: T(x), (b k), of the clean images: the robust soft labels.
        distillation: alpha, temperature and the KL terms' factor.

    Returns:
        Scalar in nats.

    Source:
        [zi2021revisiting], its outer minimisation, published with alpha 5/6 and temperature 1. KL is summed over the
        classes; the authors' code averages over them too, which divides the whole loss by k.
    """
    hard = kl_divergence(attacked, teacher_logits, distillation.temperature)
    easy = kl_divergence(clean, teacher_logits, distillation.temperature)
    return distillation.kl_factor * (distillation.alpha * hard + (1 - distillation.alpha) * easy)


def away_from(teacher_logits: Logits, temperature: float) -> Loss:
    """Return the attack's loss KL(T(x) || S(x')) per image (b,), for the images of one batch in their order.

    Args:
        teacher_logits: T(x), (b k), constant.
        temperature: Softens both, > 0.

    Source:
        [zi2021revisiting], its inner maximisation.
    """
    target = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)

    def divergence(logits: Logits, labels: Labels, scale: Tensor) -> Tensor:
        del labels, scale
        ours = F.log_softmax(logits.float() / temperature, dim=1)
        return F.kl_div(ours, target, reduction="none", log_target=True).sum(dim=1)

    return divergence


@final
class RobustObjective:
    """ARD or RSLAD: a student is attacked by PGD and taught by what its teacher says of the clean images.

    The attack climbs the cross-entropy (ARD) or the divergence from the teacher (RSLAD), starts at random, and
    follows the student in eval mode; radius and steps are those of adversarial training.

    Source:
        [goldblum2020adversarially] and [zi2021revisiting], see `ard_loss` and `rslad_loss`. RSLAD's code starts from
        normal noise of deviation 0.001; we start both uniformly in the ball, as adversarial training does.
    """

    attacks = True

    def __init__(
        self, kind: Kind, distillation: Distillation, signal: TeacherSignal, adversarial: AdversarialTraining
    ) -> None:
        if kind not in ("ard", "rslad"):
            raise ValueError(f"`kind` must be ard or rslad, but got {kind!r}.")
        self.kind, self.distillation, self.signal, self.adversarial = kind, distillation, signal, adversarial

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Logits, Tensor]:
        """Return the logits (b k) of the attacked images, and the loss."""
        theirs = self.signal(batch.rows, batch.views, batch.clean)
        attacked = model(self._attack(model, batch, theirs))
        if solve_capped(model):  # a second forward would hide it
            return attacked, attacked.new_tensor(torch.nan)
        clean = model(batch.clean)
        if self.kind == "ard":
            return attacked, ard_loss(attacked, clean, theirs, batch.labels, self.distillation)
        return attacked, rslad_loss(attacked, clean, theirs, self.distillation)

    def helpers(self) -> list[nn.Module]:
        """Return nothing."""
        return []

    def _attack(self, model: nn.Module, batch: Batch, theirs: Logits) -> Images:
        options = {"loss": away_from(theirs, self.distillation.temperature)} if self.kind == "rslad" else {}
        return attacked_images(
            model, batch.clean, batch.labels, self.adversarial, seed=batch.seed, update=batch.update, **options
        )
