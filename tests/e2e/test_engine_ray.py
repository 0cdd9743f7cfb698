"""The Ray engine keeps what every engine promises, and what only processes can break: death, signals, attaching."""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import ray
from stub_jobs import run_stub

from study.engine.job import Job
from study.engine.ray_surroundings import ENVIRONMENT, ensure_token
from study.engine.ray_tune import RayTuneEngine
from study.errors import EnvironmentFault, Interrupted
from study.ledger import Ledger

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("engine_contract", HERE.parent / "unit" / "test_engine_inline.py")
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def engine():
    """One private Ray for the module; `run` starts it again after a test that ended it."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(HERE)  # so that workers find the stub jobs
    engine = RayTuneEngine(concurrency=2)
    engine.start()
    yield engine
    engine.stop()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def pids_of(root, key):
    return [int(path.read_text() or 0) for path in (root / key).glob("attempts/*/pid")]


def test_contract_phases(engine, tmp_path, capfd):
    contract.check_phases_are_kept(engine, run_stub, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_workers_come_back_after_a_phase_of_one_job(engine, tmp_path):
    """Jobs of the last phase are shorter than the start of a worker, which must not be called off for them."""
    ends = [Job(str(tmp_path), f"first/{n}", "stub", {"seconds": seconds}) for n, seconds in enumerate((0.1, 3.0))]
    short = [Job(str(tmp_path), f"second/{n}", "stub", {"seconds": 0.3}) for n in range(40)]
    engine.run(contract.Phases(ends, short), run_stub)
    ledger = Ledger(tmp_path)
    by_worker = Counter(ledger.outcome(job.key)["metrics"]["pid"] for job in short)
    assert len(by_worker) == 2
    assert min(by_worker.values()) > 5, by_worker


def test_contract_source_faults(engine, tmp_path):
    contract.check_source_faults_end_the_run(engine, run_stub, tmp_path, "settled")


def test_contract_stuck_source(engine, tmp_path):
    contract.check_stuck_source_ends_the_run(engine, run_stub, tmp_path)


def test_twenty_jobs_with_deaths_then_resume(engine, tmp_path, capfd):
    """Workers that die cost their job only; the next launch runs what has no outcome and nothing else."""
    jobs = contract.jobs(tmp_path, 20, seconds=0.05)
    for index, fate in ((3, "raise"), (6, "die"), (9, "poisoned")):
        jobs[index] = Job(str(tmp_path), jobs[index].key, "stub", {"fate": fate})
    source = contract.Phases(jobs)
    engine.run(source, run_stub)
    ledger = Ledger(tmp_path)
    done = {key for key in ledger.keys("trials") if ledger.outcome(key)}
    failed = {jobs[index].key for index in (3, 6, 9)}
    assert len(source.errors) == 20
    assert done == {job.key for job in jobs} - failed == {key for key, error in source.errors.items() if error is None}
    assert source.errors[jobs[3].key] == "ValueError: stub says no"
    assert source.errors[jobs[6].key].startswith("the worker died")
    assert source.errors[jobs[9].key] == "AcceleratorError: the GPU is gone"
    assert source.most_at_once == 2
    assert len({ledger.outcome(key)["metrics"]["pid"] for key in done}) <= 5  # 2 workers, and one per death
    assert capfd.readouterr() == ("", "")

    again = contract.Phases([job for job in contract.jobs(tmp_path, 20) if job.key not in done])
    engine.run(again, run_stub)
    assert set(again.errors) == failed
    assert all(ledger.outcome(job.key) for job in jobs)
    assert [len(list((ledger.folder(job.key) / "attempts").iterdir())) for job in jobs].count(2) == 3


def test_killed_worker_is_replaced(engine, tmp_path):
    waiting = Job(str(tmp_path), "trials/waiting", "stub", {"fate": "wait"})
    source = contract.Phases([waiting], contract.jobs(tmp_path, 2))

    def kill():
        wait_for(lambda: pids_of(tmp_path, waiting.key))
        os.kill(pids_of(tmp_path, waiting.key)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    engine.run(source, run_stub)
    killer.join()
    errors = source.errors
    assert errors.pop(waiting.key).startswith(
        "the worker died (killed, out of memory, or a crash). Worker unexpectedly"
    )
    assert set(errors.values()) == {None}
    assert not Ledger(tmp_path).lease_is_fresh(waiting.key)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_the_workers(engine, tmp_path, number, code, capfd):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    quick, slow = contract.jobs(tmp_path, 1)[0], Job(str(tmp_path), "trials/waiting", "stub", {"fate": "wait"})
    source, sent = contract.Phases([quick], [slow]), []

    def send():
        wait_for(lambda: pids_of(tmp_path, slow.key))
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(Interrupted, match=f"{number.name} stopped the study after 1 jobs") as caught:
        engine.run(source, run_stub)
    assert time.monotonic() - sent[0] < 10
    sender.join()
    assert caught.value.exit_code == code
    assert source.errors == {quick.key: None}
    wait_for(lambda: not any(map(is_alive, pids_of(tmp_path, slow.key))), 10)
    assert {n: signal.getsignal(n) for n in before} == before
    assert not ray.is_initialized()
    assert capfd.readouterr() == ("", "")


_ATTACH = """
import sys; from pathlib import Path
from stub_jobs import run_stub
from study.engine.job import Job; from study.engine.ray_tune import RayTuneEngine
class Source:
    left = [Job(sys.argv[2], f"attached/{n}", "stub", {}) for n in range(2)]
    errors = []
    def next(self): return self.left.pop() if self.left else None
    def settled(self, job, error): self.errors.append(error)
    finished = property(lambda self: not self.left)
