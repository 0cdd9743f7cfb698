"""Runs jobs on Ray Tune: one long `Tuner.fit` whose trials are jobs; with `ray_cluster.py` all that knows Ray.

Ray is a disposable executor. It gets a job, calls `execute` in a worker that is kept for the next job, and says when
the job is over; results travel through the ledger. Nothing of Ray's own state is ever read back.
"""

import contextlib
import json
import math
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, final

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from study.engine.dispatch import Dispatch
from study.engine.epochs import epochs_sent
from study.engine.inline import describe
from study.engine.job import NODE_LOST, Execute, Job, JobSource
from study.engine.leftovers import clean_up, remove_run
from study.engine.nodes import Needs
from study.engine.ray_cluster import RayMeter, check_nodes, connect, sessions, worker_meter
from study.engine.ray_surroundings import ENVIRONMENT, kept_handlers, quiet_loggers
from study.engine.signals import GRACE_S, Signals, Stopped, leave, watched_signals
from study.errors import EnvironmentFault

START_PATIENCE_S = 60.0
"""Seconds for which a trial waits for its own worker while another one is idle."""
_OUT_OF_REACH = ("because its node has died.", "is temporarily unavailable:")
"""What Ray says where a whole node went: at first only that its workers cannot be reached."""
_POISON = ("AcceleratorError", "OutOfMemoryError", "MemoryError")


# ---------------------------------------------------------------- in a worker


def _spoils_its_worker(error: BaseException) -> bool:
    """Say whether the process is better replaced: its GPU context or its memory is gone."""
    return type(error).__name__ in _POISON or "CUDA error" in str(error)


def trainable_for(execute: Execute) -> Callable[[dict[str, Any]], None]:
    """Wrap `execute` for Tune; an error is reported as text, so that the worker can go on with the next job."""

    def job(config: dict[str, Any]) -> None:
        given: Job = config["job"]
        sys.stdout.write(f"{given.key} {json.dumps(given.payload.get('settings', {}))}\n")  # the dashboard shows it
        sys.stdout.flush()
        try:
            with epochs_sent(worker_meter, given.key):
                execute(given)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a job's fault is a result
            if _spoils_its_worker(error):
                tune.report({"error": describe(error)})
                os._exit(1)
            tune.report({"error": describe(error), "done": True})
        else:
            tune.report({"done": True})

    return job


# ---------------------------------------------------------------- in the driver


