"""Optimism of the choice: what the attacked students showed on val_front, where they were chosen, less test."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from study.frames import rows_of
from study.report.stats import Rate
from study.results import Results
from study.statistics import Difference, detectable_by, independent_difference, mean_of_differences
from study.survivors import Survivors

MEASURES = ("clean", "robust")


@dataclass(frozen=True)
class Optimism:
    """One student and measure on both splits, which share no image."""

    trial: int
    measure: str
    """clean or robust."""
    epsilon: float | None
    """Of robust accuracy."""
    val_front: Rate
    test: Rate

    @property
    def difference(self) -> Difference:
        """val_front less test, with its 95 % interval: above 0 the choice was lucky."""
        return independent_difference(self.val_front.k, self.val_front.n, self.test.k, self.test.n)

    @property
    def detectable(self) -> float:
        """Smallest difference found four times in five (S31)."""
        return detectable_by(*self.difference[1:])


@dataclass(frozen=True)
class MeanOptimism:
    """Over all attacked students."""

    measure: str
    students: int
    difference: Difference
    """Its interval is as wide as if all students erred on the same images, which they share."""

    @property
    def detectable(self) -> float:
        """Smallest difference found four times in five (S31)."""
        return detectable_by(*self.difference[1:])


def optimism(results: Results) -> list[Optimism]:
    """Compare each attacked student's val_front with its test, clean and, where both were attacked alike, robust.

    Attacked alike is the same epsilon under the same norm. The attacks on test are at least those of val_front, so a
    part of a robust difference may be theirs.
    """
    found: list[Optimism] = []
    for row in rows_of(results.front[results.front["attacked"]]):
        model = results.survivors.get(f"student-{int(row['trial']):06d}")
        if model is None or not model.n or None in (row["accuracy"], row["n"]):
            continue
        clean = Rate(round(row["accuracy"] * row["n"]), int(row["n"]))
        found.append(Optimism(int(row["trial"]), "clean", None, clean, Rate(int(model.clean_correct.sum()), model.n)))
        epsilon = _epsilon_of_both(results, row, model)
        if epsilon is not None:
            robust = Rate(int(row["survivors"]), int(row["n_adversarial"]))
            on_test = Rate(int(model.robust(epsilon).sum()), model.n)
            found.append(Optimism(int(row["trial"]), "robust", epsilon, robust, on_test))
    return found


def mean_optimism(found: Sequence[Optimism]) -> list[MeanOptimism]:
    """Average over students, within each measure; only those measured on as many images as most, if they differ."""
    means = []
    for measure in MEASURES:
        own = [each for each in found if each.measure == measure]
        sizes = [(each.val_front.n, each.test.n) for each in own]
        if own:
            n1, n2 = max(sizes, key=sizes.count)
            kept = [each for each, size in zip(own, sizes, strict=True) if size == (n1, n2)]
            k1, k2 = [each.val_front.k for each in kept], [each.test.k for each in kept]
            means.append(MeanOptimism(measure, len(kept), mean_of_differences(k1, n1, k2, n2)))
    return means


def _epsilon_of_both(results: Results, row: dict[str, Any], model: Survivors) -> float | None:
    if row["survivors"] is None or results.study.get("norm", model.norm) != model.norm:
        return None
    return next((own for own in model.epsilons if isclose(own, row["epsilon"], rel_tol=1e-9)), None)
