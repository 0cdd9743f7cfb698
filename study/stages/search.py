"""Second stage: Optuna proposes points, workers train and measure them, the files are the truth.

The undistilled baseline is a second search of the same kind, see `study.stages.undistilled`.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, final

from nodekd.distill.catalog import CHAINED_METHODS
from nodekd.streams import seed_of
from study.documents import read_trial
from study.engine.job import Job
from study.number_ranges import Ranges, numbers_in
from study.rungs import rung_epochs
from study.sampling import StudyView
from study.space.section import dump
from study.space.settings import Space
from study.stages.batch import Handouts, is_crash
from study.stages.context import Context
from study.stages.pipeline import Stage
from study.stages.searches import STUDENTS, Searched, trial_number
from study.stages.teachers import search_attacks, search_pool, teacher_keys
from study.warm_start import warm_points


def stages(context: Context) -> Iterator[Stage]:
    """Run trials until the budget is spent, the grid is used up, or too many have crashed."""
    yield Search(context)


def is_broken_off(context: Context, searched: Searched = STUDENTS) -> bool:
    """Tell whether more trials of a search crashed than may: what it found is not chosen from, nor attacked on test."""
    outcomes = map(context.ledger.outcome, context.ledger.numbered(searched.folder))
    crashes = sum(is_crash(outcome) for outcome in outcomes if outcome is not None)
    return crashes > context.space.budget.max_failed_trials


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
        read = {key: read_trial(ledger.folder(key)) for key in ledger.numbered(searched.folder)}
        found = {key: outcome for key, (_, outcome) in read.items()}
        configs = {key: config for key, (config, _) in read.items() if config is not None}
        begun = sum("copied_from" in config for config in configs.values())
        space = _drawn_from(_seeded(context) if searched is STUDENTS else context.space, seed)
        self._view = StudyView(space, context.facts.classes, ledger.root / searched.database, begun)
        records = [(trial_number(key), config["params"], found[key]) for key, config in configs.items()]
        seen = self._view.seen  # by a half-made suggestion: what outlived its driver is told only now
        for number, params in self._view.reconcile(records):
            self._write_config(number, params, seen)
            found.setdefault(searched.key(number), None)
        self._resumed = deque(sorted(key for key, outcome in found.items() if outcome is None))
        self._asked = len(found)
        settled = [outcome for outcome in found.values() if outcome is not None]
        self._crashes = sum(map(is_crash, settled))
        self._exhausted = False
        self._in_flight: set[str] = set()
        self._untold: dict[int, dict[str, Any]] = {}
        self._handouts = Handouts()
        self._pool = search_pool(context)
        context.observer.stage(self.name, context.space.budget.trials, len(settled))

    @property
    def keys(self) -> Collection[str]:
        """None: points are proposed one after another."""
        return ()

    def next(self) -> Job | None:
        """Return a trial that was interrupted, or a new one, or None while nothing is to be started."""
        if self._context.generation is not None:
            return self._next_of_generation(self._context.generation)
        if self._resumed:
            return self._hand_out(self._resumed.popleft())
        if self._stopped:
            return None
        key = self._ask()
        return None if key is None else self._hand_out(key)

    def _next_of_generation(self, size: int) -> Job | None:
        """Ask for a whole generation once the one before is over, so that nobody's speed makes a difference.

        One that a kill left half asked is completed before any of it is handed out.
        """
        is_begun = self._asked % size != 0
        if is_begun or not (self._resumed or self._in_flight):
            self._ask_to_the_end_of(size)
        return self._hand_out(self._resumed.popleft()) if self._resumed else None

    def _ask_to_the_end_of(self, size: int) -> None:
        while not self._stopped and (key := self._ask()) is not None:
            self._resumed.append(key)
            if self._asked % size == 0:
                break

    def _ask(self) -> str | None:
        asked = self._view.ask()
        if asked is None:
            self._exhausted = True
            return None
        number, params = asked
        self._write_config(number, params, self._view.seen)
        self._asked += 1
        key = self._searched.key(number)
        self._context.ledger.event("asked", key=key, number=number, params=params)
        return key

    def settled(self, job: Job, error: str | None) -> None:
        """Tell Optuna the outcome that stands in the ledger."""
        self._in_flight.discard(job.key)
        outcome = self._handouts.settle(self._context, job, error)
        if outcome is None:
            self._resumed.append(job.key)
            return
        self._crashes += is_crash(outcome)
        self._untold[trial_number(job.key)] = outcome
        if self._context.generation is None or not (self._resumed or self._in_flight):
            self._tell()
        self._context.ledger.event("settled", key=job.key, state=outcome["state"], reason=outcome["reason"])
        self._context.observer.settled(job, outcome)

    def _tell(self) -> None:
        """Tell the sampler what it has not heard, in the order of the numbers."""
        for number, outcome in sorted(self._untold.items()):
            self._view.tell(number, outcome)
        self._untold.clear()

    @property
    def finished(self) -> bool:
        """Whether no trial is left to start or to wait for."""
        return not self._resumed and not self._in_flight and self._stopped

    @property
    def _stopped(self) -> bool:
        budget = self._context.space.budget
        return self._exhausted or self._asked >= budget.trials or self._crashes > budget.max_failed_trials

    def _hand_out(self, key: str) -> Job:
        job = trial_job(self._context, key, self._pool)
        self._in_flight.add(key)
        self._context.observer.started(job)
        return self._handouts.start(job)

    def _write_config(self, number: int, params: dict[str, Any], seen: Ranges) -> None:
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
            "seen": seen,
        }
        self._context.ledger.write_config(self._searched.key(number), config)


def _drawn_from(space: Space, seed: int | None) -> Space:
    return space if seed is None else replace(space, study=space.study.model_copy(update={"seed": seed}))


def _seeded(context: Context) -> Space:
    """Return the space with the points of a warm start behind its anchors."""
    known = context.space.points
    points = [tuple(point.items()) for point in warm_points(context.ledger)]
    return replace(context.space, points=(*known, *(point for point in points if point not in known)))


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
    given = {"settings": config["settings"], "teachers": config["teachers"], "search": search}
    given |= {"early_stopping": early_stopping(context, trial_number(key), config)}
    given |= {"constraints": dump(context.space.constraints)}
    return context.job(key, "student", **given)


def early_stopping(context: Context, number: int, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return where and how a trial is compared with others; None where it runs to its end whatever it is worth."""
    early = context.space.early_stopping
    if early.name == "none":
        return None
    rungs = early.rungs or rung_epochs(_longest(context.space), early.eta)
    return {
        "rule": early.name,
        "eta": early.eta,
        "objective": early.objective,
        "rungs": [epoch for epoch in rungs if epoch < config["settings"]["train"]["epochs"]],
        "images": early.images,
        "spared": early.spared,
        "least_tau": early.least_tau,
        "draw": seed_of(context.space.study.seed, "spared", number) / 2**63,
        "peers": [f"{seen:06d}" for seen in numbers_in(config["seen"])] if context.generation is not None else None,
    }


def _longest(space: Space) -> int:
    """Return the epochs of the longest training that the space has."""
    sampled = next((parameter for parameter in space.parameters if parameter.name == "epochs"), None)
    ends = [space.train.epochs] if sampled is None else [*sampled.choices, sampled.high or 1]
    longest = max(int(end) for end in ends if isinstance(end, int | float))
    return min(longest, space.epoch_limit or longest)
