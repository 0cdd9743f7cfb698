"""Keep one failing solve from hiding the other images of its batch.

A network whose solve fails gives NaN logits for the whole batch. Were that left alone, one such image would stop the
attack on all of them, and the network would look robust.
"""

import torch
from torch import Tensor, nn

from nodekd.shapes import Images, Logits


def isolated_logits(model: nn.Module, images: Images) -> Logits:
    """Return logits (b k) in which only images that fail alone are NaN.

    A batch with a row that is not finite is halved until the failing images stand alone; their rows carry no
    gradient. Without a failure this is one plain forward pass.
    """
    logits = model(images)
    if bool(torch.isfinite(logits).all()):
        return logits
    if len(images) == 1:
        return torch.full_like(logits.detach(), torch.nan)
    half = len(images) // 2
    return torch.cat([isolated_logits(model, images[:half]), isolated_logits(model, images[half:])])


def ascent_gradient(values: Tensor, images: Images) -> Images:
    """Differentiate the sum of the values (b,) by the images; what is not finite in the gradient counts as 0.

    Works also where the caller has switched gradients off, as long as the values were computed with them.
    """
    with torch.enable_grad():
        total = values.sum()
    if not total.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(total, images, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else without_failures(gradient)


def without_failures(gradient: Tensor) -> Tensor:
    """Replace what is not finite by 0."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
