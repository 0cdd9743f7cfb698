"""Comparisons between attacks, each alone on every image: the checks A5 to A7, A9 to A13 and S11 (S20).

A cascade cannot tell which attack is strong, as the later ones see the survivors of the earlier. On the diagnostic
subset every attack ran on every image that is classified correctly, at every epsilon, with nothing carried over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.checks.verdicts import Measured, share

Bits = NDArray[np.bool_]

ONE_STEP = "fgsm"
WHITE_BOX = ("fgsm", "pgd-20", "apgd-ce", "apgd-t", "pgd-20-margin")
"""Attacks that follow the network's own gradient as it is deployed."""


@dataclass(frozen=True)
class Diagnosis:
    """One model at one epsilon: who broke what, each alone."""

    correct: Bits
    """(n,) right without any change."""
    broken: Mapping[str, Bits]
    """(n,) per attack: right, and made wrong by it inside the ball."""

    def among(self, names: Sequence[str]) -> Bits:
        """Return the images (n,) that at least one of the named attacks broke; attacks that did not run break none."""
        ran = [self.broken[name] for name in names if name in self.broken]
        return np.logical_or.reduce(ran) if ran else np.zeros_like(self.correct)

    @property
    def n(self) -> int:
        """Images of the subset that are right, which is what every share is of."""
        return int(self.correct.sum())


def compared(here: Diagnosis, larger: Diagnosis | None = None) -> list[Measured]:
    """Measure the checks that compare attacks.

    Args:
        here: The epsilon in question.
        larger: The next larger epsilon, for A7; None at the largest.

    Returns:
        The checks whose attacks ran.
    """
    own = here.among(WHITE_BOX)
    found = [
        *_one_step(here),
        *_losses(here),
        *_only(here, own, "A9", ["sign-noise"], "random noise breaks {} images that gradients do not"),
        *_only(here, own, "A10", ["square"], "Square breaks {} images that gradients do not"),
        *_only(here, own, "A11", _named(here, "transfer-"), "stored images of others break {} that gradients do not"),
        *_only(here, own, "A13", ["straight-through"], "a finer backward pass breaks {} more images"),
        *_only(here, own, "S11", _named(here, "rescaled-"), "rescaled logits break {} more images"),
    ]
    if larger is not None:
        lost = own & ~larger.among(WHITE_BOX)
        found.append(
            share("A7", int(lost.sum()), here.n, f"{int(lost.sum())} images broken here survive a larger ball")
        )
    return found


def _named(here: Diagnosis, prefix: str) -> list[str]:
    return [name for name in here.broken if name.startswith(prefix)]


def _only(here: Diagnosis, own: Bits, identifier: str, names: Sequence[str], words: str) -> list[Measured]:
    if not any(name in here.broken for name in names):
        return []
    count = int((here.among(names) & ~own).sum())
    return [share(identifier, count, here.n, words.format(count))]


def _one_step(here: Diagnosis) -> list[Measured]:
    """A5: images that one step breaks and many steps on the same loss do not."""
    iterated = here.among(("pgd-20", "apgd-ce"))
    if ONE_STEP not in here.broken or not ({"pgd-20", "apgd-ce"} & set(here.broken)):
        return []
    count = int((here.broken[ONE_STEP] & ~iterated).sum())
    return [share("A5", count, here.n, f"one step breaks {count} images that many steps do not")]


def _losses(here: Diagnosis) -> list[Measured]:
    """A6: how much more one loss breaks than the other at equal effort."""
    if not {"pgd-20", "pgd-20-margin"} <= set(here.broken):
        return []
    first, second = here.broken["pgd-20"], here.broken["pgd-20-margin"]
    count = abs(int(first.sum()) - int(second.sum()))
    weaker = "cross-entropy" if first.sum() < second.sum() else "the margin"
    return [share("A6", count, here.n, f"PGD on {weaker} breaks {count} images fewer than on the other loss")]


@dataclass(frozen=True)
class SolverMatrix:
    """A12: images made through one solver, judged under another; the same weights everywhere."""

    solvers: tuple[str, ...]
    """The deployed one first."""
    broken: NDArray[np.bool_]
    """(s s n): broken[i, j] by attacking through solver i, judged under solver j."""
    correct: Bits
    """(s n) right under each solver without any change."""
    converged: tuple[bool, ...]
    """Which solvers are fine enough to follow the same flow."""

    def checks(self) -> list[Measured]:
        """Measure whether each column's own attack is its strongest, and whether converged solvers agree."""
        return [self._own_is_strongest(), self._spread()]

    def _own_is_strongest(self) -> Measured:
        worst, said = (0, 1), ""
        for column, name in enumerate(self.solvers):
            n, own = int(self.correct[column].sum()), int(self.broken[column, column].sum())
            for row, source in enumerate(self.solvers):
                more = int(self.broken[row, column].sum()) - own
                if n and more / n > worst[0] / worst[1]:
                    worst, said = (
                        (more, n),
                        f"attacks through {source} break {more} more images under {name} than its own",
                    )
        return share("A12", worst[0], worst[1] if said else max(int(self.correct[0].sum()), 1), said)

    def _spread(self) -> Measured:
        places = [place for place, is_fine in enumerate(self.converged) if is_fine]
        if len(places) < 2:
            return Measured("A12-spread", float("nan"))
        alive = [int((self.correct[place] & ~self.broken[place, place]).sum()) for place in places]
        n, apart = self.correct.shape[1], max(alive) - min(alive)
        return share(
            "A12-spread", apart, n, f"robust accuracy differs by {apart} of {n} images between converged solvers"
        )
