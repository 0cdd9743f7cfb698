"""Put the report together: one HTML file that needs no network, no server and, for its words and tables, no script."""

import uuid
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from study.designs import Design, design
from study.durable import make_own_folder
from study.report import paired_tables, tables
from study.report.chart import Chart
from study.report.designs import contrast_finding, design_section
from study.report.drawing import front_svg
from study.report.early_stopping import early_part
from study.report.figures import drawn_curves, plotly_script
from study.report.flat import flat_search_text
from study.report.markup import details, figure, missing, paragraphs, warning
from study.report.methods import methods_section
from study.report.on_test import OnTest, on_test
from study.report.payload import charts, payload_json
from study.report.record_section import record_section
from study.report.robustness_section import (
    incomplete_text,
    robustness_section,
    trust_section,
    unreliable_text,
    wrong_target_texts,
)
from study.report.stats import epsilons, headline_epsilon
from study.report.systems import system_sections
from study.report.undistilled import undistilled_part
from study.report.wording import INCOMPLETE, epsilon_text, finding, twins_text
from study.results import Results, load

_HIGHEST = (
    "The highest of many networks measured on test is favoured by chance; what the design can claim are the means and "
    "differences with intervals under Design."
)


def write_report(path: Path | str, results: Results | None = None) -> Path:
    """Write report/index.html into a study's folder, at once or not at all.

    Args:
        path: The study's folder.
        results: What to report; read from the folder where it is not given.

    Returns:
        The page's path.

    Raises:
        EnvironmentFault: If the folder is not that of a study.
    """
    results = results or load(path)
    return _write(Path(path) / "report" / "index.html", render(results))


def write_front_svg(path: Path | str, results: Results | None = None) -> Path:
    """Write report/front.svg, the picture for a README; drawn without a browser.

    Args:
        path: The study's folder.
        results: What to draw; read from the folder where it is not given.

    Returns:
        The picture's path.
    """
    return _write(Path(path) / "report" / "front.svg", front_svg(results or load(path)))


def render(results: Results) -> str:
    """Give the whole page as text."""
    of = design(results, headline_epsilon(results))
    found = on_test(results)
    drawn = charts(results, of, found)
    trust = trust_section(results, drawn)
    inside = record_section(results.records, drawn)
    sections = [
        section for section in (design_section(results, of, drawn), *system_sections(results, of, drawn)) if section
    ]
    name = str(results.study.get("name", results.path.name))
    return Template(_asset("page.html")).substitute(
        title=escape(name),
        state=escape(results.state),
        banner=_banner(results),
        finding=_finding(results, of, found),
        links="".join(section.link for section in sections),
        design="".join(section.html for section in sections if section.identifier == "design"),
        systems="".join(section.html for section in sections if section.identifier != "design"),
        search=_search(results, drawn),
        robustness=robustness_section(results, drawn, found),
        trust="" if trust is None else trust.html,
        trust_link="" if trust is None else trust.link,
        attacked=_attacked(results),
        inside="" if inside is None else inside.html,
        inside_link="" if inside is None else inside.link,
        history=_history(results, drawn),
        parameters=_parameters(of, drawn),
        failures=_failures(results),
        methods=methods_section(results),
        svg=front_svg(results) if len(results.robustness) else "",
        style=_asset("page.css"),
        payload=payload_json(drawn),
        plotly=plotly_script().replace("</script", "<\\/script"),
        script=_asset("page.js"),
    )


def _finding(results: Results, of: Design, found: OnTest) -> str:
    epsilon = headline_epsilon(results)
    contrast = contrast_finding(of)
    first = "" if contrast is None else f'<p class="finding">{escape(contrast)}</p>'
    twins = any(model.kind == "twin" for model in results.survivors.values())
    more = paragraphs([twins_text(results, epsilon)]) if epsilon is not None and (twins or of.adaptive) else ""
    if epsilon is not None and not of.adaptive:
        more = paragraphs([_HIGHEST]) + more
    wrong = "".join(warning(sentence) for sentence in wrong_target_texts(found.agreements))
    return f'{first}<p class="finding">{escape(finding(results))}</p>{wrong}{more}'


