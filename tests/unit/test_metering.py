"""The numbers that go out say what the ledger says, and nothing that goes wrong with them reaches the study."""

import pytest

from study.engine.epochs import epoch_is_over, epochs_sent
from study.engine.job import Job
from study.ledger import Ledger
from study.metering import MeteredProgress

REFERENCE = (0.1, 0.0)


class Shown:
    def __init__(self):
        self.told = []

    def showing(self):
        return "block"

    def __getattr__(self, name):
        return lambda *given: self.told.append((name, *given))


class Meter:
    def __init__(self):
        self.gauges, self.counters = {}, {}

    def set(self, name, value, **tags):
        self.gauges[name, *sorted(tags.values())] = value

    def add(self, name, value, **tags):
        key = (name, *tags.values())
        self.counters[key] = self.counters.get(key, 0) + value


class Broken:
    def set(self, *_, **__):
        raise ConnectionError("nobody listens")

    add = set


def complete(accuracy, robust, *objections, **metrics):
    values = {"accuracy": accuracy, "adversarial_accuracy": robust}
    return {"state": "COMPLETE", "values": values, "metrics": {"infeasible": list(objections), **metrics}}


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "s")


def job(number):
    return Job("/s", f"trials/{number:06d}", "student")


def test_trials_by_state_and_the_front_of_this_and_earlier_launches(ledger):
    ledger.commit(job(0).key, complete(0.6, 0.3))
    ledger.commit(job(1).key, {"state": "FAIL", "reason": "diverged"})
    shown, meter = Shown(), Meter()
    progress = MeteredProgress(shown, meter, ledger, "kd", REFERENCE)
    progress.stage("search", 5, 2)
    assert meter.gauges["trials", "COMPLETE", "kd"] == meter.gauges["trials", "FAIL", "kd"] == 1
    assert meter.gauges["hypervolume", "kd"] == pytest.approx(0.5 * 0.3)
    for number in (2, 3, 3):  # one is handed out again
        progress.started(job(number))
    assert meter.gauges["trials", "RUNNING", "kd"] == 2
    progress.settled(job(2), complete(0.5, 0.5))
    progress.settled(job(3), complete(1.0, 1.0, "G2 fails"))  # what failed a check casts no shadow
    assert meter.gauges["trials", "RUNNING", "kd"] == 0
    assert meter.gauges["trials", "COMPLETE", "kd"] == 3
    assert meter.gauges["hypervolume", "kd"] == pytest.approx(0.5 * 0.3 + 0.4 * 0.2)
    assert [name for name, *_ in shown.told] == ["stage", "started", "started", "started", "settled", "settled"]


def test_work_is_counted_once_a_trial_is_over(ledger):
    meter = Meter()
    progress = MeteredProgress(Shown(), meter, ledger, "kd", REFERENCE)
    progress.settled(job(7), complete(0.5, 0.5, updates=30, nfe=8.0))
    progress.settled(Job("/s", "robustness/student-000007/0", "attack"), {"state": "COMPLETE"})
    assert meter.counters == {("evaluations", "000007"): 240}


def test_an_epoch_goes_out_when_it_is_over_and_the_pace_of_a_trial_that_ended_is_0():
    meter = Meter()
    with epochs_sent(lambda: meter, job(7).key):
        assert not meter.gauges
        epoch_is_over()
        assert meter.counters == {("epochs", "000007"): 1}
        assert meter.gauges["epochs_per_second", "000007"] > 0
        epoch_is_over()
    assert meter.counters == {("epochs", "000007"): 2}
    assert meter.gauges == {("epochs_per_second", "000007"): 0}
    epoch_is_over()  # of a job that nobody listens to
    assert meter.counters == {("epochs", "000007"): 2}


@pytest.mark.parametrize("key", ["teachers/0f", "undistilled/000001", "twins/000001"])
def test_epochs_of_other_jobs_are_not_sent(key):
    meter = Meter()
    with epochs_sent(lambda: meter, key):
        epoch_is_over()
    assert not meter.counters
    assert not meter.gauges


def test_epochs_are_nobodys_fault():
    def refuse():
        raise ImportError("no metrics here")

    for meter in (Broken, refuse):
        with epochs_sent(meter, job(0).key):
            epoch_is_over()
    with pytest.raises(ZeroDivisionError), epochs_sent(Broken, job(0).key):
        raise ZeroDivisionError


def test_a_meter_that_fails_disturbs_nothing(ledger):
    shown = Shown()
    progress = MeteredProgress(shown, Broken(), ledger, "kd", REFERENCE)
    progress.stage("search", 1, 0)
    progress.started(job(0))
    progress.settled(job(0), complete(0.5, 0.5))
    progress.note("done")
    assert len(shown.told) == 4
    assert progress.showing() == "block"
