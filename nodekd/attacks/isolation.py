"""Keep one failing solve from hiding the other images of its batch.

A network whose solve fails gives NaN logits for the whole batch. Were that left alone, one such image would stop the
attack on all of them, and the network would look robust.
"""

import torch
from torch import Tensor, nn

from nodekd.ode.adaptive import EvaluationCapError
from nodekd.ode.integrator import Integrator
from nodekd.shapes import Images, Logits


def isolated_logits(model: nn.Module, images: Images) -> Logits:
    """Return logits (b k) in which only images that fail alone are NaN.

    A batch that fails as a whole is halved until the failing images stand alone; where some rows are finite, the others
    failed by themselves. Failing rows carry no gradient. Without a failure this is one plain forward pass. Logits of
    another precision are brought to the images'.
    """
    logits = model(images).to(images.dtype)
    finite = torch.isfinite(logits).all(dim=1, keepdim=True)
    if bool(finite.all()):
        return logits
    if len(images) == 1 or bool(finite.any()) or _fails_by_row(model):
        return torch.where(finite, logits, torch.nan)
    half = len(images) // 2
    return torch.cat([isolated_logits(model, images[:half]), isolated_logits(model, images[half:])])


def _fails_by_row(model: nn.Module) -> bool:
    """Tell whether every image is solved by itself, so that a failure says nothing of the others."""
    integrator = getattr(model, "integrator", None)
    return isinstance(integrator, Integrator) and integrator.error_control == "image"


def ascent_gradient(values: Tensor, images: Images) -> Images:
    """Differentiate the sum of the values (b,) by the images; what is not finite in the gradient counts as 0.

    Works also where the caller has switched gradients off, as long as the values were computed with them. An adjoint
    whose way back fails gives no gradient at all, which is for the checks to notice (G1).
    """
    with torch.enable_grad():
        total = values.sum()
    if not total.requires_grad:
        return torch.zeros_like(images)
    try:
        (gradient,) = torch.autograd.grad(total, images, allow_unused=True)
    except (EvaluationCapError, AssertionError):  # the latter is how torchdiffeq says that the state diverged
        return torch.zeros_like(images)
    return torch.zeros_like(images) if gradient is None else without_failures(gradient)


def without_failures(gradient: Tensor) -> Tensor:
    """Replace what is not finite by 0."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
