"""A search that stops trials early, through the inline engine: what is stopped, told, kept and reported."""

import json

import optuna
import pytest

from nodekd.attacks.spec import FGSM
from study import driver
from study.engine.inline import InlineEngine
from study.jobs.attack import ATTACK_SETS
from study.order import Order
from study.results import load
from study.space.reader import read_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SPACE = """
study: {name: early}
teachers: [{arch: resnet20, train: {epochs: 1}}]
student: {arch: odenet-stem, channels: 8, norm: group, solver: euler, evaluations: 4}
train: {epochs: 3, batch_size: 32}
distill: {method: none}
space: {learning_rate: {float: [0.0001, 0.05], log: true}}
search: {images: 8}
budget: {trials: 10}
early_stopping: {name: asha, rungs: [1], images: 4, spared: 0.3}
robustness: {tier: screen, images: 24, check_images: 8, controls: false, random_students: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("early")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTACK_SETS, "front", (FGSM,))
        path = root / "early.yaml"
        path.write_text(SPACE)
        order = Order(read_space(path), path, "early.yaml", "search", output=root / "s")
        assert driver.drive(order, InlineEngine()) == 0
    return root / "s"


def outcomes(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/outcome.json"))}


def test_trials_that_fall_behind_are_stopped_at_a_rung_and_keep_no_values(folder):
    stopped = {name: each for name, each in outcomes(folder).items() if each["state"] == "PRUNED"}
    assert stopped
    for name, outcome in stopped.items():
        epoch = outcome["metrics"]["rung"]["epoch"]
        assert outcome["values"] is None
        assert outcome["reason"].startswith(f"stopped after {epoch} epochs: rank ")
        assert len((folder / "trials" / name / "history.jsonl").read_text().splitlines()) == epoch
    assert min(stopped) >= "000005", "the first to reach a rung have nobody to be compared with"


def test_every_rung_compares_with_those_before_it_alone(folder):
    for name in outcomes(folder):
        for path in (folder / "trials" / name).glob("rung-*.json"):
            assert all(peer < name for peer in json.loads(path.read_text())["peers"])


def test_the_sampler_is_told_that_they_were_pruned_and_their_points_are_never_best(folder):
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'optuna.db'}")
    states = {f"{row.number:06d}": row.state.name for row in study.trials}
    assert states == {name: outcome["state"] for name, outcome in outcomes(folder).items()}
    assert all(row.state.name == "COMPLETE" for row in study.best_trials)


def test_the_report_says_what_was_saved_and_what_it_may_have_cost(folder):
    results = load(folder)
    assert results.audit is not None
    stopped = [each for each in outcomes(folder).values() if each["state"] == "PRUNED"]
    saved = sum(3 - each["metrics"]["rung"]["epoch"] for each in stopped)
    assert results.audit.epochs_unstopped - results.audit.epochs == saved
    assert results.summary()["trials"]["pruned"] == len(stopped)
    page = (folder / "report" / "index.html").read_text()
    assert f"Early stopping ended {len(stopped)} trials at a rung" in page
    assert 'id="table-rungs"' in page
