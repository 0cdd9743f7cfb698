"""Size of every network's last feature map. Loads no torch, so a search space can check what can be adapted."""

from nodekd.models.catalog import (
    CIFAR_DEPTHS,
    ODE_STUDENTS,
    PREACT_DEPTHS,
    PREACT_RESNEXT,
    STUDENTS,
    TEACHERS,
    TORCHVISION,
    UNTIED_STUDENTS,
)
from nodekd.models.geometry import shrinking_stem, shrinking_strides

LAST_CHANNELS: dict[str, int] = {
    **dict.fromkeys(CIFAR_DEPTHS, 64),
    **dict.fromkeys(PREACT_DEPTHS, 64),
    "preact-resnet164": 256,
    **dict.fromkeys(PREACT_RESNEXT, 256),
    **dict.fromkeys(TORCHVISION, 512),
    "resnet50": 2048,
}
"""Channels of a ResNet's last map; an ODE student's are those of its state."""


def last_map(arch: str, channels: int, image_size: int) -> tuple[int, int]:
    """Return channels and side of the map that a network's pooling reads.

    Args:
        arch: A name of `catalog.STUDENTS` or `catalog.TEACHERS`.
        channels: Channels of the state; counts for ODE and untied students only.
        image_size: Side of the square images.

    Returns:
        (channels, side): what `features.forward_with_features` returns is (b channels side side).

    Raises:
        ValueError: If the name is unknown.
    """
    if arch in ODE_STUDENTS or arch in UNTIED_STUDENTS:
        return channels, _stem_side(image_size) if arch.endswith("-stem") else image_size
    if arch not in LAST_CHANNELS:
        raise ValueError(f"`arch` must be one of {sorted({*STUDENTS, *TEACHERS})}, but got {arch!r}.")
    side = image_size
    for stride in shrinking_strides(image_size, stages=3 if arch in TORCHVISION else 2):
        side = -(-side // stride)
    return LAST_CHANNELS[arch], side


def _stem_side(image_size: int) -> int:
    padding, halvings = shrinking_stem(image_size)
    return (image_size - 2 + 2 * padding) >> halvings
