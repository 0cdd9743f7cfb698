"""Networks that are broken on purpose, so that every check can be seen to speak up before it is trusted to be silent.

All answer nearly as the healthy network they are made of. Its robust accuracy is the truth about most of them: what
looks more robust only hides its gradients.
"""

from dataclasses import replace
from typing import final

import torch
from torch import nn

from nodekd.attacks.sources import Rescaled
from nodekd.models.student import OdeStudent
from nodekd.shapes import Images, Logits

SHARPNESS = 1000.0
"""Factor on the logits after which the cross-entropy has no gradient left."""
LEVELS = 16
"""Grey levels of the quantised control, fewer than small perturbations can cross."""
NOISE = 0.05
"""Standard deviation of the noise on the images, in their units."""
COMPANY = 0.5
"""Share of the batch's mean that is taken out of every image."""


@final
class Quantised(nn.Module):
    """Rounds the images to few grey levels, and so has no gradient anywhere."""

    def __init__(self, network: nn.Module, levels: int = LEVELS) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, images: Images) -> Logits:
        """Return the logits (b k) of the rounded images."""
        return self.network((images * (self.levels - 1)).round() / (self.levels - 1))


@final
class InputNoise(nn.Module):
    """Adds noise to the images, other noise at every call."""

    def __init__(self, network: nn.Module, deviation: float = NOISE) -> None:
        super().__init__()
        self.network, self.deviation = network, deviation

    def forward(self, images: Images) -> Logits:
        """Return the logits (b k) of noisy images."""
        return self.network(images + self.deviation * torch.randn_like(images))


@final
class BatchStatistics(nn.Module):
    """Shifts the images to the mean of their batch, so that an answer depends on its company."""

    def __init__(self, network: nn.Module, share: float = COMPANY) -> None:
        super().__init__()
        self.network, self.share = network, share

    def forward(self, images: Images) -> Logits:
        """Return the logits (b k) of images that are shifted by a share of how their batch differs from mid-grey."""
        return self.network(images - self.share * (images.mean(dim=0, keepdim=True) - 0.5))


@final
class Softmax(nn.Module):
    """Gives probabilities where logits are asked for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Images) -> Logits:
        """Return probabilities (b k)."""
        return self.network(images).softmax(dim=1)


def positive_controls(network: nn.Module) -> dict[str, nn.Module]:
    """Return the broken twins of a healthy network, by name.

    The coarse adjoint needs an ODE. A teacher trained with the cross-entropy at temperature 20 is a control as well,
    but needs training of its own.
    """
    controls: dict[str, nn.Module] = {
        "logits-x1000": Rescaled(network, SHARPNESS),
        "quantised": Quantised(network),
        "input-noise": InputNoise(network),
        "batch-statistics": BatchStatistics(network),
        "softmax": Softmax(network),
    }
    if isinstance(network, OdeStudent):
        controls["coarse-adjoint"] = with_coarse_adjoint(network)
    for control in controls.values():
        control.train(network.training)
    return controls


def with_coarse_adjoint(student: OdeStudent, steps: int = 1) -> OdeStudent:
    """Return a student whose gradient comes back from the horizon in a few Euler steps, however it got there."""
    forth = student.integrator
    solver = "rk4" if forth.solver == "rk4_classic" else forth.solver
    back = replace(forth, solver=solver, error_control="batch", gradient="adjoint", adjoint_steps=steps)
    return student.with_integrator(back)
