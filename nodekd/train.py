"""One training run: a network, a training split, a loss; results are of the last update (S9)."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal, final

import torch
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import cross_entropy, pgd
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, draw_views, identity_view, take_views
from nodekd.distill.logits import PLAIN, Distillation, distillation_loss
from nodekd.distill.teacher_signal import TeacherSignal
from nodekd.models.student import OdeStudent
from nodekd.ode.adaptive import EvaluationCapError
from nodekd.ode.solve import Status
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


@final
@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 0.01
    """Peak learning rate."""
    weight_decay: float = 0.01
    momentum: float = 0.9
    """Nesterov momentum; sgd only."""
    batch_size: int = 64
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    epochs: int = 60
    augment: bool = True
    """Whether training images are seen in random views."""
    clip: float | None = None
    """Largest gradient norm; None = no clipping."""
    adversarial: AdversarialTraining | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            given = f"epochs={self.epochs}, batch_size={self.batch_size}"
            raise ValueError(f"`epochs >= 1` and `batch_size >= 1` must hold, but got {given}.")
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate > 0` must hold, but got {self.learning_rate}.")


class TrainingStatus(Enum):
    """How a training run ended; the value is the sentence shown to people."""

    FINISHED = "training ran to its last update"
    DIVERGED = "the loss left the finite numbers"
    CAPPED = "a solve needed more evaluations than max_evaluations allows"


@final
@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images showed."""

    epoch: int
    """1 for the first."""
    step: int
    """Updates so far."""
    loss: float
    """Mean training loss in nats."""
    train_accuracy: float
    """Share of training views classified correctly while training."""
    seconds: float
    """Training time so far, without what `on_epoch` does."""


@final
@dataclass(frozen=True)
class Training:
    """The end of a run; the network was changed in place."""

    status: TrainingStatus
    seconds: float
    """Time spent on updates alone."""
    updates: int


def train(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    *,
    augmentation: Augmentation,
    seed: int,
    distillation: Distillation = PLAIN,
    teacher: TeacherSignal | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Training:
    """Train a network in place.

    Args:
        model: Any network from images in [0, 1] to logits, on the split's device.
        split: Training images and labels.
        config: Optimiser, schedule, length.
        augmentation: The views of this data set.
        seed: Root of the streams for batch order, views and attacks; none of them depends on the loss (S7), so a
            distilled student and its alpha-0 twin see the same batches of the same views.
        distillation: The loss.
        teacher: Source of teacher logits; needed at alpha > 0.
        on_epoch: Called after every epoch, with the model in eval mode.

    Returns:
        Status, time and number of updates. Divergence and a solve past its cap are statuses, not exceptions.
    """
    run = _Run(model, split, config, augmentation, seed, distillation, teacher)
    seconds = 0.0
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        status, loss, train_accuracy = run.epoch(epoch)
        model.eval()
        seconds += time.perf_counter() - started
        if status is not TrainingStatus.FINISHED:
            return Training(status, seconds, run.updates)
        if on_epoch is not None:
            on_epoch(Epoch(epoch, run.updates, loss, train_accuracy, seconds))
    return Training(TrainingStatus.FINISHED, seconds, run.updates)


@final
class _Run:
    """A run under way: network, optimiser and the number of updates so far."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        config: TrainConfig,
        augmentation: Augmentation,
        seed: int,
        distillation: Distillation,
        teacher: TeacherSignal | None,
    ) -> None:
        self.model, self.split, self.config, self.augmentation, self.seed = model, split, config, augmentation, seed
        self.distillation = distillation
        self.teacher = teacher if distillation.uses_teacher else None
        updates = -(-len(split) // config.batch_size) * config.epochs
        self.optimizer, self.schedule = _optimizer(model, config, updates)
        self.updates = 0
        self.diverged = False

    def epoch(self, epoch: int) -> tuple[TrainingStatus, float, float]:
        """Pass over the images once; return the status, the mean loss and the share of views classified correctly."""
        # Summed on the device and read once, so that a GPU is never waited for in between.
        total = torch.zeros(2, device=self.split.labels.device)
        for rows, clean, views in _batches(self.split, self.config, self.augmentation, self.seed, epoch):
            labels = self.split.labels[rows]
            signal = self.teacher(rows, views, clean) if self.teacher is not None else None
            logits = self.model(self._shown(clean, labels))
            loss = distillation_loss(logits, signal, labels, self.distillation)
            if _capped(self.model) or not self._update(loss):
                status = TrainingStatus.DIVERGED if self.diverged else TrainingStatus.CAPPED
                return status, float("nan"), float("nan")
            total += torch.stack([loss.detach() * len(rows), (logits.detach().argmax(1) == labels).sum()])
        loss_sum, correct = total.tolist()
        status = TrainingStatus.FINISHED if math.isfinite(loss_sum) else TrainingStatus.DIVERGED
        return status, loss_sum / len(self.split), correct / len(self.split)

    def _shown(self, clean: Images, labels: Labels) -> Images:
        adversarial = self.config.adversarial
        if adversarial is None:
            return clean
        return _attacked(self.model, clean, labels, adversarial, self.seed, self.updates)

    def _update(self, loss: Tensor) -> bool:
        """Take one step; False if the adjoint solve went past its cap or diverged."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss.backward()
        except EvaluationCapError:
            return False
        except AssertionError:  # torchdiffeq's adjoint met a state that is not finite
            self.diverged = True
            return False
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.schedule.step()
        self.updates += 1
        return True


def _batches(
    split: Split, config: TrainConfig, augmentation: Augmentation, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Images, Tensor]]:
    order = torch.randperm(len(split), generator=generator(seed, "order", epoch))
    views = draw_views(len(split), augmentation, generator(seed, "views", epoch))
    if not config.augment:
        views.fill_(identity_view(augmentation))
    for rows in order.split(config.batch_size):
        rows_there, views_there = rows.to(split.labels.device), views[rows].to(split.labels.device)
        yield rows_there, take_views(split.images(rows_there), views_there, augmentation), views_there


def _attacked(
    model: nn.Module, images: Images, labels: Labels, adversarial: AdversarialTraining, seed: int, step: int
) -> Tensor:
    threat = Threat("linf", adversarial.epsilon)
    with frozen(model):
        trace = pgd(
            model,
            images,
            labels,
            threat,
            loss=cross_entropy,
            steps=adversarial.steps,
            step_size=2.5 * adversarial.epsilon / adversarial.steps,
            start=threat.random_start(images, generator(seed, "attacks", step)),
            keep_going=True,
        )
    return trace.last


def _capped(model: nn.Module) -> bool:
    return isinstance(model, OdeStudent) and model.status is Status.CAPPED


def _optimizer(
    model: nn.Module, config: TrainConfig, updates: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = list(model.parameters())
    if config.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
            fused=True,
        )
    if config.schedule == "one-cycle":
        # One update more than needed: PyTorch's schedule refuses the step after its last one.
        # Its cycle of the momentum is kept for adamw's first beta; sgd keeps the momentum that was asked for.
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            config.learning_rate,
            total_steps=updates + 1,
            cycle_momentum=config.optimizer == "adamw",
        )
    if config.schedule == "cosine":
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
