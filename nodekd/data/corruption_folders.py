"""Corrupted pictures in ImageNet-C's layout: <root>/<corruption>/<severity>/<class>/<picture>.

They belong to an image folder of the user. A corrupted picture is found by the class and the name of the picture it
was made of, so networks are measured on the corrupted versions of the very images that they are tested on, and never
on a version of one that they were trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torchvision.datasets.folder import is_image_file

from nodekd.data.corruptions import PUBLISHED, SEVERITIES, published_name
from nodekd.data.folders import FoundFolder
from nodekd.data.image_files import read_pictures
from nodekd.errors import DataError
from nodekd.shapes import Images, Labels

LAYOUT = "<root>/<corruption>/<severity 1 to 5>/<class>/*.JPEG"


@final
@dataclass(frozen=True, eq=False)
class CorruptionFolder:
    """Corrupted versions of an image folder's pictures; none is decoded until it is read."""

    folder: Path
    """The folder that holds one folder for each corruption."""
    noises: tuple[str, ...]
    """Kinds whose folders were looked at."""
    clean: FoundFolder
    """The pictures that were corrupted."""
    _listed: dict[Path, Mapping[str, Sequence[Path]]] = field(default_factory=dict, repr=False)
    """Pictures by stem in every class folder that was read from."""

    def read(self, noise: str, severity: int, rows: Tensor, labels: Labels, size: int) -> Images:
        """Return corrupted pictures, decoded and brought to a square as the clean ones are.

        Args:
            noise: One of `noises`.
            severity: 1 to 5.
            rows: (b,) numbers of the images in the whole data set.
            labels: (b,) their classes, compared with the names of their folders.
            size: Side in pixels.

        Returns:
            (b c size size) float32 in [0, 1], on the labels' device.

        Raises:
            DataError: If a noise or severity is not there, or a picture is missing, damaged or of another class.
        """
        if noise not in self.noises:
            raise DataError(f"noise must be one of {', '.join(self.noises)}, which were opened, but got {noise!r}.")
        if severity not in SEVERITIES:
            raise DataError(f"severity must be one of 1 to 5, but got {severity}.")
        place = self.folder / published_name(noise) / str(severity)
        paths = [self._found(place, *pair) for pair in zip(rows.tolist(), labels.tolist(), strict=True)]
        pixels = torch.from_numpy(read_pictures(paths, self.clean.channels, size))
        return pixels.to(labels.device, torch.float32).div_(255)

    def _found(self, place: Path, row: int, label: int) -> Path:
        """Return the corrupted version of one picture."""
        clean = self.clean.paths[row]
        if self.clean.class_names[label] != clean.parent.name:
            raise DataError(
                f"{clean} is of class {clean.parent.name}, but image {row} was asked for as one of "
                f"{self.clean.class_names[label]}; data.root has changed since the data were loaded."
            )
        folder = place / clean.parent.name
        if folder not in self._listed:
            self._listed[folder] = _by_stem(folder)
        same = self._listed[folder].get(clean.stem, ())
        chosen = [path for path in same if path.name == clean.name] or same
        if len(chosen) != 1:
            raise DataError(
                f"{folder} holds {len(chosen)} versions of {clean.name}, but one is needed for every test picture; "
                f"name the corruptions that belong to data.root, or leave probes.corruption_root out for our own noise."
            )
        return chosen[0]


def open_corruption_folder(
    root: Path | str, clean: FoundFolder, noises: Sequence[str] = tuple(PUBLISHED)
) -> CorruptionFolder:
    """Look whether corrupted pictures are laid out as ImageNet-C, without decoding one.

    Args:
        root: The folder that holds one folder for each corruption. Class folders that `clean` does not have are
            passed over.
        clean: The image folder that was corrupted.
        noises: Kinds that will be read.

    Returns:
        The opened folder.

    Raises:
        DataError: If a kind was never published, or a folder of a kind, severity or class is missing.

    Source:
        [hendrycks2019benchmarking]: ImageNet-C, whose pictures keep the names and classes of ImageNet's validation set.
    """
    folder = Path(root).expanduser()
    for noise in noises:
        for severity in SEVERITIES:
            _check_classes(folder / published_name(noise) / str(severity), clean.class_names)
    return CorruptionFolder(folder, tuple(noises), clean)


def _check_classes(place: Path, class_names: Sequence[str]) -> None:
    missing = [name for name in class_names if not (place / name).is_dir()]
    if not missing:
        return
    what = f"has no folder {missing[0]!r} for that class of data.root" if place.is_dir() else "is missing"
    raise DataError(
        f"{place} {what}, but ImageNet-C is laid out as {LAYOUT} with the class folders of data.root; point "
        f"probes.corruption_root at the folder that holds {place.parent.name}/, or leave it out for our own noise."
    )


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_image_file(path.name):
            found.setdefault(path.stem, []).append(path)
    return found
