"""What a trial costs beside its training: many empty trials through the real engine, search stage, ledger and report.

    PYTHONPATH=. python benchmarks/stub_trials.py [--trials 10000] [--sampler random] [--inline] [--output FILE]

A trial trains nothing: its worker begins an attempt, commits an outcome that follows from its settings, and ends; it
never imports torch. Times are seconds of a slot (wall time x slots / trials), over windows of trials, so that what
grows with their number is seen; the sampler's own time (asking and telling Optuna) is measured apart. The report is
written at the end. Workers are warm: no window begins before the first hundred trials are over.
"""

import argparse
import contextlib
import cProfile
import json
import math
import os
import pstats
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from study.engine.job import Engine, Job
from study.ledger import Ledger

KD = Path(__file__).resolve().parents[1] / "search_spaces" / "kd.yaml"
SIZES = {"train": 808, "val_search": 270, "val_front": 270, "test": 449}
ASKS = 5
"""Suggestions over which their time is a mean."""
WARM = 100
"""Trials before the first window."""
SAMPLERS = ("random", "qmc", "tpe", "nsga2")
GOALS = {"orchestration_slot_s": 0.1, "growth": 2.0}


# ---------------------------------------------------------------- in a worker


def run_stub(job: Job) -> None:
    """Settle a trial as if it had been trained: accuracy and robust accuracy pull apart over the horizon."""
    ledger = Ledger(Path(job.study))
    if ledger.outcome(job.key) is not None:
        return
    with ledger.begin(job.key) as attempt:
        spread = math.log(job.payload["settings"]["student"]["horizon"] / 0.25) / math.log(16)
        noise = zlib.crc32(job.key.encode()) / 2**32 / 10
        values = {"accuracy": 0.8 + 0.1 * spread + noise, "adversarial_accuracy": 0.5 - 0.2 * spread + noise}
        said = {"attempt": attempt.number, "started": attempt.started, "seconds": attempt.seconds}
        metrics = {**values, "n": 270, "n_adversarial": 128, "torch": "torch" in sys.modules}
        ledger.commit(job.key, {"kind": "student", "state": "COMPLETE", "values": values, "metrics": metrics, **said})


# ---------------------------------------------------------------- in the driver


class Stopwatch:
    """Adds up the time spent in the methods it is put around."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method with its time taken."""

        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


class Metered:
    """A source of jobs that notes, at the end of each, the time, the sampler's time so far and the driver's memory."""

    def __init__(self, source: Any, sampler: Stopwatch) -> None:
        self._source, self._sampler = source, sampler
        self.ends: list[tuple[float, float, float, float]] = []

    def next(self) -> Job | None:
        """Return what the source hands out."""
        return self._source.next()

    def settled(self, job: Job, error: str | None) -> None:
        """Pass the end of a job on, and note it."""
        if error is not None:
            raise RuntimeError(f"{job.key}: {error}")
        self._source.settled(job, error)
        self.ends.append((time.perf_counter(), self._sampler.seconds, resident_mb(), time.process_time()))

    def pause(self) -> None:
        """Do nothing; a benchmark that is stopped is thrown away."""

    @property
    def finished(self) -> bool:
        """Whether the source is finished."""
        return self._source.finished

    def window(self, begin: int, end: int, slots: int) -> dict[str, Any]:
        """Return what a trial cost between two trials, all in seconds of a slot."""
        (t0, s0, _, c0), (t1, s1, memory, c1) = self.ends[begin - 1], self.ends[end - 1]
        count = end - begin
        whole, sampler = (t1 - t0) * slots / count, (s1 - s0) * slots / count
        return {
            "trials": [begin, end],
            "wall_s": round(t1 - t0, 2),
            "slot_s": round(whole, 5),
            "sampler_slot_s": round(sampler, 5),
            "orchestration_slot_s": round(whole - sampler, 5),
            "driver_cpu_s": round((c1 - c0) / count, 5),
            "driver_rss_mb": round(memory),
        }


