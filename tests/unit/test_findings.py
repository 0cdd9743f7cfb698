"""What docs/findings.md says is what the committed reference runs hold."""

import re
import tarfile
from pathlib import Path

import pytest

from study.comparisons import contrast_gain
from study.designs import design
from study.results import Results, load

ROOT = Path(__file__).parents[2]
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
RUNS = sorted(path.parent.name for path in (ROOT / "results").glob("reference-*/study.tar.xz"))
TRIALS = {"reference-chu-digits": 195, "reference-damped-digits": 195, "reference-feed-digits": 69}


def unpacked(tmp_path: Path, run: str) -> Results:
    with tarfile.open(ROOT / "results" / run / "study.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return load(tmp_path / run)


def points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def test_every_system_has_its_run_with_figures() -> None:
    assert set(TRIALS) == set(RUNS)
    for run in RUNS:
        assert len(list((ROOT / "results" / run / "figures").glob("*.svg"))) > 5
        assert f"`results/{run}`" in FINDINGS


@pytest.mark.parametrize("run", RUNS)
def test_the_named_contrast_is_the_one_that_is_told(tmp_path: Path, run: str) -> None:
    results = unpacked(tmp_path, run)
    assert results.state == "complete"
    assert len(results.trials) == TRIALS[run]
    assert (results.trials["state"] == "COMPLETE").all()
    found = contrast_gain(design(results))
    assert found is not None
    mean = found.over_seeds.difference
    told = f"{points(mean.value)} ({points(mean.low)} to {points(mean.high)}; detectable"
    assert f"{told} {100 * found.over_seeds.detectable:.1f})" in FINDINGS


@pytest.mark.parametrize("run", RUNS)
def test_an_archive_holds_plain_files_that_name_no_machine(run: str) -> None:
    with tarfile.open(ROOT / "results" / run / "study.tar.xz") as archive:
        members = [member for member in archive if member.isfile()]
        assert not [m.name for m in members if m.name.endswith((".pt", "lease.json", "driver.lock", "log.txt"))]
        for member in members:
            if member.name.endswith((".json", ".jsonl", ".yaml")):
                stream = archive.extractfile(member)
                assert stream is not None
                assert not re.search(rb"/tmp/|/root/|/home/|\"host", stream.read()), member.name
