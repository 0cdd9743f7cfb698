"""What a person sees while a study runs: a live view in a terminal, plain lines in a pipe."""

import statistics
import sys
import threading
import time
from bisect import insort
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, TextIO, final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.engine.job import Job
from study.feasibility import objections
from study.fronts import Objectives, front_with

FEWEST_FOR_ETA = 3
"""Jobs of a stage that must have ended before a time is guessed."""
SHOWN_FRONT = 5


@final
class Tally:
    """Counts and times of the stage under way, and the front of the trials that ended in this launch."""

    def __init__(self) -> None:
        self.stage = "starting"
        self.total = 0
        self.done = 0
        self.states: Counter[str] = Counter()
        self.running: dict[str, float] = {}
        self.seconds: list[float] = []  # sorted, so that the median of 10,000 costs nothing
        self.measured = 0
        self._front: dict[str, Objectives] = {}
        self.width = 1
        self.last_note = ""

    def begin(self, name: str, total: int, done: int) -> None:
        """Start counting a stage."""
        self.stage, self.total, self.done = name, total, done
        self.states.clear()
        self.seconds.clear()

    def start(self, key: str) -> None:
        """Note a job as running."""
        self.running[key] = time.monotonic()
        self.width = max(self.width, len(self.running))

    def end(self, key: str, outcome: Mapping[str, Any]) -> None:
        """Note how a job ended."""
        started = self.running.pop(key, None)
        if started is not None:
            insort(self.seconds, time.monotonic() - started)
        self.done += 1
        self.states[outcome["state"]] += 1
        values = outcome.get("values") or {}
        if key.startswith("trials/") and "adversarial_accuracy" in values and not objections(outcome):
            self.measured += 1
            self._front = front_with(self._front, key, (values["accuracy"], values["adversarial_accuracy"]))

    @property
    def seconds_left(self) -> float | None:
        """Guess of the time to the end of the stage; None while too few jobs have ended."""
        if len(self.seconds) < FEWEST_FOR_ETA:
            return None
        return statistics.median(self.seconds) * max(0, self.total - self.done) / self.width

    @property
    def front(self) -> list[tuple[str, float, float]]:
        """The trials on the search front, most accurate first; those that failed a check are not among them."""
        return sorted(((key, *point) for key, point in self._front.items()), key=lambda member: -member[1])

    def counts(self) -> str:
        """Say in words how many jobs ended, run and failed."""
        text = f"{self.done}/{self.total} done, {len(self.running)} running, {self.states['FAIL']} failed"
        left = self.seconds_left
        return text if left is None else f"{text}, about {duration(left)} left"


