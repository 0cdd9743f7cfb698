"""What a kill leaves beside a file that was being written: under a name of its own, and taken along by nobody."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from nodekd.savepoint import write_archive
from study.copying import files_of
from study.durable import link_json_once, link_or_copy, replace_bytes, replace_json
from study.jobs.arrays import write_arrays
from study.ledger import Ledger
from study.stages import fork, teachers
from study.stages.context import Context

KEY = "teachers/0123456789abcdef"


class Killed(BaseException):
    """Stands for SIGKILL."""


def link(path: Path) -> None:
    (path.parents[3] / "source").write_text("whole")
    link_or_copy(path.parents[3] / "source", path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "archive": lambda path: write_archive({"weight": torch.ones(2)}, path),
    "arrays": lambda path: write_arrays(path, bits=np.ones(2)),
    "json": lambda path: replace_json(path, {"a": 1}),
    "json once": lambda path: link_json_once(path, {"a": 1}),
    "bytes": lambda path: replace_bytes(path, b"whole"),
    "link": link,
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Callable[[Path], Any]:
    return WRITERS[request.param]


@pytest.fixture
def folder(tmp_path: Path, write: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's folder in which two workers with equal process ids were killed before a file got its name."""
    folder = tmp_path / "study" / KEY
    folder.mkdir(parents=True)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 4711)
        for name in ("replace", "hardlink_to"):
            patch.setattr(Path, name, killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        for _ in range(2):
            with pytest.raises(Killed):
                write(folder / "weights.pt")
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_two_workers_never_share_a_name(folder: Path) -> None:
    assert len(names(folder)) == 2
    assert all(name.startswith("weights.pt.") and name.endswith(".tmp") for name in names(folder))


def test_it_is_not_copied_forked_or_offered_to_other_studies(
    folder: Path, write: Callable[[Path], Any], tmp_path: Path
) -> None:
    write(folder / "weights.pt")
    assert len(names(folder)) == 3
    assert list(files_of(tmp_path / "study")) == [f"{KEY}/weights.pt"]
    (tmp_path / "fork").mkdir()
    fork._take_files(folder, tmp_path / "fork")
    assert names(tmp_path / "fork") == {"weights.pt"}
    context = cast("Context", SimpleNamespace(ledger=Ledger(tmp_path / "study")))
    teachers.give_to_cache(context, KEY)
    assert names(tmp_path / teachers.CACHE / Path(KEY).name) == {"weights.pt"}


def test_a_write_that_fails_leaves_nothing(
    write: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no room")

    for name in ("replace", "hardlink_to"):
        monkeypatch.setattr(Path, name, full)
    (tmp_path / "study" / KEY).mkdir(parents=True)
    with pytest.raises(OSError, match="no room"):
        write(tmp_path / "study" / KEY / "weights.pt")
    assert not names(tmp_path / "study" / KEY)
