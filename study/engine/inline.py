"""Runs jobs one after the other in this process: for tests, for debugging, and where Ray is not wanted."""

from typing import final

from study.engine.dispatch import Dispatch
from study.engine.job import Execute, Job, JobSource
from study.engine.signals import GRACE_S, Signals, Stopped, watched_signals


def describe(error: BaseException) -> str:
    """Return one line that names an error."""
    return f"{type(error).__name__}: {error}".strip().removesuffix(":")


@final
class InlineEngine:
    """One slot, no processes; a job that kills its process kills the driver too.

    Attributes:
        token_command: None; there is no dashboard.
    """

    token_command: str | None = None

    def start(self) -> str | None:
        """Do nothing; there is no dashboard."""
        return None

    def stop(self) -> None:
        """Do nothing."""

    def run(self, source: JobSource, execute: Execute) -> None:
        """Run every job of the source.

        Args:
            source: Hands out the jobs.
            execute: Does one and commits its outcome; what it raises becomes the job's error.

        Raises:
            Interrupted: After SIGINT or SIGTERM; the job at hand is not settled, or was given a moment to keep where it
                stands.
            Exception: Whatever the source raised.
        """
        dispatch = Dispatch(source, slots=1)
        with watched_signals(dispatch.pause) as signals:
            try:
                while (job := dispatch.take("inline")) is not None:
                    dispatch.settle("inline", _error_of(job, execute, signals))
                if signals.received is not None:
                    raise Stopped
            except Stopped:
                raise signals.interruption(dispatch.settled) from None
        if dispatch.fault is not None:
            raise dispatch.fault


def _error_of(job: Job, execute: Execute, signals: Signals) -> str | None:
    with signals.raised(GRACE_S if job.keeps_state else 0.0):
        try:
            execute(job)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a job's fault is a result
            return describe(error)
    return None
