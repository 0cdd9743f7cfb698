"""Pure functions from results to plotly figures; the only file that knows plotly.

Every point carries its trial id as `customdata` and its whole configuration as hover text. Colours are the light ones
of `study.report.palette`; the page swaps them in dark mode.
"""

import html
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from study.report.canvas import axis, layout, marker, rounded
from study.report.palette import FAINT, KIND_COLOURS, SERIES, SYMBOLS
from study.report.point_parts import bars, clean_lines, hover, rate_lines, rate_of
from study.report.stats import clean_baselines
from study.report.wording import params_text
from study.results import Results, declared

CONFIG = {"showSendToCloud": False, "plotlyServerURL": "", "displaylogo": False, "responsive": True}
"""Nothing may leave the page: no upload button, no server, no logo that links away."""
MOST_FAINT_CURVES = 100
"""Learning curves beside those of the front: more would only make a band and a heavy page."""
_PER_ROW = 3


def plotly_script() -> str:
    """Give the text of plotly.js, to be embedded."""
    return str(get_plotlyjs())


def as_payload(figure: go.Figure) -> dict[str, Any]:
    """Turn a figure into plain JSON data: lists instead of packed arrays, five significant digits."""
    stored = json.loads(figure.to_json() or "{}")
    return {"data": rounded(stored["data"]), "layout": rounded(stored["layout"])}


def search_figure(results: Results) -> go.Figure:
    """Draw accuracy against adversarial_accuracy on val_search: dominated points faint, the front as a staircase.

    Trials that failed a check are crosses (S16).
    """
    trials = results.trials[results.trials["state"] == "COMPLETE"]
    on_front = trials["on_front"].to_numpy(bool)
    front = trials[on_front].sort_values("accuracy")
    barred = trials["infeasible"].notna().to_numpy(bool)
    traces = [_search_trace(results, trials[~on_front & ~barred], "dominated trial", faint=True)]
    if barred.any():
        crossed = _search_trace(results, trials[barred], "infeasible trial (failed a check)", faint=True)
        traces.append(crossed.update(marker={"symbol": "x-thin-open"}))
    if len(front) > 1:
        x, y = front["accuracy"].tolist(), front["adversarial_accuracy"].tolist()
        line = {"color": KIND_COLOURS["student"], "width": 1.5, "shape": "vh"}
        traces.append(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False))
    traces.append(_search_trace(results, front, "search front", faint=False))
    lines = clean_baselines(results, "val_search")
    anchor = results.baselines.get("anchor") or {}
    values = anchor.get("values") or {}
    if None not in (values.get("accuracy"), values.get("adversarial_accuracy")):
        traces.append(_anchor_trace(values))
    elif values.get("accuracy") is not None:
        lines.append(("undistilled", float(values["accuracy"]), (anchor.get("metrics") or {}).get("n")))
    axes = {"xaxis": axis("accuracy (val_search)"), "yaxis": axis("adversarial_accuracy (val_search)")}
    return go.Figure(traces, layout(480, **axes, **clean_lines(lines)))


def history_figure(results: Results, column: str, title: str) -> go.Figure:
    """Draw a column of the learning curves over epochs: one line per trial, the search front in colour."""
    front = set(results.trials[results.trials["on_front"]]["trial"].tolist())
    colours = {trial: SERIES[i % len(SERIES)] for i, trial in enumerate(sorted(front))}
    curves = results.history[results.history["job"].str.startswith("trials/")]
    number = ".4g" if column == "loss" else ".1%"
    drawn = drawn_curves(results)
    traces = []
    for trial, curve in sorted(curves.groupby("trial"), key=lambda pair: pair[0] in front):
        if trial not in drawn:
            continue
        values = curve[column].to_numpy(float)
        traces.append(
            go.Scatter(
                x=curve["epoch"].tolist(),
                y=[None if np.isnan(value) else float(value) for value in values],
                meta=trial,
                mode="lines",
                line={"color": colours.get(trial, FAINT), "width": 2 if trial in front else 1},
                opacity=1.0 if trial in front else 0.45,
                name=f"trial {trial}",
                showlegend=trial in front,
                hovertemplate=f"trial {trial}, epoch %{{x}}: %{{y:{number}}}<extra></extra>",
            )
        )
    axes = {"xaxis": axis("epoch", percent=False), "yaxis": axis(title, percent=column != "loss")}
    return go.Figure(traces, layout(480, **axes))


def drawn_curves(results: Results) -> set[int]:
    """Choose the trials whose curves are drawn: the search front, and an even sample of the others."""
    curves = results.history[results.history["job"].str.startswith("trials/")]["trial"]
    front = set(results.trials[results.trials["on_front"]]["trial"].tolist())
    others = [int(trial) for trial in sorted(set(curves.tolist()) - front)]
    kept = np.linspace(0, len(others) - 1, min(len(others), MOST_FAINT_CURVES)).round().astype(int)
    return (front & set(curves.tolist())) | {others[i] for i in kept}


