"""A whole study whose epsilon is settled by the pilot, and the same one resumed and begun anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_study import KD, brief_attacks, order

from nodekd.attacks.catalog import EPSILONS
from nodekd.attacks.spec import APGD_CE
from study import driver
from study.access_log import Reads, reads_of_test
from study.durable import read_json
from study.engine.inline import InlineEngine
from study.epsilons import snapped
from study.errors import Interrupted, ResumeConflict
from study.jobs import pilot
from study.launch import main
from study.ledger import Ledger
from study.results import load
from tests.stopping_engine import StoppingEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHORT = ("budget.trials=2", "robustness.controls=false", "robustness.check_images=8", "robustness.random_students=0")
AUTO = ("search.epsilon=auto", "robustness.epsilons=auto", *SHORT)
GRID = EPSILONS["digits"]["linf"]

__all__ = ["brief_attacks"]


@pytest.fixture(autouse=True)
def brief_pilot(monkeypatch):
    monkeypatch.setattr(pilot, "ATTACK", replace(APGD_CE, steps=10))


def test_a_study_settles_its_epsilon_after_the_teachers(capsys):
    assert driver.drive(order("s/kd", *AUTO), InlineEngine()) == 0
    ledger, study = Ledger(Path("s/kd")), read_json(Path("s/kd/study.json")) or {}
    found = ledger.outcome("pilot/linf")["metrics"]
    frozen = read_json(Path("s/kd/epsilon.json"))["linf"]
    assert (found["n"], found["clean_correct"]) == (200, frozen["clean_correct"])
    assert len(found["rounds"]) == 8
    assert frozen["epsilon"] in GRID.grid
    if GRID.grid[0] <= found["radius"] <= GRID.grid[-1]:
        assert frozen["epsilon"] == snapped(found["radius"], GRID.grid)
    for tried in found["rounds"]:
        kept = 2 * tried["survivors"] >= found["clean_correct"]
        assert kept == (tried["epsilon"] < found["radius"])
    assert study["epsilon"] == frozen["epsilon"]
    assert study["space"]["search"]["epsilon"] == "auto"
    attacked = {entry["epsilon"] for entry in load("s/kd").summary()["robustness"]}
    assert attacked == {frozen["epsilon"], max(frozen["epsilon"], GRID.standard)}
    for key in ledger.keys("pools"):
        assert ledger.config(key)["settings"]["epsilons"] == [frozen["epsilon"]]
    printed = capsys.readouterr().out
    for said in (
        "epsilon auto (settled after the teachers) linf",
        "stage pilot: 1 job",
        "epsilon auto (linf): the teacher",
    ):
        assert said in printed
    stages = [event["stage"] for event in ledger.events() if event["type"] == "stage"]
    assert stages[:3] == ["teachers", "pilot", "search"]


@pytest.mark.parametrize("after", [2, 3, 6])
def test_an_interrupted_study_settles_its_epsilon_once(after):
    with pytest.raises(Interrupted):
        driver.drive(order("s/kd", *AUTO), StoppingEngine(after))
    before = read_json(Path("s/kd/epsilon.json"))
    assert (before is None) == (after == 2)  # the teacher and the classical baseline come first
    assert load("s/kd").study["epsilon"] == (before or {"linf": {"epsilon": None}})["linf"]["epsilon"]
    assert driver.drive(order("s/kd", *AUTO, part="search"), InlineEngine()) == 0
    assert before in (None, read_json(Path("s/kd/epsilon.json")))
    assert Ledger(Path("s/kd")).attempts("pilot/linf") == 1


def test_a_resumed_study_keeps_its_epsilon_and_its_one_access_to_test():
    with pytest.raises(Interrupted):
        driver.drive(order("s/kd", *AUTO), StoppingEngine(1, "robustness"))
    frozen = read_json(Path("s/kd/epsilon.json"))
    assert driver.drive(order("s/kd", *AUTO), InlineEngine()) == 0
    assert driver.drive(order("s/kd", *AUTO, "robustness.images=10"), InlineEngine()) == 0
    assert read_json(Path("s/kd/epsilon.json")) == frozen
    results = load("s/kd")
    first = reads_of_test(results.path, results.study, results.events)
    assert first == Reads(2, 2, 1)  # 12 images, then 10; what was interrupted is one with what it became
    driver.drive(order("s/again", *AUTO), InlineEngine())
    assert reads_of_test(results.path, results.study, results.events) == Reads(2, 3, 2)
    with pytest.raises(ResumeConflict, match=r'search.epsilon was "auto" and is now 0\.1'):
        driver.drive(order("s/kd", "search.epsilon=0.1", "robustness.epsilons=auto", *SHORT))


def test_a_dry_run_says_that_it_will_be_settled(capsys):
    assert main([str(KD), "--dry-run", *AUTO, "--output", "s/kd"]) == 0
    said = capsys.readouterr().out
    assert "epsilon auto (settled after the teachers) linf" in said
    assert "epsilons auto (settled after the teachers)" in said
    document = json.loads(said[: said.index("\n}") + 2])
    assert document["search"]["epsilon"] == "auto"
    assert not Path("s").exists()
