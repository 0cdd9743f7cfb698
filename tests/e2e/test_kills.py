"""SIGKILL at every step of the protocol, and everything else that is left lying about when a study is started again.

See killed_study.py for what is real in these studies and what is not.
"""

import json
import os
import signal
import socket
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.durable import replace_json
from study.lease import process_birth
from study.ledger import Ledger
from study.sampling import StudyView
from study.stages import batch
from study.stages.search import Search
from tests.e2e import killed_study
from tests.e2e.found_on_disk import Found, Score
from tests.e2e.killed_study import (
    PROTOCOL,
    KilledStudy,
    Reference,
    Setting,
    kill_at_every_line,
    kill_at_random,
    worker,
)
from tests.made_up_world import a_context

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


IN_MEMORY = Path("/dev/shm")
"""SIGKILL takes nothing that a system call has passed on, so no disk is needed to see what it leaves."""


def a_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None)


@pytest.fixture
def tmp_path():
    with a_folder() as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def reference():
    """Uninterrupted studies, each made once."""
    with a_folder() as folder:

        @lru_cache
        def made(setting: Setting) -> Reference:
            return Reference.of(Path(folder) / f"{setting.sampler}-{setting.generation}", setting)

        yield made


@pytest.fixture
def half_done(tmp_path, reference):
    """Return a function that starts a study and kills it after a share of its steps."""

    def started(share: float, setting: Setting) -> KilledStudy:
        study, last = KilledStudy(tmp_path / "s", setting=setting), int(share * reference(setting).steps)
        assert not study.launch(lambda place, steps: steps == last)
        return study

    return started


def is_as_if_never_killed(study: KilledStudy, reference: Reference, *, same_database: bool = True) -> bool:
    score = Score()
    score.add(study, reference.found, same_database=same_database)
    assert not score.faults
    return True


# ---------------------------------------------------------------- kills


