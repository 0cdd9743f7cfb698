"""What the report derives from the results: who stands where, who may be headlined, who differs from whom.

Only numbers; how they are worded is left to `study.report.wording`, how they are drawn to figures and drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from study.checks.verdicts import Trust, trust
from study.fronts import non_dominated
from study.results import Results
from study.statistics import (
    Interval,
    McNemar,
    PairedDifference,
    family_level,
    holm,
    mcnemar,
    paired_difference,
    smallest_detectable_difference,
    wilson,
)
from study.survivors import Survivors, paired

HEADLINE_MARGIN = 0.10
"""A front member this far below the teacher's clean accuracy is drawn but not headlined (S27)."""
CLEAR_P = 0.05
NOT_CHECKED = trust(())
MOST_DETAILED = 12
"""Attacked students that can all be drawn with number and intervals."""


@dataclass(frozen=True)
class Rate:
    """A counted rate; never shown without its n."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """Fraction in [0, 1]; NaN without images."""
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval."""
        return wilson(self.k, self.n)


@dataclass(frozen=True)
class Mark:
    """One attacked model in the robustness plot at one epsilon."""

    model: str
    kind: str
    trial: int | None
    clean: Rate
    robust: Rate
    on_front: bool
    """Not dominated on test among the attacked students whose numbers may be believed."""
    headlined: bool
    """A student that may be believed, not more than HEADLINE_MARGIN below the teacher's clean accuracy."""
    detailed: bool = True
    """Drawn with its number and intervals; among many students only those of the front are."""
    trust: Trust = NOT_CHECKED
    """Whether its robust accuracy may be believed."""

    @property
    def is_upper_bound(self) -> bool:
        """Whether the checks call its robust accuracy unreliable: the true one may be far lower (S25)."""
        return self.trust.word == "unreliable"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images by one measure."""

    first: Survivors
    second: Survivors
    measure: str
    """robust, clean, or robust_of_both: robust on the images that both get right when clean."""
    difference: PairedDifference
    """First minus second."""
    test: McNemar
    adjusted_p: float
    """Holm-adjusted over the family it was tested in."""
    detectable: float
    """Smallest difference found four times in five at this n and this disagreement (S31), where it had to pass the
    strictest step of its family's adjustment."""

    favours_bound: bool = False
    """Whether the one that comes out more robust has an upper bound for a robust accuracy (S25)."""

    @property
    def clear(self) -> bool:
        """Whether the two can be told apart at this n; an upper bound is ahead of nothing."""
        return self.adjusted_p < CLEAR_P and not self.favours_bound


def headline_epsilon(results: Results) -> float | None:
    """Give the study's epsilon where it was attacked at, otherwise the smallest attacked one; None without attacks."""
    attacked = epsilons(results)
    own = results.study.get("epsilon")
    return next(
        (e for e in attacked if own is not None and abs(e - float(own)) < 1e-9), attacked[0] if attacked else None
    )


def epsilons(results: Results) -> list[float]:
    """List the attacked epsilons, ascending."""
    return sorted({epsilon for model in results.survivors.values() for epsilon in model.epsilons})


def marks(results: Results, epsilon: float) -> list[Mark]:
    """Place every model attacked at epsilon: students by trial, then twins, then teachers."""
    models = [results.survivors[name] for name in dict.fromkeys(results.robustness["model"])]
    models = [model for model in models if model.attacked_at(epsilon)]
    placed = [_mark(model, epsilon, results.attacked.trust_of(model.model, epsilon)) for model in models]
    students = [mark for mark in placed if mark.kind == "student"]
    points, believed = [(m.clean.value, m.robust.value) for m in students], [not m.is_upper_bound for m in students]
    front = dict(zip(students, non_dominated(points, believed), strict=True))
    floor = headline_floor(results)
    crowded = len(students) > MOST_DETAILED
    detailed = {m.trial for m in students if front[m] or not crowded}
    return [
        replace(
            m,
            on_front=bool(front.get(m, False)),
            headlined=m.kind == "student" and m.clean.value >= floor and not m.is_upper_bound,
            detailed=m.kind == "teacher" or m.trial in detailed,
        )
        for m in placed
    ]


def headline(results: Results, epsilon: float) -> Mark | None:
    """Give the student with the highest robust accuracy among those that may be headlined; None without one."""
    allowed = [mark for mark in marks(results, epsilon) if mark.headlined]
    return max(allowed, key=lambda mark: (mark.robust.value, mark.clean.value), default=None)


