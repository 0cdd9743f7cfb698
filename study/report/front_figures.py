"""The front on test as a figure: who stands where, how surely, and whose number is only an upper bound."""

from collections.abc import Sequence
from typing import Any

from study.effects import Mean
from study.fronts_on_test import FrontOnTest, Member
from study.report.canvas import Trace, axis, interval_words, layout, marker
from study.report.design_figures import figure_data
from study.report.palette import FAINT, INK, KIND_COLOURS, KIND_SYMBOLS, PAPER, VERMILION
from study.report.point_parts import bars, clean_lines, hover, rate_lines
from study.report.stats import Mark, clean_baselines, marks
from study.report.trust_wording import ARROW, verdict_lines
from study.report.wording import epsilon_text, model_text
from study.results import Results

_NAMES = {"student": "student (number: trial)", "twin": "its twin with alpha = 0", "teacher": "teacher"}
_PALEST = 0.3
"""Opacity of a student that no resample puts on the front."""


def robustness_figure(results: Results, front: FrontOnTest) -> dict[str, Any]:
    """Draw accuracy against robust accuracy on test at one epsilon, both with Wilson's intervals; twins joined.

    A student is the paler, the fewer resamples put it on the front. Upper bounds are hollow, with an arrow (S25); new
    seeds are faint, and their mean has a t interval (S28).
    """
    placed = marks(results, front.epsilon)
    traces = _join_twins(placed)
    for kind in ("student", "twin", "teacher"):
        for detailed in (False, True):
            shown = [m for m in placed if (m.kind, m.detailed, m.is_upper_bound) == (kind, detailed, False)]
            traces += _split_by_headline(results, shown, kind, front)
    traces += _upper_bounds(results, placed)
    traces += [*_replicates(front), *_attained(front)]
    title = f"robust accuracy at epsilon {epsilon_text(front.epsilon)} (test)"
    axes = {"xaxis": axis("accuracy (test)"), "yaxis": axis(title)}
    return figure_data(traces, layout(480, **axes, **clean_lines(clean_baselines(results, "test"))))


def _split_by_headline(results: Results, shown: Sequence[Mark], kind: str, front: FrontOnTest) -> list[Trace]:
    far = [m for m in shown if kind == "student" and m.detailed and not m.headlined]
    near = [m for m in shown if m not in far]
    traces = [_points(results, near, front)] if near else []
    if far:
        hollow = {"color": PAPER, "line": {"color": KIND_COLOURS[kind], "width": 1}}
        trace = _points(results, far, front)
        traces.append(trace | {"marker": trace["marker"] | hollow, "name": f"{_NAMES[kind]} (not headlined)"})
    return traces


def _points(results: Results, shown: Sequence[Mark], front: FrontOnTest) -> Trace:
    kind, detailed = shown[0].kind, shown[0].detailed
    colour, symbol = KIND_COLOURS[kind], KIND_SYMBOLS[kind]
    members = [front.member(mark.trial) if kind == "student" else None for mark in shown]
    look = marker(colour, symbol, 14 if kind == "teacher" else 11)
    look["opacity"] = [1.0 if m is None else _PALEST + (1 - _PALEST) * m.membership for m in members]
    trace: Trace = {
        "type": "scatter",
        "x": [mark.clean.value for mark in shown],
        "y": [mark.robust.value for mark in shown],
        "customdata": [mark.trial if mark.trial is not None else mark.model for mark in shown],
        "hovertext": [_words(results, mark, member) for mark, member in zip(shown, members, strict=True)],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "mode": "markers",
    }
    if not detailed:
        return trace | {"marker": marker(colour, f"{symbol}-open", 6), "opacity": 0.6, "name": f"{kind} off the front"}
    trace |= {"mode": "markers+text", "marker": look, "name": _NAMES[kind], "textposition": "top right"}
    trace |= {"text": [str(mark.trial) if kind == "student" else "" for mark in shown]}
    trace |= {"error_x": bars([m.clean for m in shown], colour)}
    return trace | {"error_y": bars([m.robust for m in shown], colour)}


def _words(results: Results, mark: Mark, member: Member | None) -> str:
    title = f"twin of student {mark.trial}: alpha = 0" if mark.kind == "twin" else model_text(mark)
    lines = rate_lines("accuracy", mark.clean, mark.clean.value)
    lines += rate_lines("robust accuracy", mark.robust, mark.robust.value) + verdict_lines(mark.trust)
    if member is not None:
        lines.append(f"on the front in {100 * member.membership:.0f} % of resamples")
    return hover(results, title, lines, mark.trial if mark.kind == "student" else None)


