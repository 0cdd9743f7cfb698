"""Picture files of any kind and size -> uint8 arrays of one shape.

Grey, colour, palette, transparent and 16-bit pictures are understood; what has no agreed range is refused rather than
guessed. Which files belong to a data set is left to `sources`.
"""

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from nodekd.errors import DataError

PIXELS = NDArray[np.uint8]

_GREY = ("1", "L", "LA", "I", "F")
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa")
_DEEP = ("I", "F")
_BACKGROUND = (255, 255, 255, 255)
_FAULTS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
_CHUNK = 256


def is_grey(path: Path) -> bool:
    """Tell from a picture's header whether it has no colour; a palette counts as colour.

    Args:
        path: A picture file.

    Raises:
        DataError: If the file is no picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.mode in _GREY or picture.mode.startswith("I;16")
    except _FAULTS as fault:
        raise _unreadable(path, fault) from fault


def read_picture(path: Path, channels: int, size: int) -> PIXELS:
    """Decode one picture and bring it to a square.

    Turned as its EXIF tag says; transparent parts lie on white; 16-bit greys are scaled down to 8 bit. The whole
    picture is squeezed into the square, nothing is cut off; shrinking averages over all pixels.

    Args:
        path: A picture file.
        channels: 1 grey, 3 colour.
        size: Side of the result in pixels.

    Returns:
        (c h w) uint8; a picture that already has this size keeps its pixels exactly.

    Raises:
        DataError: If the file is damaged or its pixels have no agreed range.
    """
    try:
        with Image.open(path) as picture:
            picture.draft(None, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size, the rest ignore it
            plain = _plain(ImageOps.exif_transpose(picture), "L" if channels == 1 else "RGB")
            small = plain.resize((size, size), Image.Resampling.BILINEAR)
    except _FAULTS as fault:
        raise _unreadable(path, fault) from fault
    return np.asarray(small, dtype=np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


def read_pictures(paths: Sequence[Path], channels: int, size: int) -> PIXELS:
    """Decode many pictures into one array, which is all the memory that grows with their number.

    Args:
        paths: Picture files.
        channels: 1 grey, 3 colour.
        size: Side of the result in pixels.

    Returns:
        (n c h w) uint8.

    Raises:
        DataError: If a file is damaged; the message names it.
    """
    pixels = np.empty((len(paths), channels, size, size), dtype=np.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + _CHUNK, len(paths))):
            pixels[i] = read_picture(paths[i], channels, size)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:  # decoding releases the interpreter lock
        for _ in threads.map(fill, range(0, len(paths), _CHUNK)):
            pass
    return pixels


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    """Return the picture with 8 bits per channel and nothing transparent."""
    if picture.mode in _DEEP or picture.mode.startswith("I;16"):
        picture = _eight_bit(picture)
    elif picture.mode in _TRANSPARENT or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, _BACKGROUND), picture)
    elif picture.mode == "P":
        picture = picture.convert("RGB")
    return picture.convert(mode)


def _eight_bit(picture: Image.Image) -> Image.Image:
    deep = np.asarray(picture)
    if picture.mode == "F" or deep.min() < 0 or deep.max() > 65535:
        raise ValueError(f"pixels of kind {picture.mode} have no agreed range, save the picture with 8 or 16 bit")
    return Image.fromarray(np.round(deep / 257).astype(np.uint8))


def _unreadable(path: Path, fault: BaseException) -> DataError:
    return DataError(
        f"{path} cannot be read as a picture ({type(fault).__name__}: {fault}); replace it, or take it out of its "
        f"folder."
    )
