"""Run a study: python -m study.launch SPACE [key=value ...].

A broken space is answered here, before torch or Ray load; everything else is the driver's.
"""

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from study.errors import Interrupted, StudyError
from study.order import PARTS, RESUMES, Order
from study.readers import outliving_readers

GENERATION = 8
INTERNAL_ERROR = 70


def parser() -> argparse.ArgumentParser:
    """Return the command line of `study.launch`."""
    command = argparse.ArgumentParser(
        prog="python -m study.launch",
        description="Distil ResNet teachers into Neural-ODE students over a search space, then attack the best.",
        epilog="The same command continues an interrupted study. search_spaces/README.md lists every key.",
        allow_abbrev=False,  # commands that go on with a study leave options out by their names
    )
    command.add_argument("space", type=Path, metavar="SPACE", help="search space, e.g. search_spaces/kd.yaml")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings laid over the file, e.g. budget.trials=8"
    )
    command.add_argument("--validate", action="store_true", help="check space, data and checkpoints, run nothing")
    command.add_argument("--dry-run", action="store_true", help="also print the resolved settings and the plan")
    command.add_argument("--smoke", action="store_true", help="2 trials, 1 epoch, few images, under <name>-smoke")
    command.add_argument(
        "--resume",
        choices=RESUMES,
        default="auto",
        help="auto: continue where there is something; must: refuse to begin anew; never: begin <name>-2",
    )
    command.add_argument(
        "--deterministic",
        action="store_const",
        const=GENERATION,
        help=f"ask for trials {GENERATION} at a time, so that any number of workers gives the same study",
    )
    command.add_argument("--stage", choices=PARTS, default="all", help="run only this part")
    command.add_argument("--output", type=Path, metavar="DIR", help="the study's own folder (default results/<name>)")
    command.add_argument(
        "--address", metavar="auto|HOST:PORT", help="run on this Ray cluster instead of a private local one"
    )
    command.add_argument(
        "--insecure", action="store_true", help="with --address: join a cluster that demands no token all the same"
    )
    command.add_argument(
        "--fork",
        type=Path,
        metavar="DIR",
        help="begin a new study from this one: its trials that the changed space would measure alike are taken over",
    )
    command.add_argument(
        "--copy-to",
        metavar="URI",
        help="copy the complete study there, e.g. s3://bucket/results/kd or file:///archive/kd",
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    with outliving_readers():
        return _launch(options, given)


def _launch(options: argparse.Namespace, given: Sequence[str]) -> int:
    """Return the exit code; every fault has been told."""
    interpreter, words = sys.orig_argv[0] or "python", ["-m", "study.launch", *given]
    try:
        from study.space.reader import read_space

        space = read_space(options.space, options.overrides)
        order = Order(
            space=space.smoke() if options.smoke else space,
            source=options.space,
            command=shlex.join(["python", *words]),
            interpreter=interpreter,
            part=options.stage,
            resume=options.resume,
            output=options.output,
            address=options.address,
            insecure=options.insecure,
            fork=options.fork,
            validate=options.validate,
            dry_run=options.dry_run,
            smoke=options.smoke,
            generation=options.deterministic,
            copy_to=options.copy_to,
        )
        from study.driver import drive

        return drive(order)
    except StudyError as fault:
        print(fault, file=sys.stderr)
        if isinstance(fault, Interrupted) and fault.is_impatient:
            sys.stdout.flush()
            os._exit(fault.exit_code)  # Ray's own end may take longer than somebody who asked twice will wait
        return fault.exit_code
    except Exception:  # noqa: BLE001 - a fault of the program still ends with the exit code that says so
        traceback.print_exc()
        print("This is a fault of nodekd, not of the study; what it has on disk is kept.", file=sys.stderr)
        return INTERNAL_ERROR
    except KeyboardInterrupt:
        print(f"Stopped. Continue with: {shlex.join([interpreter, *words])}", file=sys.stderr)
        return 130


def _parse(given: list[str]) -> argparse.Namespace:
    command = parser()
    options = command.parse_intermixed_args(given)
    wrong = [text for text in options.overrides if "=" not in text]
    if wrong:
        command.error(f"an override reads key=value, but got {wrong[0]!r}, e.g. budget.trials=8")
    if options.insecure and options.address is None:
        command.error("--insecure goes with --address: a private Ray always demands its token")
    if options.fork is not None and options.resume != "auto":
        command.error("--fork begins a study, or goes on with one that it began; leave --resume out")
    return options


if __name__ == "__main__":
    sys.exit(main())
