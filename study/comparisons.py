"""What a designed study says: cells over seeds, paired gains, the contrast, and the effects of a balanced factorial.

A grid or a quasi-random design fixes its points before the first result, so all its seeds count alike. An adaptive
search does not: there the trials that won are left out of every mean (S28), and no effects are claimed (S30).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite, nan, prod
from typing import Any

import numpy as np

from study.designs import Design, key, natural_order, records, same
from study.effects import (
    Effect,
    Mean,
    Paired,
    bootstrap_interval,
    detectable,
    factorial_effects,
    mean_interval,
    paired_difference,
)
from study.results import Results
from study.statistics import family_level, holm

Bags = dict[tuple[Any, tuple[Any, ...]], list[dict[str, Any]]]
"""Rows by block and levels of the factors."""


@dataclass(frozen=True)
class Cell:
    """The trials that share their levels of every factor."""

    levels: Mapping[str, Any]
    trials: tuple[int, ...]
    means: Mapping[str, Mean]
    """By measure, over seeds; whatever else a seed holds, e.g. teachers, is averaged first."""


@dataclass(frozen=True)
class Gain:
    """First level less second level of a factor, all else equal."""

    measure: str
    factor: str
    levels: tuple[Any, Any]
    over_blocks: Paired
    """Each pair of trials that differ in nothing else is a block; its interval also holds how settings differ."""
    over_seeds: Paired
    """Blocks averaged within each seed first: the interval over replicates alone, for the settings of this study."""
    averaged: tuple[str, ...]
    """Parameters that exist at one of the levels only, so that no pair can share them; averaged within a level."""
    pairs: tuple[tuple[Any, tuple[int, ...], tuple[int, ...]], ...]
    """Of every block its seed and the trials at both levels."""


@dataclass(frozen=True)
class Effects:
    """Factorial effects of one measure, or the reason why there are none."""

    measure: str
    factors: tuple[str, ...]
    levels: Mapping[str, tuple[Any, ...]]
    blocks: int
    effects: tuple[Effect, ...]
    adjusted: tuple[float, ...]
    """Holm-adjusted p-values over all effects of the measure; NaN where there is no interval."""
    refusal: str | None


def cells(of: Design, by: Sequence[str] | None = None, measures: Sequence[str] | None = None) -> list[Cell]:
    """Give the mean of every cell over seeds, in the order of the levels.

    Args:
        of: The design; an adaptive one leaves out the trials on its search front.
        by: What tells cells apart, any columns of the table; the factors by default.
        measures: Which; all that were measured by default.
    """
    by, measures = of.factors if by is None else by, of.measures if measures is None else measures
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in _counted(of):
        groups[tuple(key(row[name]) for name in by)].append(row)
    found, places = [], [_places(of, name) for name in by]
    for at in sorted(groups, key=lambda levels: tuple(map(_rank, places, levels))):
        rows = groups[at]
        means = {measure: over_seeds(rows, measure, of.unit, within=of.factors) for measure in measures}
        found.append(Cell(dict(zip(by, at, strict=True)), tuple(sorted(row["trial"] for row in rows)), means))
    return found


def over_seeds(rows: Iterable[Mapping[str, Any]], measure: str, unit: str | None, within: Sequence[str] = ()) -> Mean:
    """Give the mean of a measure over replicates; rows of the same replicate are averaged first.

    Without replicates (unit None) there is a mean and no interval.

    Args:
        rows: Rows of the table.
        measure: A column of numbers; what is not finite is left out.
        unit: The column that tells replicates apart.
        within: Columns that tell settings apart: rows of the same setting, such as those of several teachers, are
            averaged before settings are, so that a setting counts once however often it was run.
    """
    groups: dict[Any, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        value = float(row[measure])
        if isfinite(value):
            groups[key(row[unit]) if unit else None][tuple(key(row[name]) for name in within)].append(value)
    return mean_interval([float(np.mean([np.mean(s) for s in settings.values()])) for settings in groups.values()])


def gain(
    of: Design, measure: str, factor: str, levels: tuple[Any, Any], where: Mapping[str, Any] | None = None
) -> Gain:
    """Compare two levels of a factor, blocked by every other sampled parameter, seed and teacher among them.

    Args:
        of: The design.
        measure: One of MEASURES.
        factor: A sampled parameter, or the column `distilled`.
        levels: The difference is the first less the second.
        where: Values that other columns must have.

    Returns:
        The difference over blocks; n = 0 where no two trials differ in the factor alone.

    Raises:
        ValueError: If the table has no such column.
    """
    for name in (factor, measure, *(where or {})):
        if name not in of.table.columns:
            raise ValueError(f"A comparison needs columns of the table, but got {name!r}; there are {of.sampled}.")
    rows = [row for row in _counted(of) if all(same(row[n], v) for n, v in (where or {}).items())]
    sides = [[row for row in rows if same(row[factor], level) and isfinite(row[measure])] for level in levels]
    bound = _bound(of, factor, sides)
    names = [name for name in of.sampled if name not in bound]
    blocks: dict[tuple[Any, ...], tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
    for place, side in enumerate(sides):
        for row in side:
            blocks[tuple(key(row[name]) for name in names)][place].append(row)
    pairs = [both for _, both in sorted(blocks.items(), key=lambda item: repr(item[0])) if both[0] and both[1]]
    first, second = ([_mean(pair[place], measure) for pair in pairs] for place in (0, 1))
    seeds = [key(pair[0][0][of.unit]) if of.unit in names else None for pair in pairs]
    return Gain(
        measure,
        factor,
        levels,
        paired_difference(first, second),
        paired_difference(_by_seed(seeds, first), _by_seed(seeds, second)),
        tuple(sorted(bound - {factor} - set(_fixed(of)))),
        tuple((s, _trials(pair[0]), _trials(pair[1])) for s, pair in zip(seeds, pairs, strict=True)),
    )


def contrast_gain(of: Design) -> Gain | None:
    """Answer the study's contrast; None without one, or where a column it names does not exist."""
    asked = of.contrast
    if asked is None or not {asked.measure, asked.factor, *asked.where} <= set(of.table.columns):
        return None
    return gain(of, asked.measure, asked.factor, asked.levels, asked.where)


