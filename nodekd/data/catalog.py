"""What is known about each data set before a byte of it is read.

Free of torch and numpy, so that a search space can be checked at once. Reading the images is left to `sources`.
"""

from dataclasses import dataclass
from typing import final

FOLDER_SIZE = 64
"""Side in pixels to which pictures of any size are brought when the user names none."""

MIN_SIZE = 8
"""Smallest side that leaves an ODE state of 4x4 behind the stem (S5)."""

MAX_SIZE = 512
"""Largest side; beyond it a set no longer fits on a device as a whole."""


@final
@dataclass(frozen=True)
class DataFacts:
    """One data set, as far as it is known without reading it."""

    name: str
    """The word under `data.name`."""
    title: str
    """How people call it."""
    classes: int | None
    """Number of classes; None = as many as there are class folders."""
    channels: int | None
    """1 grey, 3 colour; None = colour as soon as one picture has colour."""
    image_size: int
    """Side in pixels, used unless the user names another."""
    official_test: bool
    """Whether a published test set exists, which then is `test` (S1); a folder may bring its own."""
    contiguous: bool
    """Whether splits are blocks in the stored order (S2) instead of stratified."""
    padding: int
    """Zero rows around an image of `image_size` before the random crop; at most an eighth of the side (S3)."""
    flip: bool
    """Whether a mirrored image keeps its meaning (S3)."""
    home: str | None
    """Where torchvision fetches it from; None = comes with scikit-learn, or from the user."""


DATASETS: dict[str, DataFacts] = {
    facts.name: facts
    for facts in (
        DataFacts("digits", "Digits", 10, 1, 8, False, True, 1, False, None),
        DataFacts(
            "cifar10", "CIFAR-10", 10, 3, 32, True, False, 4, True, "https://www.cs.toronto.edu/~kriz/cifar.html"
        ),
        DataFacts(
            "cifar100", "CIFAR-100", 100, 3, 32, True, False, 4, True, "https://www.cs.toronto.edu/~kriz/cifar.html"
        ),
        DataFacts("svhn", "SVHN", 10, 3, 32, True, False, 4, False, "http://ufldl.stanford.edu/housenumbers/"),
        DataFacts(
            "food101",
            "Food-101",
            101,
            3,
            FOLDER_SIZE,
            True,
            False,
            4,
            True,
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
        ),
        # A folder may hold letters or arrows, so it is not mirrored.
        DataFacts("folder", "Image folder", None, None, FOLDER_SIZE, False, False, 4, False, None),
    )
}
