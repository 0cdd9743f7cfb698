"""From the numbers of the checks to one word per model and epsilon, with reasons.

A number beyond its limit speaks for itself. A share of images does not (S22): it must hold at least three images, lie
beyond its limit, and be more than healthy networks show by an exact binomial test that holds after Holm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

from scipy.stats import binomtest

from study.checks.rules import LEAST_IMAGES, RULES, Rule, Verdict
from study.statistics import holm

Word = Literal["reliable", "suspect", "unreliable", "unchecked"]

ALPHA = 0.05
"""Level of the family of counted checks of one model at one epsilon."""
RATE_FLOOR = 1e-4
"""Least false-alarm rate that is assumed: none was seen is not none there are."""
_ASKED_LATER = frozenset({"A14"})
"""Counted checks of the doubted alone: judged by themselves, so that what they find cannot excuse a check before."""
_OF_THE_ATTACK = frozenset({"P2", "A1"})
"""Failures of an attack's own bookkeeping: its successes are dropped or counted, the model is not to blame."""


@dataclass(frozen=True)
class Measured:
    """One check's number for one model at one epsilon."""

    id: str
    """A key of `RULES`."""
    value: float
    """What is compared with the limits; NaN where the check does not apply."""
    count: int | None = None
    """Images that complain, for shares."""
    n: int | None = None
    """Images asked, for shares."""
    said: str = ""
    """What was seen, in words."""


@dataclass(frozen=True)
class Judged:
    """A check's number and what it means."""

    measured: Measured
    verdict: Verdict
    p_value: float
    """Holm-adjusted, of a counted check; NaN for others."""


@dataclass(frozen=True)
class Trust:
    """Whether a robust accuracy is to be believed."""

    word: Word
    reasons: tuple[str, ...]
    """A sentence per check that spoke up, failures first."""


def share(identifier: str, count: int, n: int, said: str = "") -> Measured:
    """Measure a share of images; it does not apply where no image was asked."""
    return Measured(identifier, count / n if n else nan, count, n, said)


def judge(
    measured: Sequence[Measured], false_alarms: Mapping[str, float], rules: Mapping[str, Rule] = RULES
) -> tuple[Judged, ...]:
    """Compare every number with its limits, and every share with what healthy networks show.

    Args:
        measured: The checks of one model at one epsilon.
        false_alarms: Share of images that complain in healthy networks, by check; RATE_FLOOR where not given.
        rules: By check; see `study.checks.rules.rules_for`.

    Returns:
        A verdict per check, in the order given.

    Raises:
        KeyError: If a check has no rule.
    """
    counted = [each for each in measured if rules[each.id].counted and each.n]
    p_values = {each.id: _p_value(each, false_alarms.get(each.id, 0.0)) for each in counted}
    family = [name for name in p_values if name not in _ASKED_LATER]
    adjusted = p_values | dict(zip(family, holm([p_values[name] for name in family]), strict=True))
    return tuple(_judged(each, rules[each.id], adjusted.get(each.id, nan)) for each in measured)


def _p_value(measured: Measured, rate: float) -> float:
    assert measured.count is not None, "a share has a count"
    assert measured.n is not None, "a share has an n"
    return float(binomtest(measured.count, measured.n, max(rate, RATE_FLOOR), alternative="greater").pvalue)


def _judged(measured: Measured, rule: Rule, p_value: float) -> Judged:
    verdict = rule.limit(measured.value)
    speaks = not rule.counted or ((measured.count or 0) >= LEAST_IMAGES and p_value <= ALPHA)
    return Judged(measured, verdict if speaks or verdict == "absent" else "pass", p_value)


def trust(judged: Sequence[Judged]) -> Trust:
    """Sum the checks up in one word.

    Returns:
        `unreliable` if any check fails that speaks of the model, `suspect` if any warns or an attack failed,
        `reliable` otherwise; `unchecked` where no check was measured.
    """
    if not any(each.verdict != "absent" for each in judged):
        return Trust("unchecked", ("no check was measured",))
    failed = [each for each in judged if each.verdict == "fail"]
    warned = [each for each in judged if each.verdict == "warn"]
    reasons = tuple(reason(each) for each in (*failed, *warned))
    if any(each.measured.id not in _OF_THE_ATTACK for each in failed):
        return Trust("unreliable", reasons)
    return Trust("suspect" if reasons else "reliable", reasons)


def reason(judged: Judged) -> str:
    """Say in a sentence what a check found."""
    measured, rule = judged.measured, RULES[judged.measured.id]
    seen = measured.said or (f"{measured.count} of {measured.n} images" if measured.n else f"{measured.value:.3g}")
    return f"{measured.id} ({rule.name}) {'fails' if judged.verdict == 'fail' else 'warns'}: {seen}"
