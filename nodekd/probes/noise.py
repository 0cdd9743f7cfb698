"""Accuracy under noise that nobody chose to harm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.data.corruption_folders import CorruptionFolder
from nodekd.data.corruptions import DETERMINISTIC, CorruptionFiles, corrupted
from nodekd.scoring import correct
from nodekd.shapes import Images, Labels

Noisy = Callable[[str, int, int], Images]
"""(noise, severity, draw) -> the corrupted images (n c h w) in [0, 1]."""


@final
@dataclass(frozen=True)
class NoiseRow:
    """A network under one noise, drawn several times for every image."""

    noise: str
    """A name of `nodekd.data.corruptions.NOISES`."""
    severity: int
    """1 to 5."""
    correct: tuple[int, ...]
    """Images classified correctly under each draw, out of n; failed solves are wrong (S14)."""
    always_correct: int
    """Images classified correctly under every draw: what is left in the worst of them, image by image."""
    n: int
    """Images."""
    source: Literal["own", "file"]
    """Our own noise, or the published files."""

    @property
    def draws(self) -> int:
        """Draws for every image: 1 for published files and for what draws nothing (blur, contrast)."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of the images classified correctly in [0, 1], mean over the draws."""
        return sum(self.correct) / (self.n * self.draws)

    @property
    def worst_accuracy(self) -> float:
        """Share of the images classified correctly under every draw, in [0, 1]; at most the accuracy of any draw."""
        return self.always_correct / self.n

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "noise": self.noise,
            "severity": self.severity,
            "accuracy": self.accuracy,
            "worst_accuracy": self.worst_accuracy,
            "correct": list(self.correct),
            "always_correct": self.always_correct,
            "draws": self.draws,
            "n": self.n,
            "source": self.source,
        }


def own_noise(
    network: nn.Module,
    images: Images,
    labels: Labels,
    ids: Tensor,
    noises: Sequence[str],
    severities: Sequence[int],
    *,
    seed: int,
    draws: int = 1,
    batch_size: int = 512,
) -> tuple[NoiseRow, ...]:
    """Measure accuracy under our own noise, the same for every network; see `nodekd.data.corruptions.corrupted`.

    Args:
        network: Any network; left exactly as it was, like the global random state.
        images: Clean images (n c h w) in [0, 1], at least one.
        labels: True classes (n,).
        ids: (n,) numbers of the images in the whole data set.
        noises: Names of `nodekd.data.corruptions.NOISES`.
        severities: Each 1 to 5.
        seed: Root seed of all noise.
        draws: Draws for every image, >= 1; blur and contrast, which draw nothing, are measured once.
        batch_size: Images in one forward.

    Returns:
        A row for each noise and severity, in the order given.

    Raises:
        ValueError: If there is no image, or draws < 1.
        DataError: If a noise or severity is unknown.
    """
    if draws < 1:
        raise ValueError(f"`draws >= 1` must hold, but got draws={draws}.")

    def noisy(noise: str, severity: int, draw: int) -> Images:
        return corrupted(images, ids, noise, severity, seed, draw)

    times = {noise: 1 if noise in DETERMINISTIC else draws for noise in noises}
    return _table(network, noisy, labels, times, severities, "own", batch_size)


def stored_noise(
    network: nn.Module,
    files: CorruptionFiles | CorruptionFolder,
    rows: Tensor,
    labels: Labels,
    noises: Sequence[str],
    severities: Sequence[int],
    *,
    size: int,
    batch_size: int = 512,
) -> tuple[NoiseRow, ...]:
    """Measure accuracy on published corruptions, which hold each image once.

    Args:
        network: Any network; left exactly as it was, like the global random state.
        files: Opened corruptions.
        rows: (n,) which images, as the `read` of the files counts them; at least one.
        labels: True classes (n,).
        noises: Kinds that were opened.
        severities: Each 1 to 5.
        size: Side of the images in pixels.
        batch_size: Images in one forward.

    Returns:
        A row for each noise and severity, in the order given.

    Raises:
        ValueError: If there is no image.
        DataError: If an image is not there, or the files hold other classes.
    """

    def noisy(noise: str, severity: int, draw: int) -> Images:
        del draw
        return files.read(noise, severity, rows, labels, size)

    return _table(network, noisy, labels, dict.fromkeys(noises, 1), severities, "file", batch_size)


def _table(
    network: nn.Module,
    noisy: Noisy,
    labels: Labels,
    times: dict[str, int],
    severities: Sequence[int],
    source: Literal["own", "file"],
    batch_size: int,
) -> tuple[NoiseRow, ...]:
    if len(labels) == 0:
        raise ValueError("at least one image is needed, but got 0 images.")

    def right(noise: str, severity: int, draw: int) -> Tensor:
        return correct(network, noisy(noise, severity, draw), labels, batch_size)

    def row(noise: str, severity: int) -> NoiseRow:
        bits = torch.stack([right(noise, severity, draw) for draw in range(times[noise])])
        counts = tuple(int(count) for count in bits.sum(dim=1))
        return NoiseRow(noise, severity, counts, int(bits.all(dim=0).sum()), len(labels), source)

    with frozen(network):
        return tuple(row(noise, severity) for noise in times for severity in severities)
