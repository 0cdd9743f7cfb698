"""Runs jobs on Ray Tune: one long `Tuner.fit` whose trials are jobs; the only file that knows Ray.

Ray is a disposable executor. It gets a job, calls `execute` in a worker that is kept for the next job, and says when
the job is over; results travel through the ledger. Nothing of Ray's own state is ever read back.
"""

import contextlib
import logging
import os
import secrets
import shlex
import signal
import socket
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, final

import ray
from ray import tune
from ray._private import ray_constants
from ray._private import services as ray_services
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from study.engine.dispatch import Dispatch
from study.engine.inline import describe
from study.engine.job import Execute, Job, JobSource
from study.engine.machine import usable_cpus
from study.engine.signals import Signals, Stopped, watched_signals
from study.errors import EnvironmentFault

OBJECT_STORE_BYTES = 200 * 2**20
"""Ray's shared memory; jobs carry small dictionaries only."""

ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRAFANA_HOST": "DISABLED",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}
"""Set for this process, and so for the private Ray, while the engine is started; given back afterwards."""

_log = logging.getLogger(__name__)
_CHATTER = ("ray.tune", "ray.train", "ray.air", "ray._private", "ray.worker")
_POISON = ("AcceleratorError", "OutOfMemoryError", "MemoryError")


# ---------------------------------------------------------------- in a worker


def _spoils_its_worker(error: BaseException) -> bool:
    """Say whether the process is better replaced: its GPU context or its memory is gone."""
    return type(error).__name__ in _POISON or "CUDA error" in str(error)


def trainable_for(execute: Execute) -> Callable[[dict[str, Any]], None]:
    """Wrap `execute` for Tune; an error is reported as text, so that the worker can go on with the next job."""

    def job(config: dict[str, Any]) -> None:
        try:
            execute(config["job"])
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
            text = (
                f"the worker died (killed, out of memory, or a crash). {self._watch.cause_of_death(trial_id)}".strip()
            )
        self._dispatch.settle(trial_id, text)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing; the ledger is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@final
class Watch(tune.Callback):
    """Looks once per step of Tune's loop whether to leave it, and what Tune knows of a trial."""

    def __init__(self, dispatch: Dispatch, signals: Signals) -> None:
        self._dispatch = dispatch
        self._signals = signals
        self._trials: list[Trial] = []

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Leave the loop after a signal or a fault of the source; running jobs are not waited for."""
        if self._signals.received is not None or self._dispatch.fault is not None:
            raise Stopped
        self._trials = trials

    def cause_of_death(self, trial_id: str) -> str:
        """Return what Ray says about a lost worker, in one line."""
        for trial in reversed(self._trials):
            if trial.trial_id == trial_id and trial.error_file and Path(trial.error_file).exists():
                text = " ".join(Path(trial.error_file).read_text(encoding="utf-8").split())
                return text.rpartition("Worker exit detail: ")[2].partition(" Some common causes")[0][:300]
        return ""

    def get_state(self) -> dict[str, Any] | None:
        """Return nothing to save."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def ensure_token() -> None:
    """Make the sign-in token Ray will look for, readable by its owner only, unless the user names one."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = _token_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise EnvironmentFault(
            f"Ray's sign-in token cannot be written to {path} ({error.strerror}). "
            "Name a readable token file in RAY_AUTH_TOKEN_PATH."
        ) from error
    else:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a Ray started in this block listen on 127.0.0.1 alone, with all its ports.

    Ray has this mode for machines without clusters (macOS, Windows) and turns a loopback address that is asked for
    into the outward one; its switch is a constant read at import.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "localhost:", "[::1]:"))


def find_cluster(address: str) -> str:
    """Turn `auto` into HOST:PORT and knock there; Ray itself would go on trying for minutes.

    Raises:
        EnvironmentFault: If no Ray runs there.
    """
    found = address if address != "auto" else ray_services.get_ray_address_from_environment("auto", None)
    host, _, port = str(found).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"Ray could not be joined at {address}: nobody answers there. "
            "Give the HOST:PORT that `ray start --head` printed, or leave --address out for a private Ray."
        ) from error
    return str(found)


def _log_raylet_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Take a message that Ray would print between the driver's own lines, such as the traceback of a dead worker."""
    _log.debug("Ray: %s", "\n".join(map(str, data.get("lines", ()))))