def teacher_clean(results: Results) -> Rate | None:
    """Give the best teacher's clean accuracy on test; None where no teacher was attacked."""
    rates = [Rate(int(m.clean_correct.sum()), m.n) for m in results.survivors.values() if m.kind == "teacher"]
    return max(rates, key=lambda rate: rate.value, default=None)


def headline_floor(results: Results) -> float:
    """Give the clean accuracy below which a student is drawn, not headlined (S27); 0 without an attacked teacher."""
    teacher = teacher_clean(results)
    return teacher.value - HEADLINE_MARGIN if teacher else 0.0


def neighbours(results: Results, epsilon: float) -> list[Comparison]:
    """Compare neighbouring members of the test front, by robust and by clean accuracy; Holm over all of them."""
    on_front = [mark for mark in marks(results, epsilon) if mark.on_front]
    ranked = [results.survivors[mark.model] for mark in sorted(on_front, key=lambda m: (-m.clean.value, m.model))]
    pairs = list(pairwise(ranked))
    return as_family([compare(a, b, epsilon, measure) for a, b in pairs for measure in ("robust", "clean")])


def compare(first: Survivors, second: Survivors, epsilon: float, measure: str) -> Comparison:
    """Test two models on the images both were scored on.

    Args:
        first: One model.
        second: The other.
        epsilon: Where robust bits are taken from.
        measure: robust, clean or robust_of_both.

    Returns:
        The comparison as a family of its own.
    """
    robust_a, robust_b, clean_a, clean_b = paired(first, second, epsilon)
    a, b = (clean_a, clean_b) if measure == "clean" else (robust_a, robust_b)
    if measure == "robust_of_both":
        a, b = a[clean_a & clean_b], b[clean_a & clean_b]
    test = mcnemar(a, b)
    found = Comparison(first, second, measure, paired_difference(a, b), test, test.p_value, detectable=1.0)
    return _with_detectable(found, 1)


def as_family(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adjust comparisons that are judged together, by Holm, and what each of them can detect."""
    adjusted = holm([comparison.test.p_value for comparison in comparisons])
    return [
        _with_detectable(replace(comparison, adjusted_p=p), len(comparisons))
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def warned(results: Results, epsilon: float, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Mark the comparisons of robust accuracy whose leader's number is an upper bound."""
    return [replace(each, favours_bound=_favours_bound(results, epsilon, each)) for each in comparisons]


def _favours_bound(results: Results, epsilon: float, found: Comparison) -> bool:
    if found.measure == "clean":
        return False
    leader = found.first if found.difference.difference > 0 else found.second
    return results.attacked.is_upper_bound(leader.model, epsilon)


def _with_detectable(comparison: Comparison, family: int) -> Comparison:
    n = comparison.difference.n
    if not n:
        return replace(comparison, detectable=1.0)
    disagreement = (comparison.test.only_first + comparison.test.only_second) / n
    level = family_level(family, 1 - CLEAR_P)
    return replace(comparison, detectable=smallest_detectable_difference(n, disagreement, level))


def is_undistilled(results: Results, trial: int | None) -> bool:
    """Tell whether a trial was trained without a teacher or with alpha 0, sampled or fixed; it has no twin."""
    if trial is None:
        return False
    distill = (results.settings(trial).get("distill") or {}) | results.params(trial)
    alpha = distill.get("alpha")
    return distill.get("method") == "none" or (alpha is not None and float(alpha) == 0)


def clean_baselines(results: Results, split: str) -> list[tuple[str, float, int | None]]:
    """Give name, accuracy and n (where known) of the baselines that are never attacked, on one split."""
    stored = results.baselines.get("classical-test" if split == "test" else "classical", {}).get("metrics") or {}
    names = {"svm": "SVM", "nearest_neighbour": "1-NN"}
    found = []
    for key, name in names.items():
        entry: dict[str, Any] = stored.get(key) or {}
        if entry.get(split) is not None:
            found.append((name, float(entry[split]), (stored.get("n") or {}).get(split)))
    return found


def _mark(model: Survivors, epsilon: float, verdict: Trust) -> Mark:
    clean, robust = int(model.clean_correct.sum()), int(model.robust(epsilon).sum())
    return Mark(
        model.model, model.kind, model.trial, Rate(clean, model.n), Rate(robust, model.n), False, False, trust=verdict
    )
