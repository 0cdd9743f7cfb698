"""The report's tables as HTML: real <table> elements that read without JavaScript; every text is escaped here."""

import math
from collections.abc import Sequence
from html import escape

from study.report.stats import (
    Comparison,
    Mark,
    Rate,
    TwinGain,
    clean_baselines,
    epsilons,
    is_undistilled,
    marks,
    neighbours,
    twin_gains,
)
from study.report.wording import (
    epsilon_text,
    interval_text,
    model_text,
    p_text,
    params_text,
    points_text,
)
from study.results import Results
from study.survivors import CARRIED

Cell = tuple[str, float | None]
"""Text shown, its second line in small print, and the number it is sorted by (None: by the text)."""
Row = tuple[int | None, list[Cell]]
"""The trial behind the row, if any, and its cells."""


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


def gains_table(results: Results) -> str:
    """One row per student and epsilon: what distillation changed against the alpha = 0 twin."""
    rows: list[Row] = []
    for epsilon in epsilons(results):
        for gain in twin_gains(results, epsilon):
            rows.append((gain.trial, _gain_row(gain, epsilon)))
    header = ["student", "epsilon", "robust accuracy less twin's", "Holm-adjusted", "detectable", "clean less twin's"]
    header.append("robust where both are right when clean: student, twin")
    return table("gains", "Students less their alpha = 0 twins, on the same images", header, rows) if rows else ""


def attacks_table(results: Results) -> str:
    """One row per model and epsilon: what each attack of the cascade still found and broke."""
    rows: list[Row] = []
    for name in dict.fromkeys(results.robustness["model"]):
        model = results.survivors[name]
        for epsilon in model.epsilons:
            left = int(model.clean_correct.sum())
            cells: list[Cell] = [(model_text(model), model.trial), (epsilon_text(epsilon), epsilon), (f"{left}", left)]
            fallen = {column: (tried, broke) for column, tried, broke in model.counts(epsilon)}
            for column in _all_columns(results):
                tried, broke = fallen.get(column, (0, 0))
                text = f"{broke}\nof {tried} tried" if column != CARRIED else f"{broke}"
                cells.append((text if column in fallen else "not run", broke if column in fallen else None))
            survivors = Rate(int(model.robust(epsilon).sum()), model.n)
            rows.append((model.trial, [*cells, _rate_cell(survivors)]))
    columns = ["at a smaller epsilon" if column == CARRIED else column for column in _all_columns(results)]
    header = ["model", "epsilon", "right when clean", *[f"broken: {c}" for c in columns], "survivors of all"]
    caption = (
        "Survivors attack by attack: each attack sees only the images that are still right, so its count is no rank"
    )
    return table("attacks", caption, header, rows)


def neighbours_table(results: Results, epsilon: float) -> str:
    """One row per pair of neighbours on the test front and measure."""
    rows = [(None, _neighbour_row(comparison)) for comparison in neighbours(results, epsilon)]
    header = ["neighbours", "measure", "difference", "Holm-adjusted", "detectable at this n", "distinguishable"]
    caption = f"Neighbours on the test front at epsilon {epsilon_text(epsilon)}"
    return table(f"neighbours-{epsilon_text(epsilon)}", caption, header, rows) if rows else ""


def trials_table(results: Results) -> str:
    """One row per finished trial: the data behind the search plot."""
    rows: list[Row] = []
    trials = results.trials[results.trials["state"] == "COMPLETE"]
    for row in trials.sort_values(["on_front", "accuracy"], ascending=False).to_dict("records"):
        trial = int(row["trial"])
        cells: list[Cell] = [(str(trial), trial), ("front" if row["on_front"] else "dominated", None)]
        for value, n in ((row["accuracy"], row["n"]), (row["adversarial_accuracy"], row["n_adversarial"])):
            cells.append((f"{100 * value:.1f} % (n = {n})", float(value)))
        cells.append((f"{row['nfe']:.4g}", float(row["nfe"])))
        rows.append((trial, [*cells, (params_text(results.params(trial)), None)]))
    header = ["trial", "place", "accuracy", "adversarial_accuracy", "nfe", "sampled point"]
    return table("trials", "Finished trials, measured on val_search", header, rows)


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
        place += "" if mark.headlined else ", not headlined"
        place += ", not distilled (alpha 0)" if is_undistilled(results, mark.trial) else ""
    cells: list[Cell] = [(f"{model_text(mark)}\n{place}", mark.trial), _rate_cell(mark.clean)]
    cells += [_rate_cell(m.robust) if m else ("not attacked", None) for m in own]
    nfe = results.survivors[mark.model].nfe
    cells.append(("none", None) if math.isnan(nfe) else (f"{nfe:.4g}", nfe))
    rows = results.trials[results.trials["trial"] == mark.trial]["parameter_count"].dropna()
    count = int(rows.iloc[0]) if len(rows) else _teacher_parameters(results, mark)
    cells.append((f"{count:,}".replace(",", "\u202f"), count) if count else ("unknown", None))
    point = results.params(mark.trial) if mark.trial is not None else {}
    return [*cells, ("as its student, alpha = 0" if mark.kind == "twin" else params_text(point), None)]


def _gain_row(gain: TwinGain, epsilon: float) -> list[Cell]:
    student, twin = gain.of_both
    detectable = gain.robust.detectable
    return [
        (f"student {gain.trial}", gain.trial),
        (epsilon_text(epsilon), epsilon),
        _difference_cell(gain.robust),
        (
            f"{p_text(gain.robust.adjusted_p)}\n{'clear' if gain.robust.clear else 'not distinguishable'}",
            gain.robust.adjusted_p,
        ),
        (f"{100 * detectable:.1f} points\nn = {gain.robust.difference.n}", detectable),
        _difference_cell(gain.clean),
        (_both_text(student, twin, gain.of_both_p), student.value - twin.value),
    ]


def _both_text(student: Rate, twin: Rate, p: float) -> str:
    if not student.n:
        return "none"
    ends = f"{student.k} and {twin.k} of {student.n}, McNemar {p_text(p)}"
    return f"{100 * student.value:.1f} and {100 * twin.value:.1f} %\n{ends}"


def _difference_cell(comparison: Comparison) -> Cell:
    d = comparison.difference
    ends = f"{points_text(d.low)} to {points_text(d.high)}, McNemar {p_text(comparison.test.p_value)}"
    return f"{points_text(d.difference)} points\n{ends}", d.difference


def _teacher_parameters(results: Results, mark: Mark) -> int | None:
    for row in results.teachers.to_dict("records"):
        if mark.kind == "teacher" and str(row.get("teacher")) in mark.model and row.get("parameter_count"):
            return int(row["parameter_count"])
    return None


def _rate_cell(rate: Rate) -> Cell:
    return f"{100 * rate.value:.1f} %\n{rate.k} of {rate.n}, {interval_text(rate)}", rate.value


def _neighbour_row(comparison: Comparison) -> list[Cell]:
    pair = f"{model_text(comparison.first)}, {model_text(comparison.second)}"
    n = comparison.difference.n
    return [
        (pair, None),
        ("robust accuracy" if comparison.measure == "robust" else "accuracy", None),
        _difference_cell(comparison),
        (p_text(comparison.adjusted_p), comparison.adjusted_p),
        (f"{points_text(comparison.detectable).removeprefix('+')} points (n = {n})", comparison.detectable),
        ("yes" if comparison.clear else "no", None),
    ]


def _all_columns(results: Results) -> list[str]:
    return list(dict.fromkeys(column for model in results.survivors.values() for column in model.columns))


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
