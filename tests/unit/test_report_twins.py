"""What distillation changed, by all three measures of S27, and the optimism of the choice: restated and simulated."""

import re
from dataclasses import replace
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from study.report.methods import methods_section
from study.report.optimism import mean_optimism, optimism
from study.report.paired_tables import gains_table, matched_table, neighbours_table, optimism_table
from study.report.stats import HEADLINE_MARGIN, compare, headline, is_undistilled, marks, neighbours, teacher_clean
from study.report.twins import matched_gains, twin_gains
from study.report.wording import alike_text, finding, neighbours_text, twins_text
from study.results import Results, load
from study.statistics import (
    detectable_by,
    family_level,
    independent_difference,
    mean_of_differences,
    smallest_detectable_difference,
    wilson,
)
from study.survivors import Survivors
from tests.study_folder import Plan, write_study

EPSILON = 0.1


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load(write_study(tmp_path_factory.mktemp("studies"), Plan()))


def _model(name: str, kind: str, trial: int | None, clean: np.ndarray, robust: np.ndarray) -> Survivors:
    broken = (clean & ~robust)[None, None, :]
    shared = (("fgsm",), np.arange(len(clean)), clean, broken, np.zeros_like(broken), 1, 1, 8.0)
    return Survivors(name, kind, trial, "linf", "test", (EPSILON,), *shared)


def _bits(n: int, right: int, shift: int = 0) -> np.ndarray:
    bits = np.zeros(n, bool)
    bits[shift : shift + right] = True
    return bits


def _only(results: Results, *models: Survivors, beside: tuple[Survivors, ...] = (), undistilled: tuple[int, ...] = ()):
    """Keep these models alone; of trials only those named are undistilled."""
    configs = {t: {"settings": {"distill": {"method": "none"}}} for t in undistilled}
    by_name, others = ({m.model: m for m in some} for some in (models, beside))
    return replace(results, survivors=by_name, beside=others, configs=configs)


def test_the_third_measure_counts_only_images_that_both_get_right(results: Results) -> None:
    rng = np.random.default_rng(0)
    clean = rng.random((2, 400)) < 0.9
    robust = clean & (rng.random((2, 400)) < [[0.6], [0.5]])
    student, twin = (_model(f"{k}-000001", k, 1, clean[i], robust[i]) for i, k in enumerate(("student", "twin")))
    (gain,) = twin_gains(_only(results, student, twin), EPSILON)
    both = clean.all(0)
    only = [int((robust[i] & ~robust[1 - i] & both).sum()) for i in (0, 1)]
    assert (gain.of_both.test.only_first, gain.of_both.test.only_second) == tuple(only)
    assert gain.of_both.test.p_value == pytest.approx(binomtest(only[0], sum(only)).pvalue)
    assert gain.of_both.difference.n == both.sum()
    assert gain.of_both.difference.difference == pytest.approx((only[0] - only[1]) / both.sum())
    expected = smallest_detectable_difference(int(both.sum()), sum(only) / int(both.sum()))
    assert gain.of_both.detectable == pytest.approx(expected)
    assert [rate.k for rate in gain.rates_of_both] == [int((robust[i] & both).sum()) for i in (0, 1)]


def test_no_image_in_common_is_no_crash(results: Results) -> None:
    student = _model("student-000001", "student", 1, _bits(10, 5), _bits(10, 3))
    twin = _model("twin-000001", "twin", 1, _bits(10, 5, 5), _bits(10, 3, 5))
    (gain,) = twin_gains(_only(results, student, twin), EPSILON)
    assert gain.of_both.difference.n == 0
    assert gain.of_both.detectable == 1.0
    assert ">none<" in gains_table(_only(results, student, twin))


def test_the_nearest_undistilled_network_is_chosen_by_clean_accuracy_alone(results: Results) -> None:
    student = _model("student-000001", "student", 1, _bits(400, 360), _bits(400, 200))
    twin = _model("twin-000001", "twin", 1, _bits(400, 340, 30), _bits(400, 100, 30))
    near = _model("twin-000002", "twin", 2, _bits(400, 358, 20), _bits(400, 120, 20))
    free = _model("student-000003", "student", 3, _bits(400, 361, 10), _bits(400, 350, 10))
    distilled = _model("student-000004", "student", 4, _bits(400, 360), _bits(400, 60))
    everything = _only(results, student, twin, near, free, distilled, undistilled=(3,))
    assert is_undistilled(everything, 3)
    found = {gain.trial: gain for gain in matched_gains(everything, EPSILON)}
    assert set(found) == {1, 4}  # an undistilled student is compared with nobody
    assert found[1].other is not None
    assert found[1].other.model == "student-000003"  # one image away; twin 2 is two away
    assert found[1].robust is not None
    assert found[1].robust.difference.difference == pytest.approx((200 - 350) / 400)
    assert found[1].robust.clear
    without = _only(results, student, twin, near, distilled)
    nearest = {gain.trial: gain.other for gain in matched_gains(without, EPSILON)}
    assert {t: m.model for t, m in nearest.items() if m} == {1: "twin-000002", 4: "twin-000002"}