def image_interval(results: Results, of: Design, found: Gain) -> Mean | None:
    """Resample seeds and test images together for a gain that was measured on test.

    Returns:
        The difference with its percentile interval; None where bits are missing or the measure has none.
    """
    if of.epsilon is None or found.measure not in ("accuracy", "robust_accuracy") or not found.pairs:
        return None
    if found.measure == "accuracy" and of.accuracy_split != "test":
        return None
    models = [results.survivors[_model(trial)] for _, a, b in found.pairs for trial in (*a, *b)]
    if any(not np.array_equal(model.image_id, models[0].image_id) for model in models):
        return None
    by_seed: dict[Any, list[Any]] = defaultdict(list)
    for seed, first, second in found.pairs:
        sides = [[_bits(results, trial, found.measure, of.epsilon) for trial in side] for side in (first, second)]
        by_seed[seed].append(np.mean(sides[0], 0) - np.mean(sides[1], 0))
    return bootstrap_interval(np.stack([np.mean(rows, 0) for rows in by_seed.values()]))


def imbalance(of: Design, measure: str) -> str | None:
    """Say why a study is no balanced factorial for a measure; None where it is one.

    Balanced: every combination of the factors' levels stands in every block (seed) equally often, with the same
    teachers and the same values of whatever exists at some levels only.
    """
    if of.adaptive:
        return f"the sampler {of.sampler} chose its points in view of earlier results, which is no experiment"
    factors = _unconditional(of)
    if not factors:
        return "no sampled parameter takes two levels in all trials"
    bags = _bags(of, measure, factors)
    units = sorted({unit for unit, _ in bags}, key=repr)
    if not bags:
        return "no trial has this measure"
    size = len(units) * prod(len(of.levels[name]) for name in factors)
    if size != len(bags):
        short = f"{size - len(bags)} of {size} cells hold no trial with this measure"
        return f"{short} ({' x '.join(factors)}, {_count(len(units), 'block')})"
    return _uneven(of, bags, factors)


def _uneven(of: Design, bags: Bags, factors: Sequence[str]) -> str | None:
    """Say whether cells that all hold something hold different things."""
    units = sorted({unit for unit, _ in bags}, key=repr)
    rest = [name for name in of.sampled if name not in (*factors, of.unit)]
    held = {place: Counter(tuple(key(row[name]) for name in rest) for row in rows) for place, rows in bags.items()}
    if any(held[unit, at] != held[units[0], at] for unit, at in bags):
        return "some cells hold more trials, or other ones, in one block than in another"
    if "teacher" in rest and len({_teachers(rows) for rows in bags.values()} - {(None,)}) > 1:
        return "the teachers differ from cell to cell"
    return None


