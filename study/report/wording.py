"""How the report says its numbers: units, intervals, sentences. No rate is printed without its n.

Every text here is plain; escaping for HTML is the page's business.
"""

import textwrap
from fractions import Fraction
from typing import Any

from study.report.stats import (
    Comparison,
    Mark,
    Rate,
    headline,
    headline_epsilon,
    is_undistilled,
    neighbours,
    teacher_clean,
)
from study.report.trust_wording import verdict_sentence
from study.report.twins import TwinGain, matched_gains, twin_gains
from study.results import Results
from study.survivors import Survivors
from study.undistilled import KIND, number_of

_NO_TWINS = (
    "the space trains no twins (robustness.twins: false), so what distillation changes is read from its "
    "own undistilled students, under Design"
)
_IN_TABLES = "they stand in the tables, not in a headline"
PERCENT = "\u00a0%"
MINUS = "\u2212"
INCOMPLETE = {
    "running": "INCOMPLETE: the study is still running; this page shows what was on disk when it was written.",
    "interrupted": "INCOMPLETE: the study was interrupted; the same launch command continues it.",
    "incomplete": "INCOMPLETE: the last launch ended, but left stages out, or jobs that crashed; the launch command "
    "without --stage goes on.",
}


def epsilon_text(epsilon: float) -> str:
    """Write an epsilon as people do: 0.1, 1/16, 8/255."""
    decimal = f"{epsilon:g}"
    if len(decimal) <= 4:
        return decimal
    for denominator in (16, 32, 64, 128, 255, 510, 1020):
        numerator = epsilon * denominator
        if abs(numerator - round(numerator)) < 1e-9 * denominator and round(numerator):
            unreduced = f"{round(numerator)}/{denominator}"
            return unreduced if denominator == 255 else str(Fraction(round(numerator), denominator))
    return decimal


def norm_text(norm: str) -> str:
    """Write a norm's name."""
    return {"linf": "L-inf", "l2": "L2"}.get(norm, norm)


def rate_text(rate: Rate) -> str:
    """Write a rate with its counts."""
    return f"{100 * rate.value:.1f}{PERCENT} ({rate.k} of {rate.n})" if rate.n else "unknown (0 images)"


