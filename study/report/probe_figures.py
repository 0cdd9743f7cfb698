"""Figures of what was probed: damping, the landscape along the attack, and reconstruction from the last map."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from study.comparisons import Cell, cells
from study.designs import Design, key, records
from study.effects import mean_interval
from study.report.canvas import Trace, axis, interval_trace, layout, marker
from study.report.chart import Chart
from study.report.design_figures import DASHES, figure_data, method_looks
from study.report.measures import RATES, label, measured, method_text
from study.report.palette import SERIES, SYMBOLS
from study.results import Results

MOST_LINES = 60
MOST_LANDSCAPES = 6
_BANDS = ("rgba(0,114,178,0.18)", "rgba(213,94,0,0.18)", "rgba(0,158,115,0.18)", "rgba(230,159,0,0.18)")


def probe_charts(results: Results, of: Design) -> list[Chart]:
    """Draw every figure that the probes allow."""
    drawn = [_damping_chart(of), _lambda_chart(results, of)]
    drawn += [*_landscape_charts(results, of), _reconstruction_chart(results, of)]
    return [chart for chart in drawn if chart is not None]


def damping_text(dynamics: Any, damping: Any) -> str:
    """Write a damping as the axis does: plain, a number, or learned."""
    if dynamics in (None, "plain"):
        return "plain"
    at = key(damping)
    return "learned" if at in (None, "learned") else f"{float(at):g}"


def kind_text(row: Any) -> str:
    """Name a kind of student by its network, its dynamics and its method."""
    words = [str(row["arch"]), str(row["dynamics"] or "plain")]
    if words[1] != "plain":
        words.append(f"damping {damping_text(row['dynamics'], row['damping'])}")
        words += ["no decay on it"] if key(row["damping_decay"]) == "false" else []
    words += [f"norm {row['norm']}"] if row["norm"] is not None else []
    return ", ".join([*words, method_text(row)])


def student_probes(results: Results, of: Design) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Give (row of the table, metrics of its probe) of every probed student, by trial."""
    rows = {row["trial"]: row for row in records(of.table)}
    probed = {p.get("trial"): p for name, p in results.probes.items() if name.startswith("student-")}
    return [(rows[trial], probed[trial]) for trial in sorted(rows) if trial in probed]


def representatives(results: Results, of: Design, part: str) -> list[tuple[str, dict[str, Any]]]:
    """Choose one probed student per kind, networks in turn: (label, its part of the probe)."""
    found: dict[str, tuple[tuple[int, str], str, dict[str, Any]]] = {}
    of_network: dict[str, int] = defaultdict(int)
    for row, probe in sorted(student_probes(results, of), key=lambda pair: _interest(pair[0])):
        if probe.get(part) and kind_text(row) not in found:
            network = f"{row['arch']} {row['norm']}"
            found[kind_text(row)] = (
                (of_network[network], network),
                f"student {row['trial']}: {kind_text(row)}",
                probe[part],
            )
            of_network[network] += 1
    return [(name, shown) for _, name, shown in sorted(found.values(), key=lambda f: f[0])[:MOST_LANDSCAPES]]


def _interest(row: Mapping[str, Any]) -> tuple[int, int]:
    """Rank students for a few places: plain and learned dynamics first, then by trial."""
    return {"plain": 0, "learned": 1}.get(_damping_at(row), 2), row["trial"]


def _damping_chart(of: Design) -> Chart | None:
    rows = records(of.table)
    if of.adaptive or len({(row["dynamics"], key(row["damping"])) for row in rows}) < 2:
        return None
    names = measured(of, ("accuracy", "noise_accuracy", "robust_accuracy", "growth"))
    found = cells(of, ("arch", "norm", "dynamics", "damping", "damping_decay"), names)
    variants = tuple((label(of, name), _against_damping(of, found, name)) for name in names)
    alt = "Results against damping, fixed and learned, one line per network, norm and dynamics, with intervals."
    return Chart("damping", "measure", variants, alt) if variants else None


def _against_damping(of: Design, found: Sequence[Cell], measure: str) -> dict[str, Any]:
    lines: dict[str, list[Cell]] = defaultdict(list)
    for cell in found:
        if cell.means[measure].n:
            at = cell.levels
            norm = f", norm {at['norm']}" if at["norm"] is not None else ""
            lines[f"{at['arch']}{norm}, {at['dynamics'] or 'plain'}"].append(cell)
    traces, ticks = [], {_damping_at(cell.levels) for line in lines.values() for cell in line}
    for place, (name, unsorted) in enumerate(sorted(lines.items())):
        line = sorted(unsorted, key=lambda c: _damping_rank(_damping_at(c.levels)))
        look = (SERIES[place % len(SERIES)], SYMBOLS[place % len(SYMBOLS)], DASHES[place % len(DASHES)])
        x, means = [_damping_at(cell.levels) for cell in line], [cell.means[measure] for cell in line]
        traces.append(interval_trace(name, x, means, look, percent=measure in RATES))
    ranked = sorted(ticks, key=_damping_rank)
    x = axis("damping", percent=False) | {"type": "category", "categoryorder": "array", "categoryarray": ranked}
    y = axis(label(of, measure), percent=measure in RATES)
    return figure_data(traces, layout(460, xaxis=x, yaxis=y))


def _damping_at(levels: Mapping[str, Any]) -> str:
    text = damping_text(levels["dynamics"], levels["damping"])
    return f"{text}, no decay" if text == "learned" and key(levels["damping_decay"]) == "false" else text


