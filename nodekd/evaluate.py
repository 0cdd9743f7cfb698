"""Measure one network on one split, without attacks."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import nn

from nodekd.data.dataset import Split
from nodekd.models.student import OdeStudent, forward_evaluations
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
    """Evaluations of f in the forward solve of an image of the first batch, see `forward_evaluations`; None for
    networks without an ODE."""

    @property
    def accuracy(self) -> float:
        """Share of all images classified correctly."""
        return float(self.correct.float().mean())


def evaluate(model: nn.Module, split: Split, batch_size: int = 512) -> Evaluation:
    """Score a network in eval mode on every image of a split."""
    was_training = model.training
    model.eval()
    # A batch at a time: a large split of uint8 pixels would not fit as float32.
    places = range(0, len(split), batch_size)
    logits = torch.cat([logits_of(model, split.images(slice(at, at + batch_size)), batch_size) for at in places])
    solved = torch.isfinite(logits).all(dim=1)
    nll = float(F.cross_entropy(logits[solved], split.labels[solved])) if bool(solved.any()) else float("nan")
    nfe = forward_evaluations(model, split.images(slice(0, batch_size))) if isinstance(model, OdeStudent) else None
    model.train(was_training)
    return Evaluation(logits, correct_rows(logits, split.labels), nll, int((~solved).sum()), nfe)
