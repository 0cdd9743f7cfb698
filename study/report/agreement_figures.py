"""What validation promised and what test held: students joined across splits, and the order of networks on both."""

from collections.abc import Sequence
from typing import Any

from study.proxy_against_truth import Agreement
from study.report.canvas import Trace, axis, layout, marker
from study.report.chart import Chart
from study.report.design_figures import figure_data
from study.report.front_figures import arrows
from study.report.optimism import Optimism, optimism
from study.report.palette import BLUE, FAINT, INK, ORANGE, PAPER
from study.report.point_parts import rate_lines
from study.report.stats import Mark, Rate, marks
from study.report.wording import epsilon_text
from study.results import Results

FEWEST_DRAWN = 3
"""Networks below which an order is no picture."""
SPLIT_NAMES = {
    "val_search": "the search's proxy (adversarial_accuracy, val_search)",
    "val_front": "adversarial accuracy on val_front",
}


def optimism_chart(results: Results) -> Chart | None:
    """Join each student's val_front, hollow, to its test, filled; None where no student was attacked alike on both."""
    found: dict[int, dict[str, Optimism]] = {}
    for each in optimism(results):
        found.setdefault(each.trial, {})[each.measure] = each
    both = {trial: pair for trial, pair in found.items() if {"clean", "robust"} <= set(pair)}
    epsilon = next((pair["robust"].epsilon for pair in both.values()), None)
    if epsilon is None:
        return None
    placed = {mark.trial: mark for mark in marks(results, epsilon) if mark.kind == "student" and mark.detailed}
    both = {trial: pair for trial, pair in both.items() if trial in placed}
    axes = {"xaxis": axis("accuracy"), "yaxis": axis(f"robust accuracy at epsilon {epsilon_text(epsilon)}")}
    figure = figure_data(_joined(both, placed), layout(440, **axes))
    alt = f"Accuracy and robust accuracy of {len(both)} students on val_front and on test, joined."
    return Chart("optimism", "", (("", figure),), alt) if both else None


def _joined(both: dict[int, dict[str, Optimism]], placed: dict[int | None, Mark]) -> list[Trace]:
    x: list[float | None] = []
    y: list[float | None] = []
    for pair in both.values():
        x += [pair["clean"].val_front.value, pair["clean"].test.value, None]
        y += [pair["robust"].val_front.value, pair["robust"].test.value, None]
    line: Trace = {"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "showlegend": False}
    kept = [trial for trial in both if placed[trial].on_front]
    bounds = [trial for trial in both if placed[trial].is_upper_bound]
    lost = [trial for trial in both if not placed[trial].on_front and trial not in bounds]
    hollow, outline = {"color": PAPER, "line": {"color": BLUE, "width": 2}}, {"line": {"color": INK, "width": 1}}
    traces = [line | {"line": {"color": FAINT, "width": 1.2}}]
    traces += _ends(both, list(both), "val_front", "val_front, where it was chosen", hollow | {"symbol": "circle"})
    traces += _ends(both, kept, "test", "test", outline | {"color": BLUE, "symbol": "circle"})
    traces += _ends(both, lost, "test", "test, off the front there", outline | {"color": FAINT, "symbol": "x"})
    if bounds:
        traces += _ends(both, bounds, "test", "test, unreliable: an upper bound", hollow | {"symbol": "square"})
        low = [(both[trial]["clean"].test.value, both[trial]["robust"].test.value) for trial in bounds]
        traces.append(arrows([x for x, _ in low], [y for _, y in low]))
    return traces


def _ends(
    both: dict[int, dict[str, Optimism]], trials: Sequence[int], split: str, name: str, look: dict[str, Any]
) -> list[Trace]:
    if not trials:
        return []
    rates = [(getattr(both[trial]["clean"], split), getattr(both[trial]["robust"], split)) for trial in trials]
    words = [
        "<br>".join([f"<b>student {trial}, {split}</b>", *_rate_lines(clean, robust)])
        for trial, (clean, robust) in zip(trials, rates, strict=True)
    ]
    is_test = split == "test"
    trace: Trace = {
        "type": "scatter",
        "mode": "markers+text" if is_test else "markers",
        "x": [clean.value for clean, _ in rates],
        "y": [robust.value for _, robust in rates],
        "customdata": list(trials),
        "hovertext": words,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "text": [str(trial) for trial in trials] if is_test else None,
        "textposition": "top right",
        "marker": {"size": 10, **look},
        "name": name,
    }
    return [trace]


def _rate_lines(clean: Rate, robust: Rate) -> list[str]:
    return rate_lines("accuracy", clean, clean.value) + rate_lines("robust accuracy", robust, robust.value)


def proxy_chart(found: Sequence[Agreement]) -> Chart | None:
    """Draw what each split showed against the final worst case, a variant per split; None with too few networks."""
    shown = [each for each in found if len(each.trials) >= FEWEST_DRAWN]
    variants = tuple((SPLIT_NAMES[each.split], _scatter(each)) for each in shown)
    alt = "Adversarial accuracy on validation against robust accuracy on test, a point per student."
    return Chart("proxy", "looked at", variants, alt) if variants else None


def _scatter(found: Agreement) -> dict[str, Any]:
    traces = []
    for at_random, name, colour, symbol in (
        (False, "chosen", BLUE, "circle"),
        (True, "drawn at random among the dismissed", ORANGE, "square"),
    ):
        rows = [i for i, drawn in enumerate(found.at_random) if drawn == at_random]
        trace: Trace = {"type": "scatter", "mode": "markers", "name": name, "marker": marker(colour, symbol, 10)}
        trace |= {"x": [found.seen[i] for i in rows], "y": [found.final[i] for i in rows]}
        trace |= {"customdata": [found.trials[i] for i in rows]}
        trace |= {"hovertemplate": "student %{customdata}<br>then %{x:.1%}, in the end %{y:.1%}<extra></extra>"}
        traces += [trace] if rows else []
    y = axis(f"robust accuracy at epsilon {epsilon_text(found.epsilon)} (test)")
    return figure_data(traces, layout(440, xaxis=axis(SPLIT_NAMES[found.split]), yaxis=y))
