"""ResNets: the CIFAR family of He et al., and torchvision's with a stem for small images; any of them as a teacher."""

from collections.abc import Sequence
from typing import cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from nodekd.models.catalog import CIFAR_DEPTHS, TEACHERS, TORCHVISION
from nodekd.models.damping import DampingConfig
from nodekd.models.geometry import shrinking_strides
from nodekd.models.normalised import Normalise
from nodekd.models.preact import build_preact
from nodekd.shapes import Images, Logits


@final
class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (option A)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.new_channels = channels - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """Map (b c h w) to (b channels h/stride w/stride)."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1 or self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        return torch.relu(out + x)


@final
class CifarResNet(nn.Module):
    """6n + 2 layers in three stages of 16, 32 and 64 channels.

    Source:
        [he2016deep] Sec. 4.2, option A shortcuts. Images under 32x32 keep stride 1 in the earlier stages, so that the
        last map is at least 4x4 (S5).
    """

    def __init__(self, depth: int, channels_in: int, image_size: int, classes: int) -> None:
        super().__init__()
        if (depth - 2) % 6:
            raise ValueError(f"`depth` must be 6n + 2, but got {depth}.")
        strides = (1, *shrinking_strides(image_size, stages=2))
        self.conv1 = nn.Conv2d(channels_in, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        self.stages = nn.Sequential(
            *(_stage(widths[i], widths[i + 1], blocks=(depth - 2) // 6, stride=strides[i]) for i in range(len(strides)))
        )
        self.fc = nn.Linear(64, classes)
        _init_convolutions(self)

    def features(self, images: Images) -> Tensor:
        """Map normalised images (b c h w) to the last stage's map (b 64 h w)."""
        return self.stages(torch.relu(self.bn1(self.conv1(images))))

    def classify(self, features: Tensor) -> Logits:
        """Map the last map (b 64 h w) to logits (b k)."""
        return self.fc(features.mean(dim=(2, 3)))

    def forward(self, images: Images) -> Logits:
        """Map normalised images (b c h w) to logits (b k)."""
        return self.classify(self.features(images))


def build_teacher(
    arch: str, *, shape: tuple[int, int, int], classes: int, mean: Sequence[float], std: Sequence[float], seed: int
) -> nn.Sequential:
    """Build an untrained teacher: normalisation, then the network.

    Args:
        arch: A name of `catalog.TEACHERS`.
        shape: (channels, height, width) of the images.
        classes: Number of classes.
        mean: Per-channel mean of the training images.
        std: Per-channel deviation of the training images.
        seed: Seed of the initial weights; the global random state is left as it was.

    Raises:
        ValueError: If the name is unknown.
    """
    if arch not in TEACHERS:
        raise ValueError(f"`arch` must be one of {list(TEACHERS)}, but got {arch!r}.")
    channels, height, width = shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_body(arch, channels, min(height, width), classes)
    return nn.Sequential(Normalise(mean, std), network)


def build_body(
    arch: str, channels_in: int, image_size: int, classes: int, *, damping: DampingConfig | None = None
) -> nn.Module:
    """Return a ResNet of any family behind the normalisation; only pre-activation ones take a damping."""
    if arch in CIFAR_DEPTHS:
        return CifarResNet(CIFAR_DEPTHS[arch], channels_in, image_size, classes)
    if arch in TORCHVISION:
        return _torchvision(arch, channels_in, image_size, classes)
    return build_preact(arch, channels_in, image_size, classes, damping=damping)


def _stage(channels_in: int, channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _torchvision(arch: str, channels_in: int, image_size: int, classes: int) -> nn.Module:
    network = cast("torchvision_resnet.ResNet", getattr(torchvision_resnet, arch)(num_classes=classes))
    network.conv1 = nn.Conv2d(channels_in, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    stages = (network.layer2, network.layer3, network.layer4)
    for stage, stride in zip(stages, shrinking_strides(image_size, stages=3), strict=True):
        _set_stride(stage[0], stride)
    return network


def _set_stride(block: nn.Module, stride: int) -> None:
    for convolution in block.modules():
        if isinstance(convolution, nn.Conv2d) and convolution.stride == (2, 2):
            convolution.stride = (stride, stride)


def _init_convolutions(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
