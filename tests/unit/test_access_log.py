"""The log of accesses to test: once per study and access, over all studies, through torn lines and deletions (S29)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_folder import Plan, write_study

from study.access_log import Reads, access_id, append_access, log_path, prepare_log, reads_of_test
from study.durable import read_json, read_lines, replace_json
from study.errors import EnvironmentFault
from study.ledger import Ledger
from study.results import load
from study.stages.access import write_access

SPLIT = "ab12" * 16
ROOT = Path(__file__).parents[2]


def access(**changes):
    return {"specification": "0a1b2c3d", "split_hash": SPLIT, "students": [1, 2], "epsilons": [0.1], **changes}


def study(root: Path, name: str, identity: str | None = None):
    stated = {"split_hash": SPLIT} | ({"id": identity} if identity else {})
    replace_json(root / name / "study.json", stated)
    notes: list[str] = []
    return SimpleNamespace(
        ledger=Ledger(root / name),
        space=SimpleNamespace(study=SimpleNamespace(name=name)),
        facts=SimpleNamespace(split_hash=SPLIT),
        observer=SimpleNamespace(note=notes.append, notes=notes),
    )


def reads(context) -> Reads:
    folder = context.ledger.root
    return reads_of_test(folder, read_json(folder / "study.json") or {}, context.ledger.events())


def test_an_access_is_logged_once_however_often_it_is_resumed(tmp_path):
    first = study(tmp_path, "first", "one")
    for _ in range(3):
        write_access(first, access())
    lines = list(read_lines(log_path(tmp_path, SPLIT)))
    assert [(line["study"], line["name"], line["students"]) for line in lines] == [("one", "first", [1, 2])]
    assert lines[0]["access"] == access_id(access())
    assert log_path(tmp_path, SPLIT) == tmp_path / ".test-log" / "ab12ab12ab12ab12.jsonl"
    assert len(first.observer.notes) == 1
    assert sum(event["type"] == "test_access" for event in first.ledger.events()) == 1
    assert reads(first) == Reads(1, 1, 1)


@pytest.mark.parametrize(
    "change", [{"specification": "ffffffff"}, {"students": [1, 3]}, {"students": [2, 1]}, {"images": 16}]
)
def test_any_other_specification_or_models_are_a_new_access(tmp_path, change):
    first = study(tmp_path, "first", "one")
    write_access(first, access())
    write_access(first, access(**change))
    assert reads(first) == Reads(2, 2, 1)
    assert first.observer.notes[-1].startswith(
        "test is read: access 2 of this study; with it, 1 study has read this test set (split ab12ab12ab12) in 2 access"
    )


def test_the_log_outlives_a_study_and_counts_its_successor(tmp_path):
    write_access(study(tmp_path, "first", "one"), access())
    shutil.rmtree(tmp_path / "first")
    again = study(tmp_path, "first", "two")
    write_access(again, access())
    assert reads(again) == Reads(1, 2, 2)
    assert "2 studies have read this test set" in again.observer.notes[0]
    assert "in 2 accesses, see .test-log/ab12ab12ab12ab12.jsonl in the results folder" in again.observer.notes[0]
    assert str(tmp_path) not in again.observer.notes[0]


def test_another_split_is_another_log(tmp_path):
    first, other = study(tmp_path, "first", "one"), study(tmp_path, "other", "two")
    replace_json(tmp_path / "other" / "study.json", {"id": "two", "split_hash": "cd" * 32})
    write_access(first, access())
    write_access(other, access(split_hash="cd" * 32))
    assert reads(first) == reads(other) == Reads(1, 1, 1)
    assert len(list((tmp_path / ".test-log").iterdir())) == 2


@pytest.mark.parametrize("tail", [b'{"study": "dead", "acc', b"\xff\xfe", b"[1, 2]", b'{"study": 3, "access": []}\n'])
def test_a_torn_or_foreign_line_costs_only_itself(tmp_path, tail):
    write_access(study(tmp_path, "first", "one"), access())
    path = log_path(tmp_path, SPLIT)
    with path.open("ab") as stream:
        stream.write(tail)
    second = study(tmp_path, "second", "two")
    write_access(second, access())
    assert reads(second) == Reads(1, 2, 2)
    assert json.loads(path.read_bytes().splitlines()[-1])["study"] == "two"


def test_a_kill_between_log_and_event_is_one_access(tmp_path):
    first = study(tmp_path, "first", "one")
    append_access(tmp_path, "one", "first", access())  # and then the driver dies
    write_access(first, access())
    assert reads(first) == Reads(1, 1, 1)
    assert len(list(read_lines(log_path(tmp_path, SPLIT)))) == 1
    assert sum(event["type"] == "test_access" for event in first.ledger.events()) == 1


def test_studies_from_before_the_log_are_counted_by_their_events(tmp_path):
    old = study(tmp_path, "old")
    for number in range(3):
        old.ledger.event("test_access", **access(specification=str(number)))
    new = study(tmp_path, "new", "one")
    write_access(new, access())
    assert reads(new) == Reads(1, 4, 2)
    assert reads(old) == Reads(3, 4, 2)
    replace_json(tmp_path / "old" / "study.json", {"split_hash": SPLIT, "id": "two"})  # it is resumed: it gets an id
    write_access(old, access(specification="2"))
    assert old.observer.notes == []  # the same access as then
    assert reads(old) == Reads(3, 4, 2)


def test_a_copied_folder_is_the_same_study(tmp_path):
    write_access(study(tmp_path, "first", "one"), access())
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    assert reads(study(tmp_path, "second", "two")) == Reads(0, 1, 1)


APPENDING = """
import sys
from pathlib import Path
from study.access_log import append_access
for number in range(25):
    access = {"specification": str(number), "split_hash": sys.argv[3], "students": list(range(400))}
    append_access(Path(sys.argv[1]), sys.argv[2], sys.argv[2], access)
