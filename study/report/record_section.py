"""The section about what attacked networks look like inside; it stands only where a study has records."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from study.records import Numbers, Record
from study.report.chart import Chart
from study.report.markup import Section, choices, figure, paragraphs
from study.report.record_figures import CHOICE, drawn_records, record_labels
from study.report.record_gallery import Pictures, gallery, same_images
from study.report.tables import Cell, Row, table
from study.report.wording import epsilon_text, norm_text

_CAPTIONS = {
    "confusion": "Counts of images; what is off the diagonal is wrong. The attacked table counts one attacked version "
    "of each image: its share of right ones is no robust accuracy, which is the worst case over every attack.",
    "margins": "The margin is the lead of the right class's logit over the best other one, in standard deviations of "
    "the clean image's logits over the classes; left of the dotted line the network is wrong. The outermost bars hold "
    "what lies beyond.",
    "lines": "Line: median over images; band: both quartiles. Distance 1 is the attacked image, or random signs of "
    "length epsilon; images are cut to their range. Where random signs raise the loss as much as the attack does, the "
    "attack found nothing.",
    "plane": "Median of the loss over the images of the pairs. Dashed: where the median margin is 0, if anywhere.",
    "norms": "How large the state and its slope are on the way, relative to the first state; line: median over images, "
    "band: both quartiles. An adaptive student is followed on a fine fixed grid.",
}


def record_section(records: Sequence[Record], drawn: Mapping[str, Chart]) -> Section | None:
    """Put the section together.

    Args:
        records: Of a whole study, in any order.
        drawn: Charts by name, among them those of `record_charts`.

    Returns:
        The section, or None without records.
    """
    shown = drawn_records(records)
    if not shown:
        return None
    labels, pictures = record_labels(shown), Pictures()
    pairs = "".join(
        f'<div data-variant="{CHOICE}-{place}">{_heading(record, label)}{gallery(record, pictures)}</div>'
        for place, (record, label) in enumerate(zip(shown, labels, strict=True))
    )
    charts = [(drawn[f"{CHOICE}-{name}"], words) for name, words in _CAPTIONS.items() if f"{CHOICE}-{name}" in drawn]
    parts = [
        paragraphs(_intro(records, shown)),
        choices(CHOICE, "network", labels),
        pictures.html(),
        pairs,
        *(figure(chart, words, follows=CHOICE) for chart, words in charts),
        _evaluations(shown, labels),
    ]
    return Section("inside", "Inside the attacked networks", "".join(parts))


def _intro(records: Sequence[Record], shown: Sequence[Record]) -> list[str]:
    said = (
        "One attacked version of each image: the one that broke the network in its attacks where there is one, "
        "otherwise what 20 steps of PGD on the margin make of it. "
    )
    said += "Every network is shown on the same images. " if same_images(shown) else ""
    left = len(records) - len(shown)
    return [said + (f"{left} more networks have records in their folders and are not drawn." if left else "")]


def _heading(record: Record, label: str) -> str:
    at = f"{norm_text(record.norm)} epsilon {epsilon_text(record.epsilon)}"
    return f"<h3>{escape(f'{label}: {record.split}, {at}, n = {record.n}')}</h3>"


def _evaluations(records: Sequence[Record], labels: Sequence[str]) -> str:
    header = ["network", "solver", "evaluations, clean", "evaluations, attacked", "accepted steps, clean and attacked"]
    header += ["attacked images from", "no answer, clean and attacked"]
    rows: list[Row] = [(record.trial, _row(record, label)) for record, label in zip(records, labels, strict=True)]
    caption = "Evaluations of f per image; an adaptive solver is given one image at a time"
    return table("evaluations", caption, header, rows)


def _row(record: Record, label: str) -> list[Cell]:
    failed = record.confusions.failed.sum(axis=1)
    return [
        (label, record.trial),
        (_solver(record), None),
        _counted(None if record.nfe is None else record.nfe[0]),
        _counted(None if record.nfe is None else record.nfe[1]),
        (_steps(record), None),
        (_sources(record), None),
        (f"{failed[0]} and {failed[1]}\nof {record.n}", float(failed.sum())),
    ]


def _sources(record: Record) -> str:
    """Write where the attacked images are from: `stored` by the cascade, or made by the attack that is named."""
    return ", ".join(f"{name} {count}" for name, count in record.sources.items() if count)


def _counted(counts: Numbers | None) -> Cell:
    if counts is None or not np.isfinite(counts).any():
        return "none", None
    kept = counts[np.isfinite(counts)]
    low, high = kept.min(), kept.max()
    spread = f"all of {len(kept)} images" if low == high else f"{low:g} to {high:g}, n = {len(kept)}"
    return f"{kept.mean():.4g}\n{spread}", float(kept.mean())


def _steps(record: Record) -> str:
    if record.accepted_steps is None:
        return "none" if record.nfe is None else "not told"
    clean, attacked = (f"{each.mean():.4g}" for each in record.accepted_steps)
    return f"{clean} and {attacked}"


def _solver(record: Record) -> str:
    solver = record.metrics.get("solver")
    if not isinstance(solver, dict):
        return "none"
    rest = ("horizon", "steps", "rtol")
    details = ", ".join(f"{name} {solver[name]:g}" for name in rest if isinstance(solver.get(name), int | float))
    return f"{solver.get('solver')}\n{details}"
