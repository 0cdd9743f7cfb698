"""Tables of a designed study: cells, gains of distillation, effects, and which method each point is."""

from collections.abc import Sequence
from math import isfinite

from study.comparisons import Cell as DesignCell
from study.comparisons import Gain, cells, effects, gain
from study.designs import Design, key, records
from study.effects import detectable
from study.report.design_figures import distillations, effect_text
from study.report.measures import (
    METHOD,
    cell_text,
    detectable_text,
    gain_text,
    label,
    level_text,
    mean_text,
    measured,
    method_cell_text,
    method_columns,
    method_text,
    number_text,
    relative_text,
    unit_text,
)
from study.report.tables import Cell, Row, table
from study.report.wording import p_text, params_text
from study.results import Results
from study.statistics import family_level, holm

MOST_CELLS = 200
_MOST_LEVELS = 12
_RESULTS = ("accuracy", "robust_accuracy")
_CONTROLS = ("label-smoothing", "kd-permuted", "self")


def cells_table(
    of: Design, identifier: str, caption: str, measures: tuple[str, ...], by: Sequence[str] | None = None
) -> str:
    """One row per cell: means over seeds; empty where nothing was measured or cells are too many."""
    names = measured(of, measures)
    found = cells(of, by, names) if names else []
    found = [cell for cell in found if any(mean.n for mean in cell.means.values())]
    if not found or len(found) > MOST_CELLS:
        return ""
    rows: list[Row] = [(None, [_named(cell, by), *[_mean_cell(of, cell, name) for name in names]]) for cell in found]
    return table(identifier, caption, ["cell", *[label(of, name) for name in names]], rows)


def gain_row(of: Design, title: str, found: Gain, adjusted: float | None = None, family: int = 1) -> Row:
    """Give a row of `gains_table`: points, relative per cent, both intervals, n, the smallest detectable difference."""
    blocks, seeds = found.over_blocks, found.over_seeds
    unit = of.unit or "run"
    p = seeds.p_value if adjusted is None else adjusted
    least = detectable(seeds.difference, family_level(family))
    cells_: list[Cell] = [
        (title, None),
        (label(of, found.measure), None),
        (gain_text(blocks.difference, found.measure, "block"), blocks.difference.value),
        (gain_text(seeds.difference, found.measure, unit), seeds.difference.value),
        (relative_text(seeds.relative), seeds.relative.value),
        (p_text(p) if isfinite(p) else "unknown", p),
        (detectable_text(least, found.measure), least),
    ]
    return None, [(text, None if value is None or not isfinite(value) else value) for text, value in cells_]


def gains_table(
    of: Design, identifier: str, caption: str, rows: Sequence[tuple[str, Gain]], family: bool = True
) -> str:
    """One row per comparison; p-values are of the interval over seeds, Holm-adjusted over the table."""
    if not rows:
        return ""
    known = [g.over_seeds.p_value for _, g in rows if isfinite(g.over_seeds.p_value)]
    adjusted, size = iter(holm(known)), len(known)
    shown = [
        gain_row(of, title, g, next(adjusted) if isfinite(g.over_seeds.p_value) else None, size) for title, g in rows
    ]
    unit = f"{of.unit}s" if of.unit else "runs"
    header = ["comparison", "measure", "difference over blocks", f"difference over {unit}", "relative gain"]
    return table(identifier, caption, [*header, "Holm-adjusted" if family else "p", "detectable"], shown)


def distillation_gains(of: Design) -> list[tuple[str, Gain]]:
    """Compare every method with none, kd with its controls, and the gain of distilling at each level of each factor."""
    methods, found = [str(level) for level in of.levels.get("method", ())], []
    for measure in measured(of, _RESULTS):
        found += [(title, gain(of, measure, factor, levels)) for title, factor, levels in distillations(of)]
        if "kd" in methods:
            controls = [control for control in _CONTROLS if control in methods]
            found += [(f"kd less {c}", gain(of, measure, "method", ("kd", c))) for c in controls]
        found += _gains_by_level(of, measure)
    return [(title, each) for title, each in found if each.over_blocks.difference.n]


def _gains_by_level(of: Design, measure: str) -> list[tuple[str, Gain]]:
    names = [n for n in of.factors if n not in ("method", "alpha") and 2 <= len(of.levels[n]) <= _MOST_LEVELS]
    return [
        (f"{title}, {level_text(name, at)}", gain(of, measure, factor, levels, {name: at}))
        for title, factor, levels in distillations(of)
        for name in names
        for at in of.levels[name]
    ]


def effects_table(of: Design, measure: str) -> str:
    """One row per main effect and interaction of the factorial."""
    found = effects(of, measure)
    rows: list[Row] = []
    for effect, adjusted in zip(found.effects, found.adjusted, strict=True):
        kind = "main effect" if len(effect.factors) == 1 else "interaction"
        p = (p_text(adjusted), adjusted) if isfinite(adjusted) else ("unknown", None)
        estimate = (gain_text(effect.estimate, measure, of.unit or "block"), effect.estimate.value)
        least = (
            detectable_text(effect.detectable, measure),
            effect.detectable if isfinite(effect.detectable) else None,
        )
        rows.append((None, [(effect_text(effect, found), None), (kind, None), estimate, p, least]))
    header = ["effect", "kind", "estimate", "Holm-adjusted", "detectable"]
    caption = f"Factorial effects on {label(of, measure)}, over {unit_text(found.blocks, of.unit)}"
    return table(f"effects-{measure}", caption, header, rows) if rows else ""


def points_table(results: Results, of: Design) -> str:
    """One row per completed trial, with the name of its method; empty where all use one method."""
    rows = records(of.table)
    if len({method_text(row) for row in rows}) < 2:
        return ""
    names = measured(of, ("accuracy", "robust_accuracy", "nfe", "ensemble_accuracy"))
    shown: list[Row] = []
    for row in sorted(rows, key=lambda r: (method_text(r), r["trial"])):
        trial = int(row["trial"])
        numbers: list[Cell] = [(number_text(row[n], n), row[n] if isfinite(row[n]) else None) for n in names]
        text: Cell = (params_text(results.params(trial)), None)
        shown.append((trial, [(method_text(row), None), (str(trial), trial), *numbers, text]))
    caption = "Every finished trial and its method"
    return table("points", caption, ["method", "trial", *[label(of, n) for n in names], "sampled point"], shown)


def methods_table(of: Design) -> str:
    """One row per method and setting that not all methods share: means over seeds, whatever else varied averaged."""
    measures = ("accuracy", "robust_accuracy", "noise_accuracy", "ensemble_accuracy", "reconstruction_l1")
    names = (*measures, "parameter_count", "nfe", "training_seconds")
    if of.adaptive or len({method_text(row) for row in records(of.table)}) < 2:
        return ""
    caption = "Methods: means over everything else that was varied"
    return cells_table(of, "methods-compared", caption, names, method_columns(of))


def _named(cell: DesignCell, by: Sequence[str] | None) -> Cell:
    if by is not None and tuple(by[: len(METHOD)]) == METHOD:
        return method_cell_text(cell.levels), None
    first = next((key(v) for v in cell.levels.values()), None) if len(cell.levels) == 1 else None
    return cell_text(cell), float(first) if isinstance(first, int | float) else None


def _mean_cell(of: Design, cell: DesignCell, measure: str) -> Cell:
    mean = cell.means[measure]
    return mean_text(mean, measure, of.unit), mean.value if mean.n else None
