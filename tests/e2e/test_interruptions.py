"""Signals to a real study on Ray: what is kept, what is said, and how long it takes."""

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.durable import read_json
from study.lease import process_birth

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
EPOCHS = 80
COMMAND = [
    *(sys.executable, "-m", "study.launch", str(KD), "--stage", "search", "--output", "s"),
    *(f"train.epochs={EPOCHS}", "student.channels=4", "teachers.0.train.epochs=1", "budget.trials=2"),
    "search.images=16",
]
TRIALS = ("trials/000000", "trials/000001")


@pytest.fixture
def study(tmp_path):
    """Start a search and wait until a trial has trained for some epochs; ends what is left of it."""
    with (tmp_path / "said.txt").open("w") as said, (tmp_path / "errors.txt").open("w") as errors:
        process = subprocess.Popen(COMMAND, cwd=tmp_path, stdout=said, stderr=errors, start_new_session=True)
    wait_for(lambda: any(len(epochs(tmp_path / "s" / key)) > 5 for key in TRIALS), 400, process)
    yield process, tmp_path / "s"
    process.kill()
    process.wait()


def wait_for(condition, seconds, alive=None):
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive is None or alive.poll() is None, "the study ended by itself"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def epochs(folder):
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def workers(folder):
    """Return pid and birth of those that are at work."""
    leases = (read_json(lease) or {} for lease in folder.glob("trials/*/attempts/*/lease.json"))
    return [(lease["pid"], lease["birth"]) for lease in leases if lease and "ended" not in lease]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_running_trials_keep_where_they_stand_and_go_on_from_there(study, number, code):
    process, folder = study
    process.send_signal(number)
    process.wait(timeout=120)
    errors = (folder.parent / "errors.txt").read_text()
    assert process.returncode == code, errors
    assert f"{number.name} stopped the study" in errors
    assert f"Continue with: {shlex.join(COMMAND)}\n" in errors
    assert "report:" in (folder.parent / "said.txt").read_text()
    begun = [folder / key for key in TRIALS if epochs(folder / key) and not (folder / key / "outcome.json").exists()]
    assert begun
    kept = {trial: epochs(trial) for trial in begun if (trial / "checkpoint" / "generation-0.pt").exists()}
    assert kept, "no running trial kept its state"
    done = subprocess.run(COMMAND, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    for trial, before in kept.items():
        assert [line["epoch"] for line in epochs(trial)] == list(range(1, EPOCHS + 1))
        assert epochs(trial)[: len(before) - 1] == before[:-1], "epochs before the interruption were repeated"
        assert not (trial / "checkpoint").exists()


def test_a_second_signal_ends_everything_within_five_seconds(study):
    process, folder = study
    at_work = workers(folder)
    assert at_work
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.wait(timeout=60)
    assert time.monotonic() - began < 5
    errors = (folder.parent / "errors.txt").read_text()
    assert process.returncode == 130, errors
    assert "the same command continues" in errors
    assert (folder / "study.json").exists()
    wait_for(lambda: all(process_birth(pid) != birth for pid, birth in at_work), 60)


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_while_ray_starts_is_answered_at_once_and_leaves_nothing_running(tmp_path, times):
    with (tmp_path / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
    said = tmp_path / "errors.txt"
    wait_for((tmp_path / "s" / "events.jsonl").exists, 200, process)
    wait_for(lambda: children_of(process.pid), 60, process)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: f"Continue with: {shlex.join(COMMAND)}\n" in said.read_text(), 5)
    if times == 2 and process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait(timeout=5 if times == 2 else 120)
    assert process.returncode == 130, said.read_text()
    assert "Traceback" not in said.read_text()
    if times == 1:
        assert (tmp_path / "s" / "report" / "index.html").exists()
        wait_for(lambda: not in_session(process.pid), 60)


def children_of(pid):
    return [child for child, parent, _ in processes() if parent == pid]


def in_session(session):
    return [pid for pid, _, of in processes() if of == session]


def processes():
    """Yield pid, parent and session of every process that has not ended."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            yield int(status.parent.name), int(fields[1]), int(fields[3])
