"""A search that is offered a coarse adjoint does not end with it on the front (S16)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.spec import APGD_CE, FGSM
from nodekd.search_proxy import ATTACKS, PGD_10_FINER
from study import driver
from study.engine.inline import InlineEngine
from study.jobs import proxy
from study.jobs.attack import ATTACK_SETS
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.show import main as show
from study.space.reader import read_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SPACE = """
study:    {name: masking}
teachers: [{arch: resnet20, train: {epochs: 1}}]
student:  {arch: odenet-stem, channels: 8, solver: euler, horizon: 1, steps: 4, adjoint_steps: 1}
distill:  {method: none}
train:    {optimizer: adamw, learning_rate: 0.02, batch_size: 64, clip: 1, epochs: 15}
evaluate: {horizon: 2, steps: 8}
attack:   {gradient: trained}
search:   {images: 128}
space:
  gradient: {choice: [direct, adjoint]}
  seed:     {int: [1, 2]}
sampler:  {name: grid}
budget:   {trials: 4}
robustness: {tier: screen, images: 16, check_images: 16, controls: false, random_students: 0, epsilons: [1/16]}
"""
"""Students are solved twice as far as they were trained, where one Euler step back is nothing like the way forth."""


@pytest.fixture(autouse=True)
def brief_attacks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ATTACK_SETS, "screen", (FGSM,))
    monkeypatch.setitem(ATTACK_SETS, "front", (replace(APGD_CE, steps=5),))


def search(folder, part="all"):
    """Run the study and return its results, and by gradient the numbers of its trials."""
    Path("masking.yaml").write_text(SPACE, encoding="utf-8")
    order = Order(
        space=read_space(Path("masking.yaml")),
        source=Path("masking.yaml"),
        command="python -m study.launch masking.yaml",
        output=Path(folder),
        part=part,
    )
    assert driver.drive(order, InlineEngine()) == 0
    results = load(folder)
    named = results.trials.groupby("params_gradient")["trial"].apply(set).to_dict()
    return results, {name: {int(number) for number in numbers} for name, numbers in named.items()}


def test_a_coarse_adjoint_on_offer_is_not_on_the_front(capsys):
    results, trials = search("s/masking")
    assert set(results.trials["state"]) == {"COMPLETE"}
    assert set(results.infeasible()["trial"]) == trials["adjoint"]
    assert results.infeasible()["infeasible"].str.contains("fails").all()
    on_front = set(results.trials[results.trials["on_front"]]["trial"])
    assert on_front
    assert on_front <= trials["direct"]
    selection = json.loads(Path("s/masking/front/selection.json").read_text())
    for chosen in ("candidates", "front", "attacked"):
        assert set(selection[chosen]) <= trials["direct"], chosen
    assert set(results.front["trial"]) <= trials["direct"]
    for number in trials["adjoint"]:
        outcome = Ledger(Path("s/masking")).outcome(f"trials/{number:06d}")
        assert outcome is not None
        assert set(outcome["values"]) == {"accuracy", "adversarial_accuracy"}
        assert {check["id"] for check in outcome["metrics"]["checks"] if check["verdict"] == "fail"} & {"G2", "G3"}
    assert [row["trial"] for row in results.summary()["infeasible"]] == sorted(trials["adjoint"])
    capsys.readouterr()
    show(["s/masking"])
    printed = " ".join(capsys.readouterr().out.split())
    for number in trials["adjoint"]:
        assert f"Trial {number} cannot be on the front: G" in printed


def own_gradient_alone(network, images, labels, threat, pool, *, seed, source=None):
    """The proxy as it would be without a finer solver: every attack follows the student's own gradient."""
    own = tuple(attack for attack in ATTACKS if attack is not PGD_10_FINER)
    return worst_case(network, images, labels, threat, own, seed=seed, pool=pool, source=source)


def test_without_its_protection_the_search_would_have_chosen_it(monkeypatch):
    """The same search with neither verdicts nor a finer solver: masking pays, and the front holds it."""
    real = proxy.verdicts
    monkeypatch.setattr(proxy, "verdicts", lambda measured: {**real(measured), "infeasible": []})
    monkeypatch.setattr(proxy, "proxy_survival", own_gradient_alone)
    results, trials = search("s/masking", part="search")
    measured = results.trials.set_index("trial")
    best = {name: measured.loc[sorted(numbers), "adversarial_accuracy"].max() for name, numbers in trials.items()}
    assert best["adjoint"] > best["direct"]
    assert set(measured.index[measured["on_front"]]) & trials["adjoint"]
