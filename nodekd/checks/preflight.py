"""What must hold before a network is attacked: mode, determinism, independence of the batch, logits, classes."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.scoring import logits_of
from nodekd.shapes import Images, Logits

REPEATS = 5
"""Forwards that must agree (P3)."""
SATURATED = 1e-6
"""Median distance of the largest probability from 1 below which the cross-entropy has no gradient to give."""


@final
@dataclass(frozen=True)
class Preflight:
    """Numbers of the checks P1 and P3 to P7; NaN where a number does not apply."""

    training_modules: int
    """P1: modules in training mode."""
    repeat: float
    """P3: largest change of a logit between repeated forwards, in units of the logits' standard deviation."""
    batch: float
    """P4: largest change of a logit between an image alone, in its batch and in a shuffled one, in units of the
    logits' standard deviation; solves that fail in a batch are repeated alone, as in scoring."""
    batch_flips: int
    """P4: images whose prediction changes with that."""
    is_softmax: bool
    """P5: whether the outputs are probabilities."""
    is_saturated: bool
    """P5: whether the probabilities are 0 and 1 in float32 for most images."""
    precision: float
    """P5: standard deviation of the logits over the absolute value of their mean; what is left of their digits."""
    classes: int
    """P6."""
    optimisations: int
    """P7: gradients computed inside one forward."""
    n: int
    """Images looked at."""


def preflight(model: nn.Module, images: Images) -> Preflight:
    """Measure P1 and P3 to P7 on a few images.

    Args:
        model: As it is about to be attacked; its mode is looked at, not changed. Logits out.
        images: (n c h w) in [0, 1], n >= 1; 64 are enough.

    Returns:
        The numbers behind the checks.

    Raises:
        ValueError: If there are no images.

    Source:
        P3, P5 and P7 follow the flags of [croce2020reliable]'s code; P4 is ours: adaptive solvers couple the images of
        a batch, so that an image may be right only in good company.
    """
    if len(images) == 0:
        raise ValueError("a preflight needs at least one image, but got none.")
    training = sum(module.training for module in model.modules())
    with frozen(model), torch.no_grad():
        with counted_gradients() as counter:
            logits = model(images)
        repeats = torch.stack([torch.nan_to_num(model(images)) for _ in range(REPEATS)])
        scored = logits_of(model, images)
        alone = torch.cat([model(image[None]) for image in images])
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
        shuffled = torch.empty_like(logits)
        shuffled[order] = logits_of(model, images[order])
    moved = torch.nan_to_num(torch.stack([alone - scored, shuffled - scored])).abs().amax()
    flips = (_classes(alone) != _classes(scored)) | (_classes(shuffled) != _classes(scored))
    spread = torch.nan_to_num(scored).std()
    return Preflight(
        training_modules=training,
        repeat=float((repeats - repeats[0]).abs().amax() / spread) if float(spread) > 0 else 0.0,
        batch=float(moved / spread) if float(spread) > 0 else 0.0,
        batch_flips=int(flips.sum()),
        is_softmax=_is_softmax(scored),
        is_saturated=_is_saturated(scored),
        precision=_precision(scored),
        classes=logits.shape[1],
        optimisations=counter.calls,
        n=len(images),
    )


def _classes(logits: Logits) -> Tensor:
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)


def _is_softmax(logits: Logits) -> bool:
    finite = logits[torch.isfinite(logits).all(dim=1)]
    inside = len(finite) > 0 and bool(((finite >= 0) & (finite <= 1)).all())
    return inside and bool(((finite.sum(dim=1) - 1).abs() < 1e-4).all())


def _is_saturated(logits: Logits) -> bool:
    finite = logits[torch.isfinite(logits).all(dim=1)]
    if len(finite) == 0:
        return False
    return float((1 - finite.softmax(dim=1).amax(dim=1)).median()) < SATURATED


def _precision(logits: Logits) -> float:
    finite = logits[torch.isfinite(logits).all(dim=1)].double()
    mean = float(finite.mean().abs()) if len(finite) else 0.0
    return float(finite.std()) / mean if mean > 0 else math.inf


@final
@dataclass
class Counter:
    """How often a gradient was asked for."""

    calls: int = 0


@contextmanager
def counted_gradients() -> Iterator[Counter]:
    """Count calls of `torch.autograd.grad` and `backward` in the body; they do what they always do."""
    counter, grad, backward = Counter(), torch.autograd.grad, torch.autograd.backward

    def counted(original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            counter.calls += 1
            return original(*arguments, **named)

        return call

    torch.autograd.grad, torch.autograd.backward = counted(grad), counted(backward)
    try:
        yield counter
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward
