"""The numbers of a diagnosis by the names of the rules, and what the rules make of them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from nodekd.attacks.threat import Threat
from nodekd.checks.diagnosis import Diagnosed, Level, Share, diagnose
from nodekd.checks.preflight import preflight
from nodekd.checks.protocol import subject_of
from nodekd.checks.solver_work import SolverWork
from study.checks.rules import RULES
from study.checks.verdicts import Measured, judge
from study.jobs.measured import Entry, of_diagnosis, of_network
from tests.known_networks import BALL, AboveTheMean, Noisy, Solid, grey, linear

WHOLE = Level(
    threat=Threat("linf", 0.125),
    broken={},
    strayed=Share(2, 900),
    lost=Share(3, 100),
    rising=Share(4, 80),
    doubled=Share(5, 100),
    longer=Share(6, 32),
    restarted=Share(7, 100),
    further=torch.zeros(100).bool(),
    work=SolverWork(clean=20.0, attacked=26.0, n=64),
    solvers=None,
)
BARE = replace(
    WHOLE,
    threat=Threat("linf", 0.25),
    strayed=Share(0, 0),
    lost=None,
    rising=Share(0, 0),
    doubled=Share(0, 9),
    longer=None,
    restarted=Share(0, 9),
    work=None,
)


def diagnosed(*levels: Level, unbounded: Share) -> Diagnosed:
    return Diagnosed(torch.ones(100).bool(), (), levels, unbounded, None, (), (), None, {})


def numbers(entries: list[Entry]) -> list[tuple[str, float | None, int | None, int | None]]:
    return [(each.measured.id, each.epsilon, each.measured.count, each.measured.n) for each in entries]


def test_every_number_of_a_level_has_its_name_its_epsilon_its_count_and_its_n() -> None:
    entries = of_diagnosis(diagnosed(WHOLE, BARE, unbounded=Share(8, 128)))
    assert numbers(entries) == [
        ("P2", 0.125, 2, 900),
        ("A1", 0.125, 3, 100),
        ("A2", 0.125, 4, 80),
        ("A3", 0.125, 5, 100),
        ("A3-long", 0.125, 6, 32),
        ("A4", 0.125, 7, 100),
        ("A15", 0.125, None, 64),
        ("P2", 0.25, 0, 0),
        ("A2", 0.25, 0, 0),
        ("A3", 0.25, 0, 9),
        ("A4", 0.25, 0, 9),
        ("A8", None, 8, 128),
    ]
    values = [each.measured.value for each in entries]
    expected = [2.0, 0.03, 0.05, 0.05, 6 / 32, 0.07, 0.3, 0.0, math.nan, 0.0, 0.0, 8 / 128]
    assert values == pytest.approx(expected, nan_ok=True)
    assert {each.measured.id for each in entries} <= set(RULES)


def test_words_hold_the_numbers() -> None:
    said = {each.measured.id: each.measured.said for each in of_diagnosis(diagnosed(WHOLE, unbounded=Share(8, 128)))}
    assert said == {
        "P2": "2 images left the ball",
        "A1": "3 images were broken on the way and not at the end",
        "A2": "the loss of 4 survivors still rises at the end",
        "A3": "twice the steps break 5 images that no attack breaks",
        "A3-long": "a thousand steps break 6 of 32 survivors of every attack",
        "A4": "more starts break 7 images that no attack breaks",
        "A15": "20.0 evaluations per image become 26.0 under attack",
        "A8": "8 of 128 images stay right though they may be moved anywhere",
    }


def raised(level: Level, unbounded: Share) -> dict[str, str]:
    """Return the checks that speak of a level, and what they say."""
    judged = judge([each.measured for each in of_diagnosis(diagnosed(level, unbounded=unbounded))], {})
    return {each.measured.id: each.verdict for each in judged if each.verdict in ("warn", "fail")}


CALM = replace(
    WHOLE,
    strayed=Share(0, 900),
    lost=Share(0, 100),
    rising=Share(0, 80),
    doubled=Share(0, 100),
    longer=Share(0, 32),
    restarted=Share(0, 100),
    work=SolverWork(20.0, 23.0, 64),
)


@pytest.mark.parametrize(
    ("bad", "identifier", "verdict"),
    [
        ({"strayed": Share(1, 900)}, "P2", "fail"),
        ({"lost": Share(3, 100)}, "A1", "fail"),
        ({"rising": Share(9, 80)}, "A2", "warn"),
        ({"doubled": Share(3, 100)}, "A3", "fail"),
        ({"longer": Share(6, 32)}, "A3-long", "fail"),
        ({"restarted": Share(3, 100)}, "A4", "warn"),
        ({"work": SolverWork(20.0, 26.0, 64)}, "A15", "warn"),
        ({"work": SolverWork(20.0, 14.0, 64)}, "A15", "warn"),
    ],
)
def test_one_bad_number_raises_its_own_check_and_no_other(
    bad: dict[str, object], identifier: str, verdict: str
) -> None:
    assert raised(CALM, Share(0, 128)) == {}
    assert raised(replace(CALM, **bad), Share(0, 128)) == {identifier: verdict}


def test_images_that_nothing_breaks_raise_the_unbounded_check() -> None:
    assert raised(CALM, Share(3, 128)) == {"A8": "warn"}
    assert raised(CALM, Share(64, 128)) == {"A8": "fail"}


def test_a_record_holds_plain_values_and_null_for_what_is_no_number() -> None:
    nothing, some = Entry(Measured("A2", math.nan, 0, 0, "said"), 0.25), Entry(Measured("A8", 0.5, 4, 8))
    assert nothing.record() == {"id": "A2", "epsilon": 0.25, "value": None, "count": 0, "n": 0, "said": "said"}
    assert some.record() == {"id": "A8", "epsilon": None, "value": 0.5, "count": 4, "n": 8, "said": ""}
    assert Entry(Measured("A15", math.inf)).record()["value"] is None


def test_a_network_that_nothing_moves_is_measured_named_and_judged() -> None:
    network, (images, labels) = Solid(), grey(40, 1, 1)
    subject = subject_of(network, network, preflight(network, images))
    entries = of_diagnosis(diagnose(subject, images, labels, (BALL,), BALL, seed=0, brief=True))
    assert numbers(entries) == [
        ("P2", 0.25, 0, 160),
        ("A1", 0.25, 0, 40),
        ("A2", 0.25, 0, 40),
        ("A3", 0.25, 0, 40),
        ("A4", 0.25, 0, 0),
        ("A8", None, 40, 40),
    ]
    spoke = {each.measured.id for each in judge([each.measured for each in entries], {}) if each.verdict == "fail"}
    assert spoke == {"A8"}


def test_company_is_counted_on_all_images_of_who_is_scored_alone() -> None:
    """P4: half of the images are another class in their batch."""
    images = torch.linspace(0, 1, 64).view(-1, 1, 1, 1).repeat(1, 1, 1, 2)
    by_id = {}
    for name, network in {
        "coupled": AboveTheMean(),
        "plain": linear(torch.tensor([1.0, 2.0])),
        "noisy": Noisy(nn.Flatten()),
    }.items():
        found = preflight(network, images[:16])
        entries = of_network(subject_of(network, network, found), found, images, Share(2, 6))
        by_id[name] = {each.measured.id: each.measured for each in entries}
        assert set(by_id[name]) == {"P1", "P3", "P4", "P5", "P5-saturated", "P5-precision", "P6", "P7"}
        assert {each.epsilon for each in entries} == {None}
    coupled, plain, noisy = (by_id[name]["P4"] for name in ("coupled", "plain", "noisy"))
    assert (coupled.count, coupled.n, plain.count, plain.n) == (32, 64, 2, 6), (
        "an image counts once, in its worse state"
    )
    assert "32 of 64 predictions of unchanged images differ in the batch" in coupled.said
    assert "2 of 6 predictions of attacked images differ in the batch" in plain.said
    assert judge([coupled], {})[0].verdict == "fail"
    found = preflight(linear(torch.tensor([1.0, 2.0])), images)
    subject = subject_of(linear(torch.tensor([1.0, 2.0])), linear(torch.tensor([1.0, 2.0])), found)
    (few,) = [
        each.measured
        for each in of_network(subject, replace(found, batch_flips=3, n=64), images, Share(2, 40))
        if each.measured.id == "P4"
    ]
    assert (few.count, few.n) == (3, 64), "two of forty are a larger share, but may not speak"
    assert math.isnan(noisy.value)
    assert judge([by_id["noisy"]["P3"]], {})[0].verdict == "warn"
    assert [by_id[name]["P3"].value for name in ("coupled", "plain")] == [0, 0]
