"""SIGKILL by the hundred: what is lost, doubled, or suggested differently when a study is started again.

    python -m benchmarks.kills [--kills 200] [--ray 12 [--workers 2]] [--output benchmarks/kills_<yyyymm>.json]

The first part kills studies that train nothing: those of all samplers in turn, from outside after a random time, and
one before every line of the protocol. The second (`--ray N`) kills the driver and the workers of a real study on Ray;
with several workers that is a `--deterministic` one, whose suggestions can be compared, too.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from study.durable import read_json
from study.lease import process_birth
from study.provenance import provenance
from tests.e2e.found_on_disk import Found, Score, Watched, total
from tests.e2e.killed_study import (
    KILLED,
    SAMPLERS,
    Reference,
    Setting,
    kill_at_every_line,
    kill_at_random,
)

ROOT = Path(__file__).resolve().parents[1]
TRIALS = 10
IN_MEMORY = Path("/dev/shm")
SMALL = (
    *("sampler.startup_trials=2", "resources.gpus=0"),
    *("train.epochs=12", "student.channels=8", "teachers.0.train.epochs=4", "search.images=32"),
    "robustness.tier=screen",
)
"""A real study of about a minute."""
ALONE = ("budget.trials=6", "budget.concurrency=1")
TOGETHER = ("budget.trials=14", "--deterministic")
"""Two generations, the second of which has seen the first."""


# ---------------------------------------------------------------- studies that train nothing


def forked(folder: Path, kills: int, seed: int) -> dict[str, Score]:
    """Kill studies of every sampler at random, and one study before every line; return the scores by experiment."""
    scores: dict[str, Score] = {}
    each = -(-kills // len(SAMPLERS))
    for sampler in SAMPLERS:
        setting = Setting(sampler, TRIALS)
        reference = Reference.of(folder / f"reference-{sampler}", setting)
        name = f"random moments, {sampler}"
        scores[name] = kill_at_random(folder / sampler, setting, reference, each, seed, from_outside=True)
        print(f"{name}: {summary(scores[name])}", flush=True)
    for name, setting in (("tpe", Setting()), ("tpe --deterministic", Setting(generation=3))):
        reference = Reference.of(folder / f"reference-line-{name}", setting)
        scores[f"every line once, {name}"], _ = kill_at_every_line(folder / f"lines-{name}", setting, reference)
        print(f"every line once, {name}: {summary(scores[f'every line once, {name}'])}", flush=True)
    return scores


def summary(score: Score) -> dict[str, int]:
    """Count what a score lists."""
    return {name: len(value) if isinstance(value, list) else value for name, value in vars(score).items()}


# ---------------------------------------------------------------- a real study


@dataclass
class RealStudy(Watched):
    """A study of the command line on Ray."""

    workers: int = 1

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, or go on with it, in a session of its own."""
        command = [sys.executable, "-m", "study.launch", "search_spaces/kd.yaml", "--stage", "search", *SMALL]
        command += ALONE if self.workers == 1 else (*TOGETHER, f"budget.concurrency={self.workers}")
        with (self.root / "printed").open("ab") as printed:
            return subprocess.Popen(
                [*command, "--output", str(self.folder)], cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT
            )

    def wait_until_launched(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait until this launch has written its first line, or has ended."""
        events = self.folder / "events.jsonl"
        before = events.stat().st_size if events.exists() else 0
        while driver.poll() is None and (not events.exists() or events.stat().st_size <= before):
            time.sleep(0.05)

    def living_workers(self) -> list[tuple[Path, int]]:
        """Return the leases whose processes are at work now, with these."""
        found = []
        for lease in self.folder.rglob("attempts/*/lease.json"):
            holder = read_json(lease) or {"ended": True}
            if "ended" not in holder and process_birth(holder["pid"]) == holder["birth"]:
                found.append((lease, holder["pid"]))
        return found

    def started_again(self) -> list[str]:
        """Return the attempts that began after their job had its outcome."""
        found = []
        for lease in self.folder.rglob("attempts/*/lease.json"):
            job, holder = lease.parents[2], read_json(lease) or {}
            begun = datetime.fromisoformat(holder["start"]).timestamp()
            if (job / "outcome.json").exists() and begun > (job / "outcome.json").stat().st_mtime:
                found.append(str(lease.relative_to(self.folder)))
        return found


def finish(study: RealStudy) -> float:
    """Let a launch run to its end; return its seconds."""
    start = time.monotonic()
    code = study.start().wait()
    assert code == 0, f"the study must end well, but its exit code is {code}; see {study.root / 'printed'}"
    return time.monotonic() - start


def kill_worker(study: RealStudy, driver: subprocess.Popen[bytes], hit: set[Path]) -> bool:
    """Kill a worker of a job that lost none in this launch yet; tell whether there was one before the driver ended."""
    while driver.poll() is None:
        for lease, pid in study.living_workers():
            if lease.parents[2] not in hit:
                hit.add(lease.parents[2])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.05)
    return False


def kill_real(folder: Path, kills: int, seed: int, workers: int) -> dict[str, Score]:
    """Kill drivers and workers of a real study in turn, so many times in all, at random moments."""
    whole, draw = RealStudy(folder / "whole", workers=workers), random.Random(seed)
    seconds = finish(whole)
    reference = Found.in_folder(whole.folder)
    print(f"the study takes {seconds:.0f} s", flush=True)
    setting = "" if workers == 1 else f", {workers} at work, --deterministic"
    scores: dict[str, Score] = {}
    for hit in ("driver", "workers"):
        kind = f"Ray {hit}{setting}"
        score = scores[kind] = Score()
        while score.kills < kills // 2:
            study = RealStudy(folder / f"{hit}-{score.studies}", workers=workers)
            _kill_until_done(study, draw, seconds, hit == "driver", kills // 2 - score.kills)
            score.add(study, reference)
            score.started_again += study.started_again()
            print(f"{kind}: {summary(score)} {score.faults}", flush=True)
    return scores


def _kill_until_done(study: RealStudy, draw: random.Random, seconds: float, of_driver: bool, most: int) -> None:
    """Launch again and again; a kill comes after up to a third of the time that the whole study took, or a tenth."""
    while True:
        driver, hit = study.start(), set[Path]()
        study.wait_until_launched(driver)
        while study.kills < most and driver.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(draw.uniform(0, seconds / (3 if of_driver else 10)))
            if driver.poll() is None and of_driver:
                driver.kill()
                study.kills += 1
                break
            study.kills += not of_driver and kill_worker(study, driver, hit)
            study.look()
        code = driver.wait()
        study.look()
        assert code in (0, KILLED), f"exit code {code}; see {study.root / 'printed'}"
        if code == 0:
            return


# ---------------------------------------------------------------- all


def document(scores: dict[str, Score], seconds: float) -> dict[str, Any]:
    """Return what is kept of the scores: counts per experiment, and their sum."""
    rows = [{"experiment": name, **summary(score)} for name, score in scores.items()]
    whole = summary(total(scores.values()))
    return {**whole, "seconds": round(seconds), "experiments": rows, "provenance": provenance()}


def main() -> None:
    """Run what the command line asks for."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--kills", type=int, default=200, help="at random moments, all samplers together; 0 for none")
    command.add_argument("--ray", type=int, default=0, help="kills of a real driver and of real workers together")
    command.add_argument("--workers", type=int, default=1, help="of the real study at the same time")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--output", type=Path, help="JSON file to write; the parts that are not run are kept")
    options = command.parse_args()
    torch.set_num_threads(1)
    start, scores = time.monotonic(), dict[str, Score]()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None) as folder:
        if options.kills:
            scores |= forked(Path(folder), options.kills, options.seed)
        if options.ray:
            scores |= kill_real(Path(folder) / "ray", options.ray, options.seed, options.workers)
    found = document(scores, time.monotonic() - start)
    print(json.dumps({name: value for name, value in found.items() if name != "provenance"}, indent=1))
    if options.output:
        options.output.write_text(json.dumps(merged(found, options.output), indent=1) + "\n", encoding="utf-8")


def merged(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Add the experiments of an earlier run that this one did not repeat, and count anew."""
    old = read_json(path) or {"experiments": [], "seconds": 0}
    names = {row["experiment"] for row in found["experiments"]}
    kept = [row for row in old["experiments"] if row["experiment"] not in names]
    if not kept:
        return found
    rows = [*kept, *found["experiments"]]
    sums = {name: sum(row[name] for row in rows) for name in rows[0] if name != "experiment"}
    return {**found, **sums, "seconds": found["seconds"] + old["seconds"], "experiments": rows}


if __name__ == "__main__":
    main()
