"""Numbers as a JSON file holds them."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def plain(value: float) -> float | None:
    """Return a number, or None where it is not finite: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def plain_list(values: Iterable[float]) -> list[float | None]:
    """Return numbers, with None for those that are not finite."""
    return [plain(value) for value in values]


def mean_finite(values: Tensor) -> float:
    """Return the mean of the finite values, in float64; NaN where there are none."""
    kept = values[torch.isfinite(values)].double()
    return float(kept.mean()) if len(kept) else math.nan
