"""Time and memory of the commands a user gives: kd.yaml, its smoke study, --help, a broken space.

    .venv/bin/python benchmarks/commands.py [--only NAME ...] [--output benchmarks/commands_<hardware>_<yyyymm>.json]

Each command runs in a fresh process and an empty folder. Memory is the sum of the proportional set sizes (PSS) of the
process and everything that descends from it or belongs to its Ray session, sampled every two seconds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from study.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
KD = ROOT / "search_spaces" / "kd.yaml"
LAUNCH = [sys.executable, "-m", "study.launch"]
GOALS: dict[str, dict[str, float]] = {
    "help": {"wall_s": 1.0},
    "broken-space": {"wall_s": 1.0},
    "smoke": {"wall_s": 60.0},
    "kd": {"wall_s": 900.0, "peak_pss_gb": 4.0},
}
MARK = "NODEKD_BENCHMARK"
"""Environment variable that every process of a run inherits, however it was started."""


REFERENCE = ROOT / "results" / "reference-kd-digits"


def commands(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Return each command with the exit code it must have."""
    broken = folder / "broken.yaml"
    broken.write_text("space:\n  temprature: {float: [20, 1]}\n", encoding="utf-8")
    return {
        "help": ([*LAUNCH, "--help"], 0),
        "broken-space": ([*LAUNCH, str(broken)], 3),
        "smoke": ([*LAUNCH, str(KD), "--smoke"], 0),
        "kd": ([*LAUNCH, "search_spaces/kd.yaml", "--output", f"results/{REFERENCE.name}"], 0),
    }


class Memory(threading.Thread):
    """Samples the PSS of all processes that carry the mark."""

    def __init__(self, mark: str) -> None:
        super().__init__(daemon=True)
        self.mark = f"{MARK}={mark}".encode()
        self.peak_kb = 0
        self.processes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Sample until told to end."""
        while not self.ended.wait(2.0):
            sizes = [size for size in map(self._pss_kb, Path("/proc").glob("[0-9]*")) if size]
            if sum(sizes) > self.peak_kb:
                self.peak_kb, self.processes = sum(sizes), len(sizes)

    def _pss_kb(self, process: Path) -> int:
        try:
            if self.mark not in (process / "environ").read_bytes():
                return 0
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def measure(command: list[str], expected: int, keep: bool) -> dict[str, Any]:
    """Run one command in a folder that holds the search spaces alone; return its time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "search_spaces").symlink_to(KD.parent)
        mark = f"{os.getpid()}-{time.monotonic_ns()}"
        memory = Memory(mark)
        memory.start()
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, MARK: mark}
        )
        wall = time.perf_counter() - started
        memory.ended.set()
        memory.join()
        if keep and done.returncode == expected:
            shutil.rmtree(REFERENCE, ignore_errors=True)
            shutil.copytree(Path(folder) / "results" / REFERENCE.name, REFERENCE)
    if done.returncode != expected:
        said = done.stdout[-2000:] + done.stderr[-2000:]
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return {"wall_s": round(wall, 2), "peak_pss_gb": round(memory.peak_kb / 2**20, 2), "processes": memory.processes}


def main() -> None:
    """Measure and print; write the file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(GOALS), default=list(GOALS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--reference", action="store_true", help="keep the kd study as results/reference-kd-digits")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (command, expected) in commands(Path(folder)).items():
            if name in options.only:
                load = os.getloadavg()[0]
                rows[name] = {
                    **measure(command, expected, keep=options.reference and name == "kd"),
                    "goal": GOALS[name],
                    "load_before": round(load, 2),
                }
                print(name, rows[name], flush=True)
    record = {"schema": 1, "measured": time.strftime("%Y-%m-%d"), "provenance": provenance(), "rows": rows}
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
