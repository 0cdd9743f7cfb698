"""From counts to words: one image never decides, a real excess does, and each failure is named."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from nodekd.checks.diagnosis import OWN
from study.checks.diagnostics import WHITE_BOX, Diagnosis, SolverMatrix, compared
from study.checks.rules import RULES
from study.checks.verdicts import Judged, Measured, judge, share, trust


def bits(*places: int, n: int = 100) -> np.ndarray:
    found = np.zeros(n, dtype=bool)
    found[list(places)] = True
    return found


def verdict_of(count: int, n: int = 256, rate: float = 0.0, identifier: str = "A11") -> str:
    return judge([share(identifier, count, n)], {identifier: rate})[0].verdict


@pytest.mark.parametrize(("count", "expected"), [(0, "pass"), (1, "pass"), (2, "pass"), (3, "fail"), (40, "fail")])
def test_a_share_needs_three_images(count: int, expected: str) -> None:
    assert verdict_of(count) == expected


def test_a_share_that_healthy_networks_show_as_well_is_no_alarm() -> None:
    assert verdict_of(6, rate=0.02) == "pass"
    assert verdict_of(6, rate=0.001) == "fail"
    assert verdict_of(20, rate=0.02) == "fail"


def test_between_the_limits_it_warns() -> None:
    assert verdict_of(5, n=1000) == "warn"
    assert verdict_of(3, n=100, identifier="A8") == "warn"
    assert verdict_of(30, n=1000, identifier="G1") == "fail"


def test_the_false_alarm_rate_of_the_whole_family_stays_below_its_level() -> None:
    """Closed form: independent shares at their healthy rate; Holm keeps the chance of any alarm at 5 %."""
    names, n, rate = ["A9", "A10", "A11", "A13", "A3"], 256, 0.02
    rng = np.random.default_rng(0)
    alarms = 0
    for counts in binom.rvs(n, rate, size=(400, len(names)), random_state=rng):
        judged = judge([share(i, int(c), n) for i, c in zip(names, counts, strict=True)], dict.fromkeys(names, rate))
        alarms += any(each.verdict in ("warn", "fail") for each in judged)
    assert alarms / 400 <= 0.05


def test_what_is_asked_later_excuses_nobody() -> None:
    """A14 is measured after a network was doubted: one more test in Holm's family would excuse three of 20 images."""
    rate = 0.0138
    p_value = binomtest(3, 20, rate, alternative="greater").pvalue
    others = ["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9", "A10", "A11", "A13", "S11", "P4", "G1"]
    others += ["G1-cross-entropy", "A3-long", "A12-spread"]
    family = [share("A12", 3, 20), *(share(name, 0, 20) for name in others)]
    assert len(family) * p_value <= 0.05 < (len(family) + 1) * p_value
    before, after = judge(family, {"A12": rate}), judge([*family, share("A14", 0, 20)], {"A12": rate})
    assert before[0].verdict == after[0].verdict == "fail"
    assert judge([*family, share("A14", 5, 20)], {"A12": rate})[-1].verdict == "fail"


def test_numbers_speak_alone_and_absent_ones_are_silent() -> None:
    judged = judge([Measured("G2", 0.5), Measured("G4", 0.2), Measured("G3", float("nan"))], {})
    assert [each.verdict for each in judged] == ["fail", "warn", "absent"]
    assert share("A11", 0, 0).value != share("A11", 0, 0).value
    assert judge([share("A11", 0, 0)], {})[0].verdict == "absent"


@pytest.mark.parametrize(
    ("measured", "word"),
    [
        ([Measured("G2", 0.999), share("A11", 0, 200)], "reliable"),
        ([Measured("G2", 0.95)], "suspect"),
        ([Measured("G2", 0.5), Measured("G4", 1.0)], "unreliable"),
        ([share("A11", 30, 200)], "unreliable"),
        ([Measured("P2", 3)], "suspect"),
        ([Measured("G2", float("nan"))], "unchecked"),
        ([], "unchecked"),
    ],
)
def test_one_word_with_its_reasons(measured: list[Measured], word: str) -> None:
    found = trust(judge(measured, {}))
    assert found.word == word
    assert (word == "reliable") == (not found.reasons)


def test_reasons_name_the_check_and_put_failures_first() -> None:
    found = trust(
        judge([Measured("G4", 1.0), share("A10", 25, 200, "Square breaks 25 images that gradients do not")], {})
    )
    assert found.reasons == (
        "A10 (no gradient is needed) fails: Square breaks 25 images that gradients do not",
        "G4 (loss is smooth around images) warns: 1",
    )


def found_by_id(measured: list[Measured]) -> dict[str, Measured]:
    return {each.id: each for each in measured}


def test_a_masked_network_shows_in_every_comparison() -> None:
    correct = ~bits(90, 91)
    broken = {
        "fgsm": bits(0, 1, 2),
        "pgd-20": bits(3),
        "pgd-20-margin": bits(3, 4, 5, 6, 7, 8),
        "sign-noise": bits(20, 21),
        "square": bits(3, 30, 31, 32),
        "transfer-teacher": bits(40, 41),
        "transfer-sibling": bits(41, 42),
        "straight-through": bits(*range(50, 60)),
        "rescaled-apgd": bits(70, 71),
    }
    larger = Diagnosis(correct, {"fgsm": bits(0), "pgd-20": bits(3, 4, 5, 6, 7)})
    found = found_by_id(compared(Diagnosis(correct, broken), larger))
    counts = {name: each.count for name, each in found.items()}
    assert counts == {"A5": 3, "A6": 5, "A9": 2, "A10": 3, "A11": 3, "A13": 10, "S11": 2, "A7": 3}
    assert {each.n for each in found.values()} == {98}
    assert "PGD on cross-entropy breaks 5 images fewer" in found["A6"].said


def test_a_check_whose_attack_did_not_run_is_left_out() -> None:
    assert compared(Diagnosis(bits(1), {"fgsm": bits(1)})) == []


def test_the_solver_matrix_compares_each_column_with_its_own_attack() -> None:
    broken = np.zeros((3, 3, 100), dtype=bool)
    for row in range(3):
        for column in range(3):
            broken[row, column, : 40 if row == column else 30] = True
    healthy = SolverMatrix(
        ("dopri5:1e-3", "rk4:16", "euler:4"), broken, np.ones((3, 100), dtype=bool), (True, True, False)
    )
    assert [each.count for each in healthy.checks()] == [0, 0]
    masked = broken.copy()
    masked[0, 0, 20:] = False
    found = SolverMatrix(healthy.solvers, masked, healthy.correct, healthy.converged).checks()
    assert [(each.id, each.count, each.n) for each in found] == [("A12", 10, 100), ("A12-spread", 20, 100)]
    assert found[0].said == "attacks through rk4:16 break 10 more images under dopri5:1e-3 than its own"
    assert trust(judge(found, {})).word == "unreliable"


def test_every_rule_has_a_limit() -> None:
    assert all(rule.warn is not None or rule.fail is not None for rule in RULES.values())
    assert isinstance(judge([Measured("G4", 0.0)], {})[0], Judged)


def test_both_sides_mean_the_same_attacks_by_the_networks_own_gradient() -> None:
    assert set(WHITE_BOX) == {attack.name for attack in OWN}
