"""What Ray finds around it in this process: environment variables, sign-in token, loggers, signal handlers.

Nothing here imports Ray; `ray_cluster.py` and `ray_tune.py` do.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from study.errors import EnvironmentFault

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

_CHATTER = ("ray.tune", "ray.train", "ray.air", "ray._private", "ray.worker")


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


def knock(address: str, asked: str) -> None:
    """See whether anybody answers at HOST:PORT; Ray itself would go on trying for minutes.

    Args:
        address: Where to knock.
        asked: What the user wrote, for the message.

    Raises:
        EnvironmentFault: If nobody does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"Ray could not be joined at {asked}: nobody answers there. "
            "Give the HOST:PORT that `ray start --head` printed, or leave --address out for a private Ray."
        ) from error


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
def kept_handlers() -> Iterator[None]:
    """Give SIGTERM and SIGUSR1 back; Ray takes the first, Tune the second."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: Ray could not take them either
            for number, handler in before.items():
                signal.signal(number, handler)
