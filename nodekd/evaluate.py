"""Measure one network on one split, without attacks."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import nn

from nodekd.data.dataset import Split
from nodekd.models.student import OdeStudent
from nodekd.scoring import correct_rows, logits_of
from nodekd.shapes import Logits


@final
@dataclass(frozen=True)
class Evaluation:
    """What a network does on clean images."""

    logits: Logits
    """(n k); rows whose solve failed are NaN."""
    correct: torch.Tensor
    """(n,) whether each image is classified correctly; failed solves are wrong (S14)."""
    nll: float
    """Mean negative log-likelihood in nats over the images whose solve succeeded; NaN where none did."""
    solve_failures: int
    """Images whose solve failed alone."""
    nfe: float | None
    """Mean evaluations of f per batch forward; None for networks without an ODE."""

    @property
    def accuracy(self) -> float:
        """Share of all images classified correctly."""
        return float(self.correct.float().mean())


def evaluate(model: nn.Module, split: Split, batch_size: int = 512) -> Evaluation:
    """Score a network in eval mode on every image of a split."""
    was_training = model.training
    model.eval()
    images = split.images()
    logits = logits_of(model, images, batch_size)
    solved = torch.isfinite(logits).all(dim=1)
    nll = float(F.cross_entropy(logits[solved], split.labels[solved])) if bool(solved.any()) else float("nan")
    nfe = _mean_evaluations(model, split, batch_size) if isinstance(model, OdeStudent) else None
    model.train(was_training)
    return Evaluation(logits, correct_rows(logits, split.labels), nll, int((~solved).sum()), nfe)


@torch.no_grad()
def _mean_evaluations(model: OdeStudent, split: Split, batch_size: int) -> float:
    if model.integrator.fixed:
        model(split.images(torch.arange(1, device=split.labels.device)))
        return float(model.nfe)
    total = 0.0
    for rows in torch.arange(len(split), device=split.labels.device).split(batch_size):
        model(split.images(rows))
        total += model.nfe * len(rows)
    return total / len(split)