class Progress(Protocol):
    """An observer of stages that can be shown."""

    def showing(self) -> AbstractContextManager[object]:
        """Show while the block runs."""
        ...

    def stage(self, name: str, total: int, done: int) -> None:
        """Note that a stage begins."""
        ...

    def started(self, job: Job) -> None:
        """Note that a job was handed out."""
        ...

    def settled(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Note that a job has an outcome."""
        ...

    def note(self, text: str) -> None:
        """Pass on a sentence."""
        ...


def progress_for(stream: TextIO, *, refresh_s: float, heartbeat_s: float) -> Progress:
    """Return a live view for a terminal and plain lines for anything else."""
    if stream.isatty():
        return LiveProgress(Console(file=stream), refresh_s)
    return PlainProgress(stream, heartbeat_s)


@final
class PlainProgress:
    """A line when a stage begins, one for each job that ends, and a heartbeat in between."""

    def __init__(self, stream: TextIO = sys.stdout, heartbeat_s: float = 30.0) -> None:
        self._tally = Tally()
        self._stream = stream
        self._heartbeat_s = heartbeat_s

    def showing(self) -> AbstractContextManager[object]:
        """Write heartbeats while the block runs."""
        return _Heartbeat(self._heartbeat_s, lambda: self._write(f"{self._tally.stage}: {self._tally.counts()}"))

    def stage(self, name: str, total: int, done: int) -> None:
        """Write that a stage begins."""
        self._tally.begin(name, total, done)
        earlier = f", {done} settled earlier" if done else ""
        self._write(f"stage {name}: {total} job{'' if total == 1 else 's'}{earlier}")

    def started(self, job: Job) -> None:
        """Count a job as running."""
        self._tally.start(job.key)

    def settled(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Write how a job ended."""
        self._tally.end(job.key, outcome)
        self._write(f"{job.key}: {summary(outcome)} ({self._tally.counts()})")

    def note(self, text: str) -> None:
        """Write a sentence."""
        self._write(text)

    def _write(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


@final
class LiveProgress:
    """One screen that redraws itself: stage, counts, time left, and the front so far."""

    def __init__(self, console: Console, refresh_s: float) -> None:
        self._tally = Tally()
        self._console = console
        self._refresh_s = refresh_s

    def showing(self) -> AbstractContextManager[object]:
        """Redraw while the block runs."""
        return Live(
            get_renderable=self._draw, console=self._console, refresh_per_second=1 / self._refresh_s, transient=True
        )

    def stage(self, name: str, total: int, done: int) -> None:
        """Show the stage that begins, and leave a line for the one before."""
        if self._tally.total:
            self._console.print(f"[green]✓[/] {self._tally.stage}: {self._tally.done}/{self._tally.total}")
        self._tally.begin(name, total, done)

    def started(self, job: Job) -> None:
        """Count a job as running."""
        self._tally.start(job.key)

    def settled(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Count how a job ended; a failure leaves a line."""
        self._tally.end(job.key, outcome)
        if outcome["state"] == "FAIL":
            self._console.print(Text(f"✗ {job.key}: {outcome.get('reason')}", style="yellow"))

    def note(self, text: str) -> None:
        """Show a sentence above the view."""
        self._console.print(Text(text))

    def _draw(self) -> RenderableType:
        tally = self._tally
        head = Text.assemble((tally.stage, "bold"), "  ", tally.counts())
        bar = ProgressBar(total=max(1, tally.total), completed=tally.done, width=60)
        return Group(head, bar, Text("running: " + (", ".join(tally.running) or "-"), style="dim"), self._front())

    def _front(self) -> RenderableType:
        members = self._tally.front
        if not members:
            return Text("front: no trial has completed yet", style="dim")
        table = Table(title=f"search front, {len(members)} of {self._tally.measured} trials", title_justify="left")
        for column in ("trial", "accuracy", "adversarial accuracy"):
            table.add_column(column, justify="right")
        for key, accuracy, adversarial in members[:SHOWN_FRONT]:
            table.add_row(key.rpartition("/")[2].lstrip("0") or "0", f"{accuracy:.3f}", f"{adversarial:.3f}")
        return table


@final
class _Heartbeat:
    """Calls a function every few seconds while the block runs."""

    def __init__(self, every_s: float, beat: Any) -> None:
        self._every_s, self._beat = every_s, beat
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._beat()


def summary(outcome: Mapping[str, Any]) -> str:
    """Say in a few words how a job ended."""
    if outcome["state"] == "FAIL":
        return f"FAIL, {outcome.get('reason')}"
    values, metrics = outcome.get("values") or {}, outcome.get("metrics") or {}
    said = [f"{name} {values[name]:.3f}" for name in ("accuracy", "adversarial_accuracy") if name in values]
    if not values and isinstance(metrics.get("accuracy"), float):
        said = [f"accuracy {metrics['accuracy']:.3f}"]
        said += [f"robust {item['robust_accuracy']:.3f} at {item['epsilon']:.4g}" for item in metrics.get("robust", [])]
    took = f"{outcome['seconds']:.1f} s" if outcome.get("seconds") is not None else ""
    kept_back = [f"infeasible: {reason}" for reason in objections(outcome)[:1]]
    return ", ".join([outcome["state"].lower(), *said, took, *kept_back])


def duration(seconds: float) -> str:
    """Write a time span as a person would."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
