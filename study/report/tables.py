"""The report's tables as HTML: real <table> elements that read without JavaScript; every text is escaped here."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from math import isclose
from typing import Any

from study.report.stats import (
    Mark,
    Rate,
    clean_baselines,
    epsilons,
    is_undistilled,
    marks,
)
from study.report.wording import (
    epsilon_text,
    interval_text,
    model_text,
    params_text,
)
from study.results import Results
from study.survivors import CARRIED, Survivors

Cell = tuple[str, float | None]
"""Text shown, its second line in small print, and the number it is sorted by (None: by the text)."""
Row = tuple[int | None, list[Cell]]
"""The trial behind the row, if any, and its cells."""
_SMALLER, _TRANSFER = "at a smaller epsilon", "transfer"


def attacked_table(results: Results) -> str:
    """One row per attacked model and clean baseline: rates with interval and n, cost, settings."""
    at = epsilons(results)
    header = ["model", "accuracy (test)", *[f"robust accuracy, epsilon {epsilon_text(e)}" for e in at]]
    header += ["nfe", "parameters", "sampled point"]
    placed = {e: {mark.model: mark for mark in marks(results, e)} for e in at}
    rows: list[Row] = []
    for name in dict.fromkeys(results.robustness["model"]):
        own = [placed[e].get(name) for e in at]
        mark = next(m for m in own if m is not None)
        rows.append((mark.trial, _attacked_row(results, mark, own)))
    for name, accuracy, n in clean_baselines(results, "test"):
        rate = f"{100 * accuracy:.1f} %\n" + (f"n = {n}" if n else "n unknown")
        blank: list[Cell] = [("", None)] * 3
        rows.append((None, [(name, None), (rate, accuracy), *[("not attacked", None)] * len(at), *blank]))
    return table("attacked", "Models attacked on test, and clean baselines", header, rows)


def attacks_table(results: Results) -> str:
    """One row per model and epsilon: what each attack of the cascade still found and broke."""
    names = dict.fromkeys(results.robustness["model"])
    broken = {(name, e): _broken_in_turn(results.survivors[name], e) for name in names for e in epsilons(results)}
    columns = list(dict.fromkeys(column for found in broken.values() for column in found))
    rows: list[Row] = []
    for (name, epsilon), found in broken.items():
        if found:
            model = results.survivors[name]
            left = int(model.clean_correct.sum())
            cells: list[Cell] = [(model_text(model), model.trial), (epsilon_text(epsilon), epsilon), (f"{left}", left)]
            cells += [found.get(column, ("not run", None)) for column in columns]
            survivors = Rate(int(model.robust(epsilon).sum()), model.n)
            rows.append((model.trial, [*cells, rate_cell(survivors)]))
    header = ["model", "epsilon", "right when clean", *[f"broken: {c}" for c in columns], "survivors of all"]
    caption = (
        "Survivors attack by attack: each attack sees only the images that are still right, so its count is no rank"
    )
    return table("attacks", caption, header, rows)


def _broken_in_turn(model: Survivors, epsilon: float) -> dict[str, Cell]:
    """Count what each column breaks that no column before it did; the images of other networks are one column."""
    if not model.attacked_at(epsilon):
        return {}
    smaller = [own for own in model.epsilons if own < epsilon and not isclose(own, epsilon)]
    fallen = model.clean_correct & ~(model.robust(smaller[-1]) if smaller else model.clean_correct)
    counts, tried = {_SMALLER: int(fallen.sum())}, dict.fromkeys([_SMALLER], 0)
    for (column, attempted, _), bits in zip(model.counts(epsilon), model.alone(epsilon, "").values(), strict=True):
        name = _SMALLER if column == CARRIED else _TRANSFER if column.startswith(_TRANSFER) else column
        counts[name] = counts.get(name, 0) + int((bits & model.clean_correct & ~fallen).sum())
        tried[name] = max(tried.get(name, 0), attempted)
        fallen = fallen | bits
    return {
        name: (f"{count}" if name == _SMALLER else f"{count}\nof {tried[name]} tried", count)
        for name, count in counts.items()
    }


def trials_table(results: Results) -> str:
    """One row per finished trial: the data behind the search plot."""
    rows: list[Row] = []
    trials = results.trials[results.trials["state"] == "COMPLETE"]
    for row in trials.sort_values(["on_front", "accuracy"], ascending=False).to_dict("records"):
        trial = int(row["trial"])
        cells: list[Cell] = [(str(trial), trial), (_place(row), None)]
        for value, n in ((row["accuracy"], row["n"]), (row["adversarial_accuracy"], row["n_adversarial"])):
            cells.append((f"{100 * value:.1f} % (n = {n})", float(value)))
        cells.append((f"{row['nfe']:.4g}", float(row["nfe"])))
        rows.append((trial, [*cells, (params_text(results.params(trial)), None)]))
    header = ["trial", "place", "accuracy", "adversarial_accuracy", "nfe", "sampled point"]
    return table("trials", "Finished trials, measured on val_search", header, rows)


def _place(row: Mapping[Any, Any]) -> str:
    """Say where a finished trial stands; what failed a check stands nowhere (S16)."""
    if isinstance(row["infeasible"], str):
        return f"infeasible\n{row['infeasible']}"
    return "front" if row["on_front"] else "dominated"


def failures_table(results: Results) -> str:
    """One row per reason for which trials did not complete."""
    ended = results.trials[results.trials["state"].isin(["FAIL", "PRUNED"])]
    reasons = ended["reason"].fillna("no reason stored")
    rows: list[Row] = []
    for (state, reason), group in ended.groupby([ended["state"], reasons]):
        numbers = [int(t) for t in group["trial"]]
        cells: list[Cell] = [(str(state), None), (str(reason), None), (str(len(numbers)), len(numbers))]
        rows.append((None, [*cells, (", ".join(map(str, numbers)), None)]))
    return table("failures", "Trials that did not complete, by reason", ["state", "reason", "count", "trials"], rows)


def definition_list(entries: Sequence[tuple[str, str]]) -> str:
    """Terms and what they mean, escaped."""
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries) + "</dl>"


def plain_table(identifier: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    return table(identifier, caption, header, [(None, [(text, None) for text in row]) for row in rows])


def _attacked_row(results: Results, mark: Mark, own: Sequence[Mark | None]) -> list[Cell]:
    place = {"student": "on the test front" if mark.on_front else "dominated on test"}.get(mark.kind, "")
    if mark.kind == "student":
        place = "unreliable, off the front" if mark.is_upper_bound else place
        place += "" if mark.headlined or mark.is_upper_bound else ", not headlined"
        place += ", not distilled (alpha 0)" if is_undistilled(results, mark.trial) else ""
    cells: list[Cell] = [(f"{model_text(mark)}\n{place}", mark.trial), rate_cell(mark.clean)]
    cells += [_robust_cell(m) if m else ("not attacked", None) for m in own]
    nfe = results.survivors[mark.model].nfe
    cells.append(("none", None) if math.isnan(nfe) else (f"{nfe:.4g}", nfe))
    rows = results.trials[results.trials["trial"] == mark.trial]["parameter_count"].dropna()
    count = int(rows.iloc[0]) if len(rows) else _teacher_parameters(results, mark)
    cells.append((f"{count:,}".replace(",", "\u202f"), count) if count else ("unknown", None))
    point = results.params(mark.trial) if mark.trial is not None else {}
    return [*cells, ("as its student, alpha = 0" if mark.kind == "twin" else params_text(point), None)]


def _teacher_parameters(results: Results, mark: Mark) -> int | None:
    for row in results.teachers.to_dict("records"):
        if mark.kind == "teacher" and str(row.get("teacher")) in mark.model and row.get("parameter_count"):
            return int(row["parameter_count"])
    return None


def _robust_cell(mark: Mark) -> Cell:
    """Write a robust accuracy with its verdict; an upper bound says so before anything else."""
    text, value = rate_cell(mark.robust)
    return f"{'at most ' if mark.is_upper_bound else ''}{text}, {mark.trust.word}", value


def rate_cell(rate: Rate) -> Cell:
    """Give a rate with its counts and interval."""
    return f"{100 * rate.value:.1f} %\n{rate.k} of {rate.n}, {interval_text(rate)}", rate.value


def table(identifier: str, caption: str, header: Sequence[str], rows: Sequence[Row]) -> str:
    """Give a table that sorts by its columns; texts are escaped, the part after a line break is small print."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(_row(trial, cells) for trial, cells in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption, quote=True)}">'
        f'<table id="table-{escape(identifier, quote=True)}" class="sortable"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(trial: int | None, cells: Sequence[Cell]) -> str:
    mark = "" if trial is None else f' data-trial="{trial}"'
    return f"<tr{mark}>{''.join(map(_cell, cells))}</tr>"


def _cell(cell: Cell) -> str:
    text, number = cell
    value = "" if number is None else f' data-value="{number:.10g}"'
    first, _, small = text.partition("\n")
    return f"<td{value}>{escape(first)}{f'<small>{escape(small)}</small>' if small else ''}</td>"
