"""Starts a private Ray, or joins one that runs."""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants
from ray._private import services as ray_services
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_setup import (
    AUTH_MODE_ENV_VAR,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.node import Node as RayNode
from ray.exceptions import GetTimeoutError, RayError
from ray.util.metrics import Counter, Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.engine.leftovers import mark_session
from study.engine.machine import usable_cpus
from study.engine.nodes import PATIENCE_S, Answer, Needs, Node, Question, judge, left_in, look_around, row_of
from study.engine.ray_surroundings import ensure_token, knock
from study.engine.ray_token import check_token
from study.errors import EnvironmentFault

OBJECT_STORE_BYTES = 200 * 2**20
"""Ray's shared memory; jobs carry small dictionaries only."""

_log = logging.getLogger(__name__)


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


@contextlib.contextmanager
def _marked_sessions() -> Iterator[None]:
    """Mark the session that Ray begins in this block between the making of its folder and the start of its processes.

    So a driver that is killed while Ray starts leaves nothing that the next one would not know for ours. Ray makes up
    the folder's name itself, and does all this within `ray.init`.
    """
    make_folders = RayNode._init_temp

    def make_and_mark(self: RayNode, node_to_connect_info: Any) -> None:
        make_folders(self, node_to_connect_info)
        mark_session(Path(self.get_session_dir_path()))

    RayNode._init_temp = make_and_mark
    try:
        yield
    finally:
        RayNode._init_temp = make_folders


def sessions() -> Path:
    """Return the folder in which Ray keeps its sessions on this machine, where nobody says otherwise."""
    return Path(get_default_ray_temp_dir())


def _is_loopback(address: str) -> bool:
    return address.startswith(("127.", "localhost:", "[::1]:"))


def _find(address: str) -> str:
    """Turn `auto` into HOST:PORT and see whether somebody answers."""
    found = address if address != "auto" else ray_services.get_ray_address_from_environment("auto", None)
    knock(str(found), address)
    return str(found)


def _log_raylet_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    """Take a message that Ray would print between the driver's own lines, such as the traceback of a dead worker."""
    _log.debug("Ray: %s", "\n".join(map(str, data.get("lines", ()))))


def connect(address: str | None, threads: int, *, insecure: bool = False) -> Any:
    """Start a private Ray, or join one.

    Args:
        address: None for a private one, `auto` or HOST:PORT to join.
        threads: OMP_NUM_THREADS of the workers of a joined one; a private one inherits this process's.
        insecure: Join also one that demands no token.

    Returns:
        Ray's context, with the dashboard's address and the session's folder.

    Raises:
        EnvironmentFault: If Ray cannot be started or joined, or demands no token and that was not asked for.
    """
    ray_worker.print_to_stdstream = _log_raylet_message
    found = None if address is None else _find(address)
    if found is not None:
        check_token(found, insecure=insecure)
    try:
        return _start() if found is None else _join(found, threads)
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        what = "started" if found is None else f"joined at {found}"
        raise EnvironmentFault(f"Ray could not be {what}. {(str(error) or repr(error)).splitlines()[0]}") from error


def _start() -> Any:
    ensure_token()
    os.environ.pop(AUTH_MODE_ENV_VAR, None)  # a private Ray always demands its token, whatever others are told
    with _loopback_only(), _marked_sessions():
        return ray.init(
            address="local",
            num_cpus=usable_cpus(),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )


def _join(address: str, threads: int) -> Any:
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    with _loopback_only() if _is_loopback(address) else contextlib.nullcontext():
        return ray.init(
            address=address,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )


def check_nodes(needs: Needs, asked: tuple[float, float], patience_s: float = PATIENCE_S) -> str:
    """See whether every node of the joined Ray can do a study's jobs.

    Args:
        needs: Of the study.
        asked: CPUs and GPUs of a job.
        patience_s: Seconds in which all must have answered.

    Returns:
        One line, if all is well.

    Raises:
        EnvironmentFault: With a table, if a node lacks something or does not answer.
    """
    with left_in(needs.folder) as nonce:
        question = Question(str(needs.folder.resolve()), nonce, split_hash=needs.split_hash)
        deadline = time.monotonic() + patience_s
        sent = _ask(question)
        own = look_around(question)
        answers = [(node, _answer(reference, deadline, patience_s)) for reference, node in sent.items()]
    rows = [row_of(node, answer, own, asked) for node, answer in answers]
    return judge(sorted(rows, key=lambda row: row.node.name), asked)


def _ask(question: Question) -> dict[Any, Node]:
    """Put the question to all nodes at once, each in a task that takes none of its CPUs."""
    task = ray.remote(num_cpus=0, max_retries=0)(look_around)
    sent = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        sent[task.options(scheduling_strategy=place).remote(question)] = _described(node)
    return sent


def _answer(reference: Any, deadline: float, patience_s: float) -> Answer | str:
    try:
        return ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
    except GetTimeoutError:
        ray.cancel(reference, force=True)
        return f"no answer within {patience_s:g} s"
    except RayError as error:  # a node that dies, or that lacks this project
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[-1].strip()[:120] if lines else type(error).__name__


def _described(node: Mapping[str, Any]) -> Node:
    resources = node["Resources"]
    name = f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
    return Node(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0))


@final
class RayMeter:
    """Sends numbers through Ray's own metrics, which Prometheus can collect from every node; none before Ray runs."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}

    def set(self, name: str, value: float, **tags: str) -> None:
        """Give the gauge `nodekd_<name>` its value."""
        if ray.is_initialized():
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"nodekd_{name}", tag_keys=tuple(sorted(tags)))
            self._gauges[name].set(value, tags)

    def add(self, name: str, value: float, **tags: str) -> None:
        """Add to the counter `nodekd_<name>`; nothing below or at zero can be added."""
        if ray.is_initialized() and value > 0:
            if name not in self._counters:
                self._counters[name] = Counter(f"nodekd_{name}", tag_keys=tuple(sorted(tags)))
            self._counters[name].inc(value, tags)


@functools.cache
def worker_meter() -> RayMeter:
    """Return the one of this process, a worker's, for all its jobs: Ray takes a metric's name once per process."""
    return RayMeter()
