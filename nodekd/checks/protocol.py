"""How a network's answers are counted: alone, in batches, or over several draws (S23)."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn

from nodekd.attacks.sources import Expectation
from nodekd.checks.preflight import Preflight
from nodekd.gradient_sources import DRAWS, RANDOMISED
from nodekd.models.student import OdeStudent
from nodekd.scoring import logits_of
from nodekd.shapes import Images, Logits

Protocol = Literal["alone", "batch", "fixed grid"]

COUPLED = 1e-3
"""Change of a logit by batch mates, in deviations of the logits, beyond which images are scored alone."""


@final
class Alone(nn.Module):
    """A network that is shown one image at a time, so that no image profits from its company.

    Args:
        network: Gives logits (b k).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Logits:
        """Return the logits (b k), each row of a batch of one; at least one image."""
        return torch.cat([self.network(image) for image in images.split(1)])


@final
@dataclass(frozen=True)
class Subject:
    """A network under examination, in the roles it plays."""

    network: nn.Module
    """As deployed: what answers a batch."""
    source: nn.Module
    """Whose gradients attacks follow."""
    judge: nn.Module
    """What an attack asks on its way whether it has succeeded, in batches."""
    target: nn.Module
    """What decides in the end whether an image is broken."""
    protocol: Protocol
    """`alone`: one image at a time. Otherwise in batches: `fixed grid` where an ODE takes the same steps for all."""
    draws: int
    """Forwards whose mean probability is one answer; 1 where a network answers the same twice."""


def subject_of(network: nn.Module, source: nn.Module, found: Preflight) -> Subject:
    """Choose how a network is scored and whose gradients are followed.

    Args:
        network: As deployed.
        source: Whose gradients attacks follow: the network itself, or the same weights solved another way.
        found: Its preflight: who answers otherwise twice is followed and scored in expectation over `DRAWS` draws
            (P3), who answers otherwise in company is scored alone (P4).
    """
    if found.repeat > RANDOMISED:
        expected = Expectation(network, DRAWS)
        followed = expected if source is network else Expectation(source, DRAWS)
        return Subject(network, followed, expected, expected, "batch", DRAWS)
    if found.batch > COUPLED:
        return Subject(network, source, network, Alone(network), "alone", 1)
    is_fixed = isinstance(network, OdeStudent) and network.integrator.fixed
    return Subject(network, source, network, network, "fixed grid" if is_fixed else "batch", 1)


@torch.no_grad()
def changed_by_company(network: nn.Module, images: Images, batch_size: int = 256) -> int:
    """Count images (n c h w) that a network classifies otherwise in a batch than alone; a failed solve is a class."""
    together, apart = (_classes(logits_of(each, images, batch_size)) for each in (network, Alone(network)))
    return int((together != apart).sum())


def _classes(logits: Logits) -> torch.Tensor:
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)
