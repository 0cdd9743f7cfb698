"""Two copies of a study that went on apart are put together by copying, and every figure follows from both."""

import json
import shutil
from pathlib import Path

import pytest

from study.durable import plain
from study.results import load
from tests.strange_folder import write_strange


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_strange(tmp_path_factory.mktemp("whole") / "results")


def jobs(folder: Path) -> list[Path]:
    """Return the jobs of the robustness stage, below the study."""
    return sorted(path.parent.relative_to(folder) for path in folder.glob("robustness/*/*/outcome.json"))


def without(whole: Path, folder: Path, gone: list[Path]) -> Path:
    """Copy a study without some of its jobs."""
    shutil.copytree(whole, folder)
    for job in gone:
        shutil.rmtree(folder / job)
    return folder


def said(folder: Path) -> str:
    """Return all numbers of the attacked networks."""
    results = load(folder)
    rows = results.robustness.sort_values(["model", "epsilon"]).to_json(orient="records")
    return json.dumps(plain(results.summary()["robustness"]), sort_keys=True) + rows


@pytest.mark.parametrize("first", [0, 1])
def test_two_halves_make_the_whole(whole: Path, tmp_path: Path, first: int) -> None:
    every = jobs(whole)
    halves = [without(whole, tmp_path / str(half), every[half::2]) for half in (0, 1)]
    assert sorted({*jobs(halves[0]), *jobs(halves[1])}) == every
    for half in halves:
        assert said(half) != said(whole)
    shutil.copytree(halves[1 - first], halves[first], dirs_exist_ok=True)
    assert said(halves[first]) == said(whole)


@pytest.mark.parametrize(("part", "verdict", "n"), [("-001", "reliable", 40), ("-transfer-", "unreliable", 80)])
def test_what_a_half_lacks_is_seen(whole: Path, tmp_path: Path, part: str, verdict: str, n: int) -> None:
    def told(folder: Path) -> set[tuple[str, int]]:
        rows = load(folder).robustness
        own = rows[rows["model"] == "twin-000006"]
        return set(zip(own["verdict"], own["n"], strict=True))

    gone = [job for job in jobs(whole) if "twin-000006" in str(job) and part in job.name.removesuffix("-000")]
    assert len(gone) == 1
    assert told(whole) == {("reliable", 80)}
    assert told(without(whole, tmp_path / "half", gone)) == {(verdict, n)}
