"""Tables of paired comparisons: each difference with its interval, its test, and what its images could detect (S31)."""

from study.report.optimism import MeanOptimism, Optimism, mean_optimism, optimism
from study.report.stats import Comparison, epsilons, neighbours
from study.report.tables import Cell, Row, rate_cell, table
from study.report.twins import MatchedGain, TwinGain, matched_gains, twin_gains
from study.report.wording import epsilon_text, model_text, p_text, points_text
from study.results import Results


def gains_table(results: Results) -> str:
    """One row per student and epsilon: what distillation changed against the alpha = 0 twin."""
    rows: list[Row] = []
    for epsilon in epsilons(results):
        for gain in twin_gains(results, epsilon):
            rows.append((gain.trial, _gain_row(gain, epsilon)))
    header = ["student", "epsilon", "robust accuracy less twin's", "verdict", "clean accuracy less twin's"]
    header.append("robust less twin's, where both are right when clean")
    return table("gains", "Students less their alpha = 0 twins, on the same images", header, rows) if rows else ""


def matched_table(results: Results) -> str:
    """One row per distilled student and epsilon: against the undistilled network of the nearest clean accuracy."""
    rows: list[Row] = []
    for epsilon in epsilons(results):
        for gain in matched_gains(results, epsilon):
            rows.append((gain.trial, _matched_row(gain, epsilon)))
    header = ["student", "epsilon", "compared with", "clean difference", "robust difference", "verdict"]
    caption = "Students less the undistilled network of the nearest clean accuracy, on the same images"
    return table("matched", caption, header, rows) if rows else ""


def optimism_table(results: Results) -> str:
    """One row per attacked student and measure: val_front, where it was chosen, less test; means first."""
    found = optimism(results)
    rows: list[Row] = []
    for mean in mean_optimism(found):
        name = f"mean of {mean.students} students" if mean.students > 1 else "mean of 1 student"
        blank: Cell = ("", None)
        rows.append((None, [(name, None), (_measure_text(mean.measure), None), blank, blank, _optimism_cell(mean)]))
    for each in found:
        at = "" if each.epsilon is None else f"\nepsilon {epsilon_text(each.epsilon)}"
        name = _student_cell(each.trial, headlined=True)
        measure: Cell = (_measure_text(each.measure) + at, None)
        cells = [name, measure, rate_cell(each.val_front), rate_cell(each.test), _optimism_cell(each)]
        rows.append((each.trial, cells))
    caption = (
        "Optimism of the choice: val_front less test. Above 0 the choice was lucky; of robust accuracy a part may be "
        "that more attacks run on test. The mean's interval is as wide as if all students erred on the same images"
    )
    return table("optimism", caption, ["student", "measure", "val_front", "test", "difference"], rows) if rows else ""


def neighbours_table(results: Results, epsilon: float) -> str:
    """One row per pair of neighbours on the test front and measure."""
    rows = [(None, _neighbour_row(comparison)) for comparison in neighbours(results, epsilon)]
    header = ["neighbours", "measure", "difference", "verdict"]
    caption = f"Neighbours on the test front at epsilon {epsilon_text(epsilon)}"
    return table(f"neighbours-{epsilon_text(epsilon)}", caption, header, rows) if rows else ""


def _gain_row(gain: TwinGain, epsilon: float) -> list[Cell]:
    return [
        _student_cell(gain.trial, gain.headlined),
        (epsilon_text(epsilon), epsilon),
        difference_cell(gain.robust),
        _verdict_cell(gain.robust),
        difference_cell(gain.clean),
        _both_cell(gain),
    ]


def _matched_row(gain: MatchedGain, epsilon: float) -> list[Cell]:
    cells = [_student_cell(gain.trial, gain.headlined), (epsilon_text(epsilon), epsilon)]
    none: Cell = ("not compared", None)
    if gain.clean is None:
        return [*cells, ("no undistilled network was attacked", None), none, none, none]
    name = model_text(gain.clean.second)
    clean = difference_cell(gain.clean)
    if gain.robust is None:
        return [*cells, (f"no undistilled network of like accuracy\nnearest: {name}", None), clean, none, none]
    return [*cells, (name, None), clean, difference_cell(gain.robust), _verdict_cell(gain.robust)]


def _student_cell(trial: int, headlined: bool) -> Cell:
    return f"student {trial}" + ("" if headlined else "\nnot headlined"), trial


def _verdict_cell(comparison: Comparison) -> Cell:
    said = "clear" if comparison.clear else "not distinguishable"
    said = "the leader's number is an upper bound" if comparison.favours_bound else said
    return f"{said}\nHolm-adjusted {p_text(comparison.adjusted_p)}", comparison.adjusted_p


def _both_cell(gain: TwinGain) -> Cell:
    student, twin = gain.rates_of_both
    if not student.n:
        return "none", None
    text, number = difference_cell(gain.of_both)
    return f"{text}, {student.k} and {twin.k} of {student.n}, Holm-adjusted {p_text(gain.of_both.adjusted_p)}", number


def difference_cell(comparison: Comparison) -> Cell:
    """Give a paired difference in points; small print: its interval, test, and what its images could detect."""
    d = comparison.difference
    ends = f"{points_text(d.low)} to {points_text(d.high)}, McNemar {p_text(comparison.test.p_value)}"
    return f"{points_text(d.difference)} points\n{ends}, {_detectable_text(comparison.detectable, d.n)}", d.difference


def _detectable_text(size: float, n: int) -> str:
    return f"detectable {100 * size:.1f} (n = {n})"


def _optimism_cell(found: Optimism | MeanOptimism) -> Cell:
    value, low, high = found.difference
    ends = f"{points_text(low)} to {points_text(high)}, detectable {100 * found.detectable:.1f}"
    return f"{points_text(value)} points\n{ends}", value


def _measure_text(measure: str) -> str:
    return "robust accuracy" if measure == "robust" else "accuracy"


def _neighbour_row(comparison: Comparison) -> list[Cell]:
    pair = f"{model_text(comparison.first)}, {model_text(comparison.second)}"
    measure: Cell = (_measure_text(comparison.measure), None)
    return [(pair, None), measure, difference_cell(comparison), _verdict_cell(comparison)]