def test_the_uninterrupted_study_is_what_it_should_be(reference):
    """Otherwise all comparisons below would be with nothing."""
    found = reference(Setting()).found
    assert sorted(found.points) == list(range(7))
    assert found.seen == {number: list(range(number)) for number in range(7)}
    states = ["COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert [(number, state) for number, state, _ in found.told] == list(enumerate(states))
    assert found.told[3][2] == (0.1, 0.0), "a diverged network guesses"
    assert len({json.dumps(point) for point in found.points.values()}) == 7
    assert len(found.outcomes) == 7 + 4


def test_killed_at_every_line_once(tmp_path, reference):
    score, passed = kill_at_every_line(tmp_path, Setting(), reference(Setting()))
    assert not score.faults
    assert score.kills == len(passed) > 300
    assert {name for name, _ in passed} == PROTOCOL, "every file of the protocol was stepped through"
    assert score.repeated, "some were killed between the work and its commit"


KILLS = {"tpe": 7, "nsga2": 4, "gp": 2, "qmc": 3, "random": 2, "grid": 2}


@pytest.mark.parametrize("sampler", KILLS)
def test_killed_at_random(sampler, tmp_path, reference):
    setting = Setting(sampler)
    score = kill_at_random(tmp_path, setting, reference(setting), KILLS[sampler], seed=1, from_outside=False)
    assert not score.faults
    assert score.kills == KILLS[sampler]


def test_killed_from_outside(tmp_path, reference):
    """Wherever it is then, also inside SQLite and the system's calls."""
    score = kill_at_random(tmp_path, Setting(), reference(Setting()), 6, seed=2, from_outside=True)
    assert not score.faults
    assert score.kills == 6


@pytest.mark.parametrize("asked", [1, 2, 5])
def test_a_half_asked_generation_is_completed_before_any_of_it_is_known(asked, tmp_path, reference):
    """With `--deterministic`: trials of one generation must not see each other, whoever was killed when."""
    setting = Setting(generation=3)
    assert reference(setting).found.seen[5] == [0, 1, 2]
    study = KilledStudy(tmp_path / "s", setting=setting)
    config = study.folder / f"trials/{asked - 1:06d}/config.json"
    assert not study.launch(lambda place, steps: config.exists())
    assert len(list(study.folder.glob("trials/*/config.json"))) == asked
    assert study.launch()
    assert is_as_if_never_killed(study, reference(setting))


def test_deterministic_and_killed_at_random(tmp_path, reference):
    setting = Setting(generation=3)
    assert not kill_at_random(tmp_path, setting, reference(setting), 6, seed=3, from_outside=False).faults


# ---------------------------------------------------------------- what is found on disk


def delete(path: Path) -> None:
    path.unlink()


def delete_with_its_log(path: Path) -> None:
    for file in path.parent.glob("optuna.db*"):
        file.unlink()


def delete_the_log(path: Path) -> None:
    for file in path.parent.glob("optuna.db-*"):
        file.unlink()


def cut(share: float, name: str = "optuna.db"):
    def damage(path: Path) -> None:
        file = path.with_name(name)
        os.truncate(file, int(share * file.stat().st_size))

    damage.__name__ = f"cut {name} to {share}"
    return damage


def overwrite(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


DAMAGES = [
    delete,
    delete_with_its_log,
    delete_the_log,
    cut(0),
    cut(0.4),
    cut(0.95),
    cut(0.5, "optuna.db-wal"),
    overwrite,
]


@pytest.mark.parametrize(
    ("damage", "sampler"),
    [*((damage, "tpe") for damage in DAMAGES), (delete_with_its_log, "nsga2"), (cut(0.7), "nsga2")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_database_is_rebuilt_from_the_trials(damage, sampler, half_done, reference):
    study = half_done(0.8 if sampler == "nsga2" else 0.5, Setting(sampler))
    assert (study.folder / "optuna.db-wal").stat().st_size, "a killed driver leaves its log"
    damage(study.folder / "optuna.db")
    assert study.launch()
    assert is_as_if_never_killed(study, reference(Setting(sampler)), same_database=False)


def test_a_finished_study_gets_its_database_back(tmp_path, reference):
    study = KilledStudy(tmp_path / "s")
    assert study.launch()
    before = len(study.tally.lines("handed"))
    delete_with_its_log(study.folder / "optuna.db")
    assert study.launch()
    assert len(study.tally.lines("handed")) == before
    assert is_as_if_never_killed(study, reference(Setting()), same_database=False)


def test_torn_lines_and_left_over_files_do_no_harm(half_done, reference):
    study = half_done(0.6, Setting())
    events = study.folder / "events.jsonl"
    os.truncate(events, events.stat().st_size - 9)
    key = max(study.folder.glob("trials/*/config.json")).parent
    for name in ("config.json.0123456789ab.tmp", "outcome.json.0123456789ab.tmp", "checkpoint/g.pt.0123456789ab.tmp"):
        (key / name).parent.mkdir(exist_ok=True)
        (key / name).write_text('{"state": "COMP')
    (key / "attempts" / "07").mkdir(parents=True)
    (key / "attempts" / "07" / "lease.json.0123456789ab.tmp").touch()
    (study.folder / "trials" / "000007").mkdir()
    assert study.launch()
    assert is_as_if_never_killed(study, reference(Setting()))
    assert all(json.loads(line)["schema"] == 1 for line in events.read_text().splitlines())


# ---------------------------------------------------------------- leases


def an_open_trial(study: KilledStudy) -> str:
    """Kill the study when a trial has its config and has not been begun; return the trial's key."""
    config = study.folder / "trials/000002/config.json"
    assert not study.launch(lambda place, steps: config.exists())
    return "trials/000002"


def seconds_of(study: KilledStudy) -> float:
    start = time.monotonic()
    assert study.launch()
    return time.monotonic() - start


def leave_lease(study: KilledStudy, key: str, *, age_s: float, **holder: object) -> None:
    lease = study.folder / key / "attempts" / "01" / "lease.json"
    replace_json(lease, {"schema": 1, "attempt": 1, **holder})
    os.utime(lease, (time.time() - age_s, time.time() - age_s))


def test_a_worker_that_outlived_its_driver_is_waited_for(tmp_path, reference, monkeypatch):
    """The worker ends only after the new driver has looked for it; a driver that does not look starts the job again."""
    study, looked = KilledStudy(tmp_path / "s"), tmp_path / "looked"
    key, files = an_open_trial(study), Ledger(study.folder)
    survivor = os.fork()
    if survivor == 0:
        monkeypatch.setattr(killed_study, "outcome_of", once(looked, killed_study.outcome_of))
        worker(files, study.tally)(a_job(files, key))
        os._exit(0)
    while not files.lease_is_fresh(key):
        time.sleep(0.01)
    monkeypatch.setattr(batch, "time", SimpleNamespace(sleep=lambda _: (looked.touch(), time.sleep(0.05))))
    assert study.launch()
    assert os.waitpid(survivor, 0)[1] == 0
    assert [line for line in study.tally.lines("handed") if line[0] == key] == [[key, "open"]]
    assert files.attempts(key) == 1
    assert is_as_if_never_killed(study, reference(Setting()))


def once(path: Path, outcome_of):
    def after_it_is_there(job):
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return outcome_of(job)

    return after_it_is_there


def a_job(files: Ledger, key: str):
    settings = (files.config(key) or {})["settings"]
    return killed_study.Job(str(files.root), key, "student", {"settings": settings})


def test_a_worker_that_died_is_not_waited_for(tmp_path, reference):
    study = KilledStudy(tmp_path / "s")
    key = an_open_trial(study)
    dead = os.fork()
    if dead == 0:
        signal.pause()
    birth = process_birth(dead)
    os.kill(dead, signal.SIGKILL)
    os.waitpid(dead, 0)
    leave_lease(study, key, age_s=0, pid=dead, host=socket.gethostname(), birth=birth)
    assert seconds_of(study) < 10
    assert Ledger(study.folder).attempts(key) == 2
    assert is_as_if_never_killed(study, reference(Setting()))


@pytest.mark.parametrize(("age_s", "waits"), [(58.5, True), (61, False)])
def test_a_silent_worker_of_another_machine_is_given_a_minute(age_s, waits, tmp_path, reference, monkeypatch):
    monkeypatch.setattr(batch, "LOOK_S", 0.05)
    study = KilledStudy(tmp_path / "s")
    leave_lease(study, an_open_trial(study), age_s=age_s, pid=1, host="elsewhere", birth="5")
    until = time.time() + 60 - age_s
    assert study.launch()
    first = Ledger(study.folder).folder("trials/000002") / "attempts" / "02" / "lease.json"
    begun = json.loads(first.read_text())["start"]
    begun_at = time.mktime(time.strptime(begun[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert (begun_at >= int(until)) or not waits
    assert is_as_if_never_killed(study, reference(Setting()))


def test_what_a_half_made_suggestion_knew_is_noted_and_not_what_came_later(tmp_path):
    """A worker outlives its driver, which was asking for the next trial: that one's point was chosen without it."""
    context = a_context(tmp_path / "s", "budget.concurrency=2")
    source = Search(context)
    first, second = source.next(), source.next()
    assert first is not None
    assert second is not None
    view = StudyView(context.space, 10, tmp_path / "s" / "optuna.db")
    number, point = view.ask() or (None, None)
    view.close()
    context.ledger.commit(first.key, killed_study.outcome_of(first))
    Search(context)
    config = context.ledger.config("trials/000002") or {}
    assert (config["number"], config["params"], config["seen"]) == (number, point, [])
    assert Found.in_folder(tmp_path / "s").told[0][1] == "COMPLETE"
