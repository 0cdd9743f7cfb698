"""What all figures share: layout, axes, markers and traces with intervals, as the plain data that plotly reads."""

from collections.abc import Sequence
from html import escape
from math import isfinite
from typing import Any

from study.effects import Mean
from study.report.palette import FAINT, GRID, INK, PAPER

CLEAR = "rgba(0,0,0,0)"
Trace = dict[str, Any]


def layout(height: int, **parts: Any) -> dict[str, Any]:
    """Give what all figures share; height in pixels."""
    return {
        "template": "none",
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": INK, "family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 72, "r": 16, "t": 68, "b": 56},
        "legend": {"orientation": "h", "y": 1.1, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": FAINT, "font": {"color": INK}, "align": "left"},
        "hovermode": "closest",
        "modebar": {"bgcolor": CLEAR, "color": FAINT, "activecolor": INK},  # its own ground would hide a long legend
        "uirevision": "constant",
        "height": height,
        **parts,
    }


def axis(title: str, percent: bool = True) -> dict[str, Any]:
    """Give an axis."""
    look = {"gridcolor": GRID, "linecolor": FAINT, "tickcolor": FAINT, "zeroline": False, "ticks": "outside"}
    named = {"title": {"text": title, "standoff": 10}} if title else {}
    return {**look, **named, "automargin": True, **({"tickformat": ".1~%"} if percent else {})}


def marker(colour: str, symbol: str, size: int, outline: str = INK) -> dict[str, Any]:
    """Give a marker with an outline."""
    return {"color": colour, "symbol": symbol, "size": size, "line": {"color": outline, "width": 1}}


def rounded(value: Any) -> Any:
    """Keep five significant digits, and None for what is not finite: JSON has no word for it."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if isfinite(value) else None
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


def panels(titles: Sequence[str], x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    """Lay panels side by side that share their vertical axis.

    Args:
        titles: One per panel, written above it.
        x: Axis of every panel, as of `axis`.
        y: The shared axis; only the first panel shows it.

    Returns:
        Parts of a layout: axes x, x2, ..., y, y2, ..., and the titles as annotations.
    """
    gap = 0.04
    width = (1 - gap * (len(titles) - 1)) / len(titles)
    parts: dict[str, Any] = {"annotations": []}
    for place, title in enumerate(titles):
        number, left = "" if place == 0 else str(place + 1), place * (width + gap)
        right = min(1.0, left + width)
        parts[f"xaxis{number}"] = x | {"domain": [left, right], "anchor": f"y{number}"}
        rest = {"matches": "y", "showticklabels": False, "title": {"text": ""}} if place else {}
        parts[f"yaxis{number}"] = y | {"anchor": f"x{number}"} | rest
        at = {"x": (left + right) / 2, "y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom"}
        parts["annotations"].append(at | {"text": title, "showarrow": False, "font": {"color": INK}})
    return parts


def interval_trace(
    name: str, x: Sequence[Any], means: Sequence[Mean], look: tuple[str, str, str], panel: int = 0, percent: bool = True
) -> Trace:
    """Draw means over seeds as joined points with their t intervals.

    Args:
        name: In the legend.
        x: Where each mean stands.
        means: One per x; without an interval no bar is drawn.
        look: Colour, symbol and dash.
        panel: Which of `panels`.
        percent: Whether the values are rates.
    """
    colour, symbol, dash = look
    bars = [mean.high - mean.value if mean.known else 0.0 for mean in means]
    number = ".1%" if percent else ".4g"
    axes = {} if panel == 0 else {"xaxis": f"x{panel + 1}", "yaxis": f"y{panel + 1}"}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "x": list(x),
        "y": [mean.value for mean in means],
        "line": {"color": colour, "width": 1.6, "dash": dash},
        "marker": marker(colour, symbol, 9),
        "error_y": {"type": "data", "array": bars, "color": colour, "thickness": 1, "width": 3},
        "text": [interval_words(mean, percent) for mean in means],
        "hovertemplate": f"{escape(name)}<br>%{{x}}: %{{y:{number}}}<br>%{{text}}<extra></extra>",
        **axes,
    }


def interval_words(mean: Mean, percent: bool) -> str:
    """Write n and the ends of an interval."""
    if not mean.known:
        return f"n = {mean.n}, no interval"
    low, high = (f"{100 * end:.1f}" if percent else f"{end:.4g}" for end in (mean.low, mean.high))
    return f"n = {mean.n}, 95 % {low} to {high}"