def test_replicates_and_random_students_count_where_they_are_undistilled(results: Results) -> None:
    student = _model("student-000001", "student", 1, _bits(400, 360), _bits(400, 200))
    random = _model("student-000007", "random", 7, _bits(400, 360, 4), _bits(400, 150))
    replicate = _model("replicate-000001-1", "replicate", 1, _bits(400, 360), _bits(400, 200))
    teacher = _model("teacher-a", "teacher", None, _bits(400, 360), _bits(400, 200))
    all_of = _only(results, student, teacher, beside=(random, replicate), undistilled=(7,))
    (gain,) = matched_gains(all_of, EPSILON)
    assert gain.other is not None
    assert gain.other.model == "student-000007"


def test_equally_near_the_own_twin_comes_first(results: Results) -> None:
    student = _model("student-000002", "student", 2, _bits(400, 360), _bits(400, 200))
    others = [_model(f"twin-{t:06d}", "twin", t, _bits(400, 358, t), _bits(400, 100)) for t in (1, 2, 3)]
    (gain,) = matched_gains(_only(results, student, *others), EPSILON)
    assert gain.other is not None
    assert gain.other.model == "twin-000002"


@pytest.mark.parametrize(("lead", "alike"), [(0, True), (16, True), (20, False), (60, False)])
def test_unlike_accuracies_are_not_compared(results: Results, lead: int, alike: bool) -> None:
    """400 images, disagreement on about 40: 4.4 points, 17.6 images, are the smallest difference they can detect."""
    student = _model("student-000001", "student", 1, _bits(400, 300 + lead), _bits(400, 200))
    twin = _model("twin-000001", "twin", 1, _bits(400, 300, 20 + lead // 2), _bits(400, 100, 40))
    (gain,) = matched_gains(_only(results, student, twin), EPSILON)
    clean = compare(student, twin, EPSILON, "clean")
    psi = (clean.test.only_first + clean.test.only_second) / 400
    assert alike == (lead / 400 < smallest_detectable_difference(400, psi))
    assert (gain.robust is not None) == alike
    assert gain.clean is not None
    assert gain.clean.difference.difference == pytest.approx(lead / 400)
    table = matched_table(_only(results, student, twin))
    assert ("no undistilled network of like accuracy" in table) != alike
    assert "twin 1" in table


def test_without_undistilled_networks_the_table_says_so(results: Results) -> None:
    student = _model("student-000001", "student", 1, _bits(100, 90), _bits(100, 50))
    alone = _only(results, student)
    (gain,) = matched_gains(alone, EPSILON)
    assert (gain.clean, gain.robust, gain.other) == (None, None, None)
    assert "no undistilled network was attacked" in matched_table(alone)
    assert "1 of 1 there is no undistilled network of like accuracy" in alike_text(alone, EPSILON)


def test_at_like_accuracy_nothing_is_found_where_nothing_is(results: Results) -> None:
    """Simulated under the null, nearest of many chosen: the share of clear findings stays at 5 %."""
    rng, clear, rounds = np.random.default_rng(1), 0, 80
    for _ in range(rounds):
        difficulty = rng.normal(0, 1, 300)
        noisy = difficulty + rng.normal(0, 0.5, (6, 300))
        clean, robust = noisy < 1.3, noisy < 0.2
        student = _model("student-000001", "student", 1, clean[0], robust[0])
        others = [_model(f"twin-{t:06d}", "twin", t, clean[t], robust[t]) for t in range(1, 6)]
        (gain,) = matched_gains(_only(results, student, *others), EPSILON)
        clear += gain.robust is not None and gain.robust.clear
    assert binomtest(clear, rounds, 0.05, alternative="greater").pvalue > 0.001


def test_what_a_family_can_detect_is_at_its_strictest_step(results: Results) -> None:
    found = neighbours(results, 0.0625)
    assert len(found) > 1
    for one in found:
        n = one.difference.n
        psi = (one.test.only_first + one.test.only_second) / n
        assert one.detectable == pytest.approx(smallest_detectable_difference(n, psi, 1 - 0.05 / len(found)))
        assert one.detectable > compare(one.first, one.second, 0.0625, one.measure).detectable
    assert family_level(1) == pytest.approx(0.95)
    assert family_level(10) == pytest.approx(0.995)
    assert family_level(0) == pytest.approx(0.95)


@pytest.mark.parametrize("family", [1, 6])
def test_a_difference_of_that_size_is_found_four_times_in_five(family: int) -> None:
    n, psi = 449, 0.12
    size = smallest_detectable_difference(n, psi, family_level(family))
    rng = np.random.default_rng(2)
    b, c, _ = rng.multinomial(n, [(psi + size) / 2, (psi - size) / 2, 1 - psi], size=400).T
    p = np.array([binomtest(int(x), int(x + y)).pvalue for x, y in zip(b, c, strict=True)])
    assert 0.68 <= float(np.mean(p * family < 0.05)) <= 0.9


def _far(results: Results) -> tuple[Results, int]:
    """Make a student with a twin so inaccurate that it may not be headlined."""
    gain = twin_gains(results, 0.0625)[0]
    student = results.survivors[f"student-{gain.trial:06d}"]
    teacher = teacher_clean(results)
    assert teacher is not None
    clean = student.clean_correct.copy()
    spare = int(clean.sum() - (teacher.value - HEADLINE_MARGIN - 0.02) * student.n)
    clean[np.flatnonzero(clean)[:spare]] = False
    changed = replace(results, survivors={**results.survivors, student.model: replace(student, clean_correct=clean)})
    return changed, gain.trial


def test_students_far_below_the_teacher_are_marked_and_not_counted(results: Results) -> None:
    changed, trial = _far(results)
    gains = {gain.trial: gain for gain in twin_gains(changed, 0.0625)}
    assert not gains[trial].headlined
    assert all(gain.headlined for other, gain in gains.items() if other != trial)
    best = headline(changed, 0.0625)
    assert best is None or best.trial != trial
    placed = {mark.trial: mark for mark in marks(changed, 0.0625) if mark.kind == "student"}
    assert {t for t, mark in placed.items() if not mark.headlined} == {trial}
    text = twins_text(changed, 0.0625)
    assert f"of {len(gains) - 1} students with a twin" in text
    assert "1 far below the teacher: they stand in the tables, not in a headline." in text
    for table in (gains_table(changed), matched_table(changed)):
        assert f"student {trial}<small>not headlined</small>" in table
        assert table.count("not headlined") == 2  # once per epsilon
    matched = {gain.trial: gain.headlined for gain in matched_gains(changed, 0.0625)}
    assert not matched[trial]


def test_no_comparison_is_printed_without_what_it_could_detect(results: Results) -> None:
    tables = [gains_table(results), matched_table(results), optimism_table(results)]
    tables += [neighbours_table(results, epsilon) for epsilon in (0.0625, 0.1)]
    for table in tables:
        assert table
        differences = re.findall(r"points<small>(.*?)</small>", table)
        assert differences
        assert all("detectable " in small for small in differences)
    for text in (finding(results), twins_text(results, 0.0625), neighbours_text(results, 0.0625)):
        assert "points" not in text or "detectable" in text or "four times in five" in text
    rest = {k: v for k, v in results.survivors.items() if not is_undistilled(results, v.trial)}
    said = finding(
        replace(results, survivors=rest, robustness=results.robustness[results.robustness["model"].isin(rest)])
    )
    assert "undistilled twin" in said
    assert "detectable: " in said


def test_independent_difference_agrees_with_the_published_example() -> None:
    """Newcombe 1998: 56/70 less 48/80 by method 10 is 0.0524 to 0.3339."""
    found = independent_difference(56, 70, 48, 80)
    assert found.difference == pytest.approx(0.2)
    assert (found.low, found.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_independent_difference_refuses_no_images() -> None:
    with pytest.raises(ValueError, match="n1 >= 1"):
        independent_difference(0, 0, 1, 2)


def test_mean_of_differences_by_hand() -> None:
    (l1, u1), (l2, u2), (l3, u3), (l4, u4) = wilson(90, 100), wilson(80, 100), wilson(150, 200), wilson(160, 200)
    d = (0.9 + 0.8) / 2 - (0.75 + 0.8) / 2
    below = sqrt((0.85 - (l1 + l2) / 2) ** 2 + ((u3 + u4) / 2 - 0.775) ** 2)
    above = sqrt(((u1 + u2) / 2 - 0.85) ** 2 + (0.775 - (l3 + l4) / 2) ** 2)
    assert mean_of_differences([90, 80], 100, [150, 160], 200) == pytest.approx((d, d - below, d + above))
    assert mean_of_differences([90], 100, [150], 200) == pytest.approx(independent_difference(90, 100, 150, 200))
    assert np.isnan(mean_of_differences([], 100, [], 200).difference)


@pytest.mark.parametrize("shared", [0.0, 0.8, 1.0])
def test_the_mean_over_students_covers_the_truth_however_much_luck_they_share(shared: float) -> None:
    rng, students, rounds, hits = np.random.default_rng(3), 3, 120, 0
    for _ in range(rounds):
        luck = [
            shared**0.5 * rng.normal(0, 1, n) + (1 - shared) ** 0.5 * rng.normal(0, 1, (students, n))
            for n in (270, 449)
        ]
        k1, k2 = ((each < 0.2).sum(1).tolist() for each in luck)
        found = mean_of_differences(k1, 270, k2, 449)
        hits += found.low <= 0 <= found.high
    assert binomtest(hits, rounds, 0.95, alternative="less").pvalue > 0.001


def test_a_difference_as_large_as_detectable_by_the_interval_is_found_four_times_in_five() -> None:
    n1, n2, p = 270, 449, 0.6
    at = independent_difference(round(p * n1), n1, round(p * n2), n2)
    size = detectable_by(at.low, at.high)
    rng = np.random.default_rng(4)
    pairs = zip(rng.binomial(n1, p + size / 2, 400), rng.binomial(n2, p - size / 2, 400), strict=True)
    found = [independent_difference(int(a), n1, int(b), n2).low > 0 for a, b in pairs]
    assert 0.74 <= float(np.mean(found)) <= 0.86


def test_optimism_is_val_front_less_test_for_every_attacked_student(results: Results) -> None:
    found = {(each.trial, each.measure): each for each in optimism(results)}
    attacked = results.front[results.front["attacked"]]
    assert {trial for trial, _ in found} == set(attacked["trial"])
    for row in attacked.to_dict("records"):
        model = results.survivors[f"student-{row['trial']:06d}"]
        clean, robust = found[row["trial"], "clean"], found[row["trial"], "robust"]
        assert clean.difference.difference == pytest.approx(row["accuracy"] - model.clean_correct.mean())
        own = row["adversarial_accuracy"] - model.robust(0.0625).mean()
        assert robust.difference.difference == pytest.approx(own)
        assert robust.epsilon == 0.0625
        expected = independent_difference(robust.val_front.k, robust.val_front.n, robust.test.k, robust.test.n)
        assert robust.difference == expected
    means = {mean.measure: mean for mean in mean_optimism(list(found.values()))}
    robust = [each.difference.difference for (_, measure), each in found.items() if measure == "robust"]
    assert means["robust"].difference.difference == pytest.approx(np.mean(robust))
    assert means["robust"].students == len(attacked)
    table = optimism_table(results)
    assert f"mean of {len(attacked)} students" in table
    assert table.count("<tr") == 1 + 2 + 2 * len(attacked)


def test_optimism_needs_the_same_attack_on_both_splits(results: Results) -> None:
    other_norm = replace(results, study={**results.study, "norm": "l2"})
    assert {each.measure for each in optimism(other_norm)} == {"clean"}
    elsewhere = replace(results, front=results.front.assign(epsilon=0.3))
    assert {each.measure for each in optimism(elsewhere)} == {"clean"}
    unknown = replace(results, front=results.front.assign(survivors=np.nan))
    assert {each.measure for each in optimism(unknown)} == {"clean"}
    assert optimism(replace(results, survivors={})) == []
    assert optimism_table(replace(results, survivors={})) == ""
    assert mean_optimism([]) == []


def test_the_winner_of_many_equal_students_is_shown_to_be_lucky(results: Results) -> None:
    """The best of 30 equal ones on 270 images is about two standard errors up; on test the luck is gone."""
    rng, seen = np.random.default_rng(5), []
    for _ in range(40):
        val = rng.binomial(270, 0.6, 30)
        best = int(val.max())
        bits = rng.random(449) < 0.6
        model = _model("student-000001", "student", 1, np.ones(449, bool), bits)
        columns = {"trial": [1], "accuracy": [1.0], "n": [270], "adversarial_accuracy": [best / 270]}
        front = pd.DataFrame({**columns, "survivors": [best], "n_adversarial": [270], "epsilon": [EPSILON]})
        chosen = replace(results, survivors={model.model: model}, front=front.assign(attacked=True))
        (robust,) = [each for each in optimism(chosen) if each.measure == "robust"]
        seen.append(robust.difference.difference)
    assert 1.5 * 0.0298 < float(np.mean(seen)) < 2.6 * 0.0298


def test_the_race_is_told_in_the_methods(results: Results) -> None:
    left = [{"trial": 7, "beaten_by": 3, "n": 100, "p_value": 1e-6, "said": "raced out at n = 100, beaten by 3"}]
    race = {"level": 0.01, "looks": [100], "images": 270, "attacked": 370, "of": 540, "left": left}
    raced = replace(results, selection={**results.selection, "race": race})
    text = methods_section(raced)
    for said in ("7 raced out at n = 100, beaten by 3", "at most 0.01", "370 of 540 attacks"):
        assert said in text
    assert "Left the race" not in methods_section(results)
    assert "nobody" in methods_section(replace(raced, selection={**raced.selection, "race": {**race, "left": []}}))
