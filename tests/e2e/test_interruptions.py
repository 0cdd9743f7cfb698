"""Signals to a real study on Ray: what is kept, what is said, and how long it takes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
COMMAND = [
    *(sys.executable, "-m", "study.launch", str(KD), "--stage", "search", "--output", "s"),
    *("train.epochs=120", "student.channels=4", "teachers.0.train.epochs=1", "budget.trials=2", "search.images=16"),
]
TRIALS = ("trials/000000", "trials/000001")


@pytest.fixture
def study(tmp_path):
    """Start a search and wait until a trial has trained for some epochs; ends what is left of it."""
    process = subprocess.Popen(
        COMMAND, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not any(len(epochs(tmp_path / "s" / key)) > 5 for key in TRIALS):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield process, tmp_path / "s"
    process.kill()
    process.wait()


def epochs(folder):
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_running_trials_keep_where_they_stand_and_go_on_from_there(study, number, code):
    process, folder = study
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"{number.name} stopped the study" in errors
    assert "Continue with: python -m study.launch" in errors
    assert "report:" in said
    begun = [folder / key for key in TRIALS if epochs(folder / key) and not (folder / key / "outcome.json").exists()]
    assert begun
    kept = {trial: epochs(trial) for trial in begun if (trial / "checkpoint" / "generation-0.pt").exists()}
    assert kept, "no running trial kept its state"
    done = subprocess.run(COMMAND, cwd=folder.parent, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    for trial, before in kept.items():
        assert [line["epoch"] for line in epochs(trial)] == list(range(1, 121))
        assert epochs(trial)[: len(before) - 1] == before[:-1], "epochs before the interruption were repeated"
        assert not (trial / "checkpoint").exists()


def test_a_second_signal_ends_everything_within_five_seconds(study):
    process, folder = study
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 130, errors
    assert (folder / "study.json").exists()
