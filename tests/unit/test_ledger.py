"""The ledger's promises: one outcome per job, nothing torn, nobody's work taken, nothing outside the folder."""

import errno
import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from study import lease
from study.durable import append_line, read_json, read_lines, replace_json
from study.errors import EnvironmentFault, ResumeConflict, StudyError
from study.ledger import Ledger

OUTCOME = {"state": "COMPLETE", "values": {"accuracy": 0.5, "adversarial_accuracy": 0.25}, "attempt": 1}


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "study")


def test_config_is_stored_and_may_be_written_again(ledger):
    given = {"number": 0, "params": {"alpha": 0.5}, "settings": {"student": {"sizes": (1, 2)}}}
    ledger.write_config("trials/000000", given)
    before = (ledger.folder("trials/000000") / "config.json").stat().st_mtime_ns
    ledger.write_config("trials/000000", given)
    assert ledger.config("trials/000000") == {**given, "settings": {"student": {"sizes": [1, 2]}}}
    assert (ledger.folder("trials/000000") / "config.json").stat().st_mtime_ns == before
    assert ledger.config("trials/000001") is None


def test_a_lease_that_a_power_cut_left_empty_is_nobodys(ledger):
    with ledger.begin("trials/000000") as attempt:
        assert ledger.lease_is_fresh("trials/000000")
        (attempt.folder / "lease.json").write_text("")
        assert not ledger.lease_is_fresh("trials/000000")
        attempt._ended.set()
        (attempt.folder / "lease.json").unlink()


def test_config_of_a_settled_job_cannot_change(ledger):
    ledger.write_config("front/000001", {"images": 10, "rule": "a"})
    ledger.write_config("front/000001", {"images": 20, "rule": "a"})
    ledger.commit("front/000001", OUTCOME)
    ledger.write_config("front/000001", {"images": 20, "rule": "a"})
    with pytest.raises(ResumeConflict, match="differs in images"):
        ledger.write_config("front/000001", {"images": 30, "rule": "a"})


def test_first_commit_counts(ledger):
    first = ledger.commit("trials/000000", {**OUTCOME, "metrics": {"nfe": np.float32(8), "loss": math.nan}})
    assert first["metrics"] == {"nfe": 8.0, "loss": None}
    assert first["key"] == "trials/000000"
    second = ledger.commit("trials/000000", {"state": "FAIL", "reason": "late"})
    assert second == first == ledger.outcome("trials/000000")
    assert [path.name for path in ledger.folder("trials/000000").iterdir()] == ["outcome.json"]


def _commit_once(root, number, barrier, queue):
    barrier.wait()
    queue.put(Ledger(root).commit("trials/000000", {"state": "FAIL", "reason": f"worker {number}"})["reason"])


def test_racing_workers_agree_on_one_outcome(ledger):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.Queue()
    racers = [context.Process(target=_commit_once, args=(ledger.root, n, barrier, queue)) for n in range(6)]
    for racer in racers:
        racer.start()
    told = {queue.get(timeout=20) for _ in racers}
    for racer in racers:
        racer.join()
    assert told == {ledger.outcome("trials/000000")["reason"]}


@pytest.mark.parametrize("state", ["RUNNING", None, "complete"])
def test_only_terminal_states_are_committed(ledger, state):
    with pytest.raises(ValueError, match="COMPLETE, PRUNED, FAIL"):
        ledger.commit("trials/000000", {"state": state})
    assert ledger.outcome("trials/000000") is None


@pytest.mark.parametrize(
    "key", ["../evil", "/etc", "trials/../../x", "trials//0", "", "a/./b", "a b", "trials/", "x\n"]
)
def test_keys_stay_inside_the_study(ledger, key):
    with pytest.raises(StudyError, match="job key"):
        ledger.folder(key)


def test_attempts_are_numbered_and_alive_only_inside_the_block(ledger):
    assert not ledger.lease_is_fresh("trials/000000")
    with ledger.begin("trials/000000") as first:
        assert first.number == 1
        assert ledger.lease_is_fresh("trials/000000")
        with ledger.begin("trials/000000") as second:
            assert second.number == 2
        assert ledger.lease_is_fresh("trials/000000")
    assert not ledger.lease_is_fresh("trials/000000")
    assert ledger.begin("trials/000000").folder.name == "03"


def test_attempt_ends_also_on_an_exception(ledger):
    with pytest.raises(SystemExit), ledger.begin("trials/000000"):
        raise SystemExit
    assert not ledger.lease_is_fresh("trials/000000")


