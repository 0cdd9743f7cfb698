"""One training run: a network, a training split, a loss; results are of the last update (S9)."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import final

import torch
from torch import Tensor, nn

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, draw_views, identity_view, take_views
from nodekd.distill.attacked import AdversarialTraining, attacked_images
from nodekd.distill.objective import LABELS_ONLY, Batch, Objective, solve_capped
from nodekd.ode.adaptive import EvaluationCapError
from nodekd.optimization import Optimization, TrainConfig
from nodekd.shapes import Images
from nodekd.streams import generator

__all__ = ["AdversarialTraining", "Epoch", "TrainConfig", "Training", "TrainingStatus", "train"]


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
    objective: Objective = LABELS_ONLY,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Training:
    """Train a network in place.

    Args:
        model: Any network from images in [0, 1] to logits, on the split's device; weights of `damping.decay_free` get
            no weight decay.
        split: Training images and labels.
        config: Optimiser, schedule, length; `adversarial` attacks the images, unless the objective does so itself.
        augmentation: The views of this data set.
        seed: Root of the streams for batch order, views and attacks; none of them depends on the loss (S7), so a
            distilled student and its alpha-0 twin see the same batches of the same views.
        objective: The loss. What it trains beside the network has an optimiser of its own, of the same class and
            schedule, and its gradients are clipped apart from the network's.
        on_epoch: Called after every epoch, with the model in eval mode.

    Returns:
        Status, time and number of updates. Divergence and a solve past its cap are statuses, not exceptions.
    """
    run = _Run(model, split, config, augmentation, seed, objective)
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
    """A run under way: network, optimisers and the number of updates so far."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        config: TrainConfig,
        augmentation: Augmentation,
        seed: int,
        objective: Objective,
    ) -> None:
        self.model, self.split, self.config, self.augmentation, self.seed = model, split, config, augmentation, seed
        self.objective = objective
        updates = -(-len(split) // config.batch_size) * config.epochs
        trained = [[model], *([objective.helpers()] if objective.helpers() else [])]
        self.optimizations = [Optimization(networks, config, updates) for networks in trained]
        self.updates = 0
        self.diverged = False

    def epoch(self, epoch: int) -> tuple[TrainingStatus, float, float]:
        """Pass over the images once; return the status, the mean loss and the share of views classified correctly."""
        # Summed on the device and read once, so that a GPU is never waited for in between.
        total = torch.zeros(2, device=self.split.labels.device)
        for rows, clean, views in _batches(self.split, self.config, self.augmentation, self.seed, epoch):
            batch = self._batch(rows, clean, views)
            logits, loss = self.objective.loss(self.model, batch)
            if solve_capped(self.model) or not self._update(loss):
                status = TrainingStatus.DIVERGED if self.diverged else TrainingStatus.CAPPED
                return status, float("nan"), float("nan")
            total += torch.stack([loss.detach() * len(rows), (logits.detach().argmax(1) == batch.labels).sum()])
        loss_sum, correct = total.tolist()
        status = TrainingStatus.FINISHED if math.isfinite(loss_sum) else TrainingStatus.DIVERGED
        return status, loss_sum / len(self.split), correct / len(self.split)

    def _batch(self, rows: Tensor, clean: Images, views: Tensor) -> Batch:
        labels, adversarial = self.split.labels[rows], self.config.adversarial
        shown = clean
        if adversarial is not None and not self.objective.attacks:
            shown = attacked_images(self.model, clean, labels, adversarial, seed=self.seed, update=self.updates)
        return Batch(rows, views, clean, shown, labels, self.seed, self.updates)

    def _update(self, loss: Tensor) -> bool:
        """Take one step; False if the adjoint solve went past its cap or diverged."""
        for optimization in self.optimizations:
            optimization.zero_grad()
        try:
            loss.backward()
        except EvaluationCapError:
            return False
        except AssertionError:  # torchdiffeq's adjoint met a state that is not finite
            self.diverged = True
            return False
        for optimization in self.optimizations:
            optimization.step()
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
