"""Figures of a designed study: effects, and anything against the horizon, the path length or the training length."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from study.comparisons import Cell, Effects, cells, effects, gain
from study.designs import Design, key, records
from study.effects import Effect, Mean
from study.report.canvas import Trace, axis, interval_trace, interval_words, layout, marker, panels, rounded
from study.report.chart import Chart
from study.report.measures import (
    METHOD,
    RATES,
    label,
    level_text,
    measured,
    method_cell_text,
    method_columns,
    method_text,
)
from study.report.palette import BLUE, FAINT, SERIES, SYMBOLS, VERMILION

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
ARMS = {
    "steps": "fixed steps",
    "step_size": "fixed step size",
    "evaluations": "fixed evaluations",
    "adaptive": "adaptive steps",
}
MOST_EFFECTS = 40
MOST_LEVELS = 24
_RESULTS = ("accuracy", "robust_accuracy")


def design_charts(of: Design) -> list[Chart]:
    """Draw every figure that a design allows."""
    drawn = [_effects_chart(of), _horizon_chart(of), _path_chart(of), _length_chart(of), _methods_chart(of)]
    return [chart for chart in drawn if chart is not None]


def method_looks(of: Design) -> dict[str, tuple[str, str]]:
    """Give every method of the study its colour and symbol, the same in all figures."""
    names = sorted({method_text(row) for row in records(of.table)}, key=lambda n: (not n.startswith("labels"), n))
    return {name: (SERIES[i % len(SERIES)], SYMBOLS[i % len(SYMBOLS)]) for i, name in enumerate(names)}


def figure_data(traces: Sequence[Trace], look: Mapping[str, Any]) -> dict[str, Any]:
    """Put a figure together as plain data."""
    return {"data": rounded(list(traces)), "layout": rounded(dict(look))}


def effect_text(effect: Effect, of: Effects) -> str:
    """Name an effect by the levels it compares."""
    parts = []
    for name, place in zip(effect.factors, effect.levels, strict=True):
        levels = of.levels[name]
        parts.append(
            f"{level_text(name, levels[place])} against {level_text(name, levels[0]).removeprefix(name + ' ')}"
        )
    return " x ".join(parts)


def _effects_chart(of: Design) -> Chart | None:
    found = [effects(of, measure) for measure in measured(of, _RESULTS)]
    found = [each for each in found if each.effects]
    variants = tuple((label(of, each.measure), _forest(each)) for each in found)
    alt = "Main effects and two-way interactions of the factorial with 95 % intervals; the line marks no effect."
    return Chart("effects", "measure", variants, alt) if variants else None


def _forest(found: Effects) -> dict[str, Any]:
    ranked = sorted(found.effects, key=lambda e: (len(e.factors), -abs(e.estimate.value)))[:MOST_EFFECTS]
    traces = []
    for size, name, colour, symbol in ((1, "main effect", BLUE, "circle"), (2, "interaction", VERMILION, "diamond")):
        shown = [effect for effect in ranked if len(effect.factors) == size]
        if shown:
            traces.append(_forest_trace(shown, found, name, colour, symbol))
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": FAINT, "width": 1}}
    y = axis("", percent=False) | {"autorange": "reversed", "type": "category"}
    height = 150 + 30 * len(ranked)
    x = axis("difference in points of a per cent", percent=False)
    look = layout(height, xaxis=x, yaxis=y, shapes=[zero])
    look["legend"] |= {"y": 1 + 20 / height}
    return figure_data(traces, look)


def _forest_trace(shown: Sequence[Effect], found: Effects, name: str, colour: str, symbol: str) -> Trace:
    means = [effect.estimate for effect in shown]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [100 * mean.value for mean in means],
        "y": [effect_text(effect, found) for effect in shown],
        "marker": marker(colour, symbol, 10),
        "error_x": {
            "type": "data",
            "array": [100 * _half(m) for m in means],
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
        "text": [interval_words(mean, percent=True) for mean in means],
        "hovertemplate": "%{y}<br>%{x:+.1f} points<br>%{text}<extra></extra>",
    }


def _horizon_chart(of: Design) -> Chart | None:
    horizons = {key(row["horizon"]) for row in records(of.table)} - {None}
    names = measured(of, ("accuracy", "robust_accuracy", "nfe", "growth", "path_length"))
    if of.adaptive or not 2 <= len(horizons) <= MOST_LEVELS or not names:
        return None
    shown = with_one_teacher(of)
    found = [c for c in cells(shown, ("arm", "solver", "horizon", *METHOD), names) if c.levels["horizon"] is not None]
    variants = tuple((label(of, name), _against_horizon(of, found, name)) for name in names)
    alt = "Results against the time horizon, one panel per arm, with and without distillation, with intervals."
    return Chart("horizon", "measure", variants, alt)


def with_one_teacher(of: Design) -> Design:
    """Leave out all teachers but the first where the others were run in a part of the design only.

    Otherwise a curve would step between means over one and over several teachers.
    """
    distilled = [row for row in records(of.table) if row["distilled"]]
    if "teacher" not in of.blocks or all(key(row["teacher"]) is not None for row in distilled):
        return of
    first = (None, key(of.levels["teacher"][0]))
    return replace(of, table=of.table[[key(row["teacher"]) in first for row in records(of.table)]])


def _against_horizon(of: Design, found: Sequence[Cell], measure: str) -> dict[str, Any]:
    arms = [arm for arm in ARMS if any(cell.levels["arm"] == arm for cell in found)]
    solvers = sorted({str(cell.levels["solver"]) for cell in found})
    looks, traces, seen = method_looks(of), [], set()
    for (method, arm, solver), line in _lines(found, measure).items():
        name = method if len(solvers) == 1 else f"{method}, {solver}"
        look = (*looks[method], DASHES[solvers.index(solver) % len(DASHES)])
        x = [cell.levels["horizon"] for cell in line]
        means = [cell.means[measure] for cell in line]
        trace = interval_trace(name, x, means, look, arms.index(arm), measure in RATES)
        traces.append(trace | {"showlegend": name not in seen})
        seen.add(name)
    x = axis("horizon", percent=False) | {"type": "log", "dtick": "D2", "tickformat": "~g"}
    y = axis(label(of, measure), percent=measure in RATES)
    return figure_data(traces, layout(480, **panels([ARMS[arm] for arm in arms], x, y)))


def _lines(found: Sequence[Cell], measure: str) -> dict[tuple[str, str, str], list[Cell]]:
    lines: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in found:
        if cell.means[measure].n:
            lines[method_text(cell.levels), str(cell.levels["arm"]), str(cell.levels["solver"])].append(cell)
    return {name: sorted(line, key=lambda c: c.levels["horizon"]) for name, line in sorted(lines.items())}


def _path_chart(of: Design) -> Chart | None:
    names = measured(of, _RESULTS) if "path_length" in of.measures else []
    variants = tuple((label(of, name), _against_path(of, name)) for name in names)
    alt = "Results against the path length of the state, a point per trial, coloured by method."
    return Chart("path", "measure", variants, alt) if variants else None


def _against_path(of: Design, measure: str) -> dict[str, Any]:
    rows = [row for row in records(of.table) if isfinite(row["path_length"]) and isfinite(row[measure])]
    traces = []
    for name, (colour, symbol) in method_looks(of).items():
        own = [row for row in rows if method_text(row) == name]
        if own:
            trace: Trace = {"type": "scatter", "mode": "markers", "name": name, "marker": marker(colour, symbol, 9)}
            trace |= {"x": [row["path_length"] for row in own], "y": [row[measure] for row in own]}
            trace |= {"customdata": [row["trial"] for row in own], "text": [f"trial {row['trial']}" for row in own]}
            traces.append(trace | {"hovertemplate": "%{text}<br>path %{x:.3g}: %{y:.1%}<extra></extra>"})
    x = axis("path length: integral of |f| over |h(0)|", percent=False)
    return figure_data(traces, layout(440, xaxis=x, yaxis=axis(label(of, measure))))


def _length_chart(of: Design) -> Chart | None:
    lengths = of.levels.get("epochs", ())
    if of.adaptive or not 2 <= len(lengths) <= MOST_LEVELS:
        return None
    variants = []
    for measure in measured(of, _RESULTS):
        traces = []
        for place, (title, factor, levels) in enumerate(distillations(of)):
            gains = [gain(of, measure, factor, levels, {"epochs": at}).over_seeds.difference for at in lengths]
            kept = [(at, mean) for at, mean in zip(lengths, gains, strict=True) if mean.n]
            look = (SERIES[place % len(SERIES)], SYMBOLS[place % len(SYMBOLS)], DASHES[place % len(DASHES)])
            if kept:
                traces.append(interval_trace(title, [at for at, _ in kept], [mean for _, mean in kept], look))
        x = axis("epochs", percent=False) | {"type": "log", "dtick": "D2", "tickformat": "~g"}
        look = layout(440, xaxis=x, yaxis=axis(f"gain in {label(of, measure)}"))
        variants += [(label(of, measure), figure_data(traces, look))] if traces else []
    alt = "The paired gain of each method over none against training length, with intervals over seeds."
    return Chart("length", "measure", tuple(variants), alt) if variants else None


def distillations(of: Design) -> list[tuple[str, str, tuple[Any, Any]]]:
    """List what distillation is compared by: (title, factor, levels), each method against none where both were run.

    Methods are never pooled: at a level where only some of them were run, a pooled gain would change its meaning.
    """
    methods = [str(level) for level in of.levels.get("method", ())]
    if "none" not in methods:
        return [("distilled less not", "distilled", (True, False))]
    return [(f"{method} less none", "method", (method, "none")) for method in methods if method != "none"]


def _methods_chart(of: Design) -> Chart | None:
    if len(method_looks(of)) < 2 or of.adaptive:
        return None
    names = measured(of, ("accuracy", "robust_accuracy", "noise_accuracy", "reconstruction_l1"))
    found = cells(of, method_columns(of), names)
    variants = tuple((label(of, name), _methods_figure(of, found, name)) for name in names)
    alt = "Methods compared: mean over seeds with 95 % interval, one line per method and setting that not all share."
    return Chart("methods-compared", "measure", variants, alt) if variants else None


def _methods_figure(of: Design, found: Sequence[Cell], measure: str) -> dict[str, Any]:
    looks, traces = method_looks(of), []
    shown = [cell for cell in found if cell.means[measure].n]
    for cell in sorted(shown, key=lambda c: c.means[measure].value):
        name, mean = method_cell_text(cell.levels), cell.means[measure]
        colour, symbol = looks[method_text(cell.levels)]
        trace: Trace = {"type": "scatter", "mode": "markers", "name": name, "x": [mean.value], "y": [name]}
        trace |= {"marker": marker(colour, symbol, 11), "showlegend": False}
        trace |= {"error_x": {"type": "data", "array": [_half(mean)], "color": colour, "thickness": 1, "width": 3}}
        number = ".1%" if measure in RATES else ".4g"
        trace |= {"text": [interval_words(mean, measure in RATES)]}
        traces.append(trace | {"hovertemplate": f"%{{y}}<br>%{{x:{number}}}<br>%{{text}}<extra></extra>"})
    x = axis(label(of, measure), percent=measure in RATES)
    y = axis("", percent=False) | {"type": "category"}
    return figure_data(traces, layout(140 + 34 * max(1, len(shown)), xaxis=x, yaxis=y))


def _half(mean: Mean) -> float:
    return mean.high - mean.value if mean.known else 0.0
