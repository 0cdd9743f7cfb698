"""The second baseline (S8): the students' front beside that of an equally long search without distillation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from study.fronts import non_dominated
from study.fronts_on_test import AgainstUndistilled, against_undistilled
from study.report.markup import missing, paragraphs
from study.report.paired_tables import difference_cell
from study.report.stats import Comparison, Rate, as_family, compare, epsilons, headline_epsilon, headline_floor
from study.report.tables import Cell, Row, rate_cell, table
from study.report.wording import MINUS, epsilon_text, model_text, p_text
from study.results import Results
from study.statistics import detectable_by
from study.survivors import Survivors
from study.uncertain_fronts import AreaGain

_TOLD = {
    1: "the front of the search with distillation is better than that of the search without",
    0: "it cannot be told whether the search with distillation has a better front than that without",
    -1: "the front of the search with distillation is worse than that of the search without",
}
_CAUTION = (
    "Intervals cover the choice of test images alone, each epsilon for itself: either search was run once, and another "
    "run would have brought other networks. On both sides the network that its search trained is taken, also where "
    "students have new seeds, as the others have none. The most robust of several is favoured by chance."
)


@dataclass(frozen=True)
class Best:
    """The most robust network of the search without distillation at one epsilon, of those that may be headlined."""

    network: Survivors
    clean: Rate
    robust: Rate
    dominated_by: tuple[Survivors, ...]
    """Students at least as good in both accuracies and better in one; none: it would stand on a joint front."""
    comparison: Comparison | None
    """The most robust student less this network, by robust accuracy; None without such a student."""


def undistilled_part(results: Results) -> str:
    """Say in words and in a table how the two searches compare; empty where the second was not asked for."""
    if not results.undistilled.trials:
        return ""
    found = [against_undistilled(results, epsilon) for epsilon in epsilons(results)]
    if not any(each.others or each.left_out[1] for each in found):
        return missing("No network of the search without distillation has been attacked on test yet.")
    own = next((each for each in found if each.epsilon == headline_epsilon(results)), found[0])
    bests = best_of(results, found)
    header = ["epsilon", "hypervolume, students", "hypervolume, without distillation", "difference"]
    header += ["most robust without distillation", "accuracy", "robust accuracy", "beside the students"]
    header.append("most robust student less it")
    rows: list[Row] = [(None, _row(each, best)) for each, best in zip(found, bests, strict=True)]
    caption = "Fronts on test of the search with distillation and of that without, on the same images"
    return paragraphs([undistilled_text(results, own), _CAUTION]) + table("undistilled", caption, header, rows)


def undistilled_text(results: Results, found: AgainstUndistilled) -> str:
    """Say whether the front of the search with distillation is better, worse, or cannot be told from the other."""
    at = f"At epsilon {epsilon_text(found.epsilon)}"
    if found.gain is None:
        return f"{at} the searches with and without distillation cannot be compared: {_lacking(found)}."
    gain, counts = found.gain, f"{len(found.students)} and {len(found.others)} networks"
    return (
        f"{at}, {_TOLD[verdict(gain)]} ({_lengths(results)}): hypervolumes of {gain.first:.4f} and {gain.second:.4f}, "
        f"of {counts}{_doubt(found)}, differ by {_signed(gain.difference)} (95 % interval {_ends(gain)}; "
        f"n = {found.n} images, the same for all). A difference of {_reach(gain):.4f} would be found four times in "
        "five."
    )


def verdict(gain: AreaGain) -> int:
    """Return 1 where the first front is surely larger, -1 where it is surely smaller, 0 where that cannot be told."""
    return int(gain.interval.low > 0) - int(gain.interval.high < 0)


def best_of(results: Results, found: Sequence[AgainstUndistilled]) -> list[Best | None]:
    """Give the most robust undistilled network at each epsilon; its tests are one family over the epsilons."""
    floor = headline_floor(results)
    bests = [_best(each, floor) for each in found]
    tested = [best.comparison for best in bests if best is not None and best.comparison is not None]
    adjusted = iter(as_family(tested))
    return [replace(best, comparison=next(adjusted)) if best and best.comparison else best for best in bests]


def _best(found: AgainstUndistilled, floor: float) -> Best | None:
    network, student = (_most_robust(side, found.epsilon, floor) for side in (found.others, found.students))
    if network is None:
        return None
    own = _point(network, found.epsilon)
    above = tuple(each for each in found.students if not non_dominated([own, _point(each, found.epsilon)])[0])
    tested = None if student is None else compare(student, network, found.epsilon, "robust")
    return Best(network, _rate(network.clean_correct), _rate(network.robust(found.epsilon)), above, tested)


def _most_robust(networks: Sequence[Survivors], epsilon: float, floor: float) -> Survivors | None:
    allowed = [network for network in networks if _point(network, epsilon)[0] >= floor]
    return max(allowed, key=lambda network: _point(network, epsilon)[::-1], default=None)


def _point(network: Survivors, epsilon: float) -> tuple[float, float]:
    return _rate(network.clean_correct).value, _rate(network.robust(epsilon)).value


def _rate(bits: NDArray[np.bool_]) -> Rate:
    return Rate(int(bits.sum()), len(bits))


def _row(found: AgainstUndistilled, best: Best | None) -> list[Cell]:
    areas: list[Cell] = [("unknown", None)] * 3
    if (gain := found.gain) is not None:
        ends = f"{_ends(gain)}, detectable {_reach(gain):.4f} (n = {found.n})"
        areas = [(f"{area:.4f}", area) for area in (gain.first, gain.second)]
        areas.append((f"{_signed(gain.difference)}\n{ends}", gain.difference))
    return [(epsilon_text(found.epsilon), found.epsilon), *areas, *_best_cells(best)]


def _best_cells(best: Best | None) -> list[Cell]:
    if best is None:
        return [("none\nwithin 10 points of the teacher", None), *[("", None)] * 4]
    names = ", ".join(model_text(student) for student in best.dominated_by)
    place = f"dominated\nby {names}" if names else "not dominated"
    cells: list[Cell] = [(model_text(best.network), None), rate_cell(best.clean), rate_cell(best.robust), (place, None)]
    if best.comparison is None:
        return [*cells, ("not compared", None)]
    text, number = difference_cell(best.comparison)
    who = f"{model_text(best.comparison.first)}, Holm-adjusted {p_text(best.comparison.adjusted_p)}"
    return [*cells, (f"{text}, {who}", number)]


def _lacking(found: AgainstUndistilled) -> str:
    sides = (("with", found.students), ("without", found.others))
    none = [name for name, side in sides if not side]
    if not none:
        return "their networks were measured on no common image"
    return f"no believable network of the search {' or of that '.join(none)} was attacked" + _doubt(found)


def _doubt(found: AgainstUndistilled) -> str:
    first, second = found.left_out
    return f" ({first} and {second} left out as unreliable)" if first or second else ""


def _lengths(results: Results) -> str:
    own, other = len(results.trials), results.undistilled.trials
    return f"{own} trials each" if own == other else f"{own} trials against {other}: they are not equally long"


def _reach(gain: AreaGain) -> float:
    return detectable_by(*gain.interval)


def _ends(gain: AreaGain) -> str:
    return f"{_signed(gain.interval.low)} to {_signed(gain.interval.high)}"


def _signed(area: float) -> str:
    return f"{area:+.4f}".replace("-", MINUS)