def _damping_rank(text: str) -> tuple[int, float]:
    learned = ("learned", "learned, no decay")
    return (0, 0.0) if text == "plain" else (2, learned.index(text)) if text in learned else (1, float(text))


def _lambda_chart(results: Results, of: Design) -> Chart | None:
    shown = [
        (row, [float(v) for v in probe["trajectory"]["damping"]])
        for row, probe in student_probes(results, of)
        if (probe.get("trajectory") or {}).get("damping") and damping_text(row["dynamics"], row["damping"]) == "learned"
    ][:MOST_LINES]
    kinds = sorted({kind_text(row) for row, _ in shown})
    traces, seen = [], set()
    for row, values in shown:
        name = kind_text(row)
        place = kinds.index(name)
        colour, symbol = SERIES[place % len(SERIES)], SYMBOLS[place % len(SYMBOLS)]
        trace: Trace = {"type": "scatter", "mode": "lines+markers", "name": name, "legendgroup": name}
        trace |= {"x": list(range(1, len(values) + 1)), "y": values, "meta": row["trial"], "opacity": 0.8}
        trace |= {"line": {"color": colour, "width": 1.2}, "marker": marker(colour, symbol, 7)}
        trace |= {"hovertemplate": f"trial {row['trial']}, block %{{x}}: %{{y:.3g}}<extra></extra>"}
        traces.append(trace | {"showlegend": name not in seen})
        seen.add(name)
    x = axis("block", percent=False) | {"dtick": 1 if max((len(v) for _, v in shown), default=1) < 20 else 5}
    look = layout(440, xaxis=x, yaxis=axis("learned damping", percent=False))
    alt = f"Learned damping of every block after training, a line for each of {len(shown)} students."
    return Chart("lambda", "", (("", figure_data(traces, look)),), alt) if traces else None


def _landscape_charts(results: Results, of: Design) -> list[Chart]:
    chosen = representatives(results, of, "landscape")
    lines = tuple(
        (title, figure_data(_band_traces(chosen, part), _landscape_layout(title)))
        for part, title in (("loss", "cross-entropy loss"), ("margin", "margin of the right class"))
        if any(found.get(part) for _, found in chosen)
    )
    maps = tuple(
        (name, _surface(found["surface"])) for name, found in chosen if (found.get("surface") or {}).get("loss")
    )
    drawn = []
    if lines:
        alt = "Median over images along the attack direction, with the band between both quartiles."
        drawn.append(Chart("landscape", "shown", lines, alt))
    if maps:
        alt = "Heat map of the mean loss over the attack direction and a random sign direction."
        drawn.append(Chart("surface", "student", maps, alt))
    return drawn


def _landscape_layout(title: str) -> dict[str, Any]:
    return layout(
        460, xaxis=axis("distance along the attack, in epsilon", percent=False), yaxis=axis(title, percent=False)
    )


def _band_traces(chosen: Sequence[tuple[str, dict[str, Any]]], part: str) -> list[Trace]:
    traces: list[Trace] = []
    for place, (name, found) in enumerate(chosen):
        curve, x = found.get(part) or {}, found.get("distances")
        if not curve or not x:
            continue
        colour, shared = SERIES[place % len(SERIES)], {"type": "scatter", "mode": "lines", "x": x, "legendgroup": name}
        edge = shared | {"line": {"width": 0, "color": colour}, "hoverinfo": "skip", "showlegend": False}
        if "q25" in curve and "q75" in curve:
            traces.append(edge | {"y": curve["q25"]})
            traces.append(edge | {"y": curve["q75"], "fill": "tonexty", "fillcolor": _BANDS[place % len(_BANDS)]})
        line = {"color": colour, "width": 2, "dash": DASHES[place % len(DASHES)]}
        hover = {"hovertemplate": "%{x:.2f} epsilon: %{y:.3g}<extra></extra>"}
        traces.append(shared | {"y": curve.get("median"), "name": name, "line": line} | hover)
    return traces


def _surface(found: dict[str, Any]) -> dict[str, Any]:
    at = found.get("axis")
    bar = {"title": {"text": "loss"}, "outlinewidth": 0}
    trace: Trace = {"type": "heatmap", "x": at, "y": at, "z": found["loss"], "colorscale": "Cividis", "colorbar": bar}
    trace |= {"hovertemplate": "attack %{y:.2f}, random %{x:.2f}: %{z:.3g}<extra></extra>"}
    x = axis("random sign direction, in epsilon", percent=False)
    return figure_data([trace], layout(460, xaxis=x, yaxis=axis("attack direction, in epsilon", percent=False)))


def _reconstruction_chart(results: Results, of: Design) -> Chart | None:
    curves: dict[str, list[list[float]]] = defaultdict(list)
    for row, probe in student_probes(results, of):
        curve = (probe.get("reconstruction") or {}).get("curve")
        if curve:
            curves[method_text(row)].append([float(value) for value in curve])
    looks, traces = method_looks(of), []
    for name, own in sorted(curves.items()):
        length = min(map(len, own))
        means = [mean_interval([curve[i] for curve in own]) for i in range(length)]
        traces.append(interval_trace(name, list(range(1, length + 1)), means, (*looks[name], "solid"), percent=False))
    look = layout(
        420, xaxis=axis("epoch of the decoder", percent=False), yaxis=axis("L1 error, held-out images", percent=False)
    )
    alt = "Reconstruction error of the image from the last feature map over the decoder's epochs, by method."
    return Chart("reconstruction", "", (("", figure_data(traces, look)),), alt) if traces else None