def resident_mb() -> float:
    """Return the memory that this process holds now, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def engine_of(inline: bool) -> Engine:
    """Return the engine to measure."""
    if inline:
        from study.engine.inline import InlineEngine  # noqa: PLC0415  Ray is not loaded where it is not wanted

        return InlineEngine()
    from study.engine.ray_tune import RayTuneEngine  # noqa: PLC0415

    return RayTuneEngine(gpus=0)


def a_study(folder: Path, trials: int, sampler: str, sink: Any) -> Any:
    """Return the context of a study that has its identity on disk and no trial yet."""
    from study.identity import write_identity  # noqa: PLC0415  loads torch, which a worker must not
    from study.order import Order  # noqa: PLC0415
    from study.progress import PlainProgress  # noqa: PLC0415
    from study.space.reader import read_space  # noqa: PLC0415
    from study.stages.context import Context, Facts  # noqa: PLC0415
    from study.stages.teachers import teacher_keys  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    space = read_space(KD, [f"budget.trials={trials}", f"sampler.name={sampler}"])
    ledger, facts = Ledger(folder), Facts(10, "f" * 64, SIZES, 1)
    context = Context(space, ledger, facts, PlainProgress(sink))
    write_identity(ledger, Order(space, KD, "stub trials"), facts, teacher_keys(context), "stub")
    return context


def begun(source: Path, folder: Path, trials: int) -> None:
    """Copy the first trials of a study that an earlier run kept, so that the next ones can be measured alone."""
    folder.mkdir(parents=True)
    for key in (f"trials/{number:06d}" for number in range(trials)):
        shutil.copytree(source / key, folder / key)
    shutil.copyfile(source / "optuna.db", folder / "optuna.db")
    with contextlib.closing(sqlite3.connect(folder / "optuna.db")) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type='table' AND name LIKE 'trial%'").fetchall()
        later = f"SELECT trial_id FROM trials WHERE number >= {trials}"
        for name in sorted((name for (name,) in tables), key=lambda name: name == "trials"):
            database.execute(f"DELETE FROM {name} WHERE trial_id IN ({later})")
        database.commit()


def searched(context: Any, engine: Engine) -> tuple[Metered, float, float]:
    """Run the search; return what was noted, the wall time, and the part of it after the last trial."""
    from study.sampling import StudyView  # noqa: PLC0415
    from study.stages.pipeline import Pipeline  # noqa: PLC0415
    from study.stages.search import Search  # noqa: PLC0415

    watch, before = Stopwatch(), (StudyView.ask, StudyView.tell)
    StudyView.ask, StudyView.tell = watch.around(StudyView.ask), watch.around(StudyView.tell)
    try:
        source = Metered(Pipeline(iter([Search(context)])), watch)
        began = time.perf_counter()
        engine.run(source, run_stub)
    finally:
        StudyView.ask, StudyView.tell = before
    return source, time.perf_counter() - began, time.perf_counter() - source.ends[-1][0]


def reported(folder: Path) -> dict[str, float]:
    """Read the study and write its tables and page; return the seconds of each."""
    from study.report.page import write_report  # noqa: PLC0415
    from study.results import load, write_snapshots  # noqa: PLC0415

    seconds, began = {}, time.perf_counter()
    results = load(folder)
    for name, step in (("load_s", lambda: None), ("snapshots_s", lambda: write_snapshots(folder, results))):
        step()
        seconds[name], began = round(time.perf_counter() - began, 2), time.perf_counter()
    page = write_report(folder, results)
    return {**seconds, "page_s": round(time.perf_counter() - began, 2), "page_mb": round(page.stat().st_size / 1e6, 1)}


def resumed(context: Any) -> float:
    """Return the seconds that a second launch needs to find out that every trial is over."""
    from study.stages.search import Search  # noqa: PLC0415

    began = time.perf_counter()
    if not Search(context).finished:
        raise RuntimeError("The search was to be over.")
    return round(time.perf_counter() - began, 2)


def checked(ledger: Ledger, trials: int, inline: bool) -> None:
    """Refuse figures of a study that is not what it should be."""
    outcomes = [ledger.outcome(key) or {} for key in ledger.keys("trials")]
    complete = sum(outcome.get("state") == "COMPLETE" for outcome in outcomes)
    attempts = {outcome.get("attempt") for outcome in outcomes}
    if (len(outcomes), complete, attempts) != (trials, trials, {1}):
        raise RuntimeError(f"{trials} trials, each complete at the first attempt, were to be left, but {complete} are.")
    if not inline and any(outcome["metrics"]["torch"] for outcome in outcomes):
        raise RuntimeError("A worker imported torch.")


def windows_of(source: Metered, trials: int, width: int, first: int, slots: int) -> dict[str, Any]:
    """Return the windows of a whole run, or the one window of a run that began later."""
    if first:
        return {f"trials {first} to {trials}": source.window(width // 10, len(source.ends), slots)}
    centre = min(1000, trials // 2)
    return {
        "early": source.window(max(WARM, centre - width // 2), centre + width // 2, slots),
        "late": source.window(trials - width, trials, slots),
        "all": source.window(WARM, trials, slots),
    }


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the study; return its row."""
    trials, width = options.trials, options.window
    with Path(os.devnull).open("w", encoding="utf-8") as sink:
        if options.source:
            begun(options.source, folder, options.first)
        context, engine = a_study(folder, trials, options.sampler, sink), engine_of(options.inline)
        try:
            engine.start()
            with profiled(options.profile):
                source, wall, wind_up = searched(context, engine)
        finally:
            engine.stop()
        slots = getattr(engine, "slots", 1)
        checked(context.ledger, trials, options.inline)
        windows = windows_of(source, trials, width, options.first, slots)
        report = reported(folder)
        again = resumed(context)
    costs = [windows[name]["orchestration_slot_s"] for name in ("early", "late") if name in windows]
    growth, mean = round(costs[-1] / costs[0], 2) if costs else None, list(windows.values())[-1]["orchestration_slot_s"]
    seconds = sum(value for name, value in report.items() if name.endswith("_s"))
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {
        "engine": "inline" if options.inline else "ray",
        "sampler": options.sampler,
        "trials": trials,
        "slots": slots,
        "wall_s": round(wall, 1),
        "wind_up_s": round(wind_up, 2),
        "windows": windows,
        "growth": growth,
        "report": report,
        "with_report_slot_s": round(mean + seconds * slots / trials, 5),
        "resume_s": again,
        "peak_driver_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
        "files": len(files),
        "mb": round(sum(path.stat().st_size for path in files) / 1e6, 1),
        "load": [round(each, 2) for each in os.getloadavg()],
    }


