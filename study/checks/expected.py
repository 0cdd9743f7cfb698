"""What the checks must say about networks that are broken on purpose, and about healthy ones."""

from collections.abc import Mapping

POSITIVE: Mapping[str, tuple[str, ...]] = {
    "logits-x1000": ("P5-saturated", "G1-cross-entropy", "A8"),
    "quantised": ("G1", "A8"),
    "input-noise": ("P3", "G2"),
    "coarse-adjoint": ("G2", "G3"),
    "batch-statistics": ("P4",),
    "softmax": ("P5",),
    "temperature-20": ("P5-saturated",),  # how far the gradient is lost depends on how long it was trained
}
"""Broken networks, and the checks that must speak up about them, all of them."""

ROBUST = "adversarial"
"""The healthy network whose robust accuracy must be clearly above zero, so that there is something to doubt."""
NEGATIVE: tuple[str, ...] = ("rk4", "dopri5", ROBUST)
"""Healthy networks, about which no check may speak up, not even as a warning (S24)."""