@final
class JobSearcher(Searcher):
    """Gives Tune a job where other searchers give hyper-parameters; holds nothing that Tune could save."""

    def __init__(self, dispatch: Dispatch, watch: "Watch") -> None:
        super().__init__(metric=None, mode=None)
        self._dispatch = dispatch
        self._watch = watch
        self._last_words: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Hand out a job, None for 'not now', or FINISHED."""
        job = self._dispatch.take(trial_id)
        if job is not None:
            return {"job": job}
        return Searcher.FINISHED if self._dispatch.over else None  # pyright: ignore[reportReturnType]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep what a worker says before it gives itself up."""
        if "error" in result:
            self._last_words[trial_id] = result["error"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Settle the job; Tune passes these arguments by name."""
        text = self._last_words.pop(trial_id, None) or (result or {}).get("error")
        if text is None and (error or not (result or {}).get("done")):
            text = _said_of(self._watch.cause_of_death(trial_id))
        self._dispatch.settle(trial_id, text)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing; the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _said_of(cause: str) -> str:
    """Say how a job without last words ended, by what Ray says; Ray has no type of its own for a node that died."""
    for words in _OUT_OF_REACH:
        _, found, detail = cause.partition(words)
        if found:
            return f"{NODE_LOST}.{detail}"[:300].strip()
    return f"the worker died (killed, out of memory, or a crash). {cause[:300]}".strip()


@final
class Watch(tune.Callback):
    """Looks once per step of Tune's loop whether to leave it, and what Tune knows of a trial."""

    def __init__(self, dispatch: Dispatch, signals: Signals) -> None:
        self._dispatch = dispatch
        self._signals = signals
        self._trials: list[Trial] = []
        self._deadline = math.inf

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Leave the loop after a fault of the source, or after a signal; then, jobs may keep where they stand first."""
        self._trials = trials
        if self._dispatch.fault is not None:
            raise Stopped
        if self._signals.received is None:
            return
        self._deadline = min(self._deadline, time.monotonic() + GRACE_S)
        if not self._dispatch.is_worth_waiting or time.monotonic() > self._deadline:
            raise Stopped

    def cause_of_death(self, trial_id: str) -> str:
        """Return what Ray says about a lost worker, in one line."""
        for trial in reversed(self._trials):
            if trial.trial_id == trial_id and trial.error_file and Path(trial.error_file).exists():
                text = " ".join(Path(trial.error_file).read_text(encoding="utf-8").split())
                return text.rpartition("Worker exit detail: ")[2].partition(" Some common causes")[0]
        return ""

    def get_state(self) -> dict[str, Any] | None:
        """Return nothing to save."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {}


@final
class _Patience:
    """Waits for the start of a trial's own worker while another one is idle; after it waited in vain, for no other
    trial's before some worker has started again.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._in_vain_beside: frozenset[Any] | None = None

    def waits(self, controller: TuneController, trial: Trial) -> bool:
        """Tell whether a trial is to wait."""
        if trial not in controller._trial_to_actor or trial in controller._resetting_trials:
            return False
        if self._in_vain_beside is not None and controller._started_actors <= self._in_vain_beside:
            return False
        if time.monotonic() - self._since.setdefault(trial.trial_id, time.monotonic()) < START_PATIENCE_S:
            return True
        self._in_vain_beside = frozenset(controller._started_actors)
        return False


@contextlib.contextmanager
def _lasting_workers(slots: int) -> Iterator[None]:
    """Keep every worker that one run of Tune in this block has started, up to the slots, until it ends.

    Tune ends idle workers but one wherever jobs run short, as at the end of a stage, and gives a trial whose worker is
    starting to the first that falls idle, ending the new one: where jobs are shorter than a worker's start (it imports
    torch), workers that have gone never come back. So idle ones are kept here, and a start is waited for; but not for
    ever, as it never comes where a node was lost and the idle workers hold all that is left.
    """
    reuse = TuneController._maybe_reuse_cached_actor
    raised: list[TuneController] = []
    patience = _Patience()

    def reuse_unless_starting(self: TuneController, trial: Trial) -> bool:
        if not raised:
            raised.append(self)
            self._actor_cache.increase_max(trial.placement_group_factory, by=slots)
        return not patience.waits(self, trial) and reuse(self, trial)

    TuneController._maybe_reuse_cached_actor = reuse_unless_starting
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = reuse


# ---------------------------------------------------------------- the engine


@final
class RayTuneEngine:
    """Many workers, on this machine or a cluster.

    Attributes:
        token_command: Command that prints the dashboard's sign-in token.
        slots: Jobs at once, known after `start`.
        gpus_per_job: Settled by `start` where `auto` was asked for.
        meter: Takes numbers for whoever collects Ray's metrics.
        nodes: What `start` found out about the nodes of a joined Ray, in one line.
    """

    token_command: str | None = shlex.join([str(Path(sys.executable).with_name("ray")), "get-auth-token"])

    def __init__(
        self,
        cpus: float = 1,
        gpus: float | Literal["auto"] = "auto",
        concurrency: int | Literal["auto"] = "auto",
        address: str | None = None,
        insecure: bool = False,
        needs: Needs | None = None,
    ) -> None:
        """Describe the engine; nothing starts yet.

        Args:
            cpus: Processors per job, also the threads of its worker.
            gpus: GPUs per job, a fraction shares one; `auto` is 1 where there is one, otherwise 0.
            concurrency: Jobs at once at most; `auto` is what the resources allow.
            address: None starts a private Ray on this machine; `auto` or HOST:PORT joins one that runs.
            insecure: Join also a cluster that demands no token.
            needs: What every node of a joined one must have; None asks nothing of them.
        """
        self._cpus = cpus
        self._gpus = gpus
        self._concurrency = concurrency
        self._address = address
        self._insecure = insecure
        self._needs = needs
        self._before: dict[str, str | None] | None = None
        self._started = False
        self._session = sessions()
        self.gpus_per_job = 0.0
        self.slots = 0
        self.nodes: str | None = None
        self.meter = RayMeter()

    def start(self) -> str | None:
        """Start or join Ray.

        Returns:
            Address of its dashboard, or None.

        Raises:
            EnvironmentFault: If Ray cannot be started or joined, a job asks for more than there is, or a node lacks
                what it needs.
        """
        self._set_environment()
        try:
            if self._address is None:
                clean_up(sessions())
            self._started = not ray.is_initialized()  # from here on, whatever happens, Ray is ours to leave
            with quiet_loggers(), kept_handlers():
                context = connect(self._address, self._threads(), insecure=self._insecure)
            self._session = Path(context.address_info["session_dir"])
            self._settle_resources(ray.cluster_resources())
            if self._address is not None and self._needs is not None:
                self.nodes = check_nodes(self._needs, (float(self._cpus), self.gpus_per_job))
        except BaseException:
            self.stop()
            raise
        url = context.dashboard_url
        return f"http://{url}" if url else None

    def _threads(self) -> int:
        return max(1, int(self._cpus))

    def _set_environment(self) -> None:
        wanted = dict(ENVIRONMENT)
        if self._address is None:
            wanted["OMP_NUM_THREADS"] = str(self._threads())
        self._before = {name: os.environ.get(name) for name in (*wanted, "RAY_AUTH_MODE")}  # Ray sets the last
        os.environ.update(wanted)

    def _settle_resources(self, cluster: Mapping[str, float]) -> None:
        there = {"cpus": cluster.get("CPU", 0.0), "gpus": cluster.get("GPU", 0.0)}
        self.gpus_per_job = min(1.0, there["gpus"]) if self._gpus == "auto" else float(self._gpus)
        allowed = []
        for name, asked in (("cpus", float(self._cpus)), ("gpus", self.gpus_per_job)):
            if asked > there[name]:
                raise EnvironmentFault(
                    f"A job asks for resources.{name}={asked:g}, but Ray has {there[name]:g}. "
                    "Ask for less or add a machine."
                )
            allowed.append(int(there[name] / asked + 1e-9) if asked else sys.maxsize)
        if self._concurrency != "auto":
            allowed.append(int(self._concurrency))
        self.slots = max(1, min(allowed))
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self.slots)

    def run(self, source: JobSource, execute: Execute) -> None:
        """Run every job of the source; starts the engine if need be.

        Args:
            source: Hands out the jobs.
            execute: Does one in a worker and commits its outcome; importable there.

        Raises:
            Interrupted: After SIGINT or SIGTERM; the workers and a private Ray are stopped. A second one ends this
                process at once: Ray ends the workers of a driver that is gone, and the next start clears up the rest.
            Exception: Whatever the source raised; the workers and a private Ray are stopped.
        """
        if not self._started:
            self.start()
        dispatch = Dispatch(source, self.slots)
        with watched_signals(dispatch.pause, leave) as signals:
            try:
                with quiet_loggers(), kept_handlers(), _lasting_workers(self.slots):
                    self._fit(dispatch, signals, execute)
            except BaseException as fault:
                self.stop()
                if not (isinstance(fault, Stopped) or signals.has_raised):
                    raise
            if signals.received is not None:
                self.stop()
                raise signals.interruption(dispatch.settled)
        if dispatch.fault is not None:
            self.stop()
            raise dispatch.fault

    def _fit(self, dispatch: Dispatch, signals: Signals, execute: Execute) -> None:
        resources = {"cpu": float(self._cpus), "gpu": self.gpus_per_job}
        watch, name = Watch(dispatch, signals), f"jobs-{uuid.uuid4().hex[:8]}"
        tuner = tune.Tuner(
            tune.with_resources(trainable_for(execute), resources),
            param_space={},
            tune_config=tune.TuneConfig(
                search_alg=JobSearcher(dispatch, watch),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(self._session / "jobs"),
                callbacks=[watch],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            remove_run(self._session, name)

    def stop(self) -> None:
        """Stop the workers and leave Ray; a private one ends, one that was joined goes on."""
        if self._started:
            with quiet_loggers(), kept_handlers():
                ray.shutdown()
        self._started = False
        for name, value in (self._before or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before = None


def _trial_name(trial: Trial) -> str:
    job: Job = trial.config["job"]
    return f"{job.key.replace('/', '-')}-{trial.trial_id}"
