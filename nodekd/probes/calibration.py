"""Whether a network's probabilities mean what they say."""

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from nodekd.probes.numbers import plain
from nodekd.scoring import correct_rows
from nodekd.shapes import Labels, Logits


@final
@dataclass(frozen=True)
class Calibration:
    """How far probabilities are from frequencies."""

    ece: float
    """Expected calibration error in [0, 1] over the solved images; NaN where there are none."""
    nll: float
    """Mean negative log-likelihood in nats over the solved images; NaN where there are none."""
    accuracy: float
    """Share of all images classified correctly; failed solves are wrong (S14)."""
    failures: int
    """Images whose solve failed: they have no probabilities."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "ece": plain(self.ece),
            "nll": plain(self.nll),
            "accuracy": plain(self.accuracy),
            "failures": self.failures,
        }


def calibration(logits: Logits, labels: Labels, bins: int = 15) -> Calibration:
    """Measure calibration at temperature 1.

    ECE = sum_b |B_b| / n * |acc(B_b) - conf(B_b)| over bins ((b - 1)/bins, b/bins] of the largest probability.

    Args:
        logits: (n k); a row that is not finite is a failed solve.
        labels: (n,).
        bins: Number of bins of equal width, >= 1.

    Returns:
        ECE, NLL and accuracy, computed in float64.

    Raises:
        ValueError: If there is no image, or no bin.

    Source:
        [guo2017calibration] Eq. 3, with their 15 bins.
    """
    if bins < 1 or len(logits) == 0:
        raise ValueError(f"`bins >= 1` and at least one image are needed, but got {bins} and {len(logits)} images.")
    solved = torch.isfinite(logits).all(dim=1)
    right = correct_rows(logits, labels)
    scores, classes = logits[solved].double(), labels[solved]
    confidence = F.softmax(scores, dim=1).amax(dim=1)
    return Calibration(
        ece=_expected_error(confidence, right[solved].double(), bins),
        nll=float(F.cross_entropy(scores, classes)),
        accuracy=float(right.double().mean()),
        failures=int((~solved).sum()),
    )


def _expected_error(confidence: Tensor, right: Tensor, bins: int) -> float:
    if len(confidence) == 0:
        return float("nan")
    place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    # |B| * |acc - conf| is the absolute value of a sum over the bin.
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device).index_add_(0, place, right - confidence)
    return float(gaps.abs().sum() / len(confidence))