def interval_text(rate: Rate) -> str:
    """Write the ends of a rate's interval in per cent."""
    low, high = rate.interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def p_text(p: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def points_text(difference: float) -> str:
    """Write a difference of rates in points of a per cent, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def value_text(value: Any) -> str:
    """Write a parameter's value: floats with four significant digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def params_text(params: dict[str, Any], separator: str = ", ") -> str:
    """Write a sampled point."""
    return separator.join(f"{name} {value_text(value)}" for name, value in params.items())


def configuration_lines(results: Results, trial: int) -> list[str]:
    """Write the whole configuration of a trial: the sampled point first, then the rest of its settings by section."""
    point = results.params(trial)
    lines = [f"{name} {value_text(value)}" for name, value in point.items()]
    for section, entries in results.settings(trial).items():
        rest = {k: v for k, v in entries.items() if k not in point} if isinstance(entries, dict) else None
        text = f"{section} {value_text(entries)}" if rest is None else f"{section}: {params_text(rest)}" if rest else ""
        lines += textwrap.wrap(text, 56, subsequent_indent="   ")
    return lines


def model_text(model: Survivors | Mark) -> str:
    """Name a model as the page does."""
    if model.kind == KIND:
        return f"undistilled network {number_of(model.model)}"
    return model.kind if model.trial is None else f"{model.kind} {model.trial}"


def difference_text(comparison: Comparison) -> str:
    """Write a paired difference, its interval and its test."""
    d = comparison.difference
    ends = f"{points_text(d.low)} to {points_text(d.high)}"
    return f"{points_text(d.difference)} points (paired 95 % {ends}; McNemar {p_text(comparison.test.p_value)})"


def finding(results: Results) -> str:
    """Say what was found, in the first sentence of the page; honest about what is missing."""
    epsilon = headline_epsilon(results)
    if epsilon is not None:
        best = headline(results, epsilon)
        return _robust_finding(results, epsilon, best) if best else _nobody_headlined(results, epsilon)
    if len(results.front):
        return _front_finding(results)
    complete = int((results.trials["state"] == "COMPLETE").sum())
    if complete:
        on_front = int(results.trials["on_front"].sum())
        return (
            f"The search has finished {_count(complete, 'trial')}, {on_front} of them on its front; nothing has been "
            "measured on val_front or attacked on test yet, so nothing can be said about robustness."
        )
    return "No trial has finished yet, so there is nothing to report."


def neighbours_text(results: Results, epsilon: float) -> str:
    """Say whether neighbouring points of the test front can be told apart at this n."""
    found = neighbours(results, epsilon)
    at = f"At epsilon {epsilon_text(epsilon)}"
    if not found:
        return f"{at} fewer than two attacked students are on the test front: there are no neighbours to compare."
    robust = [c for c in found if c.measure == "robust"]
    clean = [c for c in found if c.measure == "clean"]
    told = [sum(c.clear for c in family) for family in (robust, clean)]
    n = robust[0].difference.n
    least = [f"{100 * max(c.detectable for c in family):.1f}" for family in (robust, clean)]
    return (
        f"{at}, {told[0]} of {len(robust)} neighbouring pairs on the test front are distinguishable by robust accuracy "
        f"and {told[1]} of {len(clean)} by clean accuracy (exact McNemar test on the same {n} images, Holm-adjusted "
        f"over {len(found)} tests). The smallest difference that this n would find four times in five is {least[0]} "
        f"points of robust and {least[1]} of clean accuracy, for the pairs that disagree most. Where neighbours are "
        "not distinguishable, their order on the front may be chance."
    )


def twins_text(results: Results, epsilon: float) -> str:
    """Say what distillation changed, over all students with a twin."""
    gains = twin_gains(results, epsilon)
    at = f"At epsilon {epsilon_text(epsilon)}"
    if not gains and not _asks_for_twins(results):
        return f"{at} nothing is compared with a twin: {_NO_TWINS}."
    if not gains:
        return f"{at} no attacked student has an attacked twin, so the effect of distillation cannot be told."
    shown = [g for g in gains if g.headlined]
    if not shown:
        return (
            f"{at} every student with a twin is more than 10 points below the teacher's clean accuracy: {_IN_TABLES}."
        )
    better = sum(g.robust.clear and g.robust.difference.difference > 0 for g in shown)
    worse = sum(g.robust.clear and g.robust.difference.difference < 0 for g in shown)
    detectable = max(g.robust.detectable for g in shown)
    paired_up = f"{_count(len(shown), 'student')} with a twin (same network and training, alpha = 0)"
    far = "" if len(shown) == len(gains) else f" {len(gains) - len(shown)} far below the teacher: {_IN_TABLES}."
    return (
        f"{at}, of {paired_up}, {better} are clearly more robust than it, {worse} clearly less, and "
        f"{len(shown) - better - worse} cannot be told apart (exact McNemar, Holm-adjusted; "
        f"n = {shown[0].robust.difference.n}, smallest detectable difference up to {100 * detectable:.1f} points).{far}"
    )


def alike_text(results: Results, epsilon: float) -> str:
    """Say what distillation changed at like clean accuracy, over all headlined students; empty without any."""
    gains = [gain for gain in matched_gains(results, epsilon) if gain.headlined]
    if not gains:
        return ""
    found = [gain.robust for gain in gains if gain.robust is not None]
    none = len(gains) - len(found)
    without = f" For {none} of {len(gains)} there is no undistilled network of like accuracy." if none else ""
    if not found:
        return f"At epsilon {epsilon_text(epsilon)}, at like clean accuracy, nothing can be compared.{without}"
    better = sum(c.clear and c.difference.difference > 0 for c in found)
    worse = sum(c.clear and c.difference.difference < 0 for c in found)
    least = 100 * max(c.detectable for c in found)
    return (
        f"At epsilon {epsilon_text(epsilon)}, of {_count(len(found), 'student')} beside the undistilled network of "
        f"nearest clean accuracy, {better} are clearly more robust than it, {worse} clearly less, and "
        f"{len(found) - better - worse} cannot be told apart (smallest detectable difference up to {least:.1f} "
        f"points).{without}"
    )


def headline_rule_text(results: Results) -> str:
    """Say which students are drawn without being headlined."""
    teacher = teacher_clean(results)
    if teacher is None:
        return "No teacher was attacked, so no student is ruled out of the headline."
    return (
        f"Students more than 10 points below the teacher's clean accuracy of {rate_text(teacher)} are drawn hollow and "
        "not headlined: an inaccurate network is easily robust."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _robust_finding(results: Results, epsilon: float, best: Mark) -> str:
    attacked = sum(model.kind == "student" for model in results.survivors.values())
    bounds = _upper_bounds(results, epsilon)
    doubt = f" ({bounds} left out as unreliable)" if bounds else ""
    what = f"Of {_count(attacked, 'attacked student')}{doubt}, {model_text(best)} keeps the highest robust accuracy"
    numbers = (
        f"{rate_text(best.robust)} of the test images at epsilon {epsilon_text(epsilon)} (95 % interval "
        f"{interval_text(best.robust)}{PERCENT}), with {rate_text(best.clean)} clean accuracy"
    )
    gain = next((g for g in twin_gains(results, epsilon) if g.trial == best.trial), None)
    clause = _gain_clause(results, gain, is_undistilled(results, best.trial))
    return f"{what}: {numbers}; {clause}. {verdict_sentence(best.trust)}."


def _upper_bounds(results: Results, epsilon: float) -> int:
    """Count the students whose numbers the checks do not believe."""
    students = [model.model for model in results.survivors.values() if model.kind == "student"]
    return sum(results.attacked.is_upper_bound(name, epsilon) for name in students)


def _asks_for_twins(results: Results) -> bool:
    robustness = (results.study.get("space") or {}).get("robustness") or {}
    return robustness.get("twins") is not False


def _gain_clause(results: Results, gain: TwinGain | None, undistilled: bool) -> str:
    if undistilled:
        return "it was trained without distillation (alpha 0)"
    if gain is None and not _asks_for_twins(results):
        return _NO_TWINS
    if gain is None:
        return "it has no attacked twin, so this says nothing about distillation"
    verdict = "a clear difference" if gain.robust.clear else "not distinguishable from none"
    size = f"(detectable: {100 * gain.robust.detectable:.1f} points)"
    n = gain.robust.difference.n
    return f"against its undistilled twin that is {difference_text(gain.robust)}, {verdict} at n = {n} {size}"


def _nobody_headlined(results: Results, epsilon: float) -> str:
    if not any(model.kind == "student" for model in results.survivors.values()):
        return "No student has been attacked on test yet, so nothing can be said about the robustness of students."
    bounds = _upper_bounds(results, epsilon)
    doubt = f", or an upper bound by the checks ({bounds} of them)" if bounds else ""
    return (
        f"Every attacked student is more than 10 points below its teacher's clean accuracy{doubt}; none is worth a "
        "headline."
    )


def _front_finding(results: Results) -> str:
    area = results.hypervolume() or 0.0
    size = int(results.front["on_front"].sum())
    return (
        f"{_count(len(results.front), 'candidate')} measured on val_front, {size} of them on the front there "
        f"(hypervolume {area:.4f}); none has been attacked on test yet, so there is no robust accuracy to report."
    )


def tau_text(tau: float) -> str:
    """Write a rank correlation."""
    return f"{tau:.2f}".replace("-", MINUS)
