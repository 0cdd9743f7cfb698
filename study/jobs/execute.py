"""Run one job in a worker: begin an attempt, do the work, commit exactly one outcome."""

import contextlib
import json
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO

import torch

from nodekd.savepoint import Paused
from study.disk_space import NoRoom, is_lack_of_room
from study.durable import own_file
from study.engine.job import Job
from study.jobs.attack import run_attack
from study.jobs.check import run_check
from study.jobs.classical import run_classical
from study.jobs.cube import run_cube
from study.jobs.memory import release_memory, sparing_what_lives
from study.jobs.pilot import run_pilot
from study.jobs.probe import run_probe
from study.jobs.race import run_race
from study.jobs.record import run_record
from study.jobs.student import run_student
from study.jobs.teacher import run_teacher
from study.jobs.transfer import run_transfer
from study.jobs.work import CHECKPOINT, Result, Work, worker_device
from study.ledger import Ledger

RUNNERS: dict[str, Callable[[Work], Result]] = {
    "teacher": run_teacher,
    "student": run_student,
    "attack": run_attack,
    "transfer": run_transfer,
    "cube": run_cube,
    "classical": run_classical,
    "check": run_check,
    "pilot": run_pilot,
    "probe": run_probe,
    "race": run_race,
    "record": run_record,
}
LOOK_S = 1.0
"""Seconds between two looks at a worker that may have outlived its node."""
SPOILING = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)
"""Errors after which a worker is better replaced: its memory or its GPU context is gone."""


def execute(job: Job) -> None:
    """Do a job and commit its outcome; a job that is already settled is left alone.

    An exception of the work is an outcome too: FAIL, with the reason `error` and the traceback in `log.txt`. Only a
    worker that dies, was asked to pause, or finds no room on the disk leaves no outcome behind; a training run goes on
    from its savepoint then.

    Raises:
        NoRoom: If the disk is full.
    """
    ledger = Ledger(Path(job.study))
    if job.orphaned:
        _outlive(ledger, job.key)
    if ledger.outcome(job.key) is not None:
        return
    try:
        _attempt(job, ledger)
    except Exception as error:
        if is_lack_of_room(error, ledger.root):
            raise NoRoom(f"{type(error).__name__}: {error}") from error
        raise


def _attempt(job: Job, ledger: Ledger) -> None:
    torch.set_num_threads(max(1, int(job.payload.get("threads", 1))))
    work, fault = Work(ledger, job.key, dict(job.payload), worker_device()), None
    with contextlib.suppress(Paused), ledger.begin(job.key) as attempt, _log(work) as log, sparing_what_lives():
        result, fault = _run(RUNNERS[job.kind], work, log)
        if not isinstance(fault, SPOILING):
            release_memory()
        ledger.commit(
            job.key,
            {
                "kind": job.kind,
                "state": result.state,
                "reason": result.reason,
                "values": result.values,
                "metrics": result.metrics,
                "attempt": attempt.number,
                "started": attempt.started,
                "seconds": attempt.seconds,
                "split_hash": job.payload.get("split_hash"),
                "device": torch.cuda.get_device_name() if work.device == "cuda" else "cpu",
                "versions": {"python": platform.python_version(), "torch": version("torch")},
            },
        )
        shutil.rmtree(work.folder / CHECKPOINT, ignore_errors=True)
    if isinstance(fault, SPOILING):
        raise fault  # the outcome stands; the engine replaces the worker


def _outlive(ledger: Ledger, key: str) -> None:
    """Wait while the worker of a lost node may still be at the job: two at once would write over each other's files."""
    while ledger.outcome(key) is None and not ledger.is_pausing and ledger.lease_is_fresh(key):
        time.sleep(LOOK_S)


def _run(runner: Callable[[Work], Result], work: Work, log: IO[str]) -> tuple[Result, Exception | None]:
    try:
        return runner(work), None
    except Exception as error:
        if is_lack_of_room(error, work.ledger.root):
            raise  # no fault of the job's; whatever else it raises becomes its outcome
        traceback.print_exc(file=log)
        first_line = (str(error).splitlines() or [""])[0]
        return Result(state="FAIL", reason=f"error: {type(error).__name__}: {first_line}"[:500]), error


@contextlib.contextmanager
def _log(work: Work) -> Iterator[IO[str]]:
    """Send what the work prints to the job's `log.txt`, which begins with what is being run."""
    work.folder.mkdir(parents=True, exist_ok=True)
    with open(work.folder / "log.txt", "a", encoding="utf-8", opener=own_file) as log:
        config = work.ledger.config(work.key) or {}
        log.write(f"{work.key} {json.dumps(config.get('params', config.get('settings', {})))}\n")
        log.flush()
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield log
