"""What Ray's dashboard and metrics get of a study, and how a trial's log begins. No Ray runs."""

import json
import sys
from io import StringIO
from typing import Any

import pytest
from ray.util.metrics import Counter, Gauge

from study.engine import ray_cluster, ray_tune
from study.engine.epochs import epoch_is_over
from study.engine.job import Job
from study.engine.ray_cluster import RayMeter
from study.ledger import Ledger
from study.metering import MeteredProgress
from study.progress import PlainProgress

TRIAL = Job("/s", "trials/000012", "student", {"settings": {"student": {"solver": "rk4"}, "seed": 3}})


@pytest.fixture
def sent(monkeypatch):
    """What goes to Ray's own metrics, which still check names and tags: (name, tags) by kind."""
    found: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], float]] = {"gauge": {}, "counter": {}}

    class RecordedGauge(Gauge):
        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            super().set(value, tags)
            found["gauge"][self.info["name"], frozenset((tags or {}).items())] = value

    class RecordedCounter(Counter):
        def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
            super().inc(value, tags)
            key = self.info["name"], frozenset((tags or {}).items())
            found["counter"][key] = found["counter"].get(key, 0.0) + value

    monkeypatch.setattr(ray_cluster, "Gauge", RecordedGauge)
    monkeypatch.setattr(ray_cluster, "Counter", RecordedCounter)
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: True)
    return found


def tagged(name: str, **tags: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(tags.items())


def test_trials_by_state_hypervolume_and_evaluations_go_out_with_their_tags(sent, tmp_path):
    ledger, quiet = Ledger(tmp_path), PlainProgress(StringIO())
    progress = MeteredProgress(quiet, RayMeter(), ledger, "kd", (0.1, 0.0))
    progress.stage("search", 2, 0)
    progress.started(TRIAL)
    assert sent["gauge"] == {tagged("nodekd_trials", study="kd", state="RUNNING"): 1}
    values = {"accuracy": 0.6, "adversarial_accuracy": 0.5}
    progress.settled(TRIAL, {"state": "COMPLETE", "values": values, "metrics": {"updates": 30, "nfe": 8.0}})
    assert sent["gauge"] == {
        tagged("nodekd_trials", study="kd", state="RUNNING"): 0,
        tagged("nodekd_trials", study="kd", state="COMPLETE"): 1,
        tagged("nodekd_hypervolume", study="kd"): pytest.approx(0.25),
    }
    assert sent["counter"] == {tagged("nodekd_evaluations", trial="000012"): 240}


def test_a_worker_sends_each_epoch_of_a_trial_as_it_ends(sent, monkeypatch):
    monkeypatch.setattr(ray_tune.tune, "report", lambda _: None)
    ray_cluster.worker_meter.cache_clear()
    seen = []

    def execute(_: Job) -> None:
        for _ in range(2):
            epoch_is_over()
            seen.append(sent["counter"][tagged("nodekd_epochs", trial="000012")])
            assert sent["gauge"][tagged("nodekd_epochs_per_second", trial="000012")] > 0

    ray_tune.trainable_for(execute)({"job": TRIAL})
    assert seen == [1, 2]
    assert sent["gauge"] == {tagged("nodekd_epochs_per_second", trial="000012"): 0}
    ray_cluster.worker_meter.cache_clear()


def test_a_counter_adds_up_and_nothing_is_added_for_a_trial_that_did_nothing(sent):
    meter = RayMeter()
    for value in (2, 3, 0, -1):
        meter.add("epochs", value, trial="000001")
    meter.add("epochs", 0, trial="000002")
    assert sent["counter"] == {tagged("nodekd_epochs", trial="000001"): 5}


def test_before_ray_runs_nothing_is_sent(sent, monkeypatch):
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    meter = RayMeter()
    meter.set("trials", 1, study="kd", state="RUNNING")
    meter.add("epochs", 1, trial="000001")
    assert sent == {"gauge": {}, "counter": {}}


@pytest.mark.parametrize("fails", [False, True])
def test_a_trials_log_begins_with_its_number_and_configuration(monkeypatch, capsys, fails):
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_tune.tune, "report", reports.append)

    def execute(job: Job) -> None:
        sys.stdout.write("the work itself\n")
        if fails:
            raise ValueError("no such thing")

    ray_tune.trainable_for(execute)({"job": TRIAL})
    first, second = capsys.readouterr().out.splitlines()
    key, _, configuration = first.partition(" ")
    assert (key, json.loads(configuration)) == ("trials/000012", TRIAL.payload["settings"])
    assert second == "the work itself"
    assert reports[-1]["done"]
    assert ("no such thing" in reports[-1].get("error", "")) is fails
