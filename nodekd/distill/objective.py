"""What a network is trained for: an objective gives each batch its loss."""

from dataclasses import dataclass
from typing import Protocol, final

from torch import Tensor, nn

from nodekd.distill.logits import PLAIN, Distillation, born_again_loss, distillation_loss
from nodekd.distill.teacher_signal import TeacherSignal
from nodekd.models.student import OdeStudent
from nodekd.ode.solve import Status
from nodekd.shapes import Images, Labels, Logits


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """The images of one update."""

    rows: Tensor
    """(b,) positions in the training split."""
    views: Tensor
    """(b,) numbers of the views."""
    clean: Images
    """(b c h w) the views themselves; teachers see these."""
    images: Images
    """(b c h w) what the student is shown: `clean`, or the same attacked."""
    labels: Labels
    """(b,) class indices."""
    seed: int
    """Root seed of the run."""
    update: int
    """Updates before this one."""


class Objective(Protocol):
    """A loss over batches, and the networks that exist for its sake alone."""

    @property
    def attacks(self) -> bool:
        """Whether the objective attacks the images itself, so that nobody else must."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Logits, Tensor]:
        """Return the network's logits (b k) and the loss, a scalar to be made small."""
        ...

    def helpers(self) -> list[nn.Module]:
        """Return what is trained beside the network, by an optimiser of its own, and is dropped afterwards."""
        ...


class LogitLoss(Protocol):
    """An objective that needs nothing of the network but its logits, and may be part of another."""

    def of_logits(self, logits: Logits, batch: Batch) -> Tensor:
        """Return the loss, a scalar, of logits (b k)."""
        ...


@final
class LogitObjective:
    """Labels and a teacher's softened logits: (1 - alpha) * CE + alpha * kl_scale * KL(teacher || student).

    Source:
        [hinton2015distilling] Sec. 2; see `distillation_loss`. With `PLAIN` the labels alone.
    """

    attacks = False

    def __init__(self, distillation: Distillation = PLAIN, signal: TeacherSignal | None = None) -> None:
        if distillation.uses_teacher and signal is None:
            raise ValueError(f"alpha={distillation.alpha} needs a teacher's signal, but got None.")
        self.distillation = distillation
        self.signal = signal if distillation.uses_teacher else None

    def of_logits(self, logits: Logits, batch: Batch) -> Tensor:
        """Return the loss of the student's logits (b k), in nats."""
        theirs = None if self.signal is None else self.signal(batch.rows, batch.views, batch.clean)
        return distillation_loss(logits, theirs, batch.labels, self.distillation)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Logits, Tensor]:
        """Return the student's logits and their loss."""
        logits = model(batch.images)
        return logits, self.of_logits(logits, batch)

    def helpers(self) -> list[nn.Module]:
        """Return nothing."""
        return []


@final
class BornAgainObjective:
    """A generation of born-again networks: CE + KL(generation before || student) at temperature 1.

    Source:
        [furlanello2018born]; see `born_again_loss`.
    """

    attacks = False

    def __init__(self, signal: TeacherSignal) -> None:
        self.signal = signal

    def of_logits(self, logits: Logits, batch: Batch) -> Tensor:
        """Return the loss of the student's logits (b k), in nats."""
        return born_again_loss(logits, self.signal(batch.rows, batch.views, batch.clean), batch.labels)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Logits, Tensor]:
        """Return the student's logits and their loss."""
        logits = model(batch.images)
        return logits, self.of_logits(logits, batch)

    def helpers(self) -> list[nn.Module]:
        """Return nothing."""
        return []


LABELS_ONLY = LogitObjective()
"""Training on the labels alone."""


def solve_capped(model: nn.Module) -> bool:
    """Tell whether the last forward's solve went past its cap; its logits are NaN then."""
    return isinstance(model, OdeStudent) and model.status is Status.CAPPED
