"""A study that is ended by SIGKILL and started again, and what its files say in the end beside an uninterrupted one's.

Sampler, ledger, stages and engine are the real ones; a made-up law stands for training. Every launch is a process of
its own, forked from this one, so that a restart costs no imports. A kill comes at a chosen line of the protocol's files
(the process sends itself the signal), or from outside after some milliseconds, wherever the process is then.
"""

import gc
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, cast

import optuna

import study.samplers
from study import database, durable, lease, ledger, sampling
from study.engine import dispatch, inline
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.ledger import Ledger
from study.sampling import StudyView
from study.space.reader import read_space
from study.space.settings import Space
from study.stages import batch, pipeline, search
from study.stages.batch import Batch, Planned, wait_for_survivors
from study.stages.context import Context, Facts, Observer
from study.stages.pipeline import Pipeline, Stage
from study.stages.search import Search
from tests.e2e.found_on_disk import Found, Score, Tally, Watched
from tests.made_up_world import KD, SIZES, Silent, quality

SAMPLERS = ("tpe", "nsga2", "gp", "qmc", "random", "grid")
PROTOCOL = frozenset(
    str(module.__file__)
    for module in (
        *(ledger, lease, durable, database, sampling, study.samplers),
        *(search, batch, pipeline, dispatch, inline),
    )
)
"""Files whose lines are steps."""
FINITE = (
    "space.temperature={choice: [1.0, 4.0]}",
    "space.alpha={choice: [0.5, 0.9]}",
    "space.horizon={choice: [0.5, 1.0]}",
    "space.rtol={choice: [1.0e-3, 1.0e-2], when: {solver: [dopri5]}}",
)
"""Overrides under which a grid has an end."""
POPULATION = 3
"""Of NSGA-II, so that few trials make several generations."""
KILLED = -signal.SIGKILL

Place = tuple[str, int]
"""A line of the protocol: file and number."""


@dataclass(frozen=True)
class Setting:
    """What is studied."""

    sampler: str = "tpe"
    trials: int = 7
    generation: int | None = None


@lru_cache
def space_of(setting: Setting) -> Space:
    """Read the space; once, because a launch is forked from this process."""
    overrides = [f"budget.trials={setting.trials}", f"sampler.name={setting.sampler}"]
    overrides += ["sampler.startup_trials=3"] if setting.sampler in ("tpe", "gp") else []
    return read_space(KD, [*overrides, *(FINITE if setting.sampler == "grid" else ())])


def warm_up(setting: Setting, folder: Path) -> None:
    """Let this process import what a sampler and a database need on the way, so that no launch has to."""
    folder.mkdir()
    view = StudyView(space_of(setting), 10, folder / "optuna.db")
    for _ in range(5):
        number, _ = view.ask() or (0, {})
        view.tell(number, {"state": "COMPLETE", "values": {"accuracy": 0.5, "adversarial_accuracy": number / 10}})
    view.close()
    storage: Any = view._storage
    versions = type(storage._version_manager)
    newest = storage._version_manager.get_head_version()
    versions.get_head_version = lambda self: newest  # otherwise every launch imports all of Optuna's migrations


# ---------------------------------------------------------------- a launch


def outcome_of(job: Job) -> dict[str, Any]:
    """Say how a job ends: by a law, but some trials diverge, are stopped early, or crash."""
    if job.kind != "student":
        return {"state": "COMPLETE", "metrics": {"accuracy": 0.97}}
    match int(job.key.rpartition("/")[2]) % 7:
        case 3:
            return {"state": "FAIL", "reason": "diverged"}
        case 4:
            return {"state": "PRUNED", "reason": "rung 1"}
        case 5:
            return {"state": "FAIL", "reason": "error: made up"}
    clean, robust = quality(dict(job.payload["settings"]))
    return {"state": "COMPLETE", "values": {"accuracy": clean, "adversarial_accuracy": robust}}


def worker(files: Ledger, tally: Tally) -> Callable[[Job], None]:
    """Return what does a job as a worker would: a lease, the work, one outcome."""

    def execute(job: Job) -> None:
        tally.note("handed", job.key, "settled" if files.outcome(job.key) else "open")
        if files.outcome(job.key) is not None:
            return
        with files.begin(job.key) as attempt:
            tally.note("done", job.key)
            common = {"attempt": attempt.number, "started": attempt.started, "seconds": attempt.seconds}
            winner = files.commit(job.key, {**outcome_of(job), **common})
            if winner["attempt"] == attempt.number:
                tally.note("committed", job.key)

    return execute


def stages(context: Context) -> Iterator[Stage]:
    """Yield a search between two batches, as in a study."""
    for name in ("teachers", "search", "front"):
        context.ledger.event("stage", stage=name)
        if name == "search":
            yield Search(context)
        else:
            kind = name.removesuffix("s")
            jobs = [context.job(f"{name}/{letter}", kind) for letter in "ab"]
            yield Batch(context, name, [Planned(job, {"settings": {"of": job.key}}) for job in jobs])


def drive(setting: Setting, folder: Path, tally: Tally) -> None:
    """Do what `study.driver` does for a launch, without data and report."""
    files, observer = Ledger(folder), cast("Observer", Silent())
    context = Context(space_of(setting), files, Facts(10, "f" * 64, SIZES, 1), observer, generation=setting.generation)
    with files.lock():
        files.event("launched")
        files.clear_pause()
        wait_for_survivors(files, observer)
        InlineEngine().run(Pipeline(stages(context), files.ask_to_pause), worker(files, tally))
        files.event("finished")


