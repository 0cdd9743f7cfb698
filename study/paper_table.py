"""A paper's claims beside what one run measured: one row per quantity, for `study.show DIR --paper`.

The paper's side is data in `study.papers`, the run's side comes from `study.paper_values`; a row without a value of
this run says which run would measure it.
"""

from dataclasses import asdict
from typing import Any

from study.designs import design
from study.paper_values import MANY, MEASURES, Difference, Entry, count
from study.papers import OTHER, Paper, Row
from study.results import Results


def compare(results: Results, paper: Paper) -> dict[str, Any]:
    """Lay a run beside a paper.

    Args:
        results: The run, in whatever state.
        paper: One of `study.papers.PAPERS`.

    Returns:
        The object of `study.show DIR --paper NAME --json`. Of a row, `paper` is null where no value is known to us
        (`read` says where it stands), `measured` null where this run holds none (`run` says what would).
    """
    data = data_name(results)
    rows = [row for row in paper.rows if row.data != OTHER or data not in paper.data]
    summary = results.summary()
    return {
        "paper": {name: value for name, value in asdict(paper).items() if name != "rows"},
        **{name: summary[name] for name in ("study", "state", "trials")},
        "data": data,
        "cautions": cautions(results),
        "rows": [_row(results, paper, row, data) for row in rows],
    }


def data_name(results: Results) -> str:
    """Give the name of the run's data set, as under `data.name`."""
    space = results.study.get("space") or {}
    return str((space.get("data") or {}).get("name") or results.study.get("data") or "unknown")


def cautions(results: Results) -> list[str]:
    """Say what keeps this run's values from being read as an experiment's."""
    of = design(results)
    attacked = results.robustness[results.robustness["kind"] == "student"]["trial"].nunique()
    found = []
    if results.study.get("smoke"):
        found.append("A smoke run: trained for a moment only, its values mean nothing.")
    if results.state != "complete":
        found.append(f"The study is {results.state}: values may still change.")
    if of.adaptive:
        found.append(
            f"The sampler {of.sampler} chose the points in view of results: exploratory; those on its front, which won "
            "by luck too, are left out of all means."
        )
    if 0 < attacked < len(of.table):
        found.append(f"{attacked} of {len(of.table)} students were attacked on test, and they were chosen.")
    searched = [name for name in of.factors if len(of.levels[name]) > MANY]
    if searched:
        found.append(f"Averaged over the many values of {', '.join(searched)}.")
    return found


def _row(results: Results, paper: Paper, row: Row, data: str) -> dict[str, Any]:
    entries = MEASURES[row.measure](results) if row.data in (None, OTHER, data) else []
    return {
        "quantity": row.quantity,
        "paper": [asdict(known) for known in row.known] or None,
        "note": row.note or None,
        "read": f"{row.place}: {paper.address}",
        "measured": [{**asdict(entry), "text": text(entry)} for entry in entries] or None,
        "run": row.run,
    }


def text(entry: Entry) -> str:
    """Write one measured value with its interval and what stands behind it."""
    if isinstance(entry, Difference):
        words = _with_ends(entry.points, entry.low, entry.high, "+.1f", " points")
        if entry.relative_percent is not None:
            low, high = entry.relative_low, entry.relative_high
            words += ", " + _with_ends(entry.relative_percent, low, high, "+.1f", " % relative")
        if entry.detectable_points is not None:
            words += f"; finds {entry.detectable_points:.1f} points or more"
        return f"{entry.arm}: {words}; {count(entry.pairs, 'pair')}, {entry.replicates}, {entry.split}"
    rate = entry.unit == "rate"
    mean, low, high = (None if v is None else (100 if rate else 1) * v for v in (entry.mean, entry.low, entry.high))
    value = _with_ends(mean, low, high, ".1f" if rate else ".4g", " %" if rate else "")
    where = f", {entry.split}" if entry.split else ""
    return f"{entry.arm}: {value}; {count(entry.models, 'model')}, {entry.replicates}{where}"


def _with_ends(value: float | None, low: float | None, high: float | None, form: str, unit: str) -> str:
    if value is None:
        return "unknown"
    return f"{value:{form}}{unit}" + ("" if low is None or high is None else f" ({low:{form}} to {high:{form}})")
