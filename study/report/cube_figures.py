"""The cube of pinned models: train solver x attack solver x scoring solver, a heat map for each of the first (S21)."""

from study.report.chart import Chart
from study.report.diagnosis_figures import heat_figure
from study.results import Results


def cube_chart(results: Results) -> Chart | None:
    """Draw the cube, a variant per solver of the training; None where none was asked for."""
    variants = tuple(
        (f"trained under {each.trained}", heat_figure(each.robust_accuracy, each.solvers, each.n))
        for each in results.cube
    )
    alt = "Heat maps of robust accuracy, one per train solver; rows: attacked through, columns: judged under."
    return Chart("cube", "network", variants, alt) if variants else None
