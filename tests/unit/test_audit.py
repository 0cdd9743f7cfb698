"""What early stopping saved and lost, counted by hand on a small study's files."""

import math
import shutil

import pytest
from scipy.stats import kendalltau

from study.audit import read_audit, share_of
from study.durable import replace_json
from study.ledger import Ledger
from study.report.early_stopping import early_part, lost_text, saved_text
from study.rungs import SPARED
from study.statistics import wilson

EPOCHS = 20


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path)


def trial(ledger, number, at_rung, at_end=None, *, condemned=False, spared=False, stop=None, **more):
    """A trial that reached the rung after epoch 5, and went on to its end unless it was stopped there."""
    key = f"trials/{number:06d}"
    ledger.write_config(key, {"number": number, "params": {}, "settings": {"train": {"epochs": EPOCHS}}})
    stop = (condemned and not spared) if stop is None else stop
    values = dict(zip(("accuracy", "adversarial_accuracy"), at_rung, strict=True))
    told = {"condemned": condemned, "spared": spared, "stop": stop, "fault": None, "distrusted": None} | more
    replace_json(ledger.folder(key) / "rung-000005.json", {"epoch": 5, "values": values, **told})
    if stop:
        ledger.commit(key, {"state": "PRUNED", "reason": "stopped after 5 epochs"})
    elif at_end is not None:
        values = dict(zip(("accuracy", "adversarial_accuracy"), at_end, strict=True))
        ledger.commit(key, {"state": "COMPLETE", "values": values})


def test_a_study_without_rungs_has_no_audit(ledger):
    ledger.write_config("trials/000000", {"number": 0})
    assert read_audit(ledger, []) is None
    assert early_part(None) == ""


def test_epochs_rungs_and_the_lost_part_of_the_front_are_counted(ledger):
    trial(ledger, 0, (0.90, 0.50), (0.95, 0.60))
    trial(ledger, 1, (0.80, 0.40), (0.90, 0.70))
    trial(ledger, 2, (0.70, 0.30), (0.85, 0.50))
    trial(ledger, 3, (0.50, 0.20), (0.99, 0.40), condemned=True, spared=True)  # was underrated: ends on the front
    trial(ledger, 4, (0.40, 0.20), (0.60, 0.10), condemned=True, spared=True)
    for number in range(5, 11):
        trial(ledger, number, (0.3, 0.1), condemned=True)
    for copied in (3, 9):  # what somebody keeps of a trial is none
        shutil.copytree(ledger.folder(f"trials/{copied:06d}"), ledger.folder(f"trials/{copied:06d}-before"))
    audit = read_audit(ledger, [])
    assert audit is not None
    assert audit.epochs == 5 * EPOCHS + 6 * 5
    assert audit.epochs_unstopped == 11 * EPOCHS
    assert (audit.spared, audit.spared_on_front, audit.front, audit.stopped) == (2, 1, 3, 6)
    (rung,) = audit.rungs
    assert (rung.epoch, rung.reached, rung.condemned, rung.stopped, rung.finished) == (5, 11, 8, 6, 5)
    low, high = wilson(1, 2)
    assert audit.lost == pytest.approx((3 / 6, 6 * low / (6 * low + 3), 6 * high / (6 * high + 3)))
    assert "130 student epochs instead of 220 (41 % saved)" in saved_text(audit)
    assert "an estimated 50 % of the true front was stopped" in lost_text(audit)


def tau_by_copies(rows):
    """Kendall's tau-b in a world where each trial is there as often as it stands for."""
    rung, end = ([row[place] for row in rows for _ in range(row[2])] for place in (0, 1))
    return kendalltau(rung, end).statistic


@pytest.mark.parametrize("share", [0.25, None])
def test_the_order_of_a_rung_counts_the_drawn_for_many_and_those_of_a_rung_switched_off_once(ledger, share):
    """The share is the record's; where it names none, as older ones do, the study's."""
    named = {} if share is None else {"share": share}
    for number, worth in enumerate((0.9, 0.8, 0.7, 0.6)):
        trial(ledger, number, (worth, 0.5), (worth, 0.5))
    trial(ledger, 4, (0.5, 0.2), (0.85, 0.4), condemned=True, spared=True, **named)
    for number, spared in ((5, True), (6, False)):  # the first is what older records say
        told = {"condemned": True, "spared": spared, "stop": False, "distrusted": "SWITCHED OFF"} | named
        trial(ledger, number, (0.4 - number / 100, 0.1), (0.90 + number / 100, 0.3), **told)
    audit = read_audit(ledger, [], share=share_of({"space": {"early_stopping": {"spared": 0.25}}}))
    assert audit is not None
    straight = [(worth, worth, 1) for worth in (0.9, 0.8, 0.7, 0.6)]
    odd = [(0.5, 0.85, 4), (0.35, 0.95, 1), (0.34, 0.96, 1)]
    assert audit.rungs[0].tau["accuracy"] == pytest.approx(tau_by_copies([*straight, *odd]))
    assert (audit.spared, audit.spared_on_front) == (1, 0)


def test_a_study_that_names_no_share_spared_the_usual_one():
    assert share_of({}) == share_of({"space": None}) == share_of({"space": {"early_stopping": {}}}) == SPARED


def test_without_a_spared_trial_nothing_is_claimed(ledger):
    trial(ledger, 0, (0.9, 0.5), (0.9, 0.5))
    trial(ledger, 1, (0.1, 0.1), condemned=True)
    audit = read_audit(ledger, [])
    assert audit is not None
    assert audit.lost is None
    assert "nothing tells" in lost_text(audit)


def test_trials_under_way_and_failed_ones_do_not_count_as_saved(ledger):
    trial(ledger, 0, (0.9, 0.5))
    trial(ledger, 1, (0.9, 0.5), stop=False)
    ledger.commit("trials/000001", {"state": "FAIL", "reason": "diverged"})
    audit = read_audit(ledger, [])
    assert audit is not None
    assert audit.epochs_unstopped - audit.epochs == 0
    assert math.isnan(audit.rungs[0].tau["accuracy"])


def test_a_rung_that_was_switched_off_is_said_once_and_loudly(ledger):
    for number in range(3):
        trial(ledger, number, (0.5, 0.5), (0.6, 0.6), condemned=True, stop=False, distrusted="SWITCHED OFF: tau 0.1")
    audit = read_audit(ledger, [])
    assert early_part(audit).count("EARLY STOPPING after epoch 5 SWITCHED OFF: tau 0.1") == 1


def test_a_damaged_record_is_left_out_and_named(ledger):
    trial(ledger, 0, (0.9, 0.5), (0.9, 0.5))
    (ledger.folder("trials/000000") / "rung-000009.json").write_text("{torn")
    problems = []
    audit = read_audit(ledger, problems)
    assert audit is not None
    assert len(audit.rungs) == 1
    assert "rung-000009.json" in problems[0]
