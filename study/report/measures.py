"""How measures, levels and means over seeds are named and written."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from study.comparisons import Cell
from study.designs import Design, key, records
from study.effects import Mean, Relative
from study.report.wording import PERCENT, epsilon_text, points_text, value_text

LABELS = {
    "accuracy": "accuracy",
    "robust_accuracy": "robust accuracy",
    "adversarial_accuracy": "adversarial_accuracy (val_search)",
    "noise_accuracy": "accuracy under noise",
    "nfe": "evaluations (nfe)",
    "training_seconds": "training seconds",
    "parameter_count": "parameters",
    "agreement": "agreement with the teacher (val_search)",
    "ensemble_accuracy": "accuracy of the teachers' ensemble",
    "ece": "expected calibration error (ECE)",
    "nll": "negative log-likelihood (nats)",
    "path_length": "path length",
    "growth": "relative growth",
    "teacher_agreement": "agreement, clean",
    "teacher_kl": "KL, clean (nats)",
    "agreement_attacked": "agreement, attacked",
    "kl_attacked": "KL, attacked (nats)",
    "transfer": "teacher's adversarial images that fool it",
    "reconstruction_l1": "reconstruction error (L1)",
}
RATES = frozenset(
    {"accuracy", "robust_accuracy", "adversarial_accuracy", "noise_accuracy", "agreement", "ensemble_accuracy"}
    | {"ece", "teacher_agreement", "agreement_attacked", "transfer"}
)
"""Fractions, written in per cent."""
METHOD = ("method", "distilled", "ensemble", "generations", "repeat_teacher")
"""Columns that name a method together."""
_UNDISTILLED = "labels only"


def label(of: Design, measure: str) -> str:
    """Name a measure with the split it was taken on."""
    if measure == "accuracy":
        return f"accuracy ({of.accuracy_split})"
    if measure == "robust_accuracy" and of.epsilon is not None:
        return f"robust accuracy at epsilon {epsilon_text(of.epsilon)} (test)"
    return LABELS[measure]


def measured(of: Design, names: tuple[str, ...]) -> list[str]:
    """Keep the measures that some trial has."""
    return [name for name in names if name in of.measures]


def number_text(value: float, measure: str) -> str:
    """Write one value of a measure."""
    if not isfinite(value):
        return "unknown"
    return f"{100 * value:.1f}{PERCENT}" if measure in RATES else f"{value:.4g}"


def mean_text(mean: Mean, measure: str, unit: str | None) -> str:
    """Write a mean, its t interval and its n; small print after the line break."""
    if not mean.n:
        return "not measured"
    scale, form = (100, ".1f") if measure in RATES else (1, ".4g")
    ends = f"{mean.low * scale:{form}} to {mean.high * scale:{form}}, " if mean.known else ""
    return f"{number_text(mean.value, measure)}\n{ends}{unit_text(mean.n, unit)}{'' if mean.known else ', no interval'}"


def unit_text(n: int, unit: str | None) -> str:
    """Write how many replicates stand behind a number."""
    return f"{n} {unit or 'run'}{'' if n == 1 else 's'}"


def gain_text(difference: Mean, measure: str, unit: str) -> str:
    """Write a difference: points of a per cent for rates, its interval and its n."""
    if not difference.n:
        return "no pair"
    rate = measure in RATES
    value, low, high = (points_text(v) if rate else f"{v:+.3g}" for v in (difference.value, *difference[1:3]))
    ends = f"{low} to {high}, " if difference.known else "no interval, "
    return f"{value}{' points' if rate else ''}\n{ends}{unit_text(difference.n, unit)}"


def relative_text(relative: Relative) -> str:
    """Write a relative gain in per cent with Fieller's interval."""
    if not isfinite(relative.value):
        return "unknown"
    ends = f"{points_text(relative.low)} to {points_text(relative.high)}" if isfinite(relative.low) else "no interval"
    return f"{points_text(relative.value)}{PERCENT}\n{ends}"


def detectable_text(value: float, measure: str) -> str:
    """Write the smallest detectable difference."""
    if not isfinite(value):
        return "unknown"
    return f"{100 * value:.1f} points" if measure in RATES else f"{value:.3g}"


def level_text(name: str, level: Any) -> str:
    """Write one level of a factor; None is a parameter that does not exist there."""
    at = key(level)
    if name == "distilled":
        return "distilled" if at == "true" else "not distilled"
    return f"no {name}" if at is None else f"{name} {value_text(level if isinstance(level, float) else at)}"


def cell_text(cell: Cell) -> str:
    """Name a cell by its levels; what does not exist there is left out."""
    return ", ".join(level_text(n, v) for n, v in cell.levels.items() if v is not None) or "all trials"


def method_columns(of: Design) -> tuple[str, ...]:
    """Return the columns by which methods are compared: METHOD, and every setting whose levels not all methods share.

    A mean over 40 and 120 epochs of one method is not to be held against 40 epochs of another. What exists for some
    methods only, such as the translator of features, belongs to them and is averaged.
    """
    held: dict[str, dict[str, set[Any]]] = {}
    for row in records(of.table):
        for name in of.factors:
            if name not in METHOD:
                held.setdefault(name, {}).setdefault(method_text(row), set()).add(key(row[name]))
    shared = {name: levels for name, levels in held.items() if all(at != {None} for at in levels.values())}
    return (*METHOD, *(name for name, levels in shared.items() if len({frozenset(at) for at in levels.values()}) > 1))


def method_cell_text(levels: Mapping[str, Any]) -> str:
    """Name a cell of `method_columns`: the method, then the settings that are not shared."""
    more = [level_text(name, level) for name, level in levels.items() if name not in METHOD and level is not None]
    return ", ".join([method_text(levels), *more])


def method_text(row: Mapping[str, Any]) -> str:
    """Name the method of a point as people do.

    Args:
        row: Its METHOD columns, from the table or from a cell.
    """
    method = str(row.get("method") or "none")
    if method == "none":
        return _UNDISTILLED
    if key(row.get("distilled")) == "false":
        return f"{_UNDISTILLED} (alpha 0)"
    teachers, generations = key(row.get("ensemble")), key(row.get("generations"))
    words = [method]
    if isinstance(teachers, int) and teachers > 1:
        repeated = key(row.get("repeat_teacher")) == "true"
        words.append(f"one teacher {teachers} times" if repeated else f"{teachers} teachers")
    return ", ".join([*words, *([f"{generations} generations"] if generations is not None else [])])
