"""A real Ray head without a token is refused and, where that is asked for, joined; one with a token is joined."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.engine.ray_token import demands_token

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TOKEN = "0" * 63 + "1"
_JOIN = """
import sys
import tempfile
from study.engine.ray_tune import RayTuneEngine
from study.errors import StudyError
engine = RayTuneEngine(address=sys.argv[1], insecure=len(sys.argv) > 2)
try:
    engine.start()
except StudyError as fault:
    sys.exit(str(fault))
print("joined", engine.slots)
engine.stop()
"""


@pytest.fixture
def home() -> Iterator[dict[str, str]]:
    """Surroundings in which nobody has a token yet; in a short folder, as Ray's sockets lie in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield kept | {"HOME": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}


@pytest.fixture
def heads() -> Iterator[list[subprocess.Popen[str]]]:
    """Heads that were started; each ends with all processes of its own session."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for head in started:
        os.killpg(head.pid, signal.SIGTERM)
        try:
            head.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(heads: list[subprocess.Popen[str]], environment: dict[str, str]) -> str:
    """Start a head on loopback, in a session of its own, and wait until it says that it runs."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", "--include-dashboard=false", "--num-cpus=1", "--object-store-memory=100000000"]
    head = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    heads.append(head)
    assert head.stdout is not None
    said = []
    for line in head.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            return f"127.0.0.1:{port}"
    raise AssertionError("".join(said))


def join(address: str, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _JOIN, address, *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_a_head_without_a_token_is_refused_unless_insecure(
    heads: list[subprocess.Popen[str]], home: dict[str, str]
) -> None:
    address = started(heads, home | {"RAY_AUTH_MODE": "disabled"})
    assert not demands_token(address)
    refused = join(address, home)
    assert refused.returncode == 1
    assert f"A Ray cluster must demand a token, but {address} answers without one" in refused.stderr
    joined = join(address, home, "--insecure")
    assert (joined.returncode, joined.stdout) == (0, "joined 1\n"), joined.stderr


def test_a_head_with_a_token_is_joined_by_who_has_it(heads: list[subprocess.Popen[str]], home: dict[str, str]) -> None:
    address = started(heads, home | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})
    assert demands_token(address)
    stranger = join(address, home)
    assert stranger.returncode == 1
    joined = join(address, home | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN})
    assert (joined.returncode, joined.stdout) == (0, "joined 1\n"), joined.stderr
