"""The section Design: the contrast that was named before the first trial, then everything else, marked exploratory."""

from study.comparisons import contrast_gain, image_interval, imbalance
from study.designs import Contrast, Design
from study.report.chart import Chart
from study.report.design_tables import MOST_CELLS, cells_table, distillation_gains, effects_table, gains_table
from study.report.markup import Section, details, figure, paragraphs
from study.report.measures import detectable_text, label, measured, relative_text, unit_text
from study.report.wording import points_text, value_text
from study.results import Results
from study.statistics import detectable_by

_RESULTS = ("accuracy", "robust_accuracy", "nfe", "training_seconds")
_ADAPTIVE = (
    "The sampler {} chose its points in view of earlier results: these are traces of a search, not an experiment. "
    "Trials on the search front are left out of every mean here (they won the search, so their seeds are lucky)."
)
_BALANCED = (
    "The points were fixed before the first result ({}), so no seed was chosen by its result and all are averaged. "
    "Intervals are Student's t, 95 %, over {}; teachers and other settings are averaged within each first. One {} "
    "gives no interval."
)
_READING = (
    "A block is a pair of trials that differ in nothing but the two levels, seed and teacher included; its interval "
    "also holds how much the gain differs between settings. The interval over replicates averages the blocks of each "
    "first and is the one that p and the smallest detectable difference (found four times in five, at the strictest "
    "step of the adjustment) belong to. "
    "Relative gains are in per cent of the second level's mean, with Fieller's interval."
)


def design_section(results: Results, of: Design, drawn: dict[str, Chart]) -> Section | None:
    """Give the section; None for an adaptive search without a contrast, and before anything was varied."""
    if of.table.empty or (of.contrast is None and (of.adaptive or not of.factors)):
        return None
    parts = [_contrast(results, of), paragraphs([_rule(of)])]
    parts += [_effects(of, drawn), _gains(of), _cells(of)]
    return Section("design", "Design", "".join(parts))


def _contrast(results: Results, of: Design) -> str:
    if of.contrast is None:
        return paragraphs(["The space named no contrast before the first trial: everything here is exploratory."])
    asked, found = of.contrast, contrast_gain(of)
    if found is None:
        return paragraphs([f"The space named a contrast ({contrast_text(asked)}) that no trial of this study holds."])
    both = image_interval(results, of, found)
    said = []
    if not found.over_blocks.difference.n:
        return ""
    if both is not None and both.known:
        said.append(
            f"Resampling {of.unit or 'run'}s and test images together gives {points_text(both.value)} points, 95 % "
            f"{points_text(both.low)} to {points_text(both.high)} (smallest detectable difference "
            f"{detectable_text(detectable_by(both.low, both.high), found.measure)})."
        )
    if found.averaged:
        said.append(f"Averaged within a level, because they exist at one level only: {', '.join(found.averaged)}.")
    title = f"{value_text(asked.levels[0])} less {value_text(asked.levels[1])}"
    shown = gains_table(of, "contrast", "Primary contrast", [(title, found)], family=False)
    return shown + paragraphs(said)


def contrast_finding(of: Design) -> str | None:
    """Answer the primary contrast in one sentence; None for a study that named none."""
    if of.contrast is None:
        return None
    head = f"Primary contrast, named before the first trial: {contrast_text(of.contrast)}: "
    found = contrast_gain(of)
    if found is None or not found.over_blocks.difference.n:
        return f"{head}not answered yet, as no two finished trials differ in it alone."
    seeds = found.over_seeds
    difference, unit = seeds.difference, of.unit or "run"
    size = f"{points_text(difference.value)} points ({relative_text(seeds.relative).split(chr(10))[0]} relative)"
    if not difference.known:
        return f"{head}{size}, without an interval, as there is {unit_text(difference.n, unit)}."
    ends = f"95 % {points_text(difference.low)} to {points_text(difference.high)}, {unit_text(difference.n, unit)}"
    clear = "a clear difference" if difference.low > 0 or difference.high < 0 else "not distinguishable from none"
    least = f"smallest detectable difference {detectable_text(seeds.detectable, found.measure)}"
    return f"{head}{size}; {ends}: {clear} ({least})."


def contrast_text(asked: Contrast) -> str:
    """Write a contrast in words."""
    where = ", ".join(f"{name} {value_text(value)}" for name, value in asked.where.items())
    first, second = (value_text(level) for level in asked.levels)
    at = f" where {where}" if where else ""
    return f"{asked.measure.replace('_', ' ')} of {asked.factor} {first} less {second}{at}"


def _rule(of: Design) -> str:
    count = f"{len(of.table)} finished trials; varied: {', '.join(of.factors) or 'nothing'}"
    blocks = ", ".join(unit_text(len(of.levels[name]), name) for name in of.blocks)
    head = f"{count}; blocks: {blocks or 'none, so nothing has an interval'}. "
    unit = of.unit or "seed"
    return head + (_ADAPTIVE.format(of.sampler) if of.adaptive else _BALANCED.format(of.sampler, f"{unit}s", unit))


def _effects(of: Design, drawn: dict[str, Chart]) -> str:
    parts = []
    for measure in measured(of, ("accuracy", "robust_accuracy")):
        refusal = imbalance(of, measure)
        if refusal is not None:
            parts.append(paragraphs([f"No factorial effects on {label(of, measure)}: {refusal}."]))
        else:
            parts.append(effects_table(of, measure))
    words = (
        "Each effect compares a level with the factor's first, over all levels of the other factors; an interaction is "
        "a difference of such differences. Computed within each block. Exploratory but for the contrast above."
    )
    return (figure(drawn["effects"], words) if "effects" in drawn else "") + "".join(parts)


def _gains(of: Design) -> str:
    shown = gains_table(of, "distillation-gains", "Gains of distillation (exploratory)", distillation_gains(of))
    return shown + paragraphs([_READING]) if shown else ""


def _cells(of: Design) -> str:
    caption = "Cells of the design: means over replicates (exploratory)"
    shown = cells_table(of, "cells", caption, _RESULTS)
    return details(f"Cells of the design (at most {MOST_CELLS})", shown) if shown else ""
