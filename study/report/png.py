"""Small pictures as PNG bytes, with the standard library alone."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2
_FILTERS = (0, 1, 2)
"""None, the pixel to the left, the pixel above."""


def png(image: NDArray[np.floating]) -> bytes:
    """Encode an image.

    Args:
        image: (c h w); values outside [0, 1] are cut off. With three channels it is in colour, otherwise the first
            channel is shown in grey.

    Returns:
        A PNG file of 8 bits per channel, under that one of three filters that makes it smallest.
    """
    shown = image if len(image) == 3 else image[:1]
    pixels = np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _RGB if channels == 3 else _GREY, 0, 0, 0)
    data = min((zlib.compress(_filtered(pixels, kind), 9) for kind in _FILTERS), key=len)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def data_url(file: bytes) -> str:
    """Write a PNG file as an address that holds it whole."""
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"


def _filtered(pixels: NDArray[np.uint8], kind: int) -> bytes:
    """Give the rows, each behind the number of its filter: differences to a neighbour, modulo 256."""
    before = np.zeros_like(pixels)
    if kind == 1:
        before[:, 1:] = pixels[:, :-1]
    if kind == 2:
        before[1:] = pixels[:-1]
    rows = (pixels - before).reshape(len(pixels), -1)
    return np.insert(rows, 0, kind, axis=1).tobytes()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
