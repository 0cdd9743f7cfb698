"""Write the report of a study: one HTML file that works offline.

Command: `python -m study.explore DIR [--svg] [--figures]`. Reads files only, also of a running study; prints its files.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What stands after the command's name; from the command line by default.

    Returns:
        The exit code: 0 done, 4 if the folder is not that of a study or cannot be written (2, usage, is argparse's).
    """
    words = "Write a study's report/index.html."
    parser = argparse.ArgumentParser(prog="python -m study.explore", description=words, allow_abbrev=False)
    parser.add_argument("folder", metavar="DIR", type=Path, help="the study's own folder, e.g. results/kd")
    parser.add_argument("--svg", action="store_true", help="also write report/front.svg, the picture of the front")
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also write every chart to report/figures/*.svg; needs Chrome or Chromium",
    )
    options = parser.parse_args(arguments)

    from study.errors import StudyError
    from study.report.page import write_front_svg, write_report
    from study.results import load

    try:
        results = load(options.folder)
        print(write_report(options.folder, results))
        if options.svg:
            print(write_front_svg(options.folder, results))
        if options.figures:
            from study.report.images import write_images

            print(*write_images(options.folder, results), sep="\n")
    except StudyError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    except OSError as error:
        place = options.folder / "report"
        print(f"The report must be writable, but {place} is not: {error.strerror}. Free or allow it.", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
