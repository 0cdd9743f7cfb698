"""What the page's script needs, as JSON that cannot leave its script element."""

import json

from study.designs import Design
from study.report import figures
from study.report.agreement_figures import optimism_chart, proxy_chart
from study.report.chart import Chart
from study.report.cube_figures import cube_chart
from study.report.design_figures import design_charts
from study.report.diagnosis_figures import diagnosis_charts
from study.report.epsilon_figures import epsilon_chart
from study.report.front_figures import robustness_figure
from study.report.on_test import OnTest, on_test
from study.report.palette import DARK
from study.report.probe_figures import probe_charts
from study.report.record_figures import record_charts
from study.report.stats import headline_epsilon
from study.report.wording import epsilon_text
from study.results import Results


def charts(results: Results, of: Design, found: OnTest | None = None) -> dict[str, Chart]:
    """Draw every chart that the results allow, by name; what test says is worked out here where it is not given."""
    found = found or on_test(results)
    complete = int((results.trials["state"] == "COMPLETE").sum())
    drawn = []
    if complete:
        figure = figures.as_payload(figures.search_figure(results))
        alt = f"Accuracy against adversarial_accuracy on val_search for {complete} finished trials."
        drawn.append(Chart("search", "", (("", figure),), alt))
        drawn.append(_parameter_chart(results, complete))
    if len(results.robustness):
        drawn += [_robustness_chart(results, found), *_robustness_details(results, found)]
    if len(results.history):
        drawn.append(_history_chart(results))
    drawn += design_charts(of) + probe_charts(results, of) + record_charts(results.records)
    return {chart.name: chart for chart in drawn}


def payload_json(drawn: dict[str, Chart]) -> str:
    """Write the charts as JSON in which no text can close the script element."""
    figures_of = {name: [figure for _, figure in chart.variants] for name, chart in drawn.items()}
    text = json.dumps({"figures": figures_of, "config": figures.CONFIG, "dark": DARK}, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _robustness_details(results: Results, found: OnTest) -> list[Chart]:
    epsilon = headline_epsilon(results)
    drawn = [epsilon_chart(results), optimism_chart(results), proxy_chart(found.agreements), cube_chart(results)]
    return [*(chart for chart in drawn if chart), *(diagnosis_charts(results, epsilon) if epsilon is not None else ())]


def _robustness_chart(results: Results, found: OnTest) -> Chart:
    variants = tuple((epsilon_text(e), robustness_figure(results, front)) for e, front in found.fronts.items())
    models = results.robustness["model"].nunique()
    alt = f"Accuracy against robust accuracy on test for {models} attacked models, with intervals; twins are joined."
    return Chart("robustness", "epsilon", variants, alt)


def _history_chart(results: Results) -> Chart:
    titles = {"accuracy": "accuracy (val_search)", "train_accuracy": "training accuracy", "loss": "training loss"}
    usable = {column: title for column, title in titles.items() if results.history[column].notna().any()}
    variants = tuple(
        (title, figures.as_payload(figures.history_figure(results, column, title))) for column, title in usable.items()
    )
    alt = "Learning curves of all trials over epochs; the search front in colour."
    return Chart("history", "curve", variants, alt)


def _parameter_chart(results: Results, complete: int) -> Chart:
    variants = tuple(
        (objective, figures.as_payload(figures.parameter_figure(results, objective)))
        for objective in ("accuracy", "adversarial_accuracy")
    )
    return Chart("parameters", "objective", variants, f"Both objectives over each parameter for {complete} trials.")
