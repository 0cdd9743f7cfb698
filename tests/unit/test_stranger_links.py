"""Whoever looks at a stranger's study gives away no file of their own, and writes nowhere but into that folder."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from study import explore, show
from study.durable import append_line, own_file
from study.engine.job import Job
from study.errors import EnvironmentFault
from study.identity import write_identity
from study.jobs import execute, teacher
from study.jobs.work import Result, Work
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.sampling import _open_storage
from study.space.reader import read_space
from study.stages.context import Facts
from tests.made_up_world import KD, SIZES
from tests.strange_folder import RECORD, SHARD, look, write_strange
from tests.study_folder import write_json

SECRET = "what only the owner of this machine should see"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_strange(tmp_path / "results")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files of whoever looks, in the very formats that a study has, so that reading them would show."""
    place = tmp_path / "home"
    outcome = {"state": "COMPLETE", "reason": SECRET, "values": {"accuracy": 1.0}, "metrics": {"verdict": SECRET}}
    write_json(place / "trial" / "outcome.json", outcome)
    write_json(place / "trial" / "config.json", {"number": 3, "params": {"solver": SECRET}, "settings": {}})
    write_json(place / "outcome.json", outcome)
    (place / "lines.jsonl").write_text(json.dumps({"type": SECRET, "seq": 0, "epoch": 1, "accuracy": 0.5}) + "\n")
    (place / "page.html").write_text(SECRET)
    (place / "report").mkdir()
    return place


OPENED: list[str] = []
"""Files opened and folders listed while somebody watches, behind the links that were followed."""
_watching = False


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event not in ("open", "os.scandir", "os.listdir") or not arguments:
        return
    if isinstance(arguments[0], str | os.PathLike):
        path = Path(arguments[0])
        follows = not (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_NOFOLLOW)
        OPENED.append(os.path.realpath(path if follows else path.parent))


sys.addaudithook(_note)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    global _watching  # noqa: PLW0603 - an audit hook cannot be taken back
    OPENED.clear()
    _watching = True
    yield OPENED
    _watching = False


