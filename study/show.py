"""Print what a study has found so far.

Command: `python -m study.show DIR [--json]`. Reads files only, also of a running study.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.results import Results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What stands after the command's name; from the command line by default.

    Returns:
        The exit code: 0 done, 4 if the folder is not that of a study (2, usage, is argparse's).
    """
    parser = argparse.ArgumentParser(prog="python -m study.show", description="Print what a study has found so far.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the study's own folder, e.g. results/kd")
    parser.add_argument("--json", action="store_true", help="print one JSON object (rates are fractions)")
    options = parser.parse_args(arguments)

    from study.errors import StudyError
    from study.results import load

    try:
        results = load(options.folder)
    except StudyError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    for problem in results.problems:
        print(f"Left out: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps(results.summary(), indent=2, allow_nan=False))
    else:
        print_results(results)
    return 0


def print_results(results: "Results") -> None:
    """Print the summary as tables: coloured in a terminal, plain text in a pipe."""
    from rich.console import Console

    from study.report.wording import finding

    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=140)
    summary = results.summary()
    counts = ", ".join(f"{count} {name}" for name, count in summary["trials"].items())
    console.print(f"Study {summary['study']}: {summary['state']}. Trials: {counts}.", markup=False)
    console.print(finding(results), markup=False)
    for teacher in results.teachers.to_dict("records"):
        n = int(teacher["n"]) if teacher.get("n") == teacher.get("n") and teacher.get("n") else "unknown"
        rate = f"{_rate(teacher['accuracy'])} on val_search (n = {n})"
        console.print(f"Teacher {teacher['arch']}: accuracy {rate}.", markup=False)
    if summary["front"]:
        images = {int(row["trial"]): str(row["n"]) for row in results.front.to_dict("records")}
        title = f"Front on val_front (hypervolume {summary['hypervolume']:.4f})"
        console.print(_front_table(summary["front"], images, title))
    if summary["robustness"]:
        console.print(_robustness_table(summary["robustness"]))


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
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        rows.append([entry["model"], entry["norm"], epsilon_text(entry["epsilon"]), *rates, interval, str(entry["n"])])
    header = ["model", "norm", "epsilon", "accuracy", "robust accuracy", "95 % interval", "n"]
    return _table("Attacked on test, worst case over all attacks", header, rows)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=SIMPLE)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    return table


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    sys.exit(main())
