"""Print what a study has found so far.

Command: `python -m study.show DIR [--paper NAME] [--json]`. Reads files only, also of a running study.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import category

from study.papers import PAPERS

if TYPE_CHECKING:
    from rich.console import Console

    from study.results import Results


_STEERING = {"Cc", "Cf", "Co", "Cs"}
"""Control letters, those that turn the direction of writing, and halves of letters."""
LONGEST_CELL = 40
"""Most lines of one cell in a terminal; --json has them all."""
_TRUST_WORDS = "An unreliable number is an upper bound; a reliable one passed the checks, which is not a proof."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What stands after the command's name; from the command line by default.

    Returns:
        The exit code: 0 done, 4 if the folder is not that of a study (2, usage, is argparse's).
    """
    words = "Print what a study has found so far."
    parser = argparse.ArgumentParser(prog="python -m study.show", description=words, allow_abbrev=False)
    parser.add_argument("folder", metavar="DIR", type=Path, help="the study's own folder, e.g. results/kd")
    parser.add_argument("--paper", choices=tuple(PAPERS), help="lay the run beside what this paper is known to claim")
    parser.add_argument("--json", action="store_true", help="print one JSON object (rates are fractions)")
    options = parser.parse_args(arguments)

    from study.durable import plain
    from study.errors import StudyError
    from study.results import load

    try:
        results = load(options.folder)
    except StudyError as fault:
        print(printable(str(fault)), file=sys.stderr)
        return fault.exit_code
    for problem in results.problems:
        print(f"Left out: {printable(problem)}", file=sys.stderr)
    if options.paper is not None:
        _show_paper(results, options.paper, as_json=options.json)
    elif options.json:
        print(json.dumps(plain(results.summary()), indent=2, allow_nan=False))
    else:
        print_results(results)
    return 0


def _show_paper(results: "Results", name: str, *, as_json: bool) -> None:
    from study.durable import plain
    from study.paper_table import compare

    comparison = compare(results, PAPERS[name])
    if as_json:
        print(json.dumps(plain(comparison), indent=2, allow_nan=False))
    else:
        print_comparison(comparison)


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print a run beside a paper: the paper's claims, what to beware of, and a table of all rows."""
    console, paper = _console(), comparison["paper"]
    published = f"{paper['published']}, doi:{paper['doi']}" if paper["doi"] else paper["published"]
    counts = ", ".join(f"{count} {name}" for name, count in comparison["trials"].items())
    lines = [
        f"{paper['authors']}: {paper['title']}. arXiv:{paper['arxiv']}; {published}.",
        *(f"  claims: {claim}" for claim in paper["claims"]),
        f"This run: {comparison['study']} on {comparison['data']} ({comparison['state']}). Trials: {counts}.",
        *(f"  beware: {caution}" for caution in comparison["cautions"]),
        f"The paper's data: {', '.join(paper['data'])}. Its empty cells are not known to us.",
        "Intervals: 95 % over replicates, Student's t; of relative gains Fieller's.",
    ]
    for line in lines:
        _say(console, line)
    header = ["quantity", "the paper says", "read it in", f"measured here ({comparison['data']})"]
    console.print(_table("", header, [_comparison_row(row) for row in comparison["rows"]], lines=True))


def _comparison_row(row: dict[str, Any]) -> list[str]:
    known = ", ".join(f"{value['percent']:g} % ({value['version']})" for value in row["paper"] or [])
    said = f"{known}; {row['note']}" if known else ""
    quantity = row["quantity"] if known or not row["note"] else f"{row['quantity']} ({row['note']})"
    measured = [entry["text"] for entry in row["measured"] or []]
    if len(measured) > LONGEST_CELL:
        measured = [*measured[:LONGEST_CELL], f"and {len(measured) - LONGEST_CELL} more: see --json"]
    return [quantity, said, row["read"], "\n".join(measured) or f"not measured here; run {row['run']}"]


def print_results(results: "Results") -> None:
    """Print the summary as tables: coloured in a terminal, plain text in a pipe."""
    from study.report.flat import flat_front_text, flat_text
    from study.report.stats import epsilons
    from study.report.wording import finding

    console = _console()
    summary = results.summary()
    counts = ", ".join(f"{count} {name}" for name, count in summary["trials"].items())
    _say(console, f"Study {summary['study']}: {summary['state']}. Trials: {counts}.")
    _say(console, finding(results))
    for teacher in results.teachers.to_dict("records"):
        n = int(teacher["n"]) if teacher.get("n") == teacher.get("n") and teacher.get("n") else "unknown"
        rate = f"{_rate(teacher['accuracy'])} on val_search (n = {n})"
        _say(console, f"Teacher {teacher['arch']}: accuracy {rate}.")
    for trial in summary["infeasible"]:
        _say(console, f"Trial {trial['trial']} cannot be on the front: {trial['reason']}.")
    if summary["front"]:
        images = {int(row["trial"]): str(row["n"]) for row in results.front.to_dict("records")}
        title = f"Front on val_front (hypervolume {summary['hypervolume']:.4f})"
        console.print(_front_table(summary["front"], images, title))
        _print_where_flat(console, [flat_front_text(results)])
    if summary["robustness"]:
        console.print(_robustness_table(summary["robustness"]))
        _say(console, _TRUST_WORDS)
        _print_where_flat(console, [flat_text(results, epsilon) for epsilon in epsilons(results)])


def printable(text: str) -> str:
    """Write out the letters that would steer a terminal; a study from elsewhere may hold any text."""
    return "".join(
        letter if letter == "\n" or category(letter) not in _STEERING else f"\\u{ord(letter):04x}" for letter in text
    )


def _say(console: "Console", text: str) -> None:
    console.print(printable(text), markup=False)


def _print_where_flat(console: "Console", sentences: Sequence[str | None]) -> None:
    for sentence in filter(None, sentences):
        _say(console, sentence)


def _console() -> "Console":
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=140)


def _front_table(front: Sequence[dict[str, Any]], images: dict[int, str], title: str) -> Any:
    rows = []
    for point in front:
        rates = [_rate(point["accuracy"]), _rate(point["adversarial_accuracy"]), images[point["trial"]]]
        params = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in point["params"].items())
        rows.append([str(point["trial"]), *rates, _number(point["nfe"]), _number(point["parameter_count"]), params])
    return _table(title, ["trial", "accuracy", "adversarial", "n", "nfe", "parameters", "sampled point"], rows)


def _robustness_table(entries: Sequence[dict[str, Any]]) -> Any:
    from study.report.wording import epsilon_text

    rows = []
    for entry in entries:
        low, high = entry["interval"]
        rates = [_rate(entry["clean_accuracy"]), _rate(entry["robust_accuracy"])]
        counted = [f"{100 * low:.1f} to {100 * high:.1f}", str(entry["n"])]
        said = "\n".join([entry["verdict"], *entry["reasons"]] if entry["verdict"] != "unchecked" else ["unchecked"])
        rows.append([entry["model"], entry["norm"], epsilon_text(entry["epsilon"]), *rates, *counted, said])
    header = ["model", "norm", "epsilon", "accuracy", "robust accuracy", "95 % interval", "n", "verdict of the checks"]
    return _table("Attacked on test, worst case over all attacks", header, rows)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, lines: bool = False) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", box=SIMPLE, show_lines=lines)
    for name in header:
        table.add_column(Text(printable(name)), overflow="fold")
    for row in rows:
        table.add_row(*[Text(printable(cell)) for cell in row])
    return table


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    sys.exit(main())