def is_balanced(of: Design, measure: str = "accuracy") -> bool:
    """Tell whether a study is a balanced factorial, blocked by seed, for a measure."""
    return imbalance(of, measure) is None


def effects(of: Design, measure: str) -> Effects:
    """Give main effects and two-way interactions with intervals over seeds, Holm-adjusted; or why there are none."""
    factors, refusal = _unconditional(of), imbalance(of, measure)
    levels = {name: of.levels[name] for name in factors}
    if refusal is not None:
        return Effects(measure, factors, levels, 0, (), (), refusal)
    bags = _bags(of, measure, factors)
    units = sorted({unit for unit, _ in bags}, key=repr)
    grid = product(*([key(level) for level in levels[name]] for name in factors))
    flat = [[_mean(bags[unit, at], measure) for unit in units] for at in grid]
    values = np.array(flat).T.reshape(len(units), *(len(levels[name]) for name in factors))
    found = factorial_effects(values, factors)
    tested = [e.p_value for e in found if isfinite(e.p_value)]
    adjusted = iter(holm(tested))
    family = tuple(next(adjusted) if isfinite(e.p_value) else nan for e in found)
    judged = [e._replace(detectable=detectable(e.estimate, family_level(len(tested)))) for e in found]
    return Effects(measure, factors, levels, len(units), tuple(judged), family, None)


def _bits(results: Results, trial: int, measure: str, epsilon: float) -> Any:
    model = results.survivors[_model(trial)]
    return (model.clean_correct if measure == "accuracy" else model.robust(epsilon)).astype(float)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _model(trial: int) -> str:
    return f"student-{trial:06d}"


def _places(of: Design, name: str) -> dict[Any, int]:
    """Return where each level of a factor stands; made once, as a search has as many levels as trials."""
    levels = [key(value) for value in of.levels.get(name, ())]
    return {level: place for place, level in reversed(list(enumerate(levels)))}


def _rank(places: Mapping[Any, int], level: Any) -> tuple[Any, ...]:
    return (places.get(level, -1), *natural_order(level))


def _counted(of: Design) -> list[dict[str, Any]]:
    """Give the rows that may be averaged: of an adaptive search, not those that won it (S28)."""
    rows = [row for row in records(of.table) if not (of.adaptive and row["on_front"])]
    return sorted(rows, key=lambda row: row["trial"])


def _unconditional(of: Design) -> tuple[str, ...]:
    rows = _counted(of)
    return tuple(name for name in of.factors if rows and all(key(row[name]) is not None for row in rows))


def _bags(of: Design, measure: str, factors: Sequence[str]) -> Bags:
    bags: Bags = defaultdict(list)
    for row in _counted(of):
        if isfinite(row[measure]):
            bags[key(row[of.unit]) if of.unit else None, tuple(key(row[name]) for name in factors)].append(row)
    return dict(bags)


def _bound(of: Design, factor: str, sides: Sequence[Sequence[Mapping[str, Any]]]) -> set[str]:
    """Name what cannot be shared by a pair: the factor, and parameters that never exist at one of its levels."""
    absent = {name for name in of.sampled for side in sides if side and all(key(row[name]) is None for row in side)}
    made_of = {"method", "alpha"} if factor == "distilled" else set()
    return absent | made_of | {factor}


def _fixed(of: Design) -> tuple[str, ...]:
    return tuple(name for name in of.sampled if len(of.levels[name]) < 2)


def _by_seed(seeds: Sequence[Any], values: Sequence[float]) -> list[float]:
    groups: dict[Any, list[float]] = defaultdict(list)
    for seed, value in zip(seeds, values, strict=True):
        groups[seed].append(value)
    return [float(np.mean(group)) for group in groups.values()]


def _mean(rows: Sequence[Mapping[str, Any]], measure: str) -> float:
    return float(np.mean([row[measure] for row in rows]))


def _teachers(rows: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(sorted({key(row["teacher"]) for row in rows}, key=natural_order))


def _trials(rows: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(sorted(int(row["trial"]) for row in rows))
