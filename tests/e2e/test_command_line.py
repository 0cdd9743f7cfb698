"""The real command line in real processes: exit codes, what answers at once, a smoke study with Ray, Ctrl-C."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KD = ROOT / "search_spaces" / "kd.yaml"
LAUNCH = [sys.executable, "-m", "study.launch"]


def run(*arguments, cwd, module="study.launch"):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=600)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Run one smoke study through Ray."""
    folder = tmp_path_factory.mktemp("smoke")
    return folder, run(KD, "--smoke", cwd=folder)


def test_help_names_every_option(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    names = ("--validate", "--dry-run", "--smoke", "--resume", "--stage", "--output", "--address", "--copy-to")
    for option in (*names, "key=value"):
        assert option in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--resume", "maybe"],
        [str(KD), "budget.trials"],
        [str(KD), "--stage", "front"],
        [str(KD), "--resu", "never"],
    ],
)
def test_wrong_usage_exits_2(arguments, tmp_path):
    assert run(*arguments, cwd=tmp_path).returncode == 2


def test_a_broken_space_exits_3_with_every_error_at_its_place(tmp_path):
    (tmp_path / "bad.yaml").write_text("space:\n  temprature: {float: [1, 20]}\n  alpha: {float: [1, 0]}\n")
    done = run("bad.yaml", cwd=tmp_path)
    assert done.returncode == 3
    assert "bad.yaml:2:3" in done.stderr
    assert "did you mean 'temperature'?" in done.stderr
    assert "bad.yaml:3:" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_exits_4_in_one_sentence(tmp_path):
    done = run(KD, "data.name=folder", "data.root=nowhere", "--validate", cwd=tmp_path)
    assert done.returncode == 4
    assert "nowhere" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_is_no_study_exits_4(tmp_path):
    for module in ("study.show", "study.explore"):
        done = run(tmp_path, cwd=tmp_path, module=module)
        assert done.returncode == 4
        assert "study.json" in done.stderr


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_smoke_study_does_the_whole_job(smoke):
    folder, done = smoke
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    study = folder / "results" / "kd-smoke"
    for line in ("dashboard  http://127.0.0.1:", "get-auth-token", "report     results/kd-smoke/report/index.html"):
        assert line in done.stdout
    assert (study / "report" / "index.html").is_file()
    shown = json.loads(run(study, "--json", cwd=folder, module="study.show").stdout)
    assert shown["state"] == "complete"
    assert shown["trials"]["complete"] == 2
    assert {entry["kind"] for entry in shown["robustness"]} == {"student", "twin", "teacher"}
    assert run(study, cwd=folder, module="study.explore").returncode == 0


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_complete_study_answers_at_once_and_another_space_exits_5(smoke):
    folder, _ = smoke
    again = run(KD, "--smoke", cwd=folder)
    assert again.returncode == 0
    assert "nothing is left to do" in again.stdout
    other = run(KD, "--smoke", "train.learning_rate=0.03", cwd=folder)
    assert other.returncode == 5
    assert "train.learning_rate was 0.02 and is now 0.03" in other.stderr


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_ctrl_c_exits_130_and_the_same_command_goes_on(tmp_path):
    brief = ("student.channels=8", "budget.trials=2", "robustness.tier=screen", "robustness.twins=false")
    command = [*LAUNCH, str(KD), "--smoke", *brief]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    trials = tmp_path / "results" / "kd-smoke" / "trials"
    deadline = time.monotonic() + 200
    while not trials.is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert f"Continue with: {shlex.join(command)}\n" in errors
    study = tmp_path / "results" / "kd-smoke"
    assert json.loads(run(study, "--json", cwd=tmp_path, module="study.show").stdout)["state"] == "interrupted"
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=400).returncode == 0
    assert not _children_of_session(process.pid)


def _children_of_session(session):
    alive = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(status.parent.name))
    return [pid for pid in alive if pid != os.getpid()]
