"""What a point of a scatter carries: Wilson's bars, hover text, and the lines of baselines that were never attacked."""

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from study.report.palette import INK, ORANGE, PURPLE, SKY
from study.report.stats import Rate
from study.report.wording import configuration_lines, interval_text, rate_text
from study.results import Results

_BASELINE_LINES = {"SVM": (PURPLE, "dash"), "1-NN": (SKY, "dot"), "undistilled": (ORANGE, "dashdot")}


def bars(rates: Sequence[Rate | None], colour: str) -> dict[str, Any]:
    """Draw Wilson's 95 % interval; none where n is not known."""
    above = [rate.interval.high - rate.value if rate else 0.0 for rate in rates]
    below = [rate.value - rate.interval.low if rate else 0.0 for rate in rates]
    look = {"color": colour, "thickness": 1, "width": 3}
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **look}


def rate_of(value: float, n: Any) -> Rate | None:
    """Recover the count behind a stored rate; None where it or its n was not stored."""
    return None if pd.isna(value) or pd.isna(n) or not n else Rate(round(float(value) * int(n)), int(n))


def rate_lines(name: str, rate: Rate | None, value: float) -> list[str]:
    """Write a rate with its counts, and its interval below it."""
    if rate is None:
        return [f"{name} {100 * value:.1f} % (n unknown)"]
    return [f"{name} {rate_text(rate)}", f"   95 % interval {interval_text(rate)}"]


def hover(results: Results, title: str, lines: Sequence[str], trial: int | None) -> str:
    """Write a point's title, its rates and the whole configuration of its trial, escaped."""
    own = [] if trial is None else [*configuration_lines(results, trial)]
    return "<br>".join([f"<b>{escape(title)}</b>", *map(escape, [*lines, *own])])


def clean_lines(baselines: Sequence[tuple[str, float, int | None]]) -> dict[str, list[dict[str, Any]]]:
    """Draw baselines that were never attacked as lines at their clean accuracy."""
    shapes, labels = [], []
    for place, (name, accuracy, n) in enumerate(sorted(baselines, key=lambda baseline: baseline[1])):
        colour, dash = _BASELINE_LINES[name]
        legend = f"{name}, clean only: {100 * accuracy:.1f} %" + (f" (n = {n})" if n else "")
        line = {"color": colour, "width": 2, "dash": dash}
        ends = {"x0": accuracy, "x1": accuracy, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append({"type": "line", **ends, "line": line, "name": legend, "showlegend": True, "layer": "below"})
        anchor = {"xanchor": "right" if place == 0 else "left", "yanchor": "bottom", "showarrow": False}
        anchor["yshift"] = 0 if place < 2 else 14
        labels.append({"x": accuracy, "y": 1, "yref": "paper", "text": name, "font": {"color": INK}, **anchor})
    return {"shapes": shapes, "annotations": labels}