def _note_tells(tally: Tally) -> None:
    """Let Optuna's storage note each trial that it settles; only ever called in a launch's own process."""
    settle = optuna.storages.RDBStorage.set_trial_state_values

    def noted(self: Any, trial_id: int, state: Any, values: Any = None) -> bool:
        done = settle(self, trial_id, state, values)
        if done and state.is_finished():
            tally.note("told", trial_id)
        return done

    optuna.storages.RDBStorage.set_trial_state_values = noted


# ---------------------------------------------------------------- kills


class Trap:
    """Counts the steps of this process, and ends it at the first of which a condition holds."""

    def __init__(self, is_here: Callable[[Place, int], bool], tally: Tally) -> None:
        """Set the trap.

        Args:
            is_here: Given a line about to be executed and the steps so far, whether the process ends before it.
            tally: Told the line.
        """
        self._is_here, self._tally = is_here, tally
        self.steps = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename in PROTOCOL else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.steps += 1
            place = (frame.f_code.co_filename, frame.f_lineno)
            if self._is_here(place, self.steps):
                self._tally.note("killed", *place)
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line


@dataclass
class KilledStudy(Watched):
    """A study whose launches are forked from this process."""

    setting: Setting = Setting()

    def launch(
        self, is_here: Callable[[Place, int], bool] | None = None, *, killed_after_s: float | None = None
    ) -> bool:
        """Start the study, or go on with it; return whether it ended by itself.

        Args:
            is_here: See `Trap`; None lets the launch be, untraced.
            killed_after_s: Seconds until the kill from outside; None for none.

        Raises:
            AssertionError: If it failed, with its traceback.
        """
        child = os.fork()
        if child == 0:
            self._run(is_here)
        if killed_after_s is not None:
            time.sleep(killed_after_s)
            os.kill(child, signal.SIGKILL)  # not yet waited for, so nobody else has its number
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED), f"a launch must end well or be killed, but:\n{self._fault()}"
        self.kills += code == KILLED
        self.look()
        return code == 0

    def _run(self, is_here: Callable[[Place, int], bool] | None) -> None:
        """Be the launch; never returns."""
        code = 1
        gc.disable()  # a collection would touch, and so copy, all memory of the process that this one is forked from
        try:
            study.samplers.NSGA2_POPULATION = POPULATION
            _note_tells(self.tally)
            trap = None if is_here is None else Trap(is_here, self.tally)
            sys.settrace(trap)
            drive(self.setting, self.folder, self.tally)
            sys.settrace(None)
            self.tally.note("steps", trap.steps if trap else 0)
            code = 0
        except BaseException:  # noqa: BLE001  the parent shows it
            sys.settrace(None)
            (self.root / "fault").write_text(traceback.format_exc(), encoding="utf-8")
        finally:
            os._exit(code)

    def _fault(self) -> str:
        path = self.root / "fault"
        return path.read_text(encoding="utf-8") if path.exists() else "it left no traceback"

    def last_place(self) -> Place:
        """Return the line before which the last trap closed."""
        name, number = self.tally.lines("killed")[-1]
        return name, int(number)


# ---------------------------------------------------------------- whole experiments


@dataclass(frozen=True)
class Reference:
    """An uninterrupted study."""

    found: Found
    steps: int
    """Lines of the protocol that it executed."""
    seconds: float

    @staticmethod
    def of(root: Path, setting: Setting) -> "Reference":
        """Run it twice: once as it is, for its time, and once counting."""
        warm_up(setting, root)
        whole = KilledStudy(root / "whole", setting=setting)
        start = time.monotonic()
        assert whole.launch()
        seconds = time.monotonic() - start
        counted = KilledStudy(root / "counted", setting=setting)
        assert counted.launch(lambda place, steps: False)
        found = Found.in_folder(whole.folder)
        assert found == Found.in_folder(counted.folder), "two uninterrupted studies differ"
        return Reference(found, int(counted.tally.lines("steps")[0][0]), seconds)


def kill_at_every_line(root: Path, setting: Setting, reference: Reference) -> tuple[Score, set[Place]]:
    """Kill one study before every line of the protocol that it ever reaches, each once.

    Every launch ends at the first line at which none ended before, also at lines that only a restart reaches; the last
    one finds no such line.
    """
    study_, passed, score = KilledStudy(root / "every-line", setting=setting), set[Place](), Score()
    while not study_.launch(lambda place, steps: place not in passed):
        passed.add(study_.last_place())
    score.add(study_, reference.found)
    return score, passed


def kill_at_random(
    root: Path, setting: Setting, reference: Reference, kills: int, seed: int, *, from_outside: bool
) -> Score:
    """Kill studies so many times at random, a new one whenever one is finished; all are finished in the end.

    Args:
        root: An empty or missing folder.
        setting: What is studied.
        reference: The same without kills.
        kills: How many.
        seed: Of the moments.
        from_outside: Whether another process kills after some time, or the process itself after some lines.
    """
    draw, score = random.Random(seed), Score()
    while score.kills < kills:
        study_ = KilledStudy(root / f"{seed}-{score.studies}", setting=setting)
        is_done = False
        while not is_done:
            if score.kills + study_.kills >= kills:
                is_done = study_.launch()
            elif from_outside:
                is_done = study_.launch(killed_after_s=draw.uniform(0, reference.seconds))
            else:
                last = draw.randint(1, reference.steps)
                is_done = study_.launch(lambda place, steps, last=last: steps == last)
        score.add(study_, reference.found)
    return score
