"""Starts a private Ray, or joins one that runs."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import services as ray_services
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import RayError

from study.engine.machine import usable_cpus
from study.engine.ray_surroundings import ensure_token, knock
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


def connect(address: str | None, threads: int) -> Any:
    """Start a private Ray, or join one.

    Args:
        address: None for a private one, `auto` or HOST:PORT to join.
        threads: OMP_NUM_THREADS of the workers of a joined one; a private one inherits this process's.

    Returns:
        Ray's context, with the dashboard's address and the session's folder.

    Raises:
        EnvironmentFault: If Ray cannot be started or joined.
    """
    ray_worker.print_to_stdstream = _log_raylet_message
    found = None if address is None else _find(address)
    try:
        return _start() if found is None else _join(found, threads)
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        what = "started" if found is None else f"joined at {found}"
        raise EnvironmentFault(f"Ray could not be {what}. {(str(error) or repr(error)).splitlines()[0]}") from error


def _start() -> Any:
    ensure_token()
    with _loopback_only():
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
