"""Who is condemned at a rung, and when rungs are not to be trusted: small cases by hand, rules for all others."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from study.fronts import non_dominated
from study.rungs import (
    LEAST_FINISHED,
    LEAST_PEERS,
    OBJECTIVES,
    Finished,
    Rule,
    correlation,
    distrust,
    epsilon_net,
    is_spared,
    judge,
    order,
    rung_epochs,
    stands_for,
)

MANY = (10**6, 10**6)
"""So many images that no error is left."""
RULES = [Rule("mo-asha"), Rule("asha"), Rule("asha", objective="adversarial_accuracy"), Rule("median")]
rate = st.integers(0, 20).map(lambda k: k / 20)
points = st.lists(st.tuples(rate, rate), min_size=1, max_size=25)


def line(count):
    """Trials each better in both than the one before."""
    return [(k / 100, k / 100) for k in range(1, count + 1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}-{rule.objective}")
def test_of_nine_in_a_row_the_best_third_or_half_goes_on(rule):
    peers, kept = line(9), 4 if rule.name == "median" else 3
    for place in range(9):
        own, others = peers[place], peers[:place] + peers[place + 1 :]
        assert judge(own, others, rule, MANY).condemned == (place < 9 - kept), place
        assert judge(own, others, rule, MANY).rank == 9 - place


def test_eta_says_how_many_go_on():
    """Rank 7 of 12: 10, 8, 6 and 3 go on."""
    condemned = [judge((0.05, 0.05), line(11), Rule("asha", eta), MANY).condemned for eta in (1.2, 1.5, 2, 4)]
    assert condemned == [False, False, True, True]


@settings(deadline=None)
@given(points)
def test_nobody_on_the_front_or_best_in_one_is_condemned(values):
    table = np.array(values)
    front = non_dominated(table)
    for place in range(len(values)):
        others = values[:place] + values[place + 1 :]
        said = judge(values[place], others, Rule("mo-asha"), MANY)
        if front[place] or (table[place] >= table.max(0)).any():
            assert not said.condemned
        assert said.of == len(values)


@settings(deadline=None)
@given(points, st.sampled_from(RULES))
def test_too_few_to_compare_condemn_nobody_and_a_condemned_one_is_beaten_in_all_that_counts(values, rule):
    said = judge(values[0], values[1:], rule, MANY)
    if len(values) < LEAST_PEERS:
        assert not said.condemned
    if said.condemned:
        columns = list(rule.objectives)
        assert (np.array(values[1:])[:, columns] > np.array(values[0])[columns]).all(1).any()


@settings(deadline=None)
@given(points, st.randoms())
def test_the_order_of_arrival_of_the_others_makes_no_difference(values, random):
    others = values[1:]
    random.shuffle(others)
    rule = Rule("asha")
    assert judge(values[0], values[1:], rule, MANY).condemned == judge(values[0], others, rule, MANY).condemned


def test_who_may_catch_up_within_one_standard_error_goes_on():
    peers = [(0.9, 0.5)] * 8
    behind = (0.86, 0.46)
    assert judge(behind, peers, Rule("mo-asha"), MANY).condemned
    said = judge(behind, peers, Rule("mo-asha"), (64, 64))
    assert not said.condemned
    assert "standard error" in said.reason
    assert judge((0.5, 0.1), peers, Rule("mo-asha"), (64, 64)).condemned


def test_trials_are_sorted_front_by_front():
    values = [(0.1, 0.1), (0.9, 0.2), (0.2, 0.9), (0.5, 0.1), (0.1, 0.5), (0.6, 0.6)]
    found = order(values).tolist()
    assert set(found[:3]) == {1, 2, 5}
    assert set(found[3:5]) == {3, 4}
    assert found[5] == 0


@settings(deadline=None)
@given(points)
def test_every_trial_has_one_place_and_none_stands_before_one_that_dominates_it(values):
    found = order(values).tolist()
    assert sorted(found) == list(range(len(values)))
    table = np.array(values)
    for earlier, later in itertools.combinations(found, 2):
        dominates = (table[later] >= table[earlier]).all() and (table[later] > table[earlier]).any()
        assert not dominates


def test_the_net_takes_the_ends_first_and_then_the_middle():
    front = [(k / 10, 1 - k / 10) for k in range(11)]
    assert epsilon_net(front)[:3] == [10, 0, 5]


def test_values_that_are_not_finite_come_last():
    assert order([(math.nan, 0.9), (0.1, 0.1), (0.2, 0.2)]).tolist() == [2, 1, 0]


@settings(deadline=None)
@given(st.lists(st.tuples(rate, rate, rate, rate), min_size=2, max_size=30))
def test_without_condemned_ones_the_correlation_is_kendalls_tau_b(rows):
    finished = [Finished((a, b), (c, d)) for a, b, c, d in rows]
    for column, objective in enumerate(OBJECTIVES):
        wanted = kendalltau([row[column] for row in rows], [row[column + 2] for row in rows]).statistic
        assert correlation(finished, objective) == pytest.approx(wanted, nan_ok=True)


def test_a_spared_one_stands_for_all_that_were_not():
    """With one spared of ten condemned, the weighted tau is that of a world in which all ten had lived on."""
    good = [Finished((0.8 + k / 100, 0.5), (0.8 + k / 100, 0.5)) for k in range(4)]
    poor = Finished((0.3, 0.5), (0.99, 0.5), weight=10)
    whole = [*good, *[Finished(poor.at_rung, poor.at_end)] * 10]
    assert correlation([*good, poor], "accuracy") == pytest.approx(correlation(whole, "accuracy"), abs=1e-9)


def on(**said):
    return {"condemned": True, "spared": False, "distrusted": None} | said


@pytest.mark.parametrize(
    ("records", "share", "weight"),
    [
        ([], 0.1, 1),
        ([on(condemned=False)], 0.1, 1),
        ([on(spared=True, share=0.25)], 0.1, 4),
        ([on(spared=True)], 0.1, 10),  # an older record
        ([on(distrusted="SWITCHED OFF", share=0.25)], 0.1, 1),
        ([on(distrusted="SWITCHED OFF", spared=True)], 0.1, 1),  # older ones called that spared, if so drawn
        ([on(spared=True, share=0.25), on(condemned=False, share=0.25)], 0.1, 4),  # of two rungs
        ([on(distrusted="SWITCHED OFF", share=0.0)], 0.0, 1),
        ([on(spared=True)], 0.0, 1),  # of a study that spared some, forked by one that spares none
        ([{"condemned": True}], 0.1, 1),
    ],
)
def test_who_lives_on_by_its_draw_stands_for_many_and_who_does_so_anyway_for_itself(records, share, weight):
    assert stands_for(records, share) == pytest.approx(weight)


def test_the_weights_make_up_for_those_that_two_rungs_stopped():
    """Over many draws the weights of those that finish add up to all that began, stratum by stratum."""
    share, random = 0.25, np.random.default_rng(1)
    fates = [(False, False), (True, False), (False, True), (True, True)]
    sums = dict.fromkeys(fates, 0.0)
    for draw in random.random(4000):
        for fate in fates:
            records = [on(condemned=each, spared=each and is_spared(draw, share), share=share) for each in fate]
            if all(each["spared"] or not each["condemned"] for each in records):
                sums[fate] += stands_for(records, share) / 4000
    assert [*sums.values()] == pytest.approx([1, 1, 1, 1], abs=0.1)


def as_different(count, agree):
    """Trials whose order at the end is that at the rung, or the reverse."""
    return [Finished((k / 50, k / 50), (k / 50, k / 50 if agree else 1 - k / 50)) for k in range(count)]


def test_a_rung_that_orders_one_objective_badly_is_switched_off_with_its_number():
    assert distrust(as_different(30, agree=True), Rule("mo-asha")) is None
    said = distrust(as_different(30, agree=False), Rule("mo-asha"))
    assert said is not None
    assert "adversarial_accuracy" in said
    assert "tau -1.00, below 0.4" in said
    assert distrust(as_different(30, agree=False), Rule("asha")) is None, "asha looks at accuracy alone"
    assert distrust(as_different(LEAST_FINISHED - 1, agree=False), Rule("mo-asha")) is None
    assert distrust(as_different(30, agree=False), Rule("mo-asha"), least_tau=-1) is None


@pytest.mark.parametrize(
    ("epochs", "eta", "rungs"), [(60, 3, (7, 20)), (80, 2, (20, 40)), (2, 3, (1,)), (1, 3, ()), (9, 1.5, (4, 6))]
)
def test_rungs_are_placed_geometrically(epochs, eta, rungs):
    assert rung_epochs(epochs, eta) == rungs


def test_the_share_of_the_spared_is_what_was_asked_for():
    draws = np.random.default_rng(0).random(10_000)
    assert np.mean([is_spared(draw, 0.08) for draw in draws]) == pytest.approx(0.08, abs=0.01)
