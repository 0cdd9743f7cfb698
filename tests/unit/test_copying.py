"""A copy is a study or nothing: what goes, what stays, what comes last, and what happens if it is torn."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from study import copying, driver
from study.copying import IDENTITY, Target, copy_study, files_of, open_target
from study.errors import EnvironmentFault
from study.identity import write_identity
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.space.reader import read_space

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"

KEPT = {
    "space.yaml": "space",
    "events.jsonl": "{}\n",
    "trials/000000/outcome.json": "{}",
    "trials/000000/attempts/01/lease.json": "{}",
    "optuna.db": "rows",
    "empty": "",
}
LEFT = {
    "driver.lock": "1",
    "pause": "",
    "optuna.db-wal": "w",
    "optuna.db-shm": "s",
    "trials/000000/checkpoint/generation-0.pt": "big",
    "trials/000001/outcome.json.ab12.tmp": "half",
    ".probe-1/x": "x",
}


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    for name, text in {**KEPT, **LEFT, IDENTITY: json.dumps({"id": "a1", "name": "kd"})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("not the study's")
    (folder / "elsewhere").symlink_to(tmp_path / "other")
    (folder / "trials" / "link.json").symlink_to(folder / IDENTITY)
    return folder


@pytest.fixture(params=["file", "subtree", "mock"])
def target(request, tmp_path):
    """A folder by its address, a part of a file system, and one in memory."""
    (tmp_path / "archive").mkdir()
    match request.param:
        case "file":
            return open_target(f"file://{tmp_path}/archive/kd")
        case "subtree":
            return Target(fs.SubTreeFileSystem(str(tmp_path / "archive"), fs.LocalFileSystem()), "kd", "subtree:kd")
        case _:
            return Target(fs._MockFileSystem(), "bucket/kd", "mock:///bucket/kd")


def content(target):
    found = target.filesystem.get_file_info(fs.FileSelector(target.path, recursive=True))
    start = len(target.path) + 1
    files = [info.path[start:] for info in found if info.type == fs.FileType.File]
    return {name: target.filesystem.open_input_stream(target.at(name)).read().decode() for name in files}


def written(monkeypatch):
    """Note what is written, in order."""
    names, copy = [], copying._copy_file

    def noting(folder, target, name):
        names.append(name)
        copy(folder, target, name)

    monkeypatch.setattr(copying, "_copy_file", noting)
    return names


def test_everything_of_worth_goes_and_the_identity_goes_last(study, target, monkeypatch):
    names = written(monkeypatch)
    target.filesystem.create_dir(target.path, recursive=True)
    copied = copy_study(study, target)
    assert content(target) == {**KEPT, IDENTITY: (study / IDENTITY).read_text()}
    assert names[-1] == IDENTITY
    assert set(files_of(study)) == set(KEPT)
    sizes = [len(text) for text in content(target).values()]
    assert (copied.files, copied.bytes, copied.unchanged) == (len(KEPT) + 1, sum(sizes), 0)


def test_what_is_there_is_not_copied_again_and_what_changed_is(study, target, monkeypatch):
    target.filesystem.create_dir(target.path, recursive=True)
    copy_study(study, target)
    names = written(monkeypatch)
    assert copy_study(study, target).files == 0
    assert names == []
    (study / "space.yaml").write_text("SPACE")  # of the same length
    copied = copy_study(study, target)
    assert names == ["space.yaml", IDENTITY]
    assert (copied.files, copied.unchanged) == (2, len(KEPT) - 1)
    assert content(target)["space.yaml"] == "SPACE"


def test_a_torn_copy_is_no_study_and_is_continued(study, target, monkeypatch):
    """Also the second copy of a study, whose identity was there."""
    target.filesystem.create_dir(target.path, recursive=True)
    copy_study(study, target)
    for name in ("space.yaml", "events.jsonl"):
        (study / name).write_text("changed")
    copy = copying._copy_file

    def torn(folder, target, name):
        if name == "space.yaml":
            raise OSError(28, "No space left on device")
        copy(folder, target, name)

    with monkeypatch.context() as patch:
        patch.setattr(copying, "_copy_file", torn)
        with pytest.raises(EnvironmentFault, match=r"was not finished: \[Errno 28\] No space left.*continues it"):
            copy_study(study, target)
    assert IDENTITY not in content(target)
    assert copy_study(study, target).files >= 2
    assert content(target)["space.yaml"] == "changed"
    assert IDENTITY in content(target)


def test_another_study_there_is_left_alone(study, tmp_path):
    uri = f"file://{tmp_path}/archive"
    copy_study(study, open_target(uri, "a1"))
    for other in ("b2", None):
        with pytest.raises(EnvironmentFault, match="holds another study, 'kd'"):
            open_target(uri, other)
    assert open_target(uri, "a1").path == f"{tmp_path}/archive"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nowhere://bucket/kd", "file, s3, gs, abfs, hdfs"),
        ("not an address", "but got 'not an address'"),
        ("file:///proc/kd", "cannot: "),
    ],
)
def test_a_target_that_cannot_be_is_told_before_the_study(uri, said):
    with pytest.raises(EnvironmentFault, match=said):
        open_target(uri)


def test_the_check_leaves_nothing_behind(tmp_path):
    open_target(f"file://{tmp_path}/archive")
    assert list((tmp_path / "archive").iterdir()) == []


def test_a_target_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(copying, "PATIENCE_S", 0.2)
    monkeypatch.setattr(copying, "_opened", lambda *_: __import__("time").sleep(5))
    with pytest.raises(EnvironmentFault, match=r"did not answer within 0\.2 s"):
        open_target("s3://bucket/kd")


def test_names_with_blanks_and_umlauts_survive(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / IDENTITY).write_text('{"id": "a1"}')
    (folder / "größe eins.txt").write_text("x")
    target = open_target(Path(tmp_path / "archive").as_uri())
    copy_study(folder, target)
    assert (tmp_path / "archive" / "größe eins.txt").read_text() == "x"


# ---------------------------------------------------------------- the command


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """Return the order of a study that an earlier launch has finished, with a copy asked for."""
    monkeypatch.chdir(tmp_path)
    space = read_space(KD, [])
    order = Order(space, KD, "python -m study.launch", output=Path("s"), copy_to=f"file://{tmp_path}/archive/kd")
    ledger, facts = Ledger(Path("s")), driver.study_facts(space)
    Path("s").mkdir()
    write_identity(ledger, order, facts, ["teachers/x"], "none")
    ledger.event("launched")
    ledger.event("finished", space=space.document())
    return order


def test_a_complete_study_is_copied_by_the_same_command(complete, capsys, tmp_path):
    assert driver.drive(complete) == 0
    said = capsys.readouterr().out
    assert "nothing is left to do" in said
    assert f"to file://{tmp_path}/archive/kd, 0 unchanged" in said
    assert load(tmp_path / "archive" / "kd").state == "complete"
    assert driver.drive(complete) == 0
    assert "copied     0 files" in capsys.readouterr().out


def test_an_incomplete_study_is_not_copied(complete, capsys, tmp_path):
    ledger = Ledger(Path("s"))
    ledger.event("interrupted")
    driver._copy(complete, ledger, open_target(complete.copy_to))
    assert "the study is not complete" in capsys.readouterr().err
    assert list((tmp_path / "archive" / "kd").iterdir()) == []


def test_a_wrong_address_is_told_before_anything_starts(complete):
    with pytest.raises(EnvironmentFault, match="--copy-to takes the address"):
        driver.drive(replace(complete, copy_to="nowhere://x", validate=True))
