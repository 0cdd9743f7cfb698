"""How a trial can end before its last epoch: at a rung, by a limit, or for a while, when it is asked to pause."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch

from nodekd.data.dataset import DataConfig, load
from nodekd.evaluate import Evaluation
from nodekd.train import Epoch
from study.durable import append_line, replace_json
from study.engine.epochs import epochs_sent
from study.engine.job import Job
from study.jobs.execute import execute
from study.jobs.history import History
from study.jobs.rungs import rung_file
from study.ledger import Ledger
from study.space.reader import read_space

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
EPOCHS, RUNG = 4, 2
KEY = "trials/000042"
EARLY = {
    "rule": "mo-asha",
    "eta": 3.0,
    "objective": "accuracy",
    "rungs": [RUNG],
    "images": 8,
    "spared": 0.08,
    "least_tau": 0.4,
    "draw": 0.5,
    "peers": None,
}

SAID = {"stop": False, "condemned": False, "spared": False, "distrusted": None, "reason": "", "fault": None}
"""At a rung of a trial that goes on."""


@pytest.fixture(scope="module")
def settings():
    space = read_space(KD, [f"train.epochs={EPOCHS}", "student.channels=4", "train.batch_size=128"])
    point = {"temperature": 1, "alpha": 0, "solver": "euler", "evaluations": 4, "horizon": 1.0}
    return space.settings(point) | {"distill": {"method": "none"}}


@pytest.fixture
def run(tmp_path, settings):
    """Run the trial as a worker does; returns its outcome, None if it has none."""

    def run(name="s", **payload):
        ledger = Ledger(tmp_path / name)
        search = {"norm": "linf", "epsilon": 1 / 16, "images": 16, "pool": {}, "seed": 0, "keep_images": False}
        data = {"name": "digits", "root": "data", "image_size": None, "shuffle": False}
        common = {"data": data, "split_hash": load(DataConfig()).split_hash, "threads": 1}
        ledger.write_config(KEY, {"number": 42, "settings": settings})
        given = {"settings": settings, "teachers": [], "search": search, **common, **payload}
        execute(Job(str(ledger.root), KEY, "student", given))
        return ledger.outcome(KEY)

    return run


def test_a_trial_says_of_each_epoch_that_it_is_over(run):
    told = []

    class Meter:
        def set(self, *_, **__):
            pass

        def add(self, name, value, **tags):
            told.append((name, value, tags["trial"]))

    with epochs_sent(Meter, KEY):
        run()
    assert told == [("epochs", 1, "000042")] * EPOCHS


def plant(root, values, *, epoch=RUNG, end=None, **said):
    """Let earlier trials have reached the rung, and perhaps their end."""
    ledger = Ledger(root)
    for number, at_rung in enumerate(values):
        names = ("accuracy", "adversarial_accuracy")
        record = {**SAID, "epoch": epoch, "values": dict(zip(names, at_rung, strict=True)), **said}
        replace_json(ledger.folder(f"trials/{number:06d}") / rung_file(epoch), record)
        if end is not None:
            outcome = {"state": "COMPLETE", "values": dict(zip(names, end[number], strict=True))}
            ledger.commit(f"trials/{number:06d}", outcome)


def history(root):
    lines = (root / KEY / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


BETTER = [(0.99, 0.9)] * 8


def test_a_trial_that_is_far_behind_is_stopped_at_its_rung(tmp_path, run):
    plant(tmp_path / "s", BETTER)
    shutil.copytree(tmp_path / "s" / "trials" / "000000", tmp_path / "s" / "trials" / "000000-before")
    outcome = run(early_stopping=EARLY)
    assert (outcome["state"], outcome["values"]) == ("PRUNED", None)
    assert outcome["reason"].startswith("stopped after 2 epochs: rank 9 of 9, of which 3 go on")
    assert history(tmp_path / "s") == [1, 2]
    assert not (tmp_path / "s" / KEY / "weights.pt").exists()
    record = json.loads((tmp_path / "s" / KEY / rung_file(RUNG)).read_text())
    assert record["peers"] == [f"{number:06d}" for number in range(8)]
    assert outcome["metrics"]["rung"] == record


@pytest.mark.parametrize(
    ("values", "change"),
    [
        (BETTER[:4], {}),  # too few
        ([(0.01, 0.0)] * 8, {}),  # the best of all
        (BETTER, {"draw": 0.01}),  # spared
        (BETTER, {"rungs": [3]}),  # nobody has reached the third epoch
        (BETTER, {"peers": ["000000", "000001"]}),  # of earlier generations there are two
    ],
)
def test_others_go_on(tmp_path, run, values, change):
    plant(tmp_path / "s", values)
    outcome = run(early_stopping=EARLY | change)
    assert outcome["state"] == "COMPLETE"
    assert outcome["metrics"]["rung"]["spared"] is (change == {"draw": 0.01})
    assert history(tmp_path / "s") == [1, 2, 3, 4]


def test_a_rung_that_orders_trials_badly_stops_nobody_and_says_so(tmp_path, run):
    values = [(0.90 + k / 200, 0.8 + k / 200) for k in range(12)]
    plant(tmp_path / "s", values, end=values[::-1])
    outcome = run(early_stopping=EARLY)
    assert outcome["state"] == "COMPLETE"
    assert "SWITCHED OFF" in outcome["metrics"]["rung"]["distrusted"]


@pytest.mark.parametrize("draw", [0.01, 0.5])
def test_where_nobody_is_spared_the_condemned_of_a_rung_that_was_switched_off_do_no_harm(tmp_path, run, draw):
    values = [(0.90 + k / 200, 0.8 + k / 200) for k in range(12)]
    plant(tmp_path / "s", values, end=values[::-1], condemned=True, spared=False, distrusted="SWITCHED OFF")
    outcome = run(early_stopping=EARLY | {"spared": 0.0, "draw": draw})
    assert outcome["state"] == "COMPLETE"
    rung = outcome["metrics"]["rung"]
    assert "tau -1.00" in rung["distrusted"]
    assert (rung["condemned"], rung["spared"], rung["share"]) == (True, False, 0.0)


def test_only_who_is_condemned_at_a_trusted_rung_is_spared_by_its_draw(tmp_path, run):
    """A low draw makes no difference where the rung stops nobody, and is not counted as such."""
    values = [(0.90 + k / 200, 0.8 + k / 200) for k in range(12)]
    plant(tmp_path / "s", values, end=values[::-1])
    rung = run(early_stopping=EARLY | {"draw": 0.01})["metrics"]["rung"]
    assert (rung["condemned"], rung["spared"]) == (True, False)


@pytest.mark.parametrize(
    ("said", "weight"),
    [
        ({"spared": True, "share": 0.25}, 4.0),
        ({"spared": True}, 1 / 0.08),
        ({"spared": True, "distrusted": "SWITCHED OFF"}, 1.0),
        ({"distrusted": "SWITCHED OFF", "share": 0.25}, 1.0),
    ],
)
def test_a_trial_weighs_what_it_stands_for_when_a_rung_is_judged(tmp_path, run, said, weight):
    """Eleven that a rung orders rightly and one that it places last and that ends first: whether tau says so."""
    values = [(0.90 + k / 200, 0.8 + k / 200) for k in range(12)]
    plant(tmp_path / "s", values, end=[(0.99, 0.99), *values[1:]])
    odd = Ledger(tmp_path / "s").folder("trials/000000") / rung_file(RUNG)
    replace_json(odd, json.loads(odd.read_text()) | {"condemned": True} | said)
    pairs, wrong = 11 * 10 / 2 + 11 * weight, 11 * weight
    doubt = run(early_stopping=EARLY | {"least_tau": 1.0})["metrics"]["rung"]["distrusted"]
    assert f"tau {(pairs - 2 * wrong) / pairs:.2f}, below 1" in doubt


def test_what_a_rung_has_said_once_holds(tmp_path, run):
    values = {"accuracy": 0.9, "adversarial_accuracy": 0.5}
    said = {**SAID, "epoch": RUNG, "values": values, "stop": True, "reason": "was said"}
    replace_json(tmp_path / "s" / KEY / rung_file(RUNG), said)
    assert run(early_stopping=EARLY)["reason"] == "stopped after 2 epochs: was said"


def test_a_peer_whose_record_is_damaged_is_none(tmp_path, run):
    plant(tmp_path / "s", [*BETTER, *BETTER], end=[*BETTER, *BETTER])
    trials = tmp_path / "s" / "trials"
    (trials / "000000" / rung_file(RUNG)).write_text('{"epoch": 2, "val')
    replace_json(trials / "000001" / rung_file(RUNG), {"epoch": RUNG, "values": [], **SAID})
    (trials / "000002" / "outcome.json").write_text("")
    replace_json(trials / "000003" / "outcome.json", {"state": "COMPLETE"})
    replace_json(trials / "000004" / rung_file(1), {"condemned": "x", "share": "y"})
    rung = run(early_stopping=EARLY)["metrics"]["rung"]
    assert rung["peers"] == [f"{number:06d}" for number in range(2, 16)]
    assert (rung["condemned"], rung["of"]) == (True, 15)


@pytest.mark.parametrize(
    ("limits", "said", "epochs"),
    [
        ({"parameter_count": 10}, "weights, above constraints.parameter_count = 10", 0),
        ({"training_seconds": 1e-6}, "s of training, above constraints.training_seconds = 1e-06", 1),
        ({"nfe": 3}, "4 evaluations of the field per image, above constraints.nfe = 3", EPOCHS),
    ],
)
def test_a_student_that_costs_too_much_keeps_its_record_and_is_infeasible(tmp_path, run, limits, said, epochs):
    outcome = run(constraints=limits)
    assert said in outcome["metrics"]["infeasible"][-1]
    assert (tmp_path / "s" / KEY / "history.jsonl").exists() == (epochs > 0)
    if epochs:
        assert len(history(tmp_path / "s")) == epochs
    assert (outcome["state"], outcome["reason"]) == (("COMPLETE", None) if "nfe" in limits else ("FAIL", "infeasible"))


def test_limits_that_are_kept_say_nothing(run):
    limits = {"parameter_count": 10**6, "training_seconds": 1e6, "nfe": 4, "anything": None}
    assert run(constraints=limits)["metrics"]["infeasible"] == []


def test_a_paused_trial_has_no_outcome_and_ends_like_one_that_was_not(tmp_path, run, monkeypatch):
    monkeypatch.setattr("nodekd.savepoint.LOOK_S", 0.0)
    whole = run("whole")
    noted = History.note

    def pausing(self, epoch):
        noted(self, epoch)
        if epoch.epoch == 2:
            Ledger(tmp_path / "parts").ask_to_pause()

    monkeypatch.setattr(History, "note", pausing)
    assert run("parts") is None
    assert history(tmp_path / "parts") == [1, 2]
    assert list((tmp_path / "parts" / KEY / "checkpoint").iterdir())
    Ledger(tmp_path / "parts").clear_pause()
    monkeypatch.setattr(History, "note", noted)
    outcome = run("parts")
    assert outcome["values"] == whole["values"]
    assert outcome["metrics"]["nll"] == whole["metrics"]["nll"]
    assert outcome["attempt"] == 2
    assert history(tmp_path / "parts") == [1, 2, 3, 4]
    assert not (tmp_path / "parts" / KEY / "checkpoint").exists()


@pytest.mark.parametrize(
    ("place", "kept"), [("study.jobs.history.append_line", [1, 2]), ("pathlib.Path.replace", [1, 2, 3])]
)
def test_a_trial_that_goes_on_loses_no_epoch_on_a_full_disk(tmp_path, monkeypatch, place, kept):
    """Epoch 3 was noted and is trained again, as the savepoint is older."""
    path = tmp_path / KEY / "history.jsonl"
    for epoch in (1, 2, 3):
        append_line(path, {"epoch": epoch})
    monkeypatch.setattr(place, full)
    with pytest.raises(OSError, match="No space left"):
        History(path.parent, lambda: Evaluation(torch.zeros(1, 2), torch.ones(1), 0.7, 0, 4.0)).note(
            Epoch(3, 30, 0.1, 0.9, 1.0)
        )
    assert history(tmp_path) == kept


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