@contextlib.contextmanager
def quiet_loggers() -> Iterator[None]:
    """Keep Ray's loggers in this process to what is critical; the engine tells what matters itself."""
    loggers = [logging.getLogger(name) for name in _CHATTER]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _kept_handlers() -> Iterator[None]:
    """Give SIGTERM and SIGUSR1 back; Ray takes the first, Tune the second."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: Ray could not take them either
            for number, handler in before.items():
                signal.signal(number, handler)


@final
class RayTuneEngine:
    """Many workers, on this machine or a cluster.

    Attributes:
        token_command: Command that prints the dashboard's sign-in token.
        slots: Jobs at once, known after `start`.
        gpus_per_job: Settled by `start` where `auto` was asked for.
    """

    token_command: str | None = shlex.join([str(Path(sys.executable).with_name("ray")), "get-auth-token"])

    def __init__(
        self,
        cpus: float = 1,
        gpus: float | Literal["auto"] = "auto",
        concurrency: int | Literal["auto"] = "auto",
        address: str | None = None,
    ) -> None:
        """Describe the engine; nothing starts yet.

        Args:
            cpus: Processors per job, also the threads of its worker.
            gpus: GPUs per job, a fraction shares one; `auto` is 1 where there is one, otherwise 0.
            concurrency: Jobs at once at most; `auto` is what the resources allow.
            address: None starts a private Ray on this machine; `auto` or HOST:PORT joins one that runs.
        """
        self._cpus = cpus
        self._gpus = gpus
        self._concurrency = concurrency
        self._address = address
        self._before: dict[str, str | None] | None = None
        self._started = False
        self._session = Path(tempfile.gettempdir())
        self.gpus_per_job = 0.0
        self.slots = 0

    def start(self) -> str | None:
        """Start or join Ray.

        Returns:
            Address of its dashboard, or None.

        Raises:
            EnvironmentFault: If Ray cannot be started or joined, or a job asks for more than there is.
        """
        self._set_environment()
        try:
            with quiet_loggers(), _kept_handlers():
                context = self._init()
            self._started = True
            self._session = Path(context.address_info["session_dir"])
            self._settle_resources(ray.cluster_resources())
        except BaseException:
            self.stop()
            raise
        url = context.dashboard_url
        return f"http://{url}" if url else None

    def _init(self) -> Any:
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
        ray_worker.print_to_stdstream = _log_raylet_message
        address = find_cluster(self._address) if self._address is not None else None
        try:
            if address is None:
                ensure_token()
                with _loopback_only():
                    return ray.init(
                        address="local",
                        num_cpus=usable_cpus(),
                        object_store_memory=OBJECT_STORE_BYTES,
                        include_dashboard=True,
                        dashboard_host="127.0.0.1",
                        **common,
                    )
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            threads = {"OMP_NUM_THREADS": str(self._threads())}
            with _loopback_only() if _is_loopback(address) else contextlib.nullcontext():
                return ray.init(address=address, runtime_env={"env_vars": threads}, **common)
        except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
            what = "started" if address is None else f"joined at {address}"
            raise EnvironmentFault(f"Ray could not be {what}. {(str(error) or repr(error)).splitlines()[0]}") from error

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
            Interrupted: After SIGINT or SIGTERM; the workers and a private Ray are stopped.
            Exception: Whatever the source raised; the workers and a private Ray are stopped.
        """
        if not self._started:
            self.start()
        dispatch = Dispatch(source, self.slots)
        with watched_signals() as signals:
            try:
                with quiet_loggers(), _kept_handlers():
                    self._fit(dispatch, signals, execute)
            except Stopped:
                self.stop()
            except BaseException:
                self.stop()
                raise
            if signals.received is not None:
                self.stop()
                raise signals.interruption(dispatch.settled)
        if dispatch.fault is not None:
            self.stop()
            raise dispatch.fault

    def _fit(self, dispatch: Dispatch, signals: Signals, execute: Execute) -> None:
        resources = {"cpu": float(self._cpus), "gpu": self.gpus_per_job}
        watch = Watch(dispatch, signals)
        tune.Tuner(
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
                name=f"jobs-{uuid.uuid4().hex[:8]}",
                storage_path=str(self._session / "jobs"),
                callbacks=[watch],
                verbose=0,
            ),
        ).fit()

    def stop(self) -> None:
        """Stop the workers and leave Ray; a private one ends, one that was joined goes on."""
        if self._started:
            with quiet_loggers(), _kept_handlers():
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