engine = RayTuneEngine(cpus=1, address=sys.argv[1]); engine.start(); engine.run(Source(), run_stub); engine.stop()
assert Source.errors == [None, None], Source.errors
"""


def test_attaching_leaves_the_other_ray_running(engine, tmp_path):
    engine.run(contract.Phases(contract.jobs(tmp_path, 1)), run_stub)
    address = ray.get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    attached = subprocess.run(
        [sys.executable, "-c", _ATTACH, address, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (attached.returncode, attached.stdout, attached.stderr) == (0, "", "")
    ledger = Ledger(tmp_path)
    assert {ledger.outcome(f"attached/{n}")["metrics"]["threads"] for n in range(2)} == {"1"}
    source = contract.Phases(contract.jobs(tmp_path, 2, "after"))
    engine.run(source, run_stub)
    assert set(source.errors.values()) == {None}
    assert engine._session.is_dir()
    assert not [*engine._session.glob("jobs/*"), *engine._session.glob("artifacts/*")], "of runs that are over"


def test_private_ray_listens_on_loopback_only(engine, tmp_path):
    if not ray.is_initialized():
        engine.start()
    node = ray.nodes()[0]
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert engine.token_command.endswith("ray get-auth-token")
    shown = subprocess.run(engine.token_command.split(), capture_output=True, text=True, check=True).stdout
    assert len(shown.strip()) == 64


def test_environment_and_ray_are_given_back(engine):
    engine.stop()
    engine.stop()
    assert not ray.is_initialized()
    assert not set(ENVIRONMENT) & set(os.environ)


@pytest.mark.parametrize(("asked", "match"), [({"cpus": 9}, r"resources\.cpus=9"), ({"gpus": 3}, r"resources\.gpus=3")])
def test_impossible_resources_are_refused(asked, match):
    with pytest.raises(EnvironmentFault, match=match):
        RayTuneEngine(**asked)._settle_resources({"CPU": 8.0, "GPU": 2.0})


def test_absent_cluster_is_explained(engine):
    engine.stop()
    with pytest.raises(EnvironmentFault, match="Ray could not be joined at 127"):
        RayTuneEngine(address="127.0.0.1:1").start()


def test_slots_follow_from_what_there_is():
    def slots(**asked):
        engine = RayTuneEngine(**asked)
        before = os.environ.get("TUNE_MAX_PENDING_TRIALS_PG")
        engine._settle_resources({"CPU": 16.0, "GPU": 2.0})
        if before is None:
            os.environ.pop("TUNE_MAX_PENDING_TRIALS_PG")
        return engine.slots, engine.gpus_per_job

    assert slots() == (2, 1.0)
    assert slots(gpus=0) == (16, 0.0)
    assert slots(gpus=0.3) == (6, 0.3)
    assert slots(cpus=3, gpus=0.1) == (5, 0.1)
    assert slots(cpus=0.5, gpus=0, concurrency=7) == (7, 0.0)
    assert slots(gpus=0, concurrency=100) == (16, 0.0)


def test_token_is_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    before = os.umask(0)
    try:
        ensure_token()
    finally:
        os.umask(before)
    file = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text()
    file.chmod(0o644)
    ensure_token()
    assert (stat.S_IMODE(file.stat().st_mode), file.read_text()) == (0o600, token)
    assert len(token) == 64
