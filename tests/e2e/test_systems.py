"""The papers' systems through the inline engine: every method and every kind of student, attacked and probed."""

from pathlib import Path

import pytest

from nodekd.distill.catalog import CHAINED_METHODS, METHODS
from study import driver
from study.engine.inline import InlineEngine
from study.ledger import Ledger
from study.order import Order
from study.results import load
from study.space.reader import read_space

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMON = """
data: {name: digits}
sampler: {name: grid}
search: {images: 16}
robustness: {tier: screen, select: all, twins: false, images: 24, epsilons: [1/16]}
"""

METHODS_SPACE = f"""
teachers: [{{arch: resnet20, seed: 0, train: {{epochs: 2}}}}, {{arch: resnet20, seed: 1, train: {{epochs: 2}}}}]
student: {{arch: odenet-stem, channels: 8, solver: euler, evaluations: 2}}
distill: {{generations: 2}}
train: {{epochs: 2, batch_size: 128, adversarial: {{epsilon: 1/16, steps: 2, methods: [ard, rslad]}}}}
probes: {{images: 24, calibration: true, trajectory: true, teacher: true, test_solvers: [euler:2, rk4:16]}}
space:
  method: {{choice: [{", ".join(METHODS)}]}}
  ensemble: {{choice: [2], when: {{method: [kd, kd-permuted, label-smoothing, at, ft, feed-parallel, kd-feed]}}}}
budget: {{trials: {len(METHODS)}}}
"""

STUDENTS_SPACE = """
teachers: [{arch: resnet20, train: {epochs: 1}}]
student: {channels: 8, solver: euler, evaluations: 2}
distill: {method: none}
train: {epochs: 1, batch_size: 128}
evaluate: {evaluations: 4}
attack: {solver: rk4, evaluations: 8}
probes: {images: 12, trajectory: true, noise: [gaussian], severities: [3], published_attacks: true, legacy: true,
         landscape: true, reconstruction: true}
space:
  arch: {choice: [odenet-stem, odenet-raw, untied-stem, resnet20, preact-resnet20]}
  dynamics: {choice: [plain, damped, lambda-damped], when: {arch: [odenet-stem, untied-stem, preact-resnet20]}}
  damping: {choice: [0.5, learned], when: {dynamics: [damped, lambda-damped]}}
budget: {trials: 17}
"""


def drive(folder, text):
    Path("space.yaml").write_text(COMMON + text)
    space = read_space(Path("space.yaml"))
    order = Order(space=space, source=Path("space.yaml"), command="x", output=Path(folder), smoke=False)
    assert driver.drive(order, InlineEngine()) == 0
    results = load(folder)
    assert results.problems == []
    assert set(results.trials["state"]) == {"COMPLETE"}
    return results


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_every_method_trains_is_attacked_and_probed():
    results = drive("s/methods", METHODS_SPACE)
    ledger = Ledger(Path("s/methods"))
    by_method = {results.settings(trial)["distill"]["method"]: trial for trial in results.trials["trial"]}
    assert set(by_method) == set(METHODS)
    assert set(results.robustness[results.robustness["kind"] == "student"]["trial"]) == set(by_method.values())
    for method, trial in by_method.items():
        config, outcome = (read(f"trials/{trial:06d}") for read in (ledger.config, ledger.outcome))
        probe = results.probes[f"student-{trial:06d}"]
        teachers = 0 if method == "none" or method in CHAINED_METHODS else 1 if method in ("ard", "rslad") else 2
        assert len(config["teachers"]) == teachers, method
        assert probe["teacher"]["teacher"] == (config["teachers"] or results.study["teachers"])[0], method
        assert ("ensemble_accuracy" in probe["teacher"]) == (teachers > 1), method
        networks = len(outcome["metrics"].get("generations", [None]))
        assert networks == (2 if method in CHAINED_METHODS else 1), method
        assert probe["test_solvers"][0]["disagreement"] == 0.0
    assert results.trials["parameter_count"].nunique() == 1  # what is trained beside the student is thrown away
    assert results.trials["nfe"].nunique() == 1
    losses = results.history[results.history["epoch"] == 1].groupby("trial")["loss"].first()
    assert losses.nunique() == len(losses)  # no two methods are the same loss


def test_every_kind_of_student_is_measured_and_attacked_otherwise_than_trained_and_probed():
    results = drive("s/students", STUDENTS_SPACE)
    assert len(results.trials) == 17
    evaluations = results.trials.set_index("trial")["nfe"]
    for trial in results.trials["trial"]:
        student, probe = results.settings(trial)["student"], results.probes[f"student-{trial:06d}"]
        is_ode = student["arch"].startswith("odenet")
        trajectory = probe.get("trajectory", {})
        assert ("state_norm" in trajectory) == is_ode
        assert (len(trajectory.get("damping", [])) > 0) == (student.get("dynamics", "plain") != "plain")
        if student.get("damping") == 0.5:
            assert set(trajectory["damping"]) == {0.5}
        reach = {row["attack"]: row["largest_perturbation"] for row in probe["published_attacks"]}
        assert set(reach) == {"fgsm", "i-fgsm", "pgd", "pgd-legacy"}
        assert reach["pgd"] <= 1 / 16 + 1e-6 < reach["pgd-legacy"] <= 2 / 16 + 1e-6
        assert 0 < probe["reconstruction"]["l1"] < 1
        assert evaluations[trial] == 4 if is_ode else evaluations.isna()[trial]  # trained with 2
