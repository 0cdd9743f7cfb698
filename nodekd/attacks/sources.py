"""Networks whose gradients an attack may follow in place of the target's own, where those may not be trusted.

Each answers as the target does (or as its expectation); only what flows backwards differs. An attack follows such a
source while the target itself decides what is broken.
"""

import math
from typing import final

import torch
from torch import Tensor, nn

from nodekd.scoring import correct_rows
from nodekd.shapes import Images, Labels, Logits


@final
class Rescaled(nn.Module):
    """A network with its logits multiplied by one number: the same predictions, another sharpness.

    Args:
        network: Gives logits (b k).
        factor: > 0.
    """

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        if not factor > 0:
            raise ValueError(f"`factor > 0` must hold, but got factor={factor}.")
        self.network, self.factor = network, factor

    def forward(self, images: Images) -> Logits:
        """Return the logits (b k) times the factor."""
        return self.network(images) * self.factor


@torch.no_grad()
def with_unit_margin(network: nn.Module, logits: Logits, labels: Labels) -> Rescaled:
    """Scale a network so that the median lead of the true class is 1 among the images that it gets right (S11).

    Where logits are huge the cross-entropy saturates and its gradient is lost in rounding; a temperature in training
    does that by itself (defensive distillation). Scaling changes no prediction and gives the gradient back.

    Args:
        network: Gave the logits.
        logits: (n k) of clean images.
        labels: (n,) their true classes.

    Returns:
        The network, scaled; by 1 where no image is right, or the median lead is not a positive finite number.

    Source:
        [carlini2016defensive]: divide the logits before the attack. We choose the divisor by the median lead.
    """
    right = correct_rows(logits, labels)
    others = logits.scatter(1, labels[:, None], -torch.inf).max(dim=1).values
    lead = (logits.gather(1, labels[:, None]).squeeze(1) - others)[right]
    median = float(lead.median()) if len(lead) else 1.0
    factor = 1.0 / median if median > 0 else 1.0
    return Rescaled(network, factor if 0 < factor < float("inf") else 1.0)


@final
class StraightThrough(nn.Module):
    """A network's own answer with the gradient of another: the other stands in for it on the way back.

    For an ODE student, `smooth` is the same weights under a fine fixed solver, whose gradient is that of the flow.

    Args:
        deployed: Gives logits (b k); its gradient is not used.
        smooth: Gives logits (b k) near those of `deployed`; its gradient is.

    Source:
        [athalye2018obfuscated] Sec. 4.1 (BPDA).
    """

    def __init__(self, deployed: nn.Module, smooth: nn.Module) -> None:
        super().__init__()
        self.deployed, self.smooth = deployed, smooth

    def forward(self, images: Images) -> Logits:
        """Return the deployed network's logits (b k), with the smooth one's gradient."""
        near = self.smooth(images)
        with torch.no_grad():
            answer = self.deployed(images)
        return near + (answer - near).detach()


@final
class Expectation(nn.Module):
    """A randomised network's expected answer: log of the mean probability over several draws.

    Args:
        network: Gives logits (b k), others at every call.
        draws: Calls that are averaged, >= 1.

    Source:
        [athalye2018synthesizing]: the gradient of an expectation over draws. We average probabilities, which is what
        a prediction by many draws would use.
    """

    def __init__(self, network: nn.Module, draws: int) -> None:
        super().__init__()
        if draws < 1:
            raise ValueError(f"`draws >= 1` must hold, but got draws={draws}.")
        self.network, self.draws = network, draws

    def forward(self, images: Images) -> Logits:
        """Return log of the mean softmax (b k) over the draws."""
        logs = [torch.log_softmax(self.network(images), dim=1) for _ in range(self.draws)]
        return torch.logsumexp(torch.stack(logs), dim=0) - math.log(self.draws)


@final
class Features(nn.Module):
    """What a network makes of an image before a given part of it, as a row of numbers.

    Args:
        part: Gives the state (b ...) that enters what is attacked through, such as an ODE student's stem.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, images: Images) -> Tensor:
        """Return the state, flattened (b f)."""
        return self.part(images).flatten(1)
