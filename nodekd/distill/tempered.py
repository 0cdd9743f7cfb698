"""Labels alone, learnt at a temperature: what makes a network look robust that is not."""

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from nodekd.distill.objective import Batch
from nodekd.shapes import Logits


@final
class TemperedLabels:
    """The cross-entropy of logits / temperature, in which a network learns logits that are that much larger.

    Used without the division, the network's probabilities are 0 and 1 in float32, and the gradient of the
    cross-entropy is lost in rounding.

    Args:
        temperature: > 0; at 1 the labels alone.

    Source:
        [carlini2016defensive], which breaks what such a training seems to defend; half of defensive distillation, as
        no second network learns from the first.
    """

    attacks = False

    def __init__(self, temperature: float) -> None:
        if not temperature > 0:
            raise ValueError(f"`temperature > 0` must hold, but got temperature={temperature}.")
        self.temperature = temperature

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Logits, Tensor]:
        """Return the network's logits (b k), as they are, and the loss, a scalar in nats."""
        logits = model(batch.images)
        return logits, F.cross_entropy(logits / self.temperature, batch.labels)

    def helpers(self) -> list[nn.Module]:
        """Return nothing."""
        return []
