"""What the checks must say about networks that are broken on purpose, and about healthy ones."""

from collections.abc import Mapping

POSITIVE: Mapping[str, tuple[str, ...]] = {
    "logits-x1000": ("P5-saturated", "G1-cross-entropy", "A8", "A6"),
    "quantised": ("G1", "A8"),
    "input-noise": ("P3",),
    "coarse-adjoint": ("G2", "G3", "A12"),
    "batch-statistics": ("P4",),
    "softmax": ("P5",),
    "temperature-20": ("P5-saturated", "G1-cross-entropy", "A8", "A6"),
}
"""Broken networks, and the checks of which at least the first must speak up."""

NEGATIVE: tuple[str, ...] = ("rk4", "dopri5", "adversarial")
"""Healthy networks, about which no check may speak up, not even as a warning (S24)."""