def test_racing_attempts_get_different_numbers(ledger):
    numbers = []
    racers = [threading.Thread(target=lambda: numbers.append(ledger.begin("trials/0").number)) for _ in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(numbers) == list(range(1, 9))


def test_lease_is_touched_while_work_goes_on(ledger, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    with ledger.begin("trials/000000") as attempt:
        file = attempt.folder / "lease.json"
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 5
        while file.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 1


def test_silent_lease_of_another_machine_goes_stale(ledger):
    file = ledger.folder("trials/000000") / "attempts" / "01" / "lease.json"
    replace_json(file, {"pid": 1, "host": "elsewhere", "birth": "5"})
    assert ledger.lease_is_fresh("trials/000000")
    os.utime(file, (time.time() - 61, time.time() - 61))
    assert not ledger.lease_is_fresh("trials/000000", 60)
    assert ledger.lease_is_fresh("trials/000000", 120)


def test_a_lease_dated_in_the_future_is_not_waited_for_without_end(ledger):
    file = ledger.folder("trials/000000") / "attempts" / "01" / "lease.json"
    replace_json(file, {"pid": 1, "host": "elsewhere", "birth": "5"})
    for ahead, is_fresh in ((50, True), (10**6, False)):
        os.utime(file, (time.time() + ahead, time.time() + ahead))
        assert ledger.lease_is_fresh("trials/000000", 60) == is_fresh


def test_this_machines_clock_says_nothing_about_a_lease(ledger, monkeypatch):
    file = ledger.folder("trials/000000") / "attempts" / "01" / "lease.json"
    replace_json(file, {"pid": 1, "host": "elsewhere", "birth": "5"})
    now = time.time()
    for off in (-3600, 3600):
        monkeypatch.setattr(time, "time", lambda off=off: now + off)
        assert ledger.lease_is_fresh("trials/000000", 60)
    os.utime(file, (now - 3600, now - 3600))
    assert not ledger.lease_is_fresh("trials/000000", 60)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_explained(ledger, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with ledger.lock():
        pass
    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(EnvironmentFault, match=r"file system with locks.* --output\."), ledger.lock():
        pass
    assert ledger.driver() is None


_HOLD = """
import sys, time; from pathlib import Path; from study.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
with ledger.lock(), ledger.begin("trials/000000"):
    print("held", flush=True); time.sleep(60)
"""


def test_killed_worker_is_noticed_and_second_driver_refused(ledger):
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(ledger.root)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    assert ledger.lease_is_fresh("trials/000000")
    assert ledger.driver()["pid"] == str(holder.pid)
    with pytest.raises(EnvironmentFault, match=f"driven by process {holder.pid} on "), ledger.lock():
        pass
    holder.kill()
    holder.wait()
    assert not ledger.lease_is_fresh("trials/000000")
    assert ledger.driver() is None
    with ledger.lock():
        assert ledger.driver()["pid"] == str(os.getpid())
    holder.stdout.close()


def test_events_are_numbered_across_restarts_and_a_torn_line_is_dropped(ledger):
    ledger.event("launched", command="x")
    ledger.event("stage", stage="search")
    with (ledger.root / "events.jsonl").open("a") as stream:
        stream.write('{"seq": 2, "type": "ask')
    assert [event["type"] for event in ledger.events()] == ["launched", "stage"]
    again = Ledger(ledger.root)
    again.event("finished")
    lines = (ledger.root / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [0, 1, 2]
    assert lines[2].count("finished") == 1


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 9000])
def test_torn_line_of_any_length_is_cut(tmp_path, length):
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n' + "x" * length)
    append_line(path, {"a": 2})
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n'
    assert [line["a"] for line in read_lines(path)] == [1, 2]


def test_keys_lists_jobs_only(ledger):
    for key in ["trials/000001", "trials/000000", "robustness/student-000001/shard-000", "teachers/ab"]:
        ledger.write_config(key, {"a": 1})
    ledger.commit("baselines/classical", OUTCOME)
    ledger.begin("trials/000000")
    (ledger.folder("trials/000000") / "checkpoint").mkdir()
    replace_json(ledger.folder("trials/000000") / "checkpoint" / "config.json", {})
    (ledger.root / "front").mkdir()
    replace_json(ledger.root / "front" / "selection.json", {})
    assert ledger.keys("trials") == ["trials/000000", "trials/000001"]
    assert ledger.keys("robustness") == ["robustness/student-000001/shard-000"]
    assert ledger.keys("front") == ledger.keys("nowhere") == []
    assert len(ledger.keys()) == 5


def test_damaged_json_is_named(ledger):
    path = ledger.folder("trials/000000") / "outcome.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"state": "COMP')
    with pytest.raises(EnvironmentFault, match=r"outcome\.json is damaged"):
        ledger.outcome("trials/000000")
    path.write_text("[]")
    with pytest.raises(EnvironmentFault, match="must hold a JSON object"):
        ledger.outcome("trials/000000")


def test_file_system_without_links_is_explained(ledger, monkeypatch):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    with pytest.raises(EnvironmentFault, match="hard links"):
        ledger.commit("trials/000000", OUTCOME)


def test_replaced_file_is_never_seen_half_written(tmp_path):
    path, wrong, done = tmp_path / "a.json", [], threading.Event()
    replace_json(path, {"n": 0, "pad": "x" * 20000})

    def watch():
        while not done.is_set():
            try:
                document = read_json(path)
            except EnvironmentFault as fault:
                document = fault
            if not isinstance(document, dict) or len(document["pad"]) != 20000:
                wrong.append(document)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(200):
        replace_json(path, {"n": number, "pad": "x" * 20000})
    done.set()
    watcher.join()
    assert not wrong
