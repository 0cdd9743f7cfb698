"""The page on warnings says what the rules say, and its measured tables are those of the committed measurement."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from study.checks.false_alarms import FALSE_ALARMS
from study.checks.rules import RULES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "warnings.md").read_text(encoding="utf-8")
MEASURED = json.loads(sorted((ROOT / "benchmarks").glob("false_alarms_*.json"))[-1].read_text(encoding="utf-8"))
ENTRIES = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE, flags=re.M | re.S))


def test_there_is_an_entry_for_every_rule_and_no_other() -> None:
    assert sorted(ENTRIES) == sorted(RULES)


@pytest.mark.parametrize("identifier", list(RULES))
def test_an_entry_names_the_rule_and_says_when_and_what_to_do(identifier: str) -> None:
    entry = ENTRIES[identifier]
    assert entry.lower().startswith(f"*{RULES[identifier].name}.*")
    assert re.search(r"Do:\s", entry), "what to do"
    assert len(entry.split()) > 19, "when it is raised and what it means"


def row(identifier: str) -> list[str]:
    (found,) = re.findall(rf"^\| {re.escape(identifier)} \|(.*)\|$", PAGE, flags=re.M)
    return [cell.strip() for cell in found.split("|")]


@pytest.mark.parametrize("identifier", list(MEASURED["rates"]))
def test_the_table_of_false_alarms_is_the_measurement(identifier: str) -> None:
    of = MEASURED["rates"][identifier]
    limits, shares, spoke = row(identifier)
    for limit in (RULES[identifier].warn, RULES[identifier].fail):
        assert limit is None or f"{limit:g}" in limits
    assert shares == (f"{of['count']} of {of['n']}" if RULES[identifier].counted and of["n"] else "")
    assert spoke == f"{of['spoke']} of {of['asked']}"


def test_every_rule_was_measured_on_at_least_twenty_students() -> None:
    assert set(MEASURED["rates"]) == set(RULES)
    for identifier in RULES:
        asked = [
            each["student"]
            for each in MEASURED["rows"]
            if each["dose"] is None and any(identifier in checks for checks in each["checks"].values())
        ]
        assert len(set(asked)) >= 20, identifier


DOSED = [each for each in MEASURED["rows"] if each["dose"] is not None]


@pytest.mark.parametrize("measured", DOSED, ids=lambda each: f"{each['dose']}-{each['amount']:g}")
def test_the_table_of_doses_is_the_measurement(measured: dict[str, Any]) -> None:
    (checks,) = measured["checks"].values()
    words = {"warn": "warns", "fail": "fails"}
    spoke = [f"{name} {words[each['verdict']]}" for name, each in checks.items() if each["verdict"] in words]
    line = f"| {measured['dose']} | {measured['amount']:g} | {measured['solver']} | {', '.join(spoke) or 'none'} |"
    assert line in PAGE.splitlines()


def test_the_page_names_what_no_dose_moves() -> None:
    moved = {
        name
        for each in DOSED
        for checks in each["checks"].values()
        for name, said in checks.items()
        if said["verdict"] in ("warn", "fail")
    }
    still = ", ".join(name for name in RULES if name not in moved)
    assert f"What none of these moves ({still})" in re.sub(r"\s+", " ", PAGE)


def test_the_rates_in_force_are_the_measured_ones() -> None:
    counted = {name: of["rate"] for name, of in MEASURED["rates"].items() if RULES[name].counted and of["rate"]}
    assert pytest.approx(counted) == FALSE_ALARMS
    healthy = {each["student"] for each in MEASURED["rows"] if each["dose"] is None}
    assert len(healthy) >= 20
