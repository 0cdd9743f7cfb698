"""Racing: candidates that are surely dominated are not measured to the end.

Every candidate's clean accuracy is known on all images; its robust bits come in parts, in an order that has nothing to
do with what the images show. After each part, a look: candidate i leaves if some j that is still racing is at least as
accurate and surely more robust. Which candidates there are, and what is done with those that leave, is left to the
stage.

The guarantee. A member of the front over all images is lost with probability at most LEVEL, over the random order,
whatever the bits are: if i is a member and j at least as accurate, j alone is right on no more images than i alone, so
among those met so far j's share is hypergeometric with a mean of at most one half, and the binomial p-value errs on the
safe side. The level is divided by the number of looks, and at each by the number of pairs (i, j) whose i still races.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

LOOKS = (100, 250, 500, 1000)
"""Images after which candidates are compared."""
LEVEL = 0.01
"""Probability, over the order of the images, that any member of the front is lost."""
LEAST_SAVED = 0.1
"""A look that could save no more than this share of the images is not taken."""


@dataclass(frozen=True)
class Beaten:
    """A candidate that leaves the race."""

    candidate: int
    by: int
    """Who is at least as accurate and more robust."""
    images: int
    """Met so far by both."""
    p_value: float
    """One-sided, exact, of this pair alone."""


def parts(images: int) -> tuple[int, ...]:
    """Return where the parts end: after each look, and at the last image.

    Args:
        images: All there are, >= 1.

    Returns:
        Ascending, the last one `images`; the looks are all but the last.
    """
    return (*(look for look in LOOKS if look < (1 - LEAST_SAVED) * images), images)


def beaten(clean: ArrayLike, robust: ArrayLike, racing: ArrayLike, looks: int, level: float = LEVEL) -> list[Beaten]:
    """Tell at one look which candidates leave.

    Args:
        clean: (m,) images that each candidate gets right without any change, out of all images; NaN for one that was
            never measured.
        robust: (m, n) right under every attack, on the images met so far; rows that do not race are not looked at.
        racing: (m,) who is still racing.
        looks: How many looks there are in all, >= 1.
        level: Of all looks together.

    Returns:
        Those that leave, the surest first. A winner may leave at the same look, if a third one beats both.

    Source:
        [mcnemar1947note], one-sided and exact; [holm1979rejective]: a candidate that has left takes its pairs out of
        the count. Pairs it would have won stay counted: that they are not tested depends on the same images.
    """
    rivals, p_values = _pairs(np.asarray(clean, float), np.asarray(robust, bool), np.asarray(racing, bool))
    family = rivals.sum(axis=1)
    counted = int(family[np.asarray(racing, bool)].sum())
    gone: dict[int, Beaten] = {}
    tested = np.argwhere(np.isfinite(p_values))
    for i, j in tested[np.argsort(p_values[tuple(tested.T)], kind="stable")]:
        if int(i) in gone:
            continue
        if p_values[i, j] * counted * looks > level:
            break
        gone[int(i)] = Beaten(int(i), int(j), np.asarray(robust).shape[1], float(p_values[i, j]))
        counted -= int(family[i])
    return list(gone.values())


def _pairs(
    clean: NDArray[np.float64], robust: NDArray[np.bool_], racing: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return who may beat whom (m, m: row is beaten by column), and the p-values of those that race; NaN elsewhere."""
    rivals = clean[None, :] >= clean[:, None]
    np.fill_diagonal(rivals, val=False)
    bits = robust.astype(np.int64)
    only_other = (1 - bits) @ bits.T  # [i, j]: images that j alone gets right
    discordant = only_other + only_other.T
    tested = rivals & racing[:, None] & racing[None, :]
    return rivals, np.where(tested, binom.sf(only_other - 1, discordant, 0.5), np.nan)


def joined(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Join the metrics of one candidate's parts to those of all its images.

    Args:
        measured: Metrics of its finished parts; each has `shard`, `shards`, `n`, `nfe` and `robust` (per epsilon its
            `survivors`), the first one also `clean` with the counts `correct` and `n` over all images.

    Returns:
        `accuracy, n, nfe, robust` as one measurement of all images has them; None while parts are missing, or have not
        all that a part has.
    """
    ordered = sorted((part for part in measured if _is_counted(part)), key=lambda part: part["shard"])
    whole = bool(ordered) and len(ordered) == ordered[0]["shards"]
    if not whole or [part["shard"] for part in ordered] != list(range(len(ordered))):
        return None
    first, n = ordered[0], sum(part["n"] for part in ordered)
    known = [part["nfe"] is not None for part in ordered]
    nfe = sum(part["nfe"] * part["n"] for part in ordered) / n if all(known) else None
    robust = []
    for entries in zip(*(part["robust"] for part in ordered), strict=False):
        survivors = sum(entry["survivors"] for entry in entries)
        at = {"epsilon": entries[0]["epsilon"], "norm": entries[0].get("norm"), "survivors": survivors, "n": n}
        robust.append(at | {"robust_accuracy": survivors / n})
    return {"accuracy": first["clean"]["correct"] / first["clean"]["n"], "n": n, "nfe": nfe, "robust": robust}


def _is_counted(part: Mapping[str, Any]) -> bool:
    """Tell whether all is there that `joined` counts on; what a stranger's folder calls a part may be anything."""
    first = {"clean"} if part.get("shard") == 0 else set[str]()
    has_all = part.keys() >= {"shard", "shards", "nfe", "robust"} | first and bool(part.get("n"))
    return has_all and all(entry.get("survivors") is not None for entry in part["robust"])
