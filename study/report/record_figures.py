"""Figures of what stands in the records of attacked networks; one variant per network, all behind one choice."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.records import Landscape, Record
from study.report.canvas import Trace, axis, layout, panels
from study.report.chart import Chart
from study.report.design_figures import figure_data
from study.report.palette import BLUE, FAINT, INK, SKY, VERMILION

CHOICE = "record"
"""What the page calls the choice that all charts here follow."""
MOST_RECORDS = 16
"""Networks drawn; every one makes the page heavier."""
_ORDER = ("student", "teacher", "twin", "random", "replicate", "undistilled")
_MOST_NAMED_CLASSES = 12
_CLEAN, _ATTACKED, _ATTACK, _RANDOM = (
    (BLUE, "rgba(0,114,178,0.18)", "solid"),
    (VERMILION, "rgba(213,94,0,0.18)", "dash"),
    (VERMILION, "rgba(213,94,0,0.18)", "solid"),
    (SKY, "rgba(86,180,233,0.22)", "dash"),
)
"""Colour, its band, and dash."""
_ALONG = {"tickvals": [-0.5, 0, 0.5, 1, 1.5, 2], "ticktext": ["\u22120.5", "clean", "0.5", "attacked", "1.5", "2"]}

Look = tuple[str, str, str]
Figure = dict[str, Any]


def drawn_records(records: Sequence[Record]) -> list[Record]:
    """Choose and order the networks that are drawn: students first, at most MOST_RECORDS."""
    ranked = sorted(records, key=lambda r: (_rank(r.kind), -1 if r.trial is None else r.trial, r.model))
    return ranked[:MOST_RECORDS]


def record_labels(records: Sequence[Record]) -> list[str]:
    """Name each network as the page does; where two would have one name, as its files do."""
    short = [r.kind if r.trial is None else f"{r.kind} {r.trial}" for r in records]
    return [name if short.count(name) == 1 else record.model for name, record in zip(short, records, strict=True)]


def record_charts(records: Sequence[Record]) -> list[Chart]:
    """Draw every figure that the records allow.

    Args:
        records: Of a whole study, in any order.

    Returns:
        Charts whose variants are the networks of `drawn_records`, in that order; none without records.
    """
    shown = drawn_records(records)
    if not shown:
        return []
    drawn = [
        _chart(shown, "confusion", _confusion, "Two tables of the true class against the predicted one, as heat maps."),
        _chart(shown, "margins", _margins, "Histograms of the right class's margin, clean and attacked."),
        _chart(shown, "lines", _lines, "Loss and margin along the attack and along random signs, with quartiles."),
        _chart(shown, "plane", _plane, "Heat map of the loss over the attack direction and random signs."),
    ]
    if any(record.trajectories for record in shown):
        alt = "Norms of state and slope over the time of the ODE, clean and attacked, with quartiles."
        drawn.append(_chart(shown, "norms", _norms, alt))
    return drawn


def _rank(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _chart(records: Sequence[Record], name: str, draw: Callable[[Record], Figure], alt: str) -> Chart:
    variants = zip(record_labels(records), map(draw, records), strict=True)
    return Chart(f"{CHOICE}-{name}", "network", tuple(variants), alt)


def _confusion(record: Record) -> Figure:
    counts, k = record.confusions.counts, len(record.classes)
    named = k <= _MOST_NAMED_CLASSES
    traces: list[Trace] = []
    for place, word in enumerate(("clean", "attacked")):
        trace: Trace = {"type": "heatmap", "z": counts[place].tolist(), "coloraxis": "coloraxis", "xgap": 1, "ygap": 1}
        trace |= {"x": list(record.classes), "y": list(record.classes)} if named else {}
        trace |= {"text": [[str(c) if c else "" for c in row] for row in counts[place].tolist()]} if named else {}
        trace |= {"texttemplate": "%{text}"} if named else {}
        hover = f"{word}: class %{{y}} taken for %{{x}}: %{{z}} images<extra></extra>"
        traces.append(trace | _panel(place) | {"hovertemplate": hover})
    kind = {"type": "category"} if named else {}
    x = axis("predicted class", percent=False) | kind
    y = axis("true class", percent=False) | kind | {"autorange": "reversed"}
    parts = _centred(panels([_counted("clean", record, 0), _counted("attacked", record, 1)], x, y))
    bar = {"title": {"text": "images"}, "outlinewidth": 0}
    colours = {"colorscale": "Cividis", "colorbar": bar, "cmin": 0, "cmax": int(counts.max())}
    return figure_data(traces, layout(440, **parts, coloraxis=colours))


def _counted(word: str, record: Record, place: int) -> str:
    right, failed = int(np.trace(record.confusions.counts[place])), int(record.confusions.failed[place].sum())
    return f"{word}: {right} of {record.n} right" + (f", {failed} without an answer" if failed else "")


def _margins(record: Record) -> Figure:
    edges, traces = record.margins.edges, []
    centres, width = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    for (colour, _, _), word, counts in zip(
        (_CLEAN, _ATTACKED), ("clean", "attacked"), record.margins.counts, strict=True
    ):
        bars: Trace = {"type": "bar", "name": word, "x": centres.tolist(), "y": counts.tolist(), "width": width}
        bars |= {"marker": {"color": colour, "opacity": 0.6}}
        traces.append(bars | {"hovertemplate": f"{word}, margin about %{{x:.2f}}: %{{y}} images<extra></extra>"})
    x = axis("margin of the right class, in deviations of the clean logits", percent=False)
    look = layout(360, barmode="overlay", bargap=0, xaxis=x, yaxis=axis("images", percent=False))
    return figure_data(traces, look | {"shapes": [_upright(0.0)]})


def _lines(record: Record) -> Figure:
    found = record.landscape
    traces = [
        *_bands(found.distance, found.loss, (_ATTACK, _RANDOM), ("attack direction", "random signs"), 0),
        *_bands(found.distance, found.margin, (_ATTACK, _RANDOM), ("attack direction", "random signs"), 1),
    ]
    titles = ("cross-entropy loss (nats)", "margin of the right class")
    parts = _apart(titles, axis("distance", percent=False) | _ALONG)
    level = {"type": "line", "xref": "x2 domain", "yref": "y2", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
    return figure_data(traces, layout(420, **parts, shapes=[level | {"line": {"color": FAINT, "dash": "dot"}}]))


def _plane(record: Record) -> Figure:
    found = record.landscape
    at = {"x": found.random_axis.tolist(), "y": found.attack_axis.tolist()}
    bar = {"title": {"text": "loss"}, "outlinewidth": 0}
    heat: Trace = {
        "type": "heatmap",
        **at,
        "z": _three_digits(found.plane_loss),
        "colorscale": "Cividis",
        "colorbar": bar,
    }
    heat |= {"hovertemplate": "attack %{y:.2f}, random %{x:.2f}: %{z:.3g} nats<extra></extra>"}
    look = layout(
        480,
        xaxis=axis("random signs, in epsilon", percent=False),
        yaxis=axis("along the attack; 0 clean, 1 attacked", percent=False),
        showlegend=False,
        margin={"l": 72, "r": 16, "t": 16, "b": 56},
    )
    return figure_data([heat, *_boundary(found, at), _places()], look)


def _boundary(found: Landscape, at: dict[str, Any]) -> list[Trace]:
    """Draw where the median margin is 0, if it is anywhere."""
    finite = found.plane_margin[np.isfinite(found.plane_margin)]
    if not len(finite) or finite.min() > 0 or finite.max() < 0:
        return []
    at_zero = {"start": 0, "end": 0, "size": 1, "coloring": "none"}
    line: Trace = {
        "type": "contour",
        **at,
        "z": _three_digits(found.plane_margin),
        "contours": at_zero,
        "showscale": False,
    }
    return [line | {"line": {"color": "#ffffff", "width": 2, "dash": "dash"}, "hoverinfo": "skip"}]


def _places() -> Trace:
    points: Trace = {"type": "scatter", "mode": "markers+text", "x": [0, 0], "y": [0, 1], "hoverinfo": "skip"}
    points |= {"text": ["clean", "attacked"], "textposition": "middle right", "textfont": {"color": "#ffffff"}}
    return points | {"marker": {"color": "#ffffff", "size": 8, "line": {"color": "#000000", "width": 1}}}


def _norms(record: Record) -> Figure:
    found = record.trajectories
    if found is None:
        said = {"text": "This network has no ODE.", "showarrow": False, "font": {"color": INK}}
        return figure_data([], layout(420, xaxis={"visible": False}, yaxis={"visible": False}, annotations=[said]))
    traces = [
        *_bands(found.time, found.state_norm, (_CLEAN, _ATTACKED), ("clean", "attacked"), 0),
        *_bands(found.time, found.speed, (_CLEAN, _ATTACKED), ("clean", "attacked"), 1),
    ]
    titles = ("|h(t)| over |h(0)|", "|f(t, h(t))| over |h(0)|")
    return figure_data(traces, layout(420, **_apart(titles, axis("time, block after block", percent=False))))


def _bands(
    x: NDArray[Any], curves: NDArray[Any], looks: Sequence[Look], names: Sequence[str], place: int
) -> list[Trace]:
    """Draw (2 3 m) quartiles as two lines with bands, in one of two panels; the first panel has the legend."""
    traces: list[Trace] = []
    for (colour, band, dash), name, (low, middle, high) in zip(looks, names, curves, strict=True):
        shared: Trace = {"type": "scatter", "mode": "lines", "x": x.tolist(), "legendgroup": name, "showlegend": False}
        edge = shared | _panel(place) | {"line": {"width": 0, "color": colour}, "hoverinfo": "skip"}
        traces.append(edge | {"y": low.tolist()})
        traces.append(edge | {"y": high.tolist(), "fill": "tonexty", "fillcolor": band})
        line = shared | _panel(place) | {"y": middle.tolist(), "name": name, "showlegend": place == 0}
        line |= {"line": {"color": colour, "width": 2, "dash": dash}}
        traces.append(line | {"hovertemplate": f"{name}, %{{x:.3g}}: median %{{y:.3g}}<extra></extra>"})
    return traces


def _apart(titles: Sequence[str], x: dict[str, Any]) -> dict[str, Any]:
    """Lay two panels side by side with axes of their own."""
    parts = panels(titles, x, axis("", percent=False))
    parts["xaxis"]["domain"], parts["xaxis2"]["domain"] = [0, 0.46], [0.54, 1]
    parts["yaxis2"] = axis("", percent=False) | {"anchor": "x2"}
    for place, title in enumerate(parts["annotations"]):
        title["x"] = (0.23, 0.77)[place]
    return _centred(parts)


def _centred(parts: dict[str, Any]) -> dict[str, Any]:
    """Keep the titles of panels above their middles, where plotly would lean them towards the edges."""
    return parts | {"annotations": [title | {"xanchor": "center"} for title in parts["annotations"]]}


def _three_digits(values: NDArray[Any]) -> list[list[float]]:
    return [[float(f"{value:.3g}") for value in row] for row in values.tolist()]


def _panel(place: int) -> Trace:
    return {"xaxis": f"x{place + 1}", "yaxis": f"y{place + 1}"} if place else {}


def _upright(x: float) -> dict[str, Any]:
    line = {"type": "line", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1}
    return line | {"line": {"color": FAINT, "dash": "dot"}}
