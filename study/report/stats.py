"""What the report derives from the results: who stands where, who may be headlined, who differs from whom.

Only numbers; how they are worded is left to `study.report.wording`, how they are drawn to figures and drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from study.durable import read_json, read_lines
from study.errors import EnvironmentFault
from study.fronts import non_dominated
from study.results import Results
from study.statistics import (
    Interval,
    McNemar,
    PairedDifference,
    holm,
    mcnemar,
    paired_difference,
    smallest_detectable_difference,
    wilson,
)
from study.survivors import Bits, Survivors, paired

HEADLINE_MARGIN = 0.10
"""A front member this far below the teacher's clean accuracy is drawn but not headlined (S27)."""
CLEAR_P = 0.05
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
    """Not dominated on test among the attacked students."""
    headlined: bool
    """A student that is not more than HEADLINE_MARGIN below the teacher's clean accuracy."""
    detailed: bool = True
    """Drawn with its number and intervals; among many students only those of the front are."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images by one measure."""

    first: Survivors
    second: Survivors
    measure: str
    """robust or clean."""
    difference: PairedDifference
    """First minus second."""
    test: McNemar
    adjusted_p: float
    """Holm-adjusted over the family it was tested in."""
    detectable: float
    """Smallest difference found four times in five at this n and this disagreement (S31)."""

    @property
    def clear(self) -> bool:
        """Whether the two can be told apart at this n."""
        return self.adjusted_p < CLEAR_P


@dataclass(frozen=True)
class TwinGain:
    """What distillation changed: a student less its alpha = 0 twin, on the same images."""

    trial: int
    robust: Comparison
    clean: Comparison
    of_both: tuple[Rate, Rate]
    """Robust accuracy of student and twin on the images both classify correctly when clean (S27)."""
    of_both_p: float


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
    placed = [_mark(model, epsilon) for model in models]
    students = [mark for mark in placed if mark.kind == "student"]
    front = dict(zip(students, non_dominated([(m.clean.value, m.robust.value) for m in students]), strict=True))
    floor = _headline_floor(results)
    crowded = len(students) > MOST_DETAILED
    detailed = {m.trial for m in students if front[m] or not crowded}
    return [
        replace(
            m,
            on_front=bool(front.get(m, False)),
            headlined=m.kind == "student" and m.clean.value >= floor,
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


def neighbours(results: Results, epsilon: float) -> list[Comparison]:
    """Compare neighbouring members of the test front, by robust and by clean accuracy; Holm over all of them."""
    on_front = [mark for mark in marks(results, epsilon) if mark.on_front]
    ranked = [results.survivors[mark.model] for mark in sorted(on_front, key=lambda m: (-m.clean.value, m.model))]
    pairs = list(pairwise(ranked))
    return _adjusted([compare(a, b, epsilon, measure) for a, b in pairs for measure in ("robust", "clean")])


def twin_gains(results: Results, epsilon: float) -> list[TwinGain]:
    """Compare each attacked student with its twin; Holm over the students."""
    models = results.survivors.values()
    twins = {m.trial: m for m in models if m.kind == "twin" and m.attacked_at(epsilon)}
    students = [m for m in models if m.kind == "student" and m.attacked_at(epsilon) and m.trial in twins]
    pairs = [(s, twins[s.trial]) for s in sorted(students, key=lambda m: m.trial or 0)]
    robust = _adjusted([compare(s, t, epsilon, "robust") for s, t in pairs])
    clean = _adjusted([compare(s, t, epsilon, "clean") for s, t in pairs])
    gains = []
    for (student, twin), by_robust, by_clean in zip(pairs, robust, clean, strict=True):
        rates, p = _of_both(student, twin, epsilon)
        gains.append(TwinGain(student.trial or 0, by_robust, by_clean, rates, p))
    return gains


def compare(first: Survivors, second: Survivors, epsilon: float, measure: str) -> Comparison:
    """Test two models on the images both were scored on.

    Args:
        first: One model.
        second: The other.
        epsilon: Where robust bits are taken from.
        measure: robust or clean.

    Returns:
        The comparison as a family of its own.
    """
    robust_a, robust_b, clean_a, clean_b = paired(first, second, epsilon)
    a, b = (robust_a, robust_b) if measure == "robust" else (clean_a, clean_b)
    test = mcnemar(a, b)
    n = len(a)
    detectable = smallest_detectable_difference(n, (test.only_first + test.only_second) / n) if n else 1.0
    return Comparison(first, second, measure, paired_difference(a, b), test, test.p_value, detectable)


def is_undistilled(results: Results, trial: int | None) -> bool:
    """Tell whether a trial was trained with alpha 0, sampled or fixed; such a student has no twin."""
    if trial is None:
        return False
    fixed = (results.settings(trial).get("distill") or {}).get("alpha")
    alpha = results.params(trial).get("alpha", fixed)
    return alpha is not None and float(alpha) == 0


def reads_of_test(results: Results) -> tuple[int, int, int]:
    """Count who has read this test set (S29): accesses by this study, by all studies beside it, and those studies."""
    own = sum(event.get("type") == "test_access" for event in results.events)
    total, studies = own, int(own > 0)
    for other in sorted(results.path.resolve().parent.glob("*/study.json")):
        if other.parent != results.path.resolve() and _split_hash(other) == results.study.get("split_hash"):
            reads = sum(e.get("type") == "test_access" for e in read_lines(other.parent / "events.jsonl"))
            total, studies = total + reads, studies + int(reads > 0)
    return own, total, studies


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


def _mark(model: Survivors, epsilon: float) -> Mark:
    clean, robust = int(model.clean_correct.sum()), int(model.robust(epsilon).sum())
    return Mark(model.model, model.kind, model.trial, Rate(clean, model.n), Rate(robust, model.n), False, False)


def _headline_floor(results: Results) -> float:
    teacher = teacher_clean(results)
    return teacher.value - HEADLINE_MARGIN if teacher else 0.0


def _of_both(student: Survivors, twin: Survivors, epsilon: float) -> tuple[tuple[Rate, Rate], float]:
    robust_s, robust_t, clean_s, clean_t = paired(student, twin, epsilon)
    both: Bits = np.logical_and(clean_s, clean_t)
    n = int(both.sum())
    rates = Rate(int(robust_s[both].sum()), n), Rate(int(robust_t[both].sum()), n)
    return rates, mcnemar(robust_s[both], robust_t[both]).p_value


def _adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    adjusted = holm([comparison.test.p_value for comparison in comparisons])
    return [replace(c, adjusted_p=p) for c, p in zip(comparisons, adjusted, strict=True)]


def _split_hash(study_file: Path) -> str | None:
    try:
        return (read_json(study_file) or {}).get("split_hash")
    except EnvironmentFault:
        return None