"""


def test_concurrent_studies_lose_no_line(tmp_path):
    command = [sys.executable, "-c", APPENDING, str(tmp_path)]
    workers = [subprocess.Popen([*command, name, SPLIT], cwd=ROOT) for name in "abc"]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    lines = log_path(tmp_path, SPLIT).read_bytes().splitlines()
    assert len(lines) == len({(json.loads(line)["study"], json.loads(line)["access"]) for line in lines}) == 75


def test_a_line_is_on_disk_before_the_call_returns(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    assert append_access(tmp_path, "one", "first", access())
    assert log_path(tmp_path, SPLIT).stat().st_size in synced


def test_without_a_log_nothing_is_read(tmp_path):
    (tmp_path / ".test-log").write_text("in the way")
    context = study(tmp_path, "first", "one")
    with pytest.raises(EnvironmentFault, match="Every access to test is logged beside"):
        write_access(context, access())
    assert list(context.ledger.events()) == []
    with pytest.raises(EnvironmentFault, match=r"Every access to test is logged beside the studies, but .* cannot be"):
        prepare_log(tmp_path)


@pytest.mark.parametrize("is_dangling", [False, True])
def test_an_access_is_not_logged_through_a_link(tmp_path: Path, is_dangling: bool) -> None:
    first, elsewhere = study(tmp_path, "first", "one"), tmp_path / "mine.txt"
    if not is_dangling:
        elsewhere.write_text("mine")
    path = log_path(tmp_path, SPLIT)
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        write_access(first, access())
    assert not elsewhere.exists() if is_dangling else elsewhere.read_text() == "mine"


def test_reads_of_test_are_counted_over_the_studies_of_one_split(tmp_path: Path) -> None:
    first = write_study(tmp_path, Plan(name="first", stages=("robustness",)))
    write_study(tmp_path, Plan(name="second", stages=("robustness",), seed=1))
    other = write_study(tmp_path, Plan(name="other", stages=("robustness",), seed=2))
    replace_json(other / "study.json", (read_json(other / "study.json") or {}) | {"split_hash": "another"})
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "study.json").write_text("{")
    found = load(first)
    assert reads_of_test(found.path, found.study, found.events) == Reads(1, 2, 2)
