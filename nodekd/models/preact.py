"""Pre-activation ResNets, and with damping the In-ResNet and lambda-In-ResNet; a pre-activation ResNeXt of ours."""

from typing import Literal, final

import torch
from torch import Tensor, nn

from nodekd.models.catalog import PREACT_DEPTHS, PREACT_RESNEXT
from nodekd.models.damping import Damping, DampingConfig, draw_damping
from nodekd.models.geometry import shrinking_strides
from nodekd.shapes import Images, Logits

Kind = Literal["basic", "bottleneck", "grouped"]

LAYERS: dict[Kind, int] = {"basic": 2, "bottleneck": 3, "grouped": 3}
"""Convolutions in a block."""

EXPANSION: dict[Kind, int] = {"basic": 1, "bottleneck": 4, "grouped": 4}
"""Channels of a block's output over the stage's 16, 32 or 64."""

CARDINALITY = 8
"""Groups of the ResNeXt's 3x3 convolutions, each of 8, 16 and 32 channels in the three stages."""


@final
class PreactBlock(nn.Module):
    """F(x) beside a shortcut: F(x) + shortcut(x), or mixed by a damping.

    Where the channels change the shortcut is BN-ReLU-Conv1x1, with norm and activation of its own; else the identity.
    """

    def __init__(
        self, kind: Kind, channels_in: int, planes: int, *, stride: int, damping: DampingConfig | None
    ) -> None:
        super().__init__()
        channels = planes * EXPANSION[kind]
        self.residual = _residual(kind, channels_in, planes, stride)
        self.shortcut = _normed_conv(channels_in, channels, 1, stride=stride) if channels != channels_in else None
        self.damping = None if damping is None else Damping(damping)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b c h w) to (b channels h/stride w/stride)."""
        change = self.residual(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        return x + change if self.damping is None else self.damping.update(x, change)


@final
class PreactResNet(nn.Module):
    """Three stages of pre-activation blocks between a bare convolution and BN-ReLU-pool-linear.

    The first block of every stage is never damped. The authors' code makes one k for each block and leaves three of
    them unread (51 of 54 are used at 110 and 164 layers); the unread ones are not made here. They would get no
    gradient, and so neither move nor count: the trained network is the same, no optimiser meets a parameter without a
    gradient, and the number of parameters is that of the network as it runs. Every k is drawn after all other weights.

    Source:
        [yang2020interpolation], the authors' code: [he2016identity]'s blocks, stem 3x3 without BN, stages of 16, 32
        and 64 planes with strides 1, 2 and 2, shortcut BN-ReLU-Conv1x1, conv weights N(0, 2 / (k^2 c_out)), no biases.
        Images under 32x32 keep stride 1 in the earlier stages, so that the last map is at least 4x4 (S5).
    """

    def __init__(
        self,
        kind: Kind,
        depth: int,
        channels_in: int,
        image_size: int,
        classes: int,
        *,
        damping: DampingConfig | None = None,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 3 * LAYERS[kind])
        if rest or blocks < 1:
            raise ValueError(f"`depth` must be {3 * LAYERS[kind]}n + 2 for {kind} blocks, but got {depth}.")
        strides = (1, *shrinking_strides(image_size, stages=2))
        self.conv = nn.Conv2d(channels_in, 16, 3, padding=1, bias=False)
        widths = (16, *(planes * EXPANSION[kind] for planes in (16, 32, 64)))
        self.stages = nn.Sequential(
            *(_stage(kind, widths[i], 16 << i, blocks=blocks, stride=strides[i], damping=damping) for i in range(3))
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)
        _init_convolutions(self)
        draw_damping(self)

    def features(self, images: Images) -> Tensor:
        """Map normalised images (b c h w) to the last map (b c h w), after the final BN and ReLU.

        There, because that is what the pooling reads, as it reads a CIFAR ResNet's last stage: the bare stream before
        it has a scale that grows with depth and that the BN divides out.
        """
        return torch.relu(self.bn(self.stages(self.conv(images))))

    def classify(self, features: Tensor) -> Logits:
        """Map the last map (b c h w) to logits (b k)."""
        return self.fc(features.mean(dim=(2, 3)))

    def forward(self, images: Images) -> Logits:
        """Map normalised images (b c h w) to logits (b k)."""
        return self.classify(self.features(images))


def build_preact(
    arch: str, channels_in: int, image_size: int, classes: int, *, damping: DampingConfig | None = None
) -> PreactResNet:
    """Return a pre-activation network by its name in `catalog.PREACT_DEPTHS` or `catalog.PREACT_RESNEXT`.

    Source:
        164 layers are bottlenecks 1x1-3x3-1x1, all other ResNets are basic. The ResNeXt is ours, since no code of
        In-ResNeXt was published: [xie2017aggregated]'s 29 layers with their 3x3 convolutions in 8 groups, on the
        narrow stream of the 164 layers (64, 128, 256), so that its 0.8 million parameters stand beside ResNet-56's.
    """
    if arch in PREACT_RESNEXT:
        kind, depth = "grouped", PREACT_RESNEXT[arch]
    else:
        kind, depth = ("bottleneck" if arch == "preact-resnet164" else "basic"), PREACT_DEPTHS[arch]
    return PreactResNet(kind, depth, channels_in, image_size, classes, damping=damping)


def _stage(
    kind: Kind, channels_in: int, planes: int, *, blocks: int, stride: int, damping: DampingConfig | None
) -> nn.Sequential:
    first = PreactBlock(kind, channels_in, planes, stride=stride, damping=None)
    channels = planes * EXPANSION[kind]
    return nn.Sequential(
        first, *(PreactBlock(kind, channels, planes, stride=1, damping=damping) for _ in range(blocks - 1))
    )


def _residual(kind: Kind, channels_in: int, planes: int, stride: int) -> nn.Sequential:
    if kind == "basic":
        return nn.Sequential(
            *_normed_conv(channels_in, planes, 3, stride=stride),
            *_normed_conv(planes, planes, 3),
        )
    channels = planes * EXPANSION[kind]
    inner, groups = (planes, 1) if kind == "bottleneck" else (channels, CARDINALITY)
    return nn.Sequential(
        *_normed_conv(channels_in, inner, 1),
        *_normed_conv(inner, inner, 3, stride=stride, groups=groups),
        *_normed_conv(inner, channels, 1),
    )


def _normed_conv(channels_in: int, channels: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(), convolution)


def _init_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            deviation = (2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels)) ** 0.5
            nn.init.normal_(module.weight, 0.0, deviation)
