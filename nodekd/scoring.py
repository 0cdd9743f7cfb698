"""Logits and correctness of images, decided per image (S14).

A solve that hits its cap or leaves the finite numbers takes its whole batch with it; the images of such a batch are
solved again alone, and only those that fail alone count as wrong.
"""

import torch
from torch import nn

from nodekd.shapes import Images, Labels, Logits


@torch.no_grad()
def logits_of(model: nn.Module, images: Images, batch_size: int = 512) -> Logits:
    """Return the logits (n k) of all images; a row that fails alone stays NaN."""
    logits = torch.cat([model(batch) for batch in images.split(batch_size)])
    failed = (~torch.isfinite(logits).all(dim=1)).nonzero().flatten()
    if len(images) > 1:
        for index in failed.tolist():
            logits[index] = model(images[index : index + 1])[0]
    finite = torch.isfinite(logits).all(dim=1, keepdim=True)
    return torch.where(finite, logits, torch.full_like(logits, torch.nan))


def correct_rows(logits: Logits, labels: Labels) -> torch.Tensor:
    """Tell per image whether the largest logit is the label's; rows that are not finite are wrong."""
    return (logits.argmax(dim=1) == labels) & torch.isfinite(logits).all(dim=1)


def correct(model: nn.Module, images: Images, labels: Labels, batch_size: int = 512) -> torch.Tensor:
    """Tell per image (n,) whether the model classifies it correctly, in its present mode and without gradients."""
    return correct_rows(logits_of(model, images, batch_size), labels)
