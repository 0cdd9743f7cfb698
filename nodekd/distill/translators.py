"""Networks that exist for a loss alone: translators of student maps, and Factor Transfer's paraphraser."""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, draw_views, take_views
from nodekd.distill.feature_signal import FeatureSignal
from nodekd.shapes import Images
from nodekd.streams import generator, seed_of

Translator = Literal["conv3x3", "conv1x1"]


def build_translator(
    kind: Translator, student_channels: int, teacher_channels: int, *, seed: int, factors: int | None = None
) -> nn.Module:
    """Build an untrained translator of student maps (b c h w) to (b factors h w).

    Args:
        kind: `conv3x3` is three 3x3 convolutions with bias, each followed by LeakyReLU(0.1), no batch norm;
            `conv1x1` is one linear 1x1 convolution.
        student_channels: Channels that come in.
        teacher_channels: Channels after the first convolution.
        seed: Seed of the initial weights; the global random state is left as it was.
        factors: Channels that go out; None = `teacher_channels`.

    Source:
        [park2020feature] Sec. 3: three 3x3 convolutions that end in the teacher's channels. Their LeakyReLU, bias and
        missing batch norm are those of [kim2018paraphrasing]'s code, whose student and teacher have equally many
        channels; here the first convolution brings the student's to the teacher's.
    """
    outgoing = teacher_channels if factors is None else factors
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "conv1x1":
            return nn.Conv2d(student_channels, outgoing, 1)
        if kind == "conv3x3":
            return _convolutions(student_channels, teacher_channels, outgoing)
    raise ValueError(f"`translator` must be conv3x3 or conv1x1, but got {kind!r}.")


def _convolutions(incoming: int, middle: int, outgoing: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((incoming, middle), (middle, outgoing), (outgoing, outgoing)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


@final
@dataclass(frozen=True)
class ParaphraserConfig:
    """How a paraphraser is trained; everything but `least_updates` as published."""

    rate: float = 0.5
    """k: factors per channel of the teacher's map."""
    epochs: int = 5
    least_updates: int = 500
    """Small sets are passed over more often, until there were as many updates: 5 epochs of CIFAR are 1955, 5 of digits
    are 35 and leave the reconstruction where it was (measured)."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"`rate > 0` must hold, but got {self.rate}.")
        if self.epochs < 1 or self.batch_size < 1:
            given = f"epochs={self.epochs}, batch_size={self.batch_size}"
            raise ValueError(f"`epochs >= 1` and `batch_size >= 1` must hold, but got {given}.")


@final
class Paraphraser(nn.Module):
    """An auto-encoder of a teacher's last map; its code is the teacher's factor.

    Source:
        [kim2018paraphrasing] and its code: three 3x3 convolutions (C -> C -> kC -> kC), three transposed ones back,
        LeakyReLU(0.1) after each, bias, no batch norm.
    """

    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        self.factors = factors = max(1, round(channels * rate))
        self.encoder = _convolutions(channels, channels, factors)
        layers: list[nn.Module] = []
        for before, after in ((factors, factors), (factors, channels), (channels, channels)):
            layers += [nn.ConvTranspose2d(before, after, 3, padding=1), nn.LeakyReLU(0.1)]
        self.decoder = nn.Sequential(*layers)

    def forward(self, maps: Tensor) -> Tensor:
        """Reconstruct maps (b c h w)."""
        return self.decoder(self.encoder(maps))


@final
class FactorTeacher:
    """A teacher whose map is read through a trained paraphraser."""

    def __init__(self, teacher: FeatureSignal, paraphraser: Paraphraser, curve: tuple[float, ...] = ()) -> None:
        self.teacher = teacher
        self.paraphraser = paraphraser.eval().requires_grad_(False)
        self.curve = curve
        """Mean L1 reconstruction error of every epoch of the paraphraser's training."""

    @torch.no_grad()
    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Tensor:
        """Return the teacher's factors (b kc h w)."""
        return self.paraphraser.encoder(self.teacher(rows, views, images))

    def channels(self, image: Images) -> tuple[int, int]:
        """Return the channels of the teacher's map, and the number of factors."""
        return self.teacher.channels(image)[0], self.paraphraser.factors


def train_paraphraser(
    teacher: FeatureSignal,
    split: Split,
    augmentation: Augmentation,
    *,
    seed: int,
    config: ParaphraserConfig | None = None,
) -> FactorTeacher:
    """Train a paraphraser on the maps of random views of the training images, before any student is trained.

    L_rec = mean |x^T - P(x^T)|

    Args:
        teacher: Source of the teacher's maps.
        split: Training images.
        augmentation: The views of this data set.
        seed: Root of streams of its own (S7).
        config: Rate, optimiser and length.

    Returns:
        The teacher, read through the paraphraser.

    Raises:
        FloatingPointError: If the paraphraser's loss left the finite numbers.

    Source:
        [kim2018paraphrasing]; L1 where the paper writes a squared L2 norm, as its code.
    """
    config = ParaphraserConfig() if config is None else config
    paraphraser, optimizer = _untrained(teacher.channels(split.images(slice(0, 1)))[0], split, config, seed)
    curve: list[float] = []
    for epoch in range(1, _epochs(len(split), config) + 1):
        order = torch.randperm(len(split), generator=generator(seed, "paraphraser order", epoch))
        views = draw_views(len(split), augmentation, generator(seed, "paraphraser views", epoch))
        total = 0.0
        for rows in order.split(config.batch_size):
            here, seen = rows.to(split.labels.device), views[rows].to(split.labels.device)
            maps = teacher(here, seen, take_views(split.images(here), seen, augmentation))
            total += _update(paraphraser, optimizer, maps) * len(rows)
        curve.append(total / len(split))
    if not math.isfinite(curve[-1]):
        raise FloatingPointError(
            f"the paraphraser's loss left the finite numbers at learning_rate={config.learning_rate}; lower it."
        )
    return FactorTeacher(teacher, paraphraser, tuple(curve))


def _epochs(images: int, config: ParaphraserConfig) -> int:
    updates = -(-images // config.batch_size)
    return max(config.epochs, -(-config.least_updates // updates))


def _update(paraphraser: Paraphraser, optimizer: torch.optim.Optimizer, maps: Tensor) -> float:
    loss = F.l1_loss(paraphraser(maps), maps)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _untrained(
    channels: int, split: Split, config: ParaphraserConfig, seed: int
) -> tuple[Paraphraser, torch.optim.Optimizer]:
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, "paraphraser"))
        paraphraser = Paraphraser(channels, config.rate).to(split.labels.device)
    optimizer = torch.optim.SGD(
        paraphraser.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    return paraphraser, optimizer
