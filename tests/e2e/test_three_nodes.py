"""Three Ray nodes on one machine, the head without work; two are killed at work, and the study ends complete."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import pytest

from study.durable import read_json
from study.ledger import Ledger
from study.results import load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
START = [sys.executable, str(Path(__file__).with_name("loopback_node.py")), "start", "--block"]
SMALL = (
    "train.epochs=4",
    "student.channels=8",
    "teachers.0.train.epochs=2",
    "budget.trials=4",
    "search.images=16",
    "robustness.images=48",
    "robustness.shard=16",
    "robustness.tier=screen",
    "robustness.check_images=6",
    "robustness.random_students=1",
    "robustness.controls=false",
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def name_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")[0]


class Cluster:
    """A head without work and nodes of one CPU each; every process belongs to the session of its `ray start`."""

    def __init__(self, folder):
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.address = f"127.0.0.1:{free_port()}"
        self.temporary = Path(tempfile.mkdtemp(prefix="r3-"))  # short: Ray's socket names must fit 107 bytes
        self.log = (folder / "nodes.log").open("wb")
        self.started, self._next = [], 2
        port = self.address.rpartition(":")[2]
        self._start(
            "--head",
            f"--port={port}",
            "--num-cpus=0",
            f"--temp-dir={self.temporary}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={free_port()}",
            "--node-ip-address=127.0.0.1",
        )

    def _start(self, *options, **environment):
        ports = [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"]
        command = [*START, "--object-store-memory=100000000", *ports, *options]
        self.started.append(
            subprocess.Popen(
                command,
                env={**self.environment, **environment},
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
                cwd="/",
            )
        )

    def add_node(self, **environment):
        place = f"--node-ip-address=127.0.0.{self._next}"
        self._start(f"--address={self.address}", "--num-cpus=1", place, **environment)
        self._next += 1

    def alive(self):
        """Count the nodes as a driver would see them."""
        script = (
            "import sys; from study.engine.ray_cluster import connect; import ray; connect(sys.argv[1], 1); "
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, self.address],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return int(done.stdout or 0)

    def stop(self):
        for started in self.started:
            for pid in _of_session(started.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            started.wait()
        self.log.close()
        shutil.rmtree(self.temporary, ignore_errors=True)


def _of_session(session):
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(status.parent.name))
    return found


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    try:
        wait_for(lambda: cluster.alive() == 1)
        for nodes in (2, 3):  # one after the other: two at once would choose the same names for their sockets
            cluster.add_node()
            wait_for(lambda nodes=nodes: cluster.alive() == nodes)
        yield cluster
    finally:
        cluster.stop()


def wait_for(condition, seconds=180, alive=None):
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive is None or alive.poll() is None, "the study ended before its node was killed"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def kill_a_node_under(study, pattern, process):
    """Kill the node under a job that is at work; return the job's key."""
    killed = []

    def found():
        for lease in sorted(study.glob(f"{pattern}/attempts/*/lease.json")):
            folder = lease.parents[2]
            holder = read_json(lease) or {"ended": True}
            if "ended" in holder or (folder / "outcome.json").exists():
                continue
            with contextlib.suppress(OSError):
                node = parent_of(holder["pid"])
                if name_of(node) == "raylet":
                    os.kill(node, signal.SIGKILL)
                    killed.append(folder.relative_to(study).as_posix())
                    return True
        return False

    wait_for(found, 400, process)
    return killed[0]


def test_a_study_survives_the_loss_of_two_nodes(cluster, tmp_path):
    study = tmp_path / "shared" / "kd"
    command = [sys.executable, "-m", "study.launch", str(ROOT / "search_spaces" / "kd.yaml"), *SMALL]
    command += ["--address", cluster.address, "--output", str(study)]
    said, faults = (tmp_path / "said.txt").open("w+"), (tmp_path / "faults.txt").open("w+")
    process = subprocess.Popen(command, env=cluster.environment, cwd=tmp_path, stdout=said, stderr=faults)
    try:
        in_search = kill_a_node_under(study, "trials/*", process)
        cluster.add_node()
        in_robustness = kill_a_node_under(study, "robustness/*/*", process)
        code = process.wait(timeout=900)
    finally:
        if process.poll() is None:
            process.kill()
    texts = [stream.seek(0) or stream.read() for stream in (said, faults)]
    assert code == 0, texts[0][-3000:] + texts[1][-3000:]
    assert "nodes      2 nodes can write, rename and link" in texts[0]
    assert "1 more takes no jobs" in texts[0]

    ledger, results = Ledger(study), load(study)
    assert results.state == "complete"
    assert list(results.trials["state"]) == ["COMPLETE"] * 4
    for key in ledger.keys(""):
        outcome = study / key / "outcome.json"
        assert outcome.is_file(), f"{key} has no outcome"
        ended = outcome.stat().st_mtime
        for lease in (study / key).glob("attempts/*/lease.json"):
            begun = datetime.fromisoformat(read_json(lease)["start"]).timestamp()
            assert begun <= ended, f"{lease} began after {key} was over"
    for key in (in_search, in_robustness):
        assert ledger.attempts(key) >= 2
        assert ledger.outcome(key)["state"] == "COMPLETE"
    assert "its node was lost" in texts[0]


def launch_smoke(cluster, folder, *overrides):
    command = [sys.executable, "-m", "study.launch", str(ROOT / "search_spaces" / "kd.yaml"), "--smoke", *overrides]
    command += ["--address", cluster.address, "--output", str(folder / "kd")]
    began = time.monotonic()
    done = subprocess.run(
        command, env=cluster.environment, cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )
    assert time.monotonic() - began < 90
    return done


def test_what_a_node_lacks_is_told_in_a_table_before_the_first_job(cluster, tmp_path):
    done = launch_smoke(cluster, tmp_path, "resources.cpus=2")
    assert done.returncode == 4
    assert "A job runs on one node and asks for resources.cpus=2" in done.stderr
    assert done.stderr.count("127.0.0.") == 3

    other = tmp_path / "other"
    for package in ("nodekd", "study"):
        shutil.copytree(ROOT / package, other / package)
    with (other / "nodekd" / "train.py").open("a") as stream:
        stream.write("# another checkout\n")
    cluster.add_node(PYTHONPATH=str(other))
    wait_for(lambda: cluster.alive() == 4)
    done = launch_smoke(cluster, tmp_path)
    assert done.returncode == 4
    assert "but 1 of 3 cannot" in done.stderr
    assert "127.0.0.4" in next(line for line in done.stderr.splitlines() if "nodekd's files" in line)
    assert "the same commit" in done.stderr