def _upper_bounds(results: Results, placed: Sequence[Mark]) -> list[Trace]:
    """Draw what is unreliable: hollow, without a vertical bar, an arrow below."""
    shown = [mark for mark in placed if mark.is_upper_bound]
    if not shown:
        return []
    colours = [KIND_COLOURS.get(mark.kind, FAINT) for mark in shown]
    symbols = [KIND_SYMBOLS.get(mark.kind, "circle") for mark in shown]
    look = marker(PAPER, "circle", 11) | {"symbol": symbols, "line": {"color": colours, "width": 2}}
    x, y = [mark.clean.value for mark in shown], [mark.robust.value for mark in shown]
    name = "unreliable: an upper bound"
    points: Trace = {
        "type": "scatter",
        "mode": "markers+text",
        "x": x,
        "y": y,
        "customdata": [mark.trial if mark.trial is not None else mark.model for mark in shown],
        "hovertext": [_words(results, mark, None) for mark in shown],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "text": [str(mark.trial) if mark.kind == "student" and mark.detailed else "" for mark in shown],
        "textposition": "top right",
        "marker": look,
        "name": name,
        "legendgroup": name,
        "error_x": bars([mark.clean for mark in shown], FAINT),
    }
    return [points, arrows(x, y) | {"legendgroup": name}]


def arrows(x: Sequence[float], y: Sequence[float]) -> Trace:
    """Draw an arrow below each upper bound."""
    return {
        "type": "scatter",
        "mode": "text",
        "x": list(x),
        "y": list(y),
        "text": [ARROW] * len(x),
        "textposition": "bottom center",
        "textfont": {"size": 22, "color": INK},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _replicates(front: FrontOnTest) -> list[Trace]:
    """Draw new seeds faint, and their mean with its t interval, joined to the network whose seed won the search."""
    shown = [member for member in front.members if member.configuration.replicates]
    if not shown:
        return []
    x: list[float | None] = []
    y: list[float | None] = []
    joined: tuple[list[float | None], list[float | None]] = ([], [])
    for member in shown:
        winner = member.configuration.winner
        joined[0].extend([float(winner.clean_correct.mean()), member.clean.value, None])
        joined[1].extend([float(winner.robust(front.epsilon).mean()), member.robust.value, None])
        for network in member.configuration.replicates:
            x.append(float(network.clean_correct.mean()))
            y.append(float(network.robust(front.epsilon).mean()))
    line: Trace = {"type": "scatter", "mode": "lines", "x": joined[0], "y": joined[1], "hoverinfo": "skip"}
    faint: Trace = {"type": "scatter", "mode": "markers", "x": x, "y": y, "name": "the same settings, new seeds"}
    trials = [str(m.configuration.trial) for m in shown for _ in m.configuration.replicates]
    return [
        line | {"line": {"color": FAINT, "width": 1}, "showlegend": False},
        faint
        | {"marker": marker(FAINT, "circle", 5), "opacity": 0.45, "hovertext": trials}
        | {"hovertemplate": "student %{hovertext}, a new seed<br>%{x:.1%}, %{y:.1%}<extra></extra>"},
        _means(shown),
    ]


def _means(shown: Sequence[Member]) -> Trace:
    words = [
        f"student {m.configuration.trial}: mean of new seeds<br>accuracy {m.clean.value:.1%}, "
        f"{interval_words(m.clean, percent=True)}<br>robust accuracy {m.robust.value:.1%}, "
        f"{interval_words(m.robust, percent=True)}<br>on the front in {100 * m.membership:.0f} % of resamples"
        for m in shown
    ]
    look = {"thickness": 1.4, "width": 4, "color": KIND_COLOURS["student"], "type": "data"}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [m.clean.value for m in shown],
        "y": [m.robust.value for m in shown],
        "customdata": [m.configuration.trial for m in shown],
        "hovertext": words,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": marker(KIND_COLOURS["student"], "square", 9)
        | {"opacity": [_PALEST + (1 - _PALEST) * m.membership for m in shown]},
        "error_x": look | {"array": [_half(m.clean) for m in shown]},
        "error_y": look | {"array": [_half(m.robust) for m in shown]},
        "name": "mean of new seeds, t interval",
    }


def _half(mean: Mean) -> float:
    return mean.high - mean.value if mean.known else 0.0


def _attained(front: FrontOnTest) -> list[Trace]:
    """Draw the surface that half of the new seeds attain, as a staircase."""
    corners = front.attained[::-1]
    if not len(corners):
        return []
    line = {"color": VERMILION, "width": 2, "dash": "longdash", "shape": "vh"}
    name = "attained by half of the new seeds"
    left = min(member.clean.value for member in front.members)
    below = min(member.robust.value for member in front.members)
    x = [min(left, float(corners[0, 0])), *corners[:, 0].tolist(), float(corners[-1, 0])]
    y = [float(corners[0, 1]), *corners[:, 1].tolist(), min(below, float(corners[-1, 1]))]
    return [{"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip", "name": name}]


def _join_twins(placed: Sequence[Mark]) -> list[Trace]:
    twins = {mark.trial: mark for mark in placed if mark.kind == "twin"}
    x: list[float | None] = []
    y: list[float | None] = []
    for student in placed:
        if student.kind == "student" and student.detailed and student.trial in twins:
            twin = twins[student.trial]
            x += [student.clean.value, twin.clean.value, None]
            y += [student.robust.value, twin.robust.value, None]
    line = {"color": INK, "width": 1.2, "dash": "dot"}
    trace: Trace = {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip"}
    return [trace | {"name": "student and its twin"}] if x else []