def state_of(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def linked(path: Path, target: Path) -> None:
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}-before"))
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_links_and_names_that_lead_out_are_not_followed(
    study: Path, outside: Path, watched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    escape = "../../home"
    for name in ("..%2f..%2fhome", "..;", "a b", "%2e%2e", "\u202e000009"):
        write_json(study / "trials" / name / "outcome.json", {"state": "COMPLETE", "values": {"accuracy": 1.0}})
    linked(study / "trials/000003", outside / "trial")
    linked(study / "trials/000004/outcome.json", outside / "outcome.json")
    linked(study / "trials/000002/history.jsonl", outside / "lines.jsonl")
    linked(study / "robustness/student-999999", outside / "trial")
    linked(study / SHARD / "survivors.npz", outside / "outcome.json")
    linked(study / f"{RECORD}/record.npz", outside / "outcome.json")
    linked(study / "events.jsonl", outside / "lines.jsonl")
    linked(study / "probes", outside)
    linked(study / "driver.lock", outside / "lines.jsonl")
    linked(study / "report/index.html", outside / "page.html")
    linked(study / "trials.parquet", outside / "table.parquet")
    document = json.loads((study / "study.json").read_text())
    document |= {"teachers": ["../../etc/passwd"], "split_hash": "../../home/lines", "id": "../../home"}
    write_json(study / "study.json", document)
    selection = json.loads((study / "front/selection.json").read_text())
    for name in ("candidates", "front", "attacked"):
        selection[name] = [*selection[name], escape, "../../etc/passwd", -1]
    write_json(study / "front/selection.json", selection)
    specification = json.loads((study / "robustness/specification.json").read_text())
    models = {**specification["models"], escape: "student", "../../../etc": "teacher"}
    write_json(study / "robustness/specification.json", specification | {"models": models})
    before = state_of(outside)

    watched.clear()
    said, seen = look(study, capsys), [*watched]
    assert SECRET not in said
    assert len(seen) > 100
    assert not [path for path in seen if Path(path).is_relative_to(outside)]
    assert state_of(outside) == before
    assert not (study / "report/index.html").is_symlink()
    assert not (study / "trials.parquet").is_symlink()
    assert "trials/000003" in said
    results = load(study)
    assert set(results.trials["trial"]) == set(range(10)) - {3}
    assert results.trials.set_index("trial").loc[4, "state"] == "UNFINISHED"
    assert {job for job in results.history["job"] if "000002" in job} == set()
    for name in ("'trials/000003'", "'trials/..%2f..%2fhome'", "'probes'", "'trials/a b'", "'trials/\\u202e000009'"):
        assert any(problem.startswith(name) for problem in results.problems), name


def test_a_whole_stage_that_is_a_link_is_not_followed(
    study: Path, outside: Path, watched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("front", "trials", "robustness", "teachers", "controls", "baselines"):
        linked(study / name, outside)
    assert show.main([str(study), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["complete"] == 0
    assert not [path for path in watched if Path(path).is_relative_to(outside)]


@pytest.mark.parametrize("name", ["report", "report/figures"])
def test_a_report_is_not_written_through_a_link(
    study: Path, outside: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    linked(study / name, outside / "report")
    assert explore.main([str(study), "--figures"]) == 4
    assert f"{study / name} must be a folder of the study, but is a symbolic link" in capsys.readouterr().err
    assert not [*(outside / "report").iterdir()]


def test_a_study_whose_identity_is_a_link_is_refused(
    study: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked(study / "study.json", outside / "outcome.json")
    assert show.main([str(study)]) == 4
    said = capsys.readouterr().err
    assert "symbolic link" in said
    assert SECRET not in said


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_launch_writes_nothing_through_links(
    study: Path, outside: Path, is_dangling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that a driver and a worker keep open, append to, or make folders in."""
    target, folder = (outside / ("new" if is_dangling else name) for name in ("lines.jsonl", "trial"))
    before = state_of(outside)
    ledger, key = Ledger(study), "trials/000004"

    def refused(name: str, to: Path, does: Callable[[], Any]) -> None:
        linked(study / name, to)
        with pytest.raises((OSError, EnvironmentFault), match="symbolic link"):
            does()
        assert state_of(outside) == before, name
        (study / name).unlink()

    refused("events.jsonl", target, lambda: ledger.event("launched"))
    refused("driver.lock", target, lambda: ledger.lock().__enter__())
    refused("optuna.db", target, lambda: _open_storage(study / "optuna.db"))
    for suffix in ("-journal", "-shm", "-wal"):
        refused(f"optuna.db{suffix}", target, lambda: _open_storage(study / "optuna.db"))
    refused(f"{key}/history.jsonl", target, lambda: append_line(study / key / "history.jsonl", {}))
    (study / key / "outcome.json").unlink()
    monkeypatch.setitem(execute.RUNNERS, "stub", lambda work: Result(metrics={}))
    job = Job(str(study), key, "stub")
    refused(f"{key}/log.txt", target, lambda: execute.execute(job))
    refused(f"{key}/attempts", folder, lambda: execute.execute(job))
    refused(f"{key}/attempts", folder, lambda: ledger.reopen(key))
    refused(f"{key}/checkpoint", folder, lambda: Work(ledger, key, {}, "cpu").savepoint())
    execute.execute(job)
    assert (ledger.outcome(key) or {})["state"] == "COMPLETE", "without links it is done"


@pytest.mark.parametrize("name", ["lines.jsonl", "new"])
def test_a_lock_that_is_a_link_is_told(study: Path, outside: Path, name: str) -> None:
    linked(study / "driver.lock", outside / name)
    with pytest.raises(EnvironmentFault, match=r"driver\.lock is not: a symbolic link, which is not followed"):
        Ledger(study).lock().__enter__()


def test_a_space_is_not_written_through_a_dangling_link(study: Path, outside: Path) -> None:
    before, space = state_of(outside), read_space(KD, [])
    linked(study / "space.yaml", outside / "new")
    facts = Facts(10, "f" * 64, SIZES, 1)
    write_identity(Ledger(study), Order(space, KD, "python -m study.launch"), facts, [], "none")
    assert state_of(outside) == before
    assert not (study / "space.yaml").is_symlink()
    assert (study / "space.yaml").read_bytes() == KD.read_bytes()


def test_logits_and_weights_are_not_written_through_links(
    study: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, folder = state_of(outside), study / "teachers" / "new"
    for name in ("logits.pt", "weights.pt"):
        linked(folder / name, outside / "lines.jsonl")
    measured = SimpleNamespace(accuracy=0.9, logits=torch.zeros(2, 2))
    for name, value in {"teacher_of": nn.Sequential(nn.Linear(2, 2)), "_obtain": {}, "evaluate": measured}.items():
        monkeypatch.setattr(teacher, name, lambda *_, value=value: value)
    monkeypatch.setattr(teacher, "logit_table", lambda *_: torch.ones(3))
    monkeypatch.setattr(teacher, "small_enough", lambda _: True)
    splits = dict.fromkeys(("train", "val_search", "val_front"), (1, 2))
    dataset = SimpleNamespace(splits=splits, augmentation=None)
    settings = {"arch": "resnet20", "seed": 0}
    work = SimpleNamespace(folder=folder, payload={"settings": settings}, device="cpu", dataset=lambda *_: dataset)
    teacher.run_teacher(cast("Work", work))
    assert state_of(outside) == before
    assert torch.equal(torch.load(folder / "logits.pt", weights_only=True), torch.ones(3))


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_lock_or_log_is_not_waited_for(study: Path) -> None:
    for name in ("driver.lock", "events.jsonl", "trials/000004/log.txt"):
        (study / name).unlink(missing_ok=True)
        os.mkfifo(study / name)
        with pytest.raises(OSError, match=r"no plain file|No such device"):
            own_file(str(study / name), os.O_WRONLY | os.O_APPEND)
    with pytest.raises(EnvironmentFault, match=r"driver\.lock is not: it is no plain file"):
        Ledger(study).lock().__enter__()


@pytest.mark.parametrize(
    "name", ["trials/000004/outcome.json", "driver.lock", "events.jsonl", f"{SHARD}/survivors.npz"]
)
@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(study: Path, name: str) -> None:
    (study / name).unlink(missing_ok=True)
    os.mkfifo(study / name)
    assert len(load(study).trials) == 10


def test_a_folder_that_is_itself_reached_by_a_link_is_a_study(study: Path, tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(study)
    results = load(tmp_path / "shortcut")
    assert len(results.trials) == 10
    assert results.problems == load(study).problems


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "1" * 5000, '{"state": 1' + "0" * 5000 + "}"])
def test_hostile_documents_are_left_out(study: Path, text: str) -> None:
    (study / "trials/000004/outcome.json").write_text(text)
    (study / "trials/000004/history.jsonl").write_text(text)
    (study / "front/selection.json").write_text(text)
    results = load(study)
    assert sum("damaged" in problem or "must hold" in problem for problem in results.problems) == 2


def test_outcomes_where_no_job_is_are_passed_over(study: Path) -> None:
    before = load(study)
    outcome = {"state": "COMPLETE", "metrics": {}, "values": {"accuracy": 1.0, "adversarial_accuracy": 1.0}}
    for name in ("", "trials", "front", "robustness", "robustness/x", "robustness/a/b/c", "probes", "baselines"):
        write_json(study / name / "outcome.json", outcome)
    results = load(study)
    assert len(results.trials) == len(before.trials)
    assert results.robustness.equals(before.robustness)
    assert "." not in Ledger(study).keys("")


def test_keys_cannot_leave_the_study(study: Path) -> None:
    for key in ("../x", "trials/../../x", "/etc", "trials//x", ".hidden", "trials/..%2f"):
        with pytest.raises(Exception, match="A job key is a path"):
            Ledger(study).folder(key)
    (study / "trials/000777").symlink_to("/tmp")
    with pytest.raises(EnvironmentFault, match="000777 is a symbolic link, which is not followed"):
        Ledger(study).outcome("trials/000777")
    assert "trials/000777" in Ledger(study).strays()
