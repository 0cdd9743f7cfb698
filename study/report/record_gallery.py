"""Pairs of clean and attacked images as HTML; a picture that stands in several places is stored once."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from study.records import FAILED, Record
from study.report.markup import paragraphs
from study.report.png import data_url, png
from study.report.wording import MINUS


class Pictures:
    """Pictures by their bytes; each is written into the page once and shown wherever it is needed."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._sizes: dict[bytes, tuple[int, int]] = {}

    def show(self, image: NDArray[np.floating], said: str) -> str:
        """Give the place of an image (c h w), with a sentence for those who do not see it."""
        file = png(image)
        number = self._numbers.setdefault(file, len(self._numbers))
        self._sizes[file] = (image.shape[2], image.shape[1])
        return f'<svg role="img" aria-label="{escape(said, quote=True)}"><use href="#picture-{number}"/></svg>'

    def html(self) -> str:
        """Give the pictures themselves, which are seen only where they are shown."""
        symbols = "".join(self._symbol(file, number) for file, number in self._numbers.items())
        return f'<svg class="pictures" aria-hidden="true">{symbols}</svg>'

    def _symbol(self, file: bytes, number: int) -> str:
        width, height = self._sizes[file]
        return (
            f'<symbol id="picture-{number}" viewBox="0 0 {width} {height}">'
            f'<image width="{width}" height="{height}" href="{data_url(file)}"/></symbol>'
        )


def gallery(record: Record, pictures: Pictures) -> str:
    """Show every pair of a network: clean, attacked, and what was changed, amplified."""
    factor = amplification(record)
    cells = "".join(_pair(record, place, factor, pictures) for place in range(len(record.pairs.label)))
    return paragraphs([_intro(factor)]) + f'<div class="pairs">{cells}</div>'


def amplification(record: Record) -> float:
    """Give the factor that brings the largest change of all pairs to half the range, to two digits; 0 for no change."""
    largest = float(np.abs(record.pairs.adversarial - record.pairs.clean).max(initial=0))
    if largest == 0:
        return 0.0
    exact = 0.5 / largest
    unit = 10.0 ** (math.floor(math.log10(exact)) - 1)
    return float(f"{math.floor(exact / unit * (1 + 1e-6)) * unit:.2g}")


def _intro(factor: float) -> str:
    changed = f"the change, {factor:g} times as large, around grey" if factor else "no change"
    return (
        f"From left to right: the image, the attacked image, and {changed}. Marked at the left edge: right as it is, "
        "wrong when attacked."
    )


def _pair(record: Record, place: int, factor: float, pictures: Pictures) -> str:
    pairs = record.pairs
    clean, attacked = pairs.clean[place], pairs.adversarial[place]
    shown = (
        (clean, "clean image"),
        (attacked, "attacked image"),
        (_amplified(attacked - clean, factor), "change, amplified"),
    )
    images = "".join(pictures.show(image, f"{said} {pairs.image_id[place]}") for image, said in shown)
    words = escape(_words(record, place))
    fooled = pairs.predicted[0][place] == pairs.label[place] != pairs.predicted[1][place]
    return f"<figure{' class=fooled' if fooled else ''}>{images}<figcaption>{words}</figcaption></figure>"


def _amplified(change: NDArray[np.floating], factor: float) -> NDArray[np.floating]:
    """Show a change around grey in steps of a sixteenth, which are seen as well and stored in half the bytes."""
    return np.round(16 * (0.5 + factor * change)) / 16


def _words(record: Record, place: int) -> str:
    pairs = record.pairs
    before, after = (_name(record, int(pairs.predicted[i][place])) for i in (0, 1))
    first, second = (_margin(float(pairs.margin[i][place])) for i in (0, 1))
    return (
        f"Image {pairs.image_id[place]}, class {_name(record, int(pairs.label[place]))}: taken for {before}, attacked "
        f"for {after}; margin {first} to {second}."
    )


def _name(record: Record, number: int) -> str:
    return "no answer" if number == FAILED else record.classes[number]


def _margin(value: float) -> str:
    return f"{value:.2g}".replace("-", MINUS) if math.isfinite(value) else "unknown"


def same_images(records: Sequence[Record]) -> bool:
    """Tell whether all networks are shown on the same images."""
    return len({tuple(record.pairs.image_id.tolist()) for record in records}) <= 1
