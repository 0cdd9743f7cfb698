"""Sections about the systems compared: horizon, likeness to the teacher, solvers, damping, features.

Each stands on the page only where its data exist.
"""

from collections.abc import Sequence

from study.designs import Design
from study.report import probe_tables as shown
from study.report.chart import Chart
from study.report.design_tables import cells_table, methods_table, points_table
from study.report.markup import Section, details, figure, paragraphs
from study.results import Results

_OVER = "Points are means over everything else that was varied, bars are t intervals over replicates."
_CAPTIONS = {
    "horizon": f"One panel per arm: what is held while the horizon grows. {_OVER}",
    "path": "A point per trial. The path length of a trajectory is the integral of |f| over |h(0)|: how far the state "
    "really travels, whatever the horizon is called.",
    "length": "The paired gain of each method over none at each training length: an effect that vanishes with longer "
    "training is one of speed.",
    "damping": f"Plain is damping 0; learned stands at the right. {_OVER}",
    "lambda": "Damping of each block as it stands after training, where it was learned. Initial values are drawn from "
    "the ranges published for 110 and 164 layers; at any other depth the range for 110 is assumed.",
    "landscape": "One student per kind, plain and learned dynamics first. Line: median over images; band: both "
    "quartiles. Negative distances go down the loss.",
    "surface": "One student per kind, plain and learned dynamics first; mean loss over images.",
    "methods-compared": f"{_OVER} A method without a bar has one replicate, or replicates that agree exactly.",
    "reconstruction": "A small decoder learns to rebuild the image from the last map; lower means that the map keeps "
    "more of it. It says nothing about accuracy by itself.",
}


def system_sections(results: Results, of: Design, drawn: dict[str, Chart]) -> list[Section]:
    """Give the sections that have data, in the order of the page."""
    built = [
        ("horizon", "Time horizon and path length", _charts(drawn, "horizon", "path", "length") + _trajectories(of)),
        ("methods-used", "Methods compared", _methods(results, of, drawn)),
        ("likeness", "Likeness to the teacher", shown.likeness_table(of) + shown.likeness_words(of)),
        ("calibration", "Calibration", shown.calibration_tables(results, of)),
        ("solvers", "Other solvers at test time", shown.solvers_table(results, of) + shown.flow_words(results, of)),
        ("damping", "Damping", _charts(drawn, "damping", "lambda")),
        ("perturbed", "Noise, published attacks, landscape", _perturbed(results, of, drawn)),
    ]
    return [Section(name, title, body) for name, title, body in built if body]


def _charts(drawn: dict[str, Chart], *names: str) -> str:
    return "".join(figure(drawn[name], _CAPTIONS[name]) for name in names if name in drawn)


def _trajectories(of: Design) -> str:
    measures = ("path_length", "growth", "nfe")
    if not {"path_length", "growth"} & set(of.measures):
        return ""
    words = (
        "Relative growth is (|dh(T)|/|h(T)|) over (|dh(0)|/|h(0)|) for a small perturbation dh of the first state: "
        "below 1 the flow shrinks perturbations relative to the state."
    )
    body = cells_table(of, "trajectories", "Trajectories: means over replicates", measures)
    return details("Path length and growth as a table", body) + paragraphs([words]) if body else ""


def _methods(results: Results, of: Design, drawn: dict[str, Chart]) -> str:
    parts = [_charts(drawn, "methods-compared", "reconstruction"), methods_table(of), shown.ensemble_words(of)]
    points = points_table(results, of)
    return "".join([*parts, details("Every trial and its method", points) if points else ""])


def _perturbed(results: Results, of: Design, drawn: dict[str, Chart]) -> str:
    parts: Sequence[str] = [
        *(shown.noise_table(results, of), shown.published_table(results, of), shown.legacy_words(results)),
        _charts(drawn, "landscape", "surface"),
    ]
    return "".join(parts)
