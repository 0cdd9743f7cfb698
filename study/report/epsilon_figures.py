"""Accuracy against epsilon: one line per network with Wilson's band, upper bounds hollow."""

from collections.abc import Sequence
from html import escape

from study.report.canvas import Trace, axis, layout
from study.report.chart import Chart
from study.report.design_figures import figure_data
from study.report.front_figures import arrows
from study.report.networks_shown import network_text
from study.report.palette import INK, PAPER, SERIES, SYMBOLS
from study.report.point_parts import rate_lines
from study.report.stats import Mark, Rate, headline_epsilon, marks
from study.report.trust_wording import verdict_lines
from study.report.wording import epsilon_text
from study.results import Results
from study.survivors import Survivors

MOST_CURVES = len(SERIES)
_TEACHERS = 2


def epsilon_chart(results: Results) -> Chart | None:
    """Draw the curves of the teachers and of the students that matter most; None where nothing was attacked."""
    shown = drawn_curves(results)
    if not shown:
        return None
    traces: list[Trace] = []
    for place, name in enumerate(shown):
        traces += _curve(results, results.survivors[name], place)
    x = axis("epsilon (0: not attacked)", percent=False) | {"rangemode": "tozero"}
    figure = figure_data(traces, layout(460, xaxis=x, yaxis=axis("robust accuracy (test)") | {"rangemode": "tozero"}))
    alt = f"Robust accuracy on test against epsilon for {len(shown)} networks, with Wilson bands."
    return Chart("epsilons", "", (("", figure),), alt)


def drawn_curves(results: Results) -> list[str]:
    """Choose the networks: the test front by robust accuracy, upper bounds, other students, and teachers."""
    epsilon = headline_epsilon(results)
    placed = [] if epsilon is None else marks(results, epsilon)
    teachers = [mark.model for mark in placed if mark.kind == "teacher"][:_TEACHERS]
    students = sorted((mark for mark in placed if mark.kind == "student"), key=_rank)
    return [*teachers, *(mark.model for mark in students[: MOST_CURVES - len(teachers)])]


def _rank(mark: Mark) -> tuple[bool, bool, float]:
    return not mark.on_front, not mark.is_upper_bound, -mark.robust.value


def _curve(results: Results, model: Survivors, place: int) -> list[Trace]:
    radii = [0.0, *model.epsilons]
    rates = [Rate(int(model.clean_correct.sum()), model.n)]
    rates += [Rate(int(model.robust(epsilon).sum()), model.n) for epsilon in model.epsilons]
    bounds = [False, *(results.attacked.is_upper_bound(model.model, epsilon) for epsilon in model.epsilons)]
    colour, name = SERIES[place % len(SERIES)], network_text(results, model.model)
    values = [rate.value for rate in rates]
    look = {
        "size": 8,
        "symbol": SYMBOLS[place % len(SYMBOLS)],
        "color": [PAPER if bound else colour for bound in bounds],
        "line": {"color": [colour if bound else INK for bound in bounds], "width": [2 if b else 1 for b in bounds]},
    }
    line: Trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": radii,
        "y": values,
        "name": name,
        "legendgroup": name,
        "meta": model.trial if model.kind == "student" else None,
        "line": {"color": colour, "width": 2},
        "marker": look,
        "hovertext": [_words(results, model, name, *at) for at in zip(radii, rates, strict=True)],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    low = [(radius, value) for radius, value, bound in zip(radii, values, bounds, strict=True) if bound]
    below = [arrows(*zip(*low, strict=True)) | {"legendgroup": name}] if low else []
    return [*_band(radii, rates, colour, name), line, *below]


def _band(radii: Sequence[float], rates: Sequence[Rate], colour: str, name: str) -> list[Trace]:
    edge: Trace = {"type": "scatter", "mode": "lines", "x": list(radii), "hoverinfo": "skip", "legendgroup": name}
    edge |= {"line": {"width": 0, "color": colour}, "showlegend": False}
    fill = "rgba({}, {}, {}, 0.15)".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))
    lower, upper = [rate.interval.low for rate in rates], [rate.interval.high for rate in rates]
    return [edge | {"y": lower}, edge | {"y": upper, "fill": "tonexty", "fillcolor": fill}]


def _words(results: Results, model: Survivors, name: str, epsilon: float, rate: Rate) -> str:
    if not epsilon:
        return "<br>".join([f"<b>{escape(name)}</b>", *rate_lines("accuracy", rate, rate.value)])
    lines = rate_lines(f"robust accuracy at epsilon {epsilon_text(epsilon)}", rate, rate.value)
    lines += verdict_lines(results.attacked.trust_of(model.model, epsilon))
    return "<br>".join([f"<b>{escape(name)}</b>", *map(escape, lines)])
