"""How far a network may shrink an image. Loads no torch, so that a table of map sizes can be made from it."""

SMALLEST_MAP = 4
"""Side below which no stage may shrink its feature map (S5)."""


def shrinking_strides(image_size: int, stages: int) -> tuple[int, ...]:
    """Return the strides of `stages` stages, 2 as late as possible and never below a 4x4 map (S5)."""
    halvings = _halvings(image_size, stages)
    return (1,) * (stages - halvings) + (2,) * halvings


def shrinking_stem(image_size: int) -> tuple[int, int]:
    """Return the padding of the ODE-net's first 3x3 convolution (0 or 1) and how many halvings follow it.

    32x32 images become 7x7, as in torchdiffeq's example. Smaller images get fewer halvings, and padding where the
    state would otherwise fall below 4x4 (S5).
    """
    halvings = _halvings(image_size, 2)
    return (0 if (image_size - 2) >> halvings >= SMALLEST_MAP else 1), halvings


def _halvings(image_size: int, most: int) -> int:
    halvings = 0
    while halvings < most and image_size >> (halvings + 1) >= SMALLEST_MAP:
        halvings += 1
    return halvings
