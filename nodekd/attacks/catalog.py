"""Names and numbers a person may choose from: norms, tiers, epsilons per data set. Imports no torch.

The grids follow what undefended networks of each data set survive: a grid on which every network stands at 0 or at
its clean accuracy shows nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

Norm = Literal["linf", "l2"]
NORMS: tuple[Norm, ...] = ("linf", "l2")
"""Norms of the perturbation, measured from the clean image in units of [0, 1]."""

TIERS = ("screen", "standard", "full", "adaptive")
"""How thoroughly the robustness stage attacks, cheap to dear."""


@final
@dataclass(frozen=True)
class Epsilons:
    """Radii that tell networks of one data set apart, under one norm."""

    grid: tuple[float, ...]
    """Ascending radii of a full curve."""

    headline: float
    """The radius of the search, and of the first figure."""

    standard: float
    """The radius most papers report, for comparison."""

    @property
    def stage(self) -> tuple[float, ...]:
        """Radii of the robustness stage where a study names none, ascending."""
        return tuple(sorted({self.headline, self.standard}))


def _levels(*values: float) -> tuple[float, ...]:
    return tuple(value / 255 for value in values)


_SMALL_L2 = Epsilons(grid=(0.1, 0.5), headline=0.1, standard=0.5)
_PHOTOS = Epsilons(grid=_levels(0.25, 0.5, 1, 4), headline=0.25 / 255, standard=4 / 255)

EPSILONS: Mapping[str, Mapping[Norm, Epsilons]] = {
    "digits": {
        "linf": Epsilons(grid=(1 / 64, 1 / 32, 1 / 16, 0.1, 0.15, 0.2), headline=1 / 16, standard=0.1),
        "l2": Epsilons(grid=(0.25, 0.5, 1.0), headline=0.5, standard=1.0),
    },
    "cifar10": {
        "linf": Epsilons(grid=_levels(0.25, 0.5, 1, 2, 4, 8), headline=0.5 / 255, standard=8 / 255),
        "l2": Epsilons(grid=(0.1, 0.25, 0.5), headline=0.1, standard=0.5),
    },
    "cifar100": {
        "linf": Epsilons(grid=_levels(0.1, 0.25, 0.5, 1, 2, 8), headline=0.5 / 255, standard=8 / 255),
        "l2": Epsilons(grid=(0.1, 0.25, 0.5), headline=0.1, standard=0.5),
    },
    "svhn": {
        "linf": Epsilons(grid=_levels(0.5, 1, 2, 4, 8), headline=2 / 255, standard=8 / 255),
        "l2": Epsilons(grid=(0.25, 0.5), headline=0.25, standard=0.5),
    },
    "food101": {"linf": _PHOTOS, "l2": _SMALL_L2},
    "folder": {"linf": _PHOTOS, "l2": _SMALL_L2},
}
"""Per data set and norm; every data set of `nodekd.data.catalog` has both norms."""
