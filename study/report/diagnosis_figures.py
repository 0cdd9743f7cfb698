"""What each attack does alone, and how far images made through one solver fool another: the diagnostic subset (S20).

A cascade cannot tell which attack is strong, as the later ones see only what the earlier ones left.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.checks.diagnostics import Diagnosis, SolverMatrix
from study.report.canvas import Trace, axis, layout
from study.report.chart import Chart
from study.report.design_figures import figure_data
from study.report.networks_shown import MOST_SHOWN, checked_networks, network_text
from study.report.palette import BLUE, FAINT, INK, VERMILION
from study.results import Results

TRANSFER = "transfer-"
_TOGETHER = "all together"
Bits = NDArray[np.bool_]


def diagnosis_charts(results: Results, epsilon: float) -> list[Chart]:
    """Draw both figures at one epsilon, a variant for each network; none where nothing was checked."""
    checked = checked_networks(results, epsilon)
    alone = [(network_text(results, name), each.diagnosis) for name, each in checked.items() if each.diagnosis.n]
    matrices = [(network_text(results, name), each.solvers) for name, each in checked.items() if each.solvers]
    charts = []
    if alone:
        variants = tuple((name, attacks_figure(diagnosis)) for name, diagnosis in alone[:MOST_SHOWN])
        alt = "Bars: share of the images that are right when clean which each attack alone breaks."
        charts.append(Chart("attacks-alone", "network", variants, alt))
    if matrices:
        variants = tuple((name, solvers_figure(matrix)) for name, matrix in matrices[:MOST_SHOWN])
        alt = "Heat map of robust accuracy: rows attack through a solver, columns are judged under one."
        charts.append(Chart("solver-transfer", "network", variants, alt))
    return charts


def ran_alone(diagnosis: Diagnosis) -> list[tuple[str, Bits]]:
    """Give who broke what, attack by attack; the images of all other networks as one."""
    own = [(name, bits) for name, bits in diagnosis.broken.items() if not name.startswith(TRANSFER)]
    others = [name for name in diagnosis.broken if name.startswith(TRANSFER)]
    return [*own, (f"transfer ({len(others)})", diagnosis.among(others))] if others else own


def attacks_figure(diagnosis: Diagnosis) -> dict[str, Any]:
    """Draw a bar per attack: what it breaks alone, parted by whether a bar to its left breaks that too."""
    names, repeated, added = [], [], []
    seen = np.zeros_like(diagnosis.correct)
    for name, bits in ran_alone(diagnosis):
        names.append(name)
        repeated.append(int((bits & seen).sum()))
        added.append(int((bits & ~seen).sum()))
        seen = seen | bits
    together = [None] * len(names) + [int(seen.sum())]
    names.append(_TOGETHER)
    traces = [
        _bar("broken by a bar to its left too", names, [*repeated, None], diagnosis.n, FAINT),
        _bar("not broken by any bar to its left", names, [*added, None], diagnosis.n, BLUE),
        _bar("broken by any of them", names, together, diagnosis.n, VERMILION),
    ]
    y = axis(f"share of {diagnosis.n} images right when clean") | {"rangemode": "tozero"}
    return figure_data(traces, layout(440, xaxis=axis("", percent=False), yaxis=y, barmode="stack"))


def _bar(name: str, x: Sequence[str], counts: Sequence[int | None], n: int, colour: str) -> Trace:
    return {
        "type": "bar",
        "name": name,
        "x": list(x),
        "y": [None if count is None else count / n for count in counts],
        "customdata": [None if count is None else f"{count} of {n}" for count in counts],
        "hovertemplate": f"%{{x}}: %{{customdata}} {escape(name)}<extra></extra>",
        "marker": {"color": colour, "line": {"color": INK, "width": 0.5}},
    }


def solvers_figure(matrix: SolverMatrix) -> dict[str, Any]:
    """Draw robust accuracy by the solver that an attack goes through and the one it is judged under."""
    alive = matrix.correct[None, :, :] & ~matrix.broken
    names = [f"{name} (deployed)" if place == 0 else name for place, name in enumerate(matrix.solvers)]
    return heat_figure(alive.mean(axis=2), names, matrix.correct.shape[1])


def heat_figure(rates: NDArray[np.float64], names: Sequence[str], n: int) -> dict[str, Any]:
    """Draw rates (s s) of n images, by the solver attacked through and the one judged under; the diagonal is framed."""
    trace: Trace = {
        "type": "heatmap",
        "x": list(names),
        "y": list(names),
        "z": rates.tolist(),
        "text": [[f"{100 * rate:.1f} %" for rate in row] for row in rates],
        "texttemplate": "%{text}",
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": f"robust<br>(n = {n})"}, "outlinewidth": 0, "tickformat": ".0%"},
        "hovertemplate": "attacked through %{y}, judged under %{x}: %{text}<extra></extra>",
    }
    look = {"type": "rect", "line": {"color": VERMILION, "width": 3}}
    own = [look | {"x0": at - 0.5, "x1": at + 0.5, "y0": at - 0.5, "y1": at + 0.5} for at in range(len(names))]
    x, y = axis("judged under", percent=False), axis("attacked through", percent=False) | {"autorange": "reversed"}
    return figure_data([trace], layout(150 + 62 * len(names), xaxis=x, yaxis=y, shapes=own))
