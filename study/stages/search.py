"""Second stage: Optuna proposes points, workers train and measure them, the files are the truth.

The undistilled baseline is a second search of the same kind, see `study.stages.undistilled`.
"""

import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, final

from nodekd.distill.catalog import CHAINED_METHODS
from study.engine.job import Job
from study.sampling import StudyView
from study.space.settings import Space
from study.stages.batch import is_crash, settle
from study.stages.context import Context
from study.stages.pipeline import Stage
from study.stages.searches import STUDENTS, Searched, trial_number
from study.stages.teachers import search_attacks, search_pool, teacher_keys

OUTLIVED_S = 90.0
"""How long to wait for workers that outlived the driver before their trials are run again."""


def stages(context: Context) -> Iterator[Stage]:
    """Run trials until the budget is spent, the grid is used up, or too many have crashed."""
    yield Search(context)


def trial_key(number: int) -> str:
    """Return the job key of a trial."""
    return STUDENTS.key(number)


@final
class Search:
    """Asks for a point when a worker is free, and tells Optuna what the ledger says when it ends."""

    def __init__(self, context: Context, searched: Searched = STUDENTS, seed: int | None = None) -> None:
        """Go on where the files say that an earlier launch ended.

        Args:
            context: The study; its space is what is searched.
            searched: Where the files of this search stand.
            seed: Of what the sampler draws; the study's own by default.
        """
        self.name = searched.stage("search")
        self._context, self._searched = context, searched
        ledger = context.ledger
        self._view = StudyView(_drawn_from(context.space, seed), context.facts.classes, ledger.root / searched.database)
        wait_for_survivors(context, searched)
        records = [self._record(key) for key in self._keys() if ledger.config(key) is not None]
        for number, params in self._view.reconcile(records):
            self._write_config(number, params)
        self._resumed = deque(key for key in self._keys() if ledger.outcome(key) is None)
        self._asked = len(self._keys())
        self._settled_keys = {key for key in self._keys() if ledger.outcome(key) is not None}
        self._crashes = sum(is_crash(ledger.outcome(key) or {"state": ""}) for key in self._settled_keys)
        self._exhausted = False
        self._in_flight: set[str] = set()
        self._handed_out: Counter[str] = Counter()
        self._pool = search_pool(context)
        context.observer.stage(self.name, context.space.budget.trials, len(self._settled_keys))

    @property
    def keys(self) -> Collection[str]:
        """None: points are proposed one after another."""
        return ()

    def next(self) -> Job | None:
        """Return a trial that was interrupted, or a new one, or None while nothing is to be started."""
        if self._resumed:
            return self._hand_out(self._resumed.popleft())
        if self._stopped:
            return None
        asked = self._view.ask()
        if asked is None:
            self._exhausted = True
            return None
        number, params = asked
        self._write_config(number, params)
        self._asked += 1
        key = self._searched.key(number)
        self._context.ledger.event("asked", key=key, number=number, params=params)
        return self._hand_out(key)

    def settled(self, job: Job, error: str | None) -> None:
        """Tell Optuna the outcome that stands in the ledger."""
        self._in_flight.discard(job.key)
        outcome = settle(self._context, job, error, self._handed_out[job.key])
        if outcome is None:
            self._resumed.append(job.key)
            return
        self._crashes += is_crash(outcome)
        self._view.tell(trial_number(job.key), outcome)
        self._context.ledger.event("settled", key=job.key, state=outcome["state"], reason=outcome["reason"])
        self._context.observer.settled(job, outcome)

    @property
    def finished(self) -> bool:
        """Whether no trial is left to start or to wait for."""
        return not self._resumed and not self._in_flight and self._stopped

    @property
    def _stopped(self) -> bool:
        budget = self._context.space.budget
        return self._exhausted or self._asked >= budget.trials or self._crashes > budget.max_failed_trials

    def _keys(self) -> list[str]:
        return self._context.ledger.keys(self._searched.folder)

    def _hand_out(self, key: str) -> Job:
        job = trial_job(self._context, key, self._pool)
        self._in_flight.add(key)
        self._handed_out[key] += 1
        self._context.observer.started(job)
        return job

    def _write_config(self, number: int, params: dict[str, Any]) -> None:
        settings = self._context.space.settings(params)
        teachers = teachers_of(self._context, settings)
        config = {
            "schema": 1,
            "kind": "student",
            "number": number,
            "params": params,
            "settings": settings,
            "seed": settings["seed"],
            "teacher": teachers[0] if teachers else None,
            "teachers": teachers,
            "seen": self._view.told,
        }
        self._context.ledger.write_config(self._searched.key(number), config)

    def _record(self, key: str) -> tuple[int, dict[str, Any], dict[str, Any] | None]:
        config = self._context.ledger.config(key)
        assert config is not None, f"{key} has a config"
        return config["number"], config["params"], self._context.ledger.outcome(key)


def _drawn_from(space: Space, seed: int | None) -> Space:
    return space if seed is None else replace(space, study=space.study.model_copy(update={"seed": seed}))


def teachers_of(context: Context, settings: dict[str, Any]) -> list[str]:
    """Return the job keys of the teachers that a student learns from; one may stand there several times."""
    distill = settings["distill"]
    if distill["method"] == "none" or distill["method"] in CHAINED_METHODS:
        return []
    keys, ensemble = teacher_keys(context), distill.get("ensemble", 1)
    if distill.get("repeat_teacher"):
        return [keys[0]] * ensemble
    return keys[:ensemble] if ensemble > 1 else [keys[settings.get("teacher", 0)]]


def trial_job(context: Context, key: str, pool: dict[str, str]) -> Job:
    """Build the job of a trial from its config on disk."""
    config = context.ledger.config(key)
    assert config is not None, f"{key} has a config"
    search = search_attacks(context, pool=pool, keep_images=False)
    return context.job(key, "student", settings=config["settings"], teachers=config["teachers"], search=search)


def wait_for_survivors(context: Context, searched: Searched = STUDENTS) -> None:
    """Give workers that outlived a killed driver the time to commit, so that no trial is run twice."""
    ledger = context.ledger
    deadline = time.monotonic() + OUTLIVED_S
    while time.monotonic() < deadline:
        begun = [key for key in ledger.keys(searched.folder) if ledger.outcome(key) is None]
        alive = [key for key in begun if ledger.lease_is_fresh(key)]
        if not alive:
            return
        context.observer.note(f"waiting for workers of an earlier launch: {', '.join(alive)}")
        time.sleep(2.0)
