"""Noise on test images: our own, for every data set, and the stored files of CIFAR-10-C and CIFAR-100-C.

Our own is corruption-like: made after the published corruptions, but not the published images.

Corrupted images are ordinary images in [0, 1]. Networks normalise them with the training set's statistics; the
statistics of the corrupted images, which flatter every network, are never looked at.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nodekd import streams
from nodekd.data.image_files import PIXELS
from nodekd.data.sources import resized
from nodekd.errors import DataError
from nodekd.shapes import Images, Labels

SEVERITIES = (1, 2, 3, 4, 5)
"""From hardly visible to strong."""

LEVELS: Mapping[str, tuple[float, ...]] = {
    "gaussian": (0.04, 0.06, 0.08, 0.09, 0.10),
    "uniform": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot": (500.0, 250.0, 100.0, 75.0, 50.0),
    "impulse": (0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle": (0.06, 0.10, 0.12, 0.16, 0.20),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
}
"""CIFAR-10-C's constant c of each noise, by severity; uniform, which it does not have, is as wide as gaussian. What c
means stands at `corrupted`."""

NOISES = tuple(LEVELS)
"""Kinds of noise, by the word under `probes.noise`."""

DETERMINISTIC = ("blur", "contrast")
"""Kinds that draw nothing: every draw gives the same image."""

PUBLISHED: Mapping[str, str] = {
    "gaussian": "gaussian_noise",
    "shot": "shot_noise",
    "impulse": "impulse_noise",
    "speckle": "speckle_noise",
    "blur": "gaussian_blur",
    "contrast": "contrast",
}
"""Kinds that the published corruptions hold too, and what those call them; uniform is ours alone."""

FOLDERS: Mapping[str, str] = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""Data sets with published corruption files, and the folder that their archive unpacks to."""

STORED_SIZE = 32
"""Side of the stored images in pixels."""

_BLUR_REACH = 4.0
"""Standard deviations after which the blur's kernel is cut off, as in the published code."""


def corrupted(images: Images, ids: Tensor, noise: str, severity: int, seed: int, draw: int = 0) -> Images:
    """Corrupt images, each in the same way in whatever batch, order or company it comes.

        gaussian   x + c z                 z ~ N(0, 1)
        uniform    x + c z                 z ~ U(-sqrt(3), sqrt(3)), of variance 1
        shot       Poisson(c x) / c
        impulse    0 or 1 (half each) with probability c, else x
        speckle    x + c x z               z ~ N(0, 1)
        blur       x convolved with a Gaussian of standard deviation c pixels, the border repeated
        contrast   m + c (x - m)           m = mean of the channel over the image

    each per pixel and channel, then cut to [0, 1]. gaussian, uniform, impulse and speckle draw the same z, resp. the
    same pixels, at every severity; blur and contrast draw nothing.

    Args:
        images: Clean images (b c h w) in [0, 1].
        ids: (b,) number of each image in the whole data set; with seed and draw, it names the image's random stream.
        noise: A name of `NOISES`.
        severity: 1 to 5.
        seed: Root seed of all noise.
        draw: Which of several independent draws, >= 0.

    Returns:
        Images (b c h w) in [0, 1], drawn on the CPU, so equal on every device.

    Raises:
        DataError: If noise or severity is unknown, or there is not one id per image.

    Source:
        [hendrycks2019benchmarking] and the authors' code for CIFAR-10-C, with its constants. They round down to 8 bits
        and draw from one stream; we do neither. uniform is ours.
    """
    level = _level(noise, severity)
    if ids.shape != (len(images),):
        raise DataError(f"ids must be ({len(images)},), one for each image, but got {tuple(ids.shape)}.")
    rule = _RULES[noise]
    noisy = images.detach().cpu().clone()
    for row, number in enumerate(ids.tolist()):
        noisy[row] = rule(noisy[row], level, streams.generator(seed, "noise", noise, number, draw))
    return noisy.clamp_(0.0, 1.0).to(images.device)


def _gaussian(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return image + level * torch.randn(image.shape, generator=generator)


def _uniform(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return image + level * math.sqrt(3.0) * (2.0 * torch.rand(image.shape, generator=generator) - 1.0)


def _shot(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return torch.poisson(image * level, generator=generator) / level


def _impulse(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    hit = torch.rand(image.shape, generator=generator) < level
    salt = torch.rand(image.shape, generator=generator) < 0.5
    return torch.where(hit, salt.to(image.dtype), image)


def _speckle(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    return image + level * image * torch.randn(image.shape, generator=generator)


def _blur(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    del generator
    radius = int(_BLUR_REACH * level + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / level) ** 2)
    kernel = (weights / weights.sum()).to(image.dtype)
    wide = F.pad(image[:, None], (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(wide, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def _contrast(image: Tensor, level: float, generator: torch.Generator) -> Tensor:
    del generator
    mean = image.mean(dim=(1, 2), keepdim=True)
    return mean + level * (image - mean)


_RULES: Mapping[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "shot": _shot,
    "impulse": _impulse,
    "speckle": _speckle,
    "blur": _blur,
    "contrast": _contrast,
}


def _level(noise: str, severity: int) -> float:
    if noise not in LEVELS:
        raise DataError(f"noise must be one of {', '.join(NOISES)}, but got {noise!r}.")
    if severity not in SEVERITIES:
        raise DataError(f"severity must be one of 1 to 5, but got {severity}.")
    return LEVELS[noise][severity - 1]


@final
@dataclass(frozen=True, eq=False)
class CorruptionFiles:
    """Opened files of CIFAR-10-C or CIFAR-100-C; pixels stay on disk until they are read."""

    folder: Path
    """Where the files lie."""
    arrays: Mapping[str, PIXELS]
    """(5 n, 32, 32, 3) by kind of noise: n test images at severity 1, the same at severity 2, and so on."""
    labels: NDArray[np.int64]
    """(n,) class of each test image."""

    def read(self, noise: str, severity: int, rows: Tensor, labels: Labels, size: int = STORED_SIZE) -> Images:
        """Return test images under one noise.

        Args:
            noise: A kind that was opened.
            severity: 1 to 5.
            rows: (b,) positions in the official test set: `split.ids` less the number of official training images.
            labels: (b,) their classes, to be sure that the files belong to this data set.
            size: Side in pixels to which the images are brought, as the data set's are.

        Returns:
            Images (b 3 size size) in [0, 1] on the device of the labels.

        Raises:
            DataError: If a row, noise or severity is not there, or the files hold other classes.
        """
        _level(noise, severity)
        places = rows.cpu().numpy().astype(np.int64)
        self._check(noise, places, labels.cpu().numpy())
        stored = self.arrays[noise][(severity - 1) * len(self.labels) + places]
        pixels, levels = resized(np.ascontiguousarray(stored.transpose(0, 3, 1, 2)), 255, size)
        return torch.from_numpy(pixels).to(labels.device, torch.float32).div_(levels)

    def _check(self, noise: str, places: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        if noise not in self.arrays:
            raise DataError(f"noise must be one of {', '.join(self.arrays)}, which were opened, but got {noise!r}.")
        n = len(self.labels)
        outside = places[(places < 0) | (places >= n)]
        if len(outside):
            raise DataError(
                f"{self.folder} holds {n} test images at each severity, but image {outside[0]} was asked for; "
                f"use the complete files, or leave probes.corruption_root out for our own noise."
            )
        different = np.flatnonzero(self.labels[places] != labels)
        if len(different):
            at = different[0]
            raise DataError(
                f"{self.folder / 'labels.npy'} gives test image {places[at]} the class {self.labels[places[at]]}, "
                f"but the data set {labels[at]}; name the folder that belongs to this data set."
            )


def published_name(noise: str) -> str:
    """Return what the published corruptions call a kind of noise.

    Raises:
        DataError: If the kind is unknown, or ours alone.
    """
    _level(noise, 1)
    if noise not in PUBLISHED:
        raise DataError(
            f"no corruption of images was published as {noise!r}, only {', '.join(PUBLISHED)}; take it out of "
            f"probes.noise, or leave probes.corruption_root out for our own noise."
        )
    return PUBLISHED[noise]


def open_corruptions(root: Path | str, name: str, noises: Sequence[str] = tuple(PUBLISHED)) -> CorruptionFiles:
    """Open the stored corruptions of a data set and check their layout, reading labels only.

    Args:
        root: The folder with the .npy files, or the one above it, which holds `CIFAR-10-C` or `CIFAR-100-C`.
        name: Data set, a key of `FOLDERS`.
        noises: Kinds that will be read.

    Returns:
        The opened files.

    Raises:
        DataError: If the data set has no such files, or they are missing, damaged or laid out in another way.

    Source:
        [hendrycks2019benchmarking]: 5 severities of 10 000 test images in one array, and `labels.npy` beside it.
    """
    if name not in FOLDERS:
        raise DataError(
            f"stored corruptions exist for {', '.join(FOLDERS)}, but data.name is {name}; "
            f"leave probes.corruption_root out, and our own noise is used."
        )
    for noise in noises:
        published_name(noise)
    folder = _folder(Path(root).expanduser(), name, noises)
    labels = _stored_labels(folder, name, noises)
    arrays = {noise: _stored_pixels(folder / _file(noise), 5 * len(labels), name, noises) for noise in noises}
    return CorruptionFiles(folder, arrays, labels)


def _file(noise: str) -> str:
    return f"{published_name(noise)}.npy"


def _folder(root: Path, name: str, noises: Sequence[str]) -> Path:
    inner = root / FOLDERS[name]
    folder = inner if inner.is_dir() else root
    if not folder.is_dir():
        raise _wrong(folder, "is no folder", name, noises)
    return folder


def _stored_labels(folder: Path, name: str, noises: Sequence[str]) -> NDArray[np.int64]:
    path = folder / "labels.npy"
    stored = _array(path, name, noises)
    if stored.ndim != 1 or stored.dtype.kind not in "iu" or len(stored) == 0 or len(stored) % 5:
        raise _wrong(path, f"holds {stored.shape} {stored.dtype}", name, noises)
    blocks = stored.astype(np.int64).reshape(5, -1)
    if (blocks != blocks[0]).any():
        raise _wrong(path, "gives the five severities different classes", name, noises)
    return blocks[0]


def _stored_pixels(path: Path, rows: int, name: str, noises: Sequence[str]) -> PIXELS:
    stored = _array(path, name, noises)
    if stored.shape != (rows, STORED_SIZE, STORED_SIZE, 3) or stored.dtype != np.uint8:
        raise _wrong(path, f"holds {stored.shape} {stored.dtype} beside {rows} labels", name, noises)
    return stored.view(np.uint8)


def _array(path: Path, name: str, noises: Sequence[str]) -> NDArray[np.generic]:
    if not path.is_file():
        raise _wrong(path, "is missing", name, noises)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as fault:
        raise _wrong(path, f"cannot be read ({type(fault).__name__}: {fault})", name, noises) from fault


def _wrong(path: Path, what: str, name: str, noises: Sequence[str]) -> DataError:
    files = ", ".join(map(_file, noises))
    return DataError(
        f"{path} {what}, but {FOLDERS[name]} is a folder with {files}, each (50000, 32, 32, 3) uint8 (5 severities, "
        f"one after another), and labels.npy (50000,); point probes.corruption_root at the unpacked {FOLDERS[name]}, "
        f"or leave it out for our own noise."
    )