def _banner(results: Results) -> str:
    lines = [INCOMPLETE[results.state]] if results.state in INCOMPLETE else []
    if results.study.get("smoke"):
        lines.append("SMOKE RUN: shrunk to show that everything works; its numbers mean nothing.")
    short = [m.model for m in results.survivors.values() if m.shards < m.shards_expected]
    if short:
        lines.append(f"PARTIAL: not all shards of {', '.join(short)} have been attacked; their n is smaller.")
    lines += [sentence for sentence in (incomplete_text(results), unreliable_text(results)) if sentence]
    lines += [f"Left out: {problem}" for problem in results.problems]
    return "".join(f'<p class="banner" role="status">{escape(line)}</p>' for line in lines)


def _search(results: Results, drawn: dict[str, Chart]) -> str:
    if "search" not in drawn:
        return missing("No trial has finished yet; the search plot needs one.")
    words = (
        f"{_counts_text(results)} Both axes are measured on val_search: the vertical one is the search's proxy, not "
        "robust accuracy. Bars on the front are Wilson 95 % intervals; points whose bars overlap widely may change "
        "places on other images."
    )
    shown = figure(drawn["search"], words) + warning(flat_search_text(results))
    return shown + early_part(results.audit) + details("The finished trials as a table", tables.trials_table(results))


def _counts_text(results: Results) -> str:
    counts = results.summary()["trials"]
    planned = ((results.study.get("space") or {}).get("budget") or {}).get("trials")
    unfinished = int((results.trials["state"] == "UNFINISHED").sum())
    of = f" of {planned} planned" if planned else ""
    left = f", {unfinished} left unfinished" if unfinished else ""
    return (
        f"{counts['complete']} trials complete{of}, {counts['pruned']} pruned, {counts['failed']} failed, "
        f"{counts['running']} running{left}."
    )


def _attacked(results: Results) -> str:
    if not len(results.robustness):
        return missing("No model has been attacked on test yet.")
    listed = ", ".join(epsilon_text(e) for e in epsilons(results))
    intro = f"Epsilons: {listed}. Small print: counts, then the ends of the 95 % interval in per cent."
    compared = [paired_tables.gains_table(results), paired_tables.matched_table(results)]
    compared.append(undistilled_part(results))
    parts = [tables.attacked_table(results), *compared, paired_tables.optimism_table(results)]
    return paragraphs([intro]) + "".join(parts)


def _history(results: Results, drawn: dict[str, Chart]) -> str:
    if "history" not in drawn:
        return missing("No learning curve has been stored yet.")
    curves = results.history[results.history["job"].str.startswith("trials/")]["trial"].nunique()
    shown = len(drawn_curves(results))
    sample = (
        "" if shown == curves else f" {shown} of {curves} curves are drawn: the front and an even sample of the rest."
    )
    words = "The search front in colour, the other trials grey. Results are of the last update."
    return figure(drawn["history"], words + sample)


def _parameters(of: Design, drawn: dict[str, Chart]) -> str:
    if "parameters" not in drawn:
        return missing("No trial has finished yet; these panels need some.")
    looked = (
        "Traces of an adaptive search: they show where the sampler looked, not the effect of a parameter."
        if of.adaptive
        else "Every trial of the design; the effects of parameters stand under Design, with their intervals."
    )
    words = f"{looked} A panel holds only the trials in which its parameter was active."
    return figure(drawn["parameters"], words)


def _failures(results: Results) -> str:
    ended = results.trials["state"].isin(["FAIL", "PRUNED"]).any()
    return tables.failures_table(results) if ended else "<p>No trial has failed or been pruned.</p>"


def _asset(name: str) -> str:
    return files("study.report").joinpath(name).read_text(encoding="utf-8")


def _write(target: Path, text: str) -> Path:
    make_own_folder(target.parent)
    beside = target.with_name(f"{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    beside.write_text(text, encoding="utf-8")
    return beside.replace(target)