def suggested(known: Sequence[int], samplers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the seconds (driver's processor time) a sampler takes for one suggestion, by how many trials it knows.

    The trials stand in memory, so that the sampler's own work is measured and not the database's. The first suggestion
    of each is not counted: it counts the trials and imports what the sampler needs, once a launch.
    """
    from study.sampling import StudyView  # noqa: PLC0415
    from study.space.reader import read_space  # noqa: PLC0415

    filled, found = StudyView(read_space(KD, ["sampler.name=random"]), 10, None), {name: {} for name in samplers}
    for count in known:
        while (asked := filled.ask()) is not None:
            noise = zlib.crc32(str(asked[0]).encode()) / 2**32 / 10
            values = {"accuracy": 0.8 + noise, "adversarial_accuracy": 0.5 - asked[1].get("alpha", 0) / 5 + noise}
            filled.tell(asked[0], {"state": "COMPLETE", "values": values})
            if asked[0] + 1 >= count:
                break
        rows = filled._study.get_trials(deepcopy=False)
        for name in samplers:
            view = StudyView(read_space(KD, [f"sampler.name={name}"]), 10, None)
            view._study.add_trials(rows)
            view.ask()
            began = time.process_time()
            for _ in range(ASKS):
                view.ask()
            found[name][str(count)] = round((time.process_time() - began) / ASKS, 4)
    return found


@contextlib.contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    """Print where the driver's time went, where that is asked for; a profiled time is no measurement."""
    if not wanted:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


def main() -> None:
    """Measure and print; add the row to the file where one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--window", type=int, default=500, help="trials of the early and of the late window")
    parser.add_argument("--sampler", default="random", choices=SAMPLERS)
    parser.add_argument("--inline", action="store_true", help="one slot in this process, without Ray")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--asks", type=int, nargs="+", help="time suggestions alone, with so many trials known")
    parser.add_argument("--from", dest="source", type=Path, help="a study kept by --keep, whose first trials are taken")
    parser.add_argument("--first", type=int, default=0, help="how many of them")
    parser.add_argument("--keep", type=Path, help="where the study is kept")
    parser.add_argument("--folder", type=Path, help="where the study goes (default: a temporary folder)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    parent = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        row = {"asks": suggested(options.asks, SAMPLERS)} if options.asks else measure(options, parent / "stub")
        if options.keep:
            shutil.copytree(parent / "stub", options.keep)
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    print(json.dumps(row, indent=1))
    if options.output:
        from study.provenance import provenance  # noqa: PLC0415

        earlier = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
        record = {**earlier, "schema": 1, "measured": time.strftime("%Y-%m-%d"), "provenance": provenance()}
        record |= {"goals": GOALS, "rows": [*earlier["rows"], row]}
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
