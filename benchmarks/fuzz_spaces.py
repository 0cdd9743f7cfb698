"""Read ten thousand broken and whole search spaces: each is a space that works, or has problems with places.

    PYTHONPATH=. .venv/bin/python benchmarks/fuzz_spaces.py --output benchmarks/fuzz_spaces_<yyyymm>.json

A few minutes on one core. Exit code 1 if one file ends in a traceback, in a problem without a place, in a space that
cannot be used, or takes longer than 2 s. Its seed is printed; `tests.fuzzed_spaces.fuzzed(SEED)` gives the case again.
"""

import argparse
import json
import statistics
import sys
from collections import Counter
from pathlib import Path

from study.lease import utc_now
from study.provenance import provenance
from tests.space_property import LONGEST_S, Verdict, judged


def main() -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the reader of search spaces.")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    verdicts: list[Verdict] = []
    for seed in range(options.first, options.first + options.cases):
        verdicts.append(judged(seed))
        if verdicts[-1].fault:
            print(f"seed {seed}: {verdicts[-1].kind}: {verdicts[-1].fault}", flush=True)
        if len(verdicts) % 1000 == 0:
            print(f"{len(verdicts)} files: {dict(Counter(each.kind for each in verdicts))}", flush=True)
    found = result(verdicts, options.first)
    print(json.dumps(found, indent=1))
    if options.output is not None:
        options.output.write_text(json.dumps(found | {"provenance": provenance()}, indent=1) + "\n")
    return 1 if found["faults"] else 0


def result(verdicts: list[Verdict], first: int) -> dict[str, object]:
    """Summarise."""
    seconds = sorted(each.seconds for each in verdicts)
    return {
        "date": utc_now()[:10],
        "cases": len(verdicts),
        "first_seed": first,
        "kinds": dict(sorted(Counter(each.kind for each in verdicts).items())),
        "faults": {str(each.seed): each.fault.splitlines()[-1] for each in verdicts if each.fault},
        "processor_seconds": {
            "median": round(statistics.median(seconds), 4),
            "99 %": round(seconds[int(0.99 * (len(seconds) - 1))], 4),
            "longest": round(seconds[-1], 4),
            "allowed": LONGEST_S,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
