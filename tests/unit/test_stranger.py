"""A results folder from somebody else can be shown and reported, and nothing in it is run, nor could it be."""

import ast
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nodekd.checkpoint import load_weights
from nodekd.errors import CheckpointError
from nodekd.savepoint import Savepoint
from study.errors import SpaceError
from study.space.reader import read_space
from tests.checked_folder import CHECKS
from tests.strange_folder import PLAN, RECORD, SHARD, STUDENT, look, write_strange
from tests.study_folder import SPECIFICATION, TEACHER, attacked

ROOT = Path(__file__).parents[2]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_strange(tmp_path / "results")


def planted(folder: Path, marker: Path) -> list[Path]:
    """Put a trap into every file whose format can hold one, and into some that nobody would look for one in."""
    trap = pickle.dumps(Trap(marker))
    names = [
        *(f"trials/000001/{name}" for name in ("weights.pt", "checkpoint/generation-0.pt", "log.txt")),
        *(f"teachers/{TEACHER}/{name}" for name in ("weights.pt", "logits.pt")),
        *("trials.parquet", "history.parquet", "robustness.parquet", "tuner.pkl", "searcher-state-1.pkl"),
        *(f"robustness/student-{trial:06d}/{SPECIFICATION}-000/survivors.npz" for trial in attacked(PLAN)),
        f"{RECORD}/record.npz",
        f"robustness/teacher-{TEACHER}/{SPECIFICATION}-checks-{CHECKS}/diagnosis.npz",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(trap)
    objects = np.empty(2, object)
    objects[:] = Trap(marker)
    np.savez(folder / SHARD / "survivors.npz", image_id=objects, columns=objects)
    np.savez(folder / f"robustness/{STUDENT}/{SPECIFICATION}-checks-{CHECKS}/diagnosis.npz", image_id=objects)
    (folder / "space.yaml").write_text(f"space: !!python/object/apply:os.mkdir ['{marker}']\n")
    return [folder / name for name in names]


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").is_dir()
    objects = np.empty(1, object)
    objects[:] = Trap(tmp_path / "again")
    np.savez(tmp_path / "a.npz", objects)
    np.load(tmp_path / "a.npz", allow_pickle=True)["arr_0"]
    assert (tmp_path / "again").is_dir()


def test_nothing_that_is_planted_runs(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "sprung"
    planted(study, marker)
    said = look(study, capsys)
    assert not marker.exists()
    for name in (f"{STUDENT}/{SPECIFICATION}-000", f"{STUDENT}/{SPECIFICATION}-record", f"{SPECIFICATION}-checks-"):
        assert f"{name}" in said  # named as left out
    assert "allow_pickle=False" in said
    with pytest.raises(SpaceError, match=r"space\.yaml:1:8 YAML tags"):
        read_space(study / "space.yaml")
    assert not marker.exists()


def test_going_on_with_a_strangers_study_reads_its_networks_without_running_them(tmp_path: Path) -> None:
    marker = tmp_path / "sprung"
    for wrap in (lambda trap: trap, lambda trap: {"run": "x", "state": trap}):
        torch.save(wrap(Trap(marker)), tmp_path / "weights.pt")
        assert not marker.exists()
        with pytest.raises(CheckpointError, match="it cannot be read as one"):
            load_weights(nn.Linear(2, 2), tmp_path / "weights.pt")
        assert Savepoint(tmp_path / "weights.pt", "x").load() is None
    assert not marker.exists()


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "joblib.load"),
    *("marshal.load", "marshal.loads", "shelve.open", "dill.load", "dill.loads", "pd.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "tune.Tuner.restore", "Tuner.restore"),
}


def unsafe(source: str) -> list[str]:
    """Name the calls of a source that may run what a file holds."""
    found = []
    for name, call in calls(ast.parse(source)):
        options = {each.arg: ast.unparse(each.value) for each in call.keywords}
        is_open = name == "YAML" and options.get("typ") not in ("'rt'", "'safe'")
        if name in FORBIDDEN or options.get("shell") == "True" or is_open:
            found.append(name)
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append(name)
        if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("source", "is_unsafe"),
    [
        *(
            ("torch.load(p)", True),
            ("torch.load(p, weights_only=False)", True),
            ("torch.load(p, weights_only=x)", True),
        ),
        *(("np.load(p)", True), ("np.load(p, allow_pickle=True)", True), ("np.load(p, allow_pickle=False)", False)),
        *(("pickle.load(f)", True), ("model.eval()", False), ("eval(text)", True), ("run(x, shell=True)", True)),
        *(("YAML(typ='unsafe').load(f)", True), ("YAML(typ='rt', pure=True)", False), ("Tuner.restore(p)", True)),
    ],
)
def test_the_search_for_unsafe_calls_finds_them(source: str, is_unsafe: bool) -> None:
    assert bool(unsafe(source)) == is_unsafe


def test_no_source_can_run_what_a_file_holds() -> None:
    sources = [*(ROOT / "study").rglob("*.py"), *(ROOT / "nodekd").rglob("*.py")]
    assert len(sources) > 200
    assert {path.name: found for path in sources if (found := unsafe(path.read_text(encoding="utf-8")))} == {}
    imports = [line for path in sources for line in path.read_text(encoding="utf-8").splitlines() if "pickle" in line]
    assert not [line for line in imports if line.strip().startswith(("import", "from"))]
