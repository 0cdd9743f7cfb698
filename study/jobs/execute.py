"""Run one job in a worker: begin an attempt, do the work, commit exactly one outcome."""

import contextlib
import json
import platform
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO

import torch

from study.engine.job import Job
from study.jobs.attack import run_attack
from study.jobs.check import run_check
from study.jobs.classical import run_classical
from study.jobs.cube import run_cube
from study.jobs.memory import release_memory
from study.jobs.pilot import run_pilot
from study.jobs.probe import run_probe
from study.jobs.race import run_race
from study.jobs.record import run_record
from study.jobs.student import run_student
from study.jobs.teacher import run_teacher
from study.jobs.transfer import run_transfer
from study.jobs.work import Result, Work, worker_device
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
SPOILING = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)
"""Errors after which a worker is better replaced: its memory or its GPU context is gone."""


def execute(job: Job) -> None:
    """Do a job and commit its outcome; a job that is already settled is left alone.

    An exception of the work is an outcome too: FAIL, with the reason `error` and the traceback in `log.txt`. Only a
    worker that dies leaves no outcome behind.
    """
    ledger = Ledger(Path(job.study))
    if ledger.outcome(job.key) is not None:
        return
    torch.set_num_threads(max(1, int(job.payload.get("threads", 1))))
    work = Work(ledger, job.key, dict(job.payload), worker_device())
    with ledger.begin(job.key) as attempt, _log(work) as log:
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
    if isinstance(fault, SPOILING):
        raise fault  # the outcome stands; the engine replaces the worker


def _run(runner: Callable[[Work], Result], work: Work, log: IO[str]) -> tuple[Result, Exception | None]:
    try:
        return runner(work), None
    except Exception as error:  # noqa: BLE001 - whatever the work raises becomes the job's outcome
        traceback.print_exc(file=log)
        first_line = (str(error).splitlines() or [""])[0]
        return Result(state="FAIL", reason=f"error: {type(error).__name__}: {first_line}"[:500]), error


@contextlib.contextmanager
def _log(work: Work) -> Iterator[IO[str]]:
    """Send what the work prints to the job's `log.txt`, which begins with what is being run."""
    work.folder.mkdir(parents=True, exist_ok=True)
    with (work.folder / "log.txt").open("a", encoding="utf-8") as log:
        config = work.ledger.config(work.key) or {}
        log.write(f"{work.key} {json.dumps(config.get('params', config.get('settings', {})))}\n")
        log.flush()
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield log
