"""What distillation changed (S27): students less their twins, and less undistilled networks of like clean accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np

from study.report.stats import Comparison, Rate, as_family, compare, headline_floor, is_undistilled, warned
from study.results import Results
from study.survivors import Survivors, paired
from study.undistilled import KIND


@dataclass(frozen=True)
class TwinGain:
    """A student less its alpha = 0 twin, on the same images."""

    trial: int
    robust: Comparison
    clean: Comparison
    of_both: Comparison
    """Robust accuracy on the images that both classify correctly when clean."""
    rates_of_both: tuple[Rate, Rate]
    """Of student and twin on those images."""
    headlined: bool
    """Not too far below the teacher's clean accuracy."""


@dataclass(frozen=True)
class MatchedGain:
    """A student less the undistilled network whose clean accuracy is nearest to its own."""

    trial: int
    clean: Comparison | None
    """None where no undistilled network was attacked."""
    robust: Comparison | None
    """None where their clean accuracies differ by as much as their images can tell."""
    headlined: bool

    @property
    def other(self) -> Survivors | None:
        """The undistilled network that was nearest, whether or not it was near enough."""
        return self.clean.second if self.clean else None


def twin_gains(results: Results, epsilon: float) -> list[TwinGain]:
    """Compare each attacked student with its twin; Holm over the students, within each measure."""
    models = results.survivors.values()
    twins = {m.trial: m for m in models if m.kind == "twin" and m.attacked_at(epsilon)}
    pairs = [(s, twins[s.trial]) for s in _students(results, epsilon) if s.trial in twins]
    by_measure = [
        warned(results, epsilon, as_family([compare(s, t, epsilon, measure) for s, t in pairs]))
        for measure in ("robust", "clean", "robust_of_both")
    ]
    floor = headline_floor(results)
    return [
        TwinGain(s.trial or 0, robust, clean, of_both, _rates_of_both(s, t, epsilon), _clean(s) >= floor)
        for (s, t), robust, clean, of_both in zip(pairs, *by_measure, strict=True)
    ]


def matched_gains(results: Results, epsilon: float) -> list[MatchedGain]:
    """Compare each attacked distilled student with the undistilled network of the nearest clean accuracy.

    The choice looks at clean accuracy alone, on the images both were scored on; among equally near ones the student's
    own twin comes first, then names in order. The two count as alike while their clean accuracies differ by less than
    the smallest difference that their images can detect. Holm over the students that have such a counterpart.
    """
    undistilled = _undistilled(results, epsilon)
    distilled = [s for s in _students(results, epsilon) if not is_undistilled(results, s.trial)]
    clean = [_nearest(student, undistilled, epsilon) for student in distilled]
    alike = [c for c in clean if c is not None and abs(c.difference.difference) < c.detectable]
    robust = warned(results, epsilon, as_family([compare(c.first, c.second, epsilon, "robust") for c in alike]))
    by_student = {comparison.first.model: comparison for comparison in robust}
    floor = headline_floor(results)
    return [
        MatchedGain(student.trial or 0, nearest, by_student.get(student.model), _clean(student) >= floor)
        for student, nearest in zip(distilled, clean, strict=True)
    ]


def _students(results: Results, epsilon: float) -> list[Survivors]:
    found = [m for m in results.survivors.values() if m.kind == "student" and m.attacked_at(epsilon)]
    return sorted(found, key=lambda m: m.trial or 0)


def _undistilled(results: Results, epsilon: float) -> list[Survivors]:
    """List every attacked network that was trained without a teacher, whether or not it stands on a front."""
    models = {**results.survivors, **results.beside}.values()
    return [
        model
        for model in models
        if model.attacked_at(epsilon)
        and model.kind != "teacher"
        and (model.kind in ("twin", KIND) or is_undistilled(results, model.trial))
    ]


def _nearest(student: Survivors, others: Sequence[Survivors], epsilon: float) -> Comparison | None:
    gaps = [(_clean_gap(student, other, epsilon), other) for other in others]
    known = [(gap, other) for gap, other in gaps if isfinite(gap)]
    if not known:
        return None

    def order(found: tuple[float, Survivors]) -> tuple[float, bool, str]:
        gap, other = found
        return gap, (other.kind, other.trial) != ("twin", student.trial), other.model

    return compare(student, min(known, key=order)[1], epsilon, "clean")


def _clean_gap(first: Survivors, second: Survivors, epsilon: float) -> float:
    """Return how far clean accuracies lie apart, on the images both were scored on; NaN where they share none."""
    a, b = first.clean_correct, second.clean_correct
    if not np.array_equal(first.image_id, second.image_id):
        a, b = paired(first, second, epsilon)[2:]
    return abs(int(a.sum()) - int(b.sum())) / len(a) if len(a) else nan


def _rates_of_both(student: Survivors, twin: Survivors, epsilon: float) -> tuple[Rate, Rate]:
    robust_s, robust_t, clean_s, clean_t = paired(student, twin, epsilon)
    both = np.logical_and(clean_s, clean_t)
    n = int(both.sum())
    return Rate(int(robust_s[both].sum()), n), Rate(int(robust_t[both].sum()), n)


def _clean(model: Survivors) -> float:
    return Rate(int(model.clean_correct.sum()), model.n).value
