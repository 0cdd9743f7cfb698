"""An image folder of the user: which pictures it holds, their classes, and whether it brings a test set.

Two layouts: `<root>/<class>/*.png`, or `<root>/train/<class>/*.png` beside `<root>/test/<class>/*.png`.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import is_image_file

from nodekd.data.image_files import is_grey
from nodekd.errors import DataError

LAYOUT = "<root>/<class>/*.png, or <root>/train/<class>/*.png beside <root>/test/<class>/*.png"


@final
@dataclass(frozen=True)
class FoundFolder:
    """The pictures of a folder, those of its test folder last."""

    paths: tuple[Path, ...]
    """(n,) sorted by class and name."""
    labels: tuple[int, ...]
    """(n,) class of each picture."""
    class_names: tuple[str, ...]
    """(k,) sorted names of the class folders."""
    n_test: int
    """Number of pictures below test/, 0 without one."""
    channels: int
    """3 as soon as one picture has colour, otherwise 1."""
    fingerprint: str
    """SHA-256 over names and bytes of all files."""


@final
class _Pictures(ImageFolder):
    """torchvision's image folder without hidden files and folders, which systems leave behind."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, is_valid_file=lambda path: is_image_file(path) and not Path(path).name.startswith("."))

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = [folder.name for folder in _visible_folders(Path(directory))]
        if not names:
            raise FileNotFoundError("it holds no class folders")
        return names, {name: i for i, name in enumerate(names)}


def find_folder(root: Path) -> FoundFolder:
    """List the pictures of an image folder.

    With `train/` and `test/`, each holding class folders, `test/` is the official test set and other folders beside
    them are not read.

    Args:
        root: The image folder.

    Returns:
        Its pictures, none decoded yet.

    Raises:
        DataError: If the folder is missing, laid out in another way, or has fewer than two classes.
    """
    if not root.is_dir():
        raise DataError(
            f"There is no folder {root.absolute()}; data.root must name an image folder laid out as {LAYOUT}, so "
            f"create it or correct data.root."
        )
    parts = [_listed(part) for part in _parts(root)]
    class_names = tuple(parts[0].classes)
    if len(class_names) < 2:
        raise DataError(
            f"{root.absolute()} holds one class only ('{parts[0].classes[0]}'); two at least are needed: {LAYOUT}."
        )
    if len(parts) == 2 and parts[1].classes != parts[0].classes:
        odd = sorted(set(parts[0].classes) ^ set(parts[1].classes))
        raise DataError(
            f"{root.absolute()}: train/ and test/ must hold the same class folders, but only one of them has "
            f"{odd[0]!r}; add it to the other or take it out."
        )
    paths = tuple(Path(path) for part in parts for path, _ in part.samples)
    return FoundFolder(
        paths=paths,
        labels=tuple(label for part in parts for label in part.targets),
        class_names=class_names,
        n_test=len(parts[1]) if len(parts) == 2 else 0,
        channels=_channels(paths),
        fingerprint=_fingerprint(root, paths),
    )


def _visible_folders(folder: Path) -> list[Path]:
    hidden = (".", "__")
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(hidden))


def _holds_classes(folder: Path) -> bool:
    """Tell a split folder (it holds folders, no pictures) from a class that is called train or test."""
    return folder.is_dir() and not any(is_image_file(entry.name) for entry in folder.iterdir() if entry.is_file())


def _parts(root: Path) -> list[Path]:
    """Return the folders that hold class folders: root alone, or its train and test."""
    present = [name for name in ("train", "test") if _holds_classes(root / name)]
    if len(present) == 1:
        missing = "test" if present == ["train"] else "train"
        raise DataError(
            f"{root.absolute()} holds {present[0]}/ with class folders but no such {missing}/; expected {LAYOUT}: add "
            f"{missing}/, or point data.root at {present[0]}/ to have it cut into all four splits."
        )
    return [root / name for name in present] or [root]


def _listed(folder: Path) -> _Pictures:
    try:
        return _Pictures(folder)
    except OSError as fault:
        reason = " ".join(str(fault).split()).rstrip(".")
        raise DataError(
            f"{folder.absolute()} is not an image folder ({reason}); expected {LAYOUT}: move the pictures into one "
            f"folder per class, remove empty ones, or correct data.root."
        ) from fault


def _channels(paths: Sequence[Path]) -> int:
    return 1 if all(is_grey(path) for path in paths) else 3


def _fingerprint(root: Path, paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    with ThreadPoolExecutor(4) as threads:  # reading and hashing release the interpreter lock
        for path, content in zip(paths, threads.map(_content_hash, paths), strict=True):
            digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _content_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
