"""Accuracy under noise that nobody chose to harm."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.data.corruptions import CorruptionFiles, corrupted
from nodekd.scoring import correct
from nodekd.shapes import Images, Labels

Noisy = Callable[[str, int], Images]
"""(noise, severity) -> the corrupted images (n c h w) in [0, 1]."""


@final
@dataclass(frozen=True)
class NoiseRow:
    """A network under one noise."""

    noise: str
    """A name of `nodekd.data.corruptions.NOISES`."""
    severity: int
    """1 to 5."""
    accuracy: float
    """Share of all n images classified correctly; failed solves are wrong (S14)."""
    n: int
    """Images."""
    source: Literal["own", "file"]
    """Our own noise, or the published files."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def own_noise(
    network: nn.Module,
    images: Images,
    labels: Labels,
    ids: Tensor,
    noises: Sequence[str],
    severities: Sequence[int],
    *,
    seed: int,
    batch_size: int = 512,
) -> tuple[NoiseRow, ...]:
    """Measure accuracy under our own noise, the same for every network; see `nodekd.data.corruptions.corrupted`."""

    def noisy(noise: str, severity: int) -> Images:
        return corrupted(images, ids, noise, severity, seed)

    return _table(network, noisy, labels, noises, severities, "own", batch_size)


def stored_noise(
    network: nn.Module,
    files: CorruptionFiles,
    rows: Tensor,
    labels: Labels,
    noises: Sequence[str],
    severities: Sequence[int],
    *,
    size: int,
    batch_size: int = 512,
) -> tuple[NoiseRow, ...]:
    """Measure accuracy on the published files; see `nodekd.data.corruptions.CorruptionFiles.read`."""

    def noisy(noise: str, severity: int) -> Images:
        return files.read(noise, severity, rows, labels, size)

    return _table(network, noisy, labels, noises, severities, "file", batch_size)


def _table(
    network: nn.Module,
    noisy: Noisy,
    labels: Labels,
    noises: Sequence[str],
    severities: Sequence[int],
    source: Literal["own", "file"],
    batch_size: int,
) -> tuple[NoiseRow, ...]:
    n = len(labels)
    with frozen(network):
        return tuple(
            NoiseRow(
                noise, severity, int(correct(network, noisy(noise, severity), labels, batch_size).sum()) / n, n, source
            )
            for noise in noises
            for severity in severities
        )
