"""How a network is trained: its configuration, and the optimiser and schedule that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from nodekd.distill.attacked import AdversarialTraining
from nodekd.models.damping import decay_free


@final
@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 0.01
    """Peak learning rate."""
    weight_decay: float = 0.01
    momentum: float = 0.9
    """sgd only."""
    batch_size: int = 64
    schedule: Literal["one-cycle", "cosine", "constant", "step"] = "one-cycle"
    """`step` is a tenth after half of the updates and a tenth of that after three quarters."""
    epochs: int = 60
    augment: bool = True
    """Whether training images are seen in random views."""
    clip: float | None = None
    """Largest gradient norm; None = no clipping."""
    adversarial: AdversarialTraining | None = None
    nesterov: bool = True
    """Whether the momentum is Nesterov's; sgd only."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            given = f"epochs={self.epochs}, batch_size={self.batch_size}"
            raise ValueError(f"`epochs >= 1` and `batch_size >= 1` must hold, but got {given}.")
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate > 0` must hold, but got {self.learning_rate}.")


@final
class Optimization:
    """One optimiser with its schedule and its own clipping, over all weights of some networks."""

    def __init__(self, networks: Sequence[nn.Module], config: TrainConfig, updates: int) -> None:
        self.parameters = [parameter for network in networks for parameter in network.parameters()]
        self.clip = config.clip
        self.optimizer = _optimizer(_groups(networks), config)
        self.schedule = _schedule(self.optimizer, config, updates)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return where optimiser and schedule stand."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def step(self) -> None:
        """Clip the gradients, take one step, and go on in the schedule."""
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.schedule.step()


def _groups(networks: Sequence[nn.Module]) -> list[dict[str, object]]:
    """Return all weights in one group, and a second group, if any, for those that no decay may touch."""
    free = [parameter for network in networks for parameter in decay_free(network)]
    spared = {id(parameter) for parameter in free}
    decayed = [p for network in networks for p in network.parameters() if id(p) not in spared]
    return [{"params": decayed}, *([{"params": free, "weight_decay": 0.0}] if free else [])]


def _optimizer(groups: list[dict[str, object]], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, updates: int) -> LRScheduler:
    """Return the schedule of the learning rate, stepped after every update.

    Source:
        `step`: the code of [yang2020interpolation] (80 and 120 of 160 epochs) and of [kim2018paraphrasing] (82 and
        123 of 164).
    """
    if config.schedule == "one-cycle":
        # One update more than needed: PyTorch's schedule refuses the step after its last one.
        # Its cycle of the momentum is kept for adamw's first beta; sgd keeps the momentum that was asked for.
        return OneCycleLR(
            optimizer, config.learning_rate, total_steps=updates + 1, cycle_momentum=config.optimizer == "adamw"
        )
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, updates)
    if config.schedule == "step":
        return MultiStepLR(optimizer, [-(-updates // 2), -(-3 * updates // 4)], gamma=0.1)
    return ConstantLR(optimizer, factor=1.0)
