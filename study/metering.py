"""Counts what a study does for whoever collects metrics, beside showing it to a person. A study never depends on it."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, final

from study.engine.epochs import TRIALS, Meter, is_trial
from study.engine.job import Job
from study.feasibility import objections
from study.fronts import Objectives, front_with, hypervolume
from study.ledger import Ledger
from study.progress import Progress

_RUNNING = "RUNNING"


@final
class MeteredProgress:
    """Shows what another progress shows, and sends the same as numbers.

    Gauges `trials` (by study and state) and `hypervolume` (of the search front, by study); the counter `evaluations`
    (of the dynamics in training, updates times evaluations a solve), by trial, once a trial is over. Its epochs are
    sent by its worker as they happen, see `study.engine.epochs`.
    """

    def __init__(
        self, shown: Progress, meter: Meter, ledger: Ledger, study: str, reference: tuple[float, float]
    ) -> None:
        """Begin with nothing counted; trials of earlier launches are counted when a stage begins.

        Args:
            shown: Gets every call as well.
            meter: Takes the numbers.
            ledger: Of the study.
            study: Its name, the tag.
            reference: Where the hypervolume begins, accuracy and adversarial accuracy.
        """
        self._shown, self._meter, self._ledger = shown, meter, ledger
        self._study, self._reference = study, reference
        self._states: Counter[str] = Counter()
        self._running: set[str] = set()
        self._front: dict[str, Objectives] = {}

    def showing(self) -> AbstractContextManager[object]:
        """Show while the block runs."""
        return self._shown.showing()

    def stage(self, name: str, total: int, done: int) -> None:
        """Note that a stage begins; count the trials that are over where it is the search."""
        self._shown.stage(name, total, done)
        if name == "search":
            with _harmless():
                self._recount()

    def started(self, job: Job) -> None:
        """Note that a job was handed out."""
        self._shown.started(job)
        with _harmless():
            if is_trial(job.key):
                self._running.add(job.key)
                self._send()

    def settled(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Note that a job has an outcome."""
        self._shown.settled(job, outcome)
        with _harmless():
            if is_trial(job.key):
                self._running.discard(job.key)
                self._count(job.key, outcome)
                self._send(outcome["state"])
                self._send_work(job.key, outcome)

    def note(self, text: str) -> None:
        """Pass on a sentence."""
        self._shown.note(text)

    def _recount(self) -> None:
        self._states.clear()
        self._front.clear()
        for key in self._ledger.numbered(TRIALS):
            outcome = self._ledger.outcome(key)
            if outcome is not None:
                self._count(key, outcome)
        self._send(*self._states)

    def _count(self, key: str, outcome: Mapping[str, Any]) -> None:
        self._states[outcome["state"]] += 1
        values = outcome.get("values") or {}
        if "adversarial_accuracy" in values and not objections(outcome):
            self._front = front_with(self._front, key, (values["accuracy"], values["adversarial_accuracy"]))

    def _send(self, *states: str) -> None:
        self._meter.set("trials", len(self._running), study=self._study, state=_RUNNING)
        for state in states:
            self._meter.set("trials", self._states[state], study=self._study, state=state)
        if self._front:
            self._meter.set("hypervolume", hypervolume(list(self._front.values()), self._reference), study=self._study)

    def _send_work(self, key: str, outcome: Mapping[str, Any]) -> None:
        metrics, trial = outcome.get("metrics") or {}, key.rpartition("/")[2]
        self._meter.add("evaluations", float(metrics.get("updates") or 0) * float(metrics.get("nfe") or 0), trial=trial)


@contextlib.contextmanager
def _harmless() -> Iterator[None]:
    """Let nothing that goes wrong with a number reach the study."""
    with contextlib.suppress(Exception):
        yield
