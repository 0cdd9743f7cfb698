"""What docs/scale.md says was measured is what the committed figures are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
ROWS = json.loads(sorted((ROOT / "benchmarks").glob("stub_trials_*.json"))[-1].read_text(encoding="utf-8"))["rows"]
ASKS = {sampler: times for row in ROWS for sampler, times in row.get("asks", {}).items()}
NAMES = {"random": "random", "QMC": "qmc", "NSGA-II": "nsga2", "TPE": "tpe"}


def cells(label: str) -> list[str]:
    (line,) = re.findall(rf"^\| {re.escape(label)} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


@pytest.fixture
def run() -> dict[str, Any]:
    """The 10,000 trials through Ray."""
    (row,) = (row for row in ROWS if (row.get("engine"), row.get("trials")) == ("ray", 10_000))
    return row


def test_every_sampler_that_was_timed_has_its_times() -> None:
    assert set(NAMES.values()) == set(ASKS)
    for label, sampler in NAMES.items():
        told = [cell.removesuffix(" ms") for cell in cells(label)]
        places = len(told[0].partition(".")[2])
        assert told == [f"{1000 * ASKS[sampler][count]:.{places}f}" for count in ("1000", "5000", "10000")], label


def test_what_a_trial_costs_and_the_memory_with_its_peak_are_those_of_the_run(run: dict[str, Any]) -> None:
    early, late = run["windows"]["early"], run["windows"]["late"]
    for label, key in (("engine and ledger", "orchestration_slot_s"), ("sampler's ask and tell", "sampler_slot_s")):
        assert cells(f"{label}, slot-seconds")[:2] == [f"{each[key]:.3f}" for each in (early, late)]
    memory = [f"{each['driver_rss_mb'] / 1000:.1f} GB" for each in (early, late)]
    assert cells("driver's memory")[:2] == memory
    assert f"peaks at {run['peak_driver_rss_mb'] / 1000:.2f} GB" in PAGE
