"""One training run: a network, a training split, a loss; results are of the last update (S9)."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import torch
from torch import Tensor, nn

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, draw_views, identity_view, take_views
from nodekd.distill.attacked import AdversarialTraining, attacked_images
from nodekd.distill.objective import LABELS_ONLY, Batch, Objective, solve_capped
from nodekd.ode.adaptive import EvaluationCapError
from nodekd.optimization import Optimization, TrainConfig
from nodekd.savepoint import Savepoint
from nodekd.shapes import Images
from nodekd.streams import generator

__all__ = ["AdversarialTraining", "Epoch", "TrainConfig", "Training", "TrainingStatus", "train"]


class TrainingStatus(Enum):
    """How a training run ended; the value is the sentence shown to people."""

    FINISHED = "training ran to its last update"
    DIVERGED = "the loss left the finite numbers"
    CAPPED = "a solve needed more evaluations than max_evaluations allows"
    STOPPED = "it was stopped after one of its epochs"


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
    on_epoch: Callable[[Epoch], bool | None] | None = None,
    savepoint: Savepoint | None = None,
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
        on_epoch: Called after every epoch, with the model in eval mode; where it returns True the run ends there.
        savepoint: Where the run stands, kept now and then and taken up where there is one; a run that goes on so
            ends with the weights of one that was never interrupted, and repeats no update before its savepoint.

    Returns:
        Status, time and number of updates. Divergence, a solve past its cap and a stop are statuses, not exceptions.

    Raises:
        Paused: If the savepoint says so.
    """
    run = _Run(model, split, config, augmentation, seed, objective, savepoint)
    model.eval()
    while run.epochs < config.epochs:
        status, ended = run.epoch()
        if ended is None:
            return Training(status, run.seconds, run.updates)
        if on_epoch is not None and on_epoch(ended):
            return Training(TrainingStatus.STOPPED, run.seconds, run.updates)
        run.keep(is_last=run.epochs == config.epochs)
    return Training(TrainingStatus.FINISHED, run.seconds, run.updates)


_COUNTERS = ("epochs", "updates", "batches", "seconds")


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
        savepoint: Savepoint | None,
    ) -> None:
        self.model, self.split, self.config, self.augmentation, self.seed = model, split, config, augmentation, seed
        self.objective = objective
        updates = -(-len(split) // config.batch_size) * config.epochs
        trained = [[model], *([objective.helpers()] if objective.helpers() else [])]
        self.networks = [network for networks in trained for network in networks]
        self.optimizations = [Optimization(networks, config, updates) for networks in trained]
        self.savepoint = savepoint
        self.diverged = False
        self.epochs = self.updates = self.batches = 0
        """Epochs that are over, updates in all, and updates of the epoch at hand."""
        self.seconds = self._clock = 0.0
        # Summed on the device and read once an epoch, so that a GPU is never waited for in between.
        self.total = torch.zeros(2, device=split.labels.device)
        self._take_up(savepoint.load() if savepoint is not None else None)

    def epoch(self) -> tuple[TrainingStatus, Epoch | None]:
        """Pass over the images once, or over those that an interrupted pass has left; no epoch where it failed."""
        self.model.train()
        self._clock = time.perf_counter()
        status = self._pass()
        self._note_time()
        self.model.eval()
        loss_sum, correct = self.total.tolist()
        if status is TrainingStatus.FINISHED and not math.isfinite(loss_sum):
            status = TrainingStatus.DIVERGED
        if status is not TrainingStatus.FINISHED:
            return status, None
        self.epochs, self.batches = self.epochs + 1, 0
        self.total.zero_()
        count = len(self.split)
        return status, Epoch(self.epochs, self.updates, loss_sum / count, correct / count, self.seconds)

    def _pass(self) -> TrainingStatus:
        batches = _batches(self.split, self.config, self.augmentation, self.seed, self.epochs + 1, self.batches)
        for rows, clean, views in batches:
            batch = self._batch(rows, clean, views)
            logits, loss = self.objective.loss(self.model, batch)
            if solve_capped(self.model) or not self._update(loss):
                return TrainingStatus.DIVERGED if self.diverged else TrainingStatus.CAPPED
            self.total += torch.stack([loss.detach() * len(rows), (logits.detach().argmax(1) == batch.labels).sum()])
            self.batches += 1
            self._note_time()
            self.keep(is_last=False)
        return TrainingStatus.FINISHED

    def _note_time(self) -> None:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def keep(self, *, is_last: bool) -> None:
        """Write where the run stands, if it is time."""
        if self.savepoint is not None:
            self.savepoint.keep(self._state, is_last=is_last)
            self._clock = time.perf_counter()

    def _state(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _COUNTERS},
            "total": self.total,
            "networks": [network.state_dict() for network in self.networks],
            "optimizations": [optimization.state() for optimization in self.optimizations],
        }

    def _take_up(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.total = state["total"].to(self.total.device)
        for network, stored in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(stored)
        for optimization, stored in zip(self.optimizations, state["optimizations"], strict=True):
            optimization.take_up(stored)

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
    split: Split, config: TrainConfig, augmentation: Augmentation, seed: int, epoch: int, done: int
) -> Iterator[tuple[Tensor, Images, Tensor]]:
    order = torch.randperm(len(split), generator=generator(seed, "order", epoch))
    views = draw_views(len(split), augmentation, generator(seed, "views", epoch))
    if not config.augment:
        views.fill_(identity_view(augmentation))
    for rows in order.split(config.batch_size)[done:]:
        rows_there, views_there = rows.to(split.labels.device), views[rows].to(split.labels.device)
        yield rows_there, take_views(split.images(rows_there), views_there, augmentation), views_there