def parameter_figure(results: Results, objective: str) -> go.Figure:
    """Draw an objective over each sampled parameter, one panel each; the solver is told by colour and symbol."""
    trials = results.trials[results.trials["state"] == "COMPLETE"]
    values = {int(t): float(y) for t, y in zip(trials["trial"], trials[objective], strict=True)}
    points = {trial: results.params(trial) for trial in values}
    words = {
        t: f"<b>trial {t}</b><br>" + html.escape(params_text(p, "\n")).replace("\n", "<br>") for t, p in points.items()
    }
    names = list(dict.fromkeys(name for point in points.values() for name in point))
    solvers = sorted({str(point.get("solver", "")) for point in points.values()})
    traces, axes = [], {}
    rows = max(1, -(-len(names) // _PER_ROW))
    height = 130 + 240 * rows
    for place, name in enumerate(names):
        ticks = _log_ticks([p[name] for p in points.values() if name in p]) if _is_log(results, name) else {"nticks": 6}
        axes |= _panel(place, rows, height, name, objective, ticks)
        for rank, solver in enumerate(solvers):
            kept = [t for t, point in points.items() if name in point and str(point.get("solver", "")) == solver]
            traces.append(
                go.Scatter(
                    x=[_coordinate(points[t][name]) for t in kept],
                    y=[values[t] for t in kept],
                    customdata=kept,
                    text=[words[t] for t in kept],
                    hovertemplate="%{text}<br>" + objective + " %{y:.1%}<extra></extra>",
                    mode="markers",
                    marker=marker(SERIES[rank % len(SERIES)], SYMBOLS[rank % len(SYMBOLS)], 8),
                    name=solver or "all solvers",
                    legendgroup=solver,
                    showlegend=place == 0,
                    xaxis=f"x{place + 1}",
                    yaxis=f"y{place + 1}",
                )
            )
    look = layout(height, **axes)
    look["legend"] |= {"y": 1 + 40 / height}
    return go.Figure(traces, look)


def _panel(place: int, rows: int, height: int, name: str, objective: str, ticks: dict[str, Any]) -> dict[str, Any]:
    """Give both axes of one panel of the grid; y is shared, so only the first of a row is labelled."""
    row, column = divmod(place, _PER_ROW)
    gap_x, gap_y = 0.05, 70 / height
    width, tall = (1 - gap_x * (_PER_ROW - 1)) / _PER_ROW, (1 - gap_y * (rows - 1)) / rows
    left, top = column * (width + gap_x), 1 - row * (tall + gap_y)
    x = {**axis(name, percent=False), **ticks, "domain": [left, min(1.0, left + width)], "anchor": f"y{place + 1}"}
    y = {**axis(objective if column == 0 else ""), "domain": [max(0.0, top - tall), top], "anchor": f"x{place + 1}"}
    y |= {"matches": "y"} if place else {}
    number = "" if place == 0 else str(place + 1)
    return {f"xaxis{number}": x, f"yaxis{number}": y | {"showticklabels": column == 0}}


def _log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Label 1, 2, 5 of each decade where few decades are seen, otherwise decades only."""
    decades = np.log10(max(values) / min(values)) if min(values) > 0 else 0.0
    return {"type": "log", "dtick": "D2" if 0.15 < decades < 1.4 else 1, "tickformat": "~g"}


def _coordinate(value: Any) -> float | int | str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else str(value)


def _is_log(results: Results, name: str) -> bool:
    """Look the parameter up in the stored space; a log range has positive ends."""
    return bool(declared(results.study).get(name, {}).get("log"))


def _search_trace(results: Results, trials: Any, name: str, faint: bool) -> go.Scatter:
    rows = list(trials.to_dict("records"))
    clean = [rate_of(row["accuracy"], row["n"]) for row in rows]
    robust = [rate_of(row["adversarial_accuracy"], row["n_adversarial"]) for row in rows]
    colour = FAINT if faint else KIND_COLOURS["student"]
    whiskers = {} if faint else {"error_x": bars(clean, colour), "error_y": bars(robust, colour)}
    text = [
        hover(
            results,
            f"trial {row['trial']}",
            rate_lines("accuracy", c, row["accuracy"])
            + rate_lines("adversarial_accuracy", r, row["adversarial_accuracy"]),
            int(row["trial"]),
        )
        for row, c, r in zip(rows, clean, robust, strict=True)
    ]
    return go.Scatter(
        x=[float(row["accuracy"]) for row in rows],
        y=[float(row["adversarial_accuracy"]) for row in rows],
        customdata=[int(row["trial"]) for row in rows],
        hovertext=text,
        hovertemplate="%{hovertext}<extra></extra>",
        text=None if faint else [str(row["trial"]) for row in rows],
        textposition="top right",
        mode="markers" if faint else "markers+text",
        marker=marker(colour, "circle-open" if faint else "circle", 7 if faint else 10),
        opacity=0.7 if faint else 1.0,
        name=name,
        **whiskers,
    )


def _anchor_trace(values: dict[str, float]) -> go.Scatter:
    return go.Scatter(
        x=[values["accuracy"]],
        y=[values["adversarial_accuracy"]],
        mode="markers",
        name="undistilled anchor",
        marker=marker(KIND_COLOURS["twin"], "diamond", 12),
        hovertemplate="undistilled anchor<br>accuracy %{x:.1%}<br>adversarial_accuracy %{y:.1%}<extra></extra>",
    )
