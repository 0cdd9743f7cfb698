"""What stands before and after a student's ODE: stems that make its first state, and the head that reads its last."""

from torch import nn

from nodekd.models.dynamics import Norm, group_norm
from nodekd.models.geometry import shrinking_stem


def build_stem(arch: str, channels_in: int, channels: int, image_size: int, norm: Norm) -> nn.Sequential | nn.Conv2d:
    """Return the stem of an ODE or untied student: `-stem` shrinks the image, `-raw` keeps its resolution."""
    if arch.endswith("-raw"):
        return nn.Conv2d(channels_in, channels, 3, padding=1)
    return _shrinking_stem(channels_in, channels, image_size, norm)


def build_head(channels: int, classes: int, norm: Norm) -> nn.Sequential:
    """Return norm, relu, mean over the map, linear: (b c h w) to logits (b k)."""
    return nn.Sequential(
        group_norm(channels, norm),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def _shrinking_stem(channels_in: int, channels: int, image_size: int, norm: Norm) -> nn.Sequential:
    """Stem of torchdiffeq's ODE-net: 3x3 without padding, then up to two 4x4 with stride 2; see `geometry`."""
    padding, halvings = shrinking_stem(image_size)
    layers: list[nn.Module] = [nn.Conv2d(channels_in, channels, 3, padding=padding)]
    for _ in range(halvings):
        layers += [group_norm(channels, norm), nn.ReLU(), nn.Conv2d(channels, channels, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)
