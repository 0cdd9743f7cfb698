"""What the report derives and how it says it: headline rule, pairs, words for every state a study can be in."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from study.report.stats import (
    Rate,
    clean_baselines,
    compare,
    epsilons,
    headline,
    headline_epsilon,
    is_undistilled,
    marks,
    neighbours,
    teacher_clean,
)
from study.report.twins import twin_gains
from study.report.wording import (
    configuration_lines,
    epsilon_text,
    finding,
    headline_rule_text,
    neighbours_text,
    p_text,
    points_text,
    rate_text,
    twins_text,
)
from study.results import Results, load
from study.survivors import Survivors
from tests.study_folder import Plan, attacked, write_study

PLAN = Plan()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load(write_study(tmp_path_factory.mktemp("studies"), PLAN))


def _with(results: Results, model: str, **changes: object) -> Results:
    survivors = dict(results.survivors)
    survivors[model] = replace(survivors[model], **changes)  # type: ignore[arg-type]
    return replace(results, survivors=survivors)


def _model(name: str, kind: str, trial: int | None, clean: list[int], robust: list[int]) -> Survivors:
    right, alive = np.array(clean, bool), np.array(robust, bool)
    broken = (right & ~alive)[None, None, :]
    ids, nothing = np.arange(len(right)), np.zeros_like(broken)
    shared = (("fgsm",), ids, right, broken, nothing, 1, 1, 8.0)
    return Survivors(name, kind, trial, "linf", "test", (0.1,), *shared)


def test_marks_hold_every_attacked_model_and_the_test_front(results: Results) -> None:
    placed = marks(results, 0.0625)
    assert [m.kind for m in placed] == ["student"] * 4 + ["twin"] * 3 + ["teacher"]
    students = [m for m in placed if m.kind == "student"]
    for mark in students:
        beaten = any(
            o.clean.k >= mark.clean.k
            and o.robust.k >= mark.robust.k
            and (o.clean.k, o.robust.k) != (mark.clean.k, mark.robust.k)
            for o in students
        )
        assert mark.on_front != beaten
    assert not any(m.on_front for m in placed if m.kind != "student")
    assert all(m.detailed for m in placed)


def test_among_many_students_only_the_front_and_its_twins_are_drawn_in_detail(tmp_path: Path) -> None:
    placed = marks(load(write_study(tmp_path, Plan(attacked=15, trials=30, epochs=1))), 0.0625)
    front = {m.trial for m in placed if m.on_front}
    assert 0 < len(front) < 15
    assert {m.trial for m in placed if m.kind == "student" and m.detailed} == front
    assert all(m.detailed == (m.trial in front) for m in placed if m.kind == "twin")
    assert all(m.detailed for m in placed if m.kind == "teacher")


def test_a_student_far_below_the_teacher_is_never_headlined(results: Results) -> None:
    best = headline(results, 0.0625)
    assert best is not None
    weak = results.survivors[best.model]
    teacher = teacher_clean(results)
    assert teacher is not None
    # Leave it all its robustness, but make it wrong on clean images until it is 11 points below the teacher.
    clean = weak.clean_correct.copy()
    fallen = np.flatnonzero(clean & ~weak.robust(0.0625))
    spare = int(clean.sum() - (teacher.value - 0.11) * weak.n)
    clean[np.concatenate([fallen, np.flatnonzero(weak.robust(0.0625))])[: spare + 1]] = False
    changed = _with(results, best.model, clean_correct=clean)
    mark = next(m for m in marks(changed, 0.0625) if m.model == best.model)
    assert mark.clean.value < teacher.value - 0.10
    assert not mark.headlined
    other = headline(changed, 0.0625)
    assert other is not None
    assert other.model != best.model


def test_the_headline_is_the_most_robust_student_that_may_be_one(results: Results) -> None:
    best = headline(results, 0.0625)
    assert best is not None
    assert best.robust.k == max(m.robust.k for m in marks(results, 0.0625) if m.kind == "student")


def test_headline_epsilon_is_the_studys_or_the_smallest(results: Results) -> None:
    assert headline_epsilon(results) == 0.0625
    assert headline_epsilon(replace(results, study={"epsilon": 0.1})) == 0.1
    assert headline_epsilon(replace(results, study={"epsilon": 0.5})) == 0.0625
    assert headline_epsilon(replace(results, survivors={})) is None


def test_compare_counts_pairs_by_hand() -> None:
    first = _model("student-000001", "student", 1, [1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1])
    second = _model("twin-000001", "twin", 1, [1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1])
    found = compare(first, second, 0.1, "robust")
    assert (found.test.only_first, found.test.only_second) == (3, 1)
    assert found.difference.difference == pytest.approx(2 / 6)
    assert found.test.p_value == pytest.approx(binomtest(1, 4).pvalue)
    clean = compare(first, second, 0.1, "clean")
    assert (clean.test.only_first, clean.test.only_second) == (1, 1)


def test_gain_on_images_that_both_twins_get_right(results: Results) -> None:
    student = _model("student-000001", "student", 1, [1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1])
    twin = _model("twin-000001", "twin", 1, [1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 1])
    (gain,) = twin_gains(replace(results, survivors={"s": student, "t": twin}), 0.1)
    # Both right when clean: images 0, 1, 3, 5; of these the student keeps 0, 1, 5 and the twin 3, 5.
    assert gain.rates_of_both == (Rate(3, 4), Rate(2, 4))
    assert gain.of_both.difference.difference == pytest.approx(1 / 4)
    assert (gain.of_both.test.only_first, gain.of_both.test.only_second, gain.of_both.difference.n) == (2, 1, 4)
    assert gain.robust.difference.difference == pytest.approx(2 / 6)


def test_gains_are_adjusted_over_all_students(results: Results) -> None:
    gains = twin_gains(results, 0.0625)
    assert [g.trial for g in gains] == attacked(PLAN)[:-1]
    raw = sorted(g.robust.test.p_value for g in gains)
    assert min(g.robust.adjusted_p for g in gains) == pytest.approx(min(1.0, 3 * raw[0]))


def test_neighbours_are_next_to_each_other_on_the_test_front(results: Results) -> None:
    found = neighbours(results, 0.0625)
    front = sorted((m for m in marks(results, 0.0625) if m.on_front), key=lambda m: -m.clean.value)
    pairs = [(a.model, b.model) for a, b in pairwise(front)]
    assert [(c.first.model, c.second.model) for c in found if c.measure == "robust"] == pairs
    assert all(c.adjusted_p >= c.test.p_value for c in found)


def test_baselines_of_test_come_from_the_test_outcome(results: Results) -> None:
    assert clean_baselines(results, "test") == [("SVM", 0.949, 449), ("1-NN", 0.958, 449)]
    assert clean_baselines(results, "val_search") == [("SVM", 0.951, 270), ("1-NN", 0.962, 270)]
    assert clean_baselines(replace(results, baselines={}), "test") == []


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(0.1, "0.1"), (1 / 16, "1/16"), (8 / 255, "8/255"), (1 / 255, "1/255"), (0.25, "0.25"), (0.031, "0.031")],
)
def test_epsilons_are_written_as_people_do(epsilon: float, text: str) -> None:
    assert epsilon_text(epsilon) == text


def test_numbers_in_words() -> None:
    assert rate_text(Rate(0, 449)) == "0.0\u00a0% (0 of 449)"
    assert rate_text(Rate(0, 0)) == "unknown (0 images)"
    assert (p_text(0.0004), p_text(0.0123), p_text(1.0)) == ("p < 0.001", "p = 0.012", "p = 1")
    assert (points_text(0.036), points_text(-0.004)) == ("+3.6", "\u22120.4")


def test_the_finding_names_rate_n_interval_and_the_twin(results: Results) -> None:
    best = headline(results, 0.0625)
    assert best is not None
    assert is_undistilled(results, best.trial)
    assert "without distillation (alpha 0)" in finding(results)
    rest = {k: v for k, v in results.survivors.items() if k != best.model}
    frame = results.robustness[results.robustness["model"] != best.model]
    text = finding(replace(results, survivors=rest, robustness=frame))
    for part in ("Of 3 attacked students", "of 449", "epsilon 1/16", "95 % interval", "undistilled twin", "McNemar"):
        assert part in text


def test_words_admit_what_cannot_be_told(results: Results) -> None:
    """Two models with equal bits: not distinguishable, and the smallest detectable difference is said."""
    bits = ([1] * 90 + [0] * 10, [1] * 50 + [0] * 50)
    student = _model("student-000001", "student", 1, *bits)
    twin = _model("twin-000001", "twin", 1, *bits)
    same = replace(results, survivors={"s": student, "t": twin})
    assert "0 are clearly more robust than it, 0 clearly less, and 1 cannot be told apart" in twins_text(same, 0.1)
    assert "smallest detectable difference up to" in twins_text(same, 0.1)
    second = _model("student-000002", "student", 2, [1] * 89 + [0] * 11, [1] * 51 + [0] * 49)
    frame = results.robustness.head(0).reindex(columns=["model"]).assign()
    frame = frame.reindex(range(2)).assign(model=["student-000001", "student-000002"])
    pair = replace(results, survivors={s.model: s for s in (student, second)}, robustness=frame)
    text = neighbours_text(pair, 0.1)
    assert "0 of 1 neighbouring pairs" in text
    assert "same 100 images" in text
    assert "four times in five" in text


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ((), "No trial has finished yet"),
        (("teachers",), "No trial has finished yet"),
        (("teachers", "search"), "nothing has been measured on val_front or attacked on test yet"),
        (("teachers", "search", "front"), "none has been attacked on test yet"),
    ],
)
def test_the_finding_of_a_partial_study_says_what_misses(tmp_path: Path, stages: tuple[str, ...], said: str) -> None:
    assert said in finding(load(write_study(tmp_path, Plan(stages=stages, trials=6, attacked=1, epochs=1))))


def test_the_finding_before_any_student_was_attacked(results: Results) -> None:
    teacher = {k: v for k, v in results.survivors.items() if v.kind == "teacher"}
    frame = results.robustness[results.robustness["kind"] == "teacher"]
    only = replace(results, survivors=teacher, robustness=frame)
    assert "No student has been attacked" in finding(only)
    assert "fewer than two attacked students" in neighbours_text(only, 0.1)
    assert "cannot be told" in twins_text(only, 0.1)
    space = {**(only.study.get("space") or {}), "robustness": {"twins": False}}
    without = replace(only, study={**only.study, "space": space})
    assert "read from its own undistilled students, under Design" in twins_text(without, 0.1)
    no_teacher = {k: v for k, v in results.survivors.items() if v.kind != "teacher"}
    assert "No teacher was attacked" in headline_rule_text(replace(results, survivors=no_teacher))


def test_the_whole_configuration_is_listed_without_repeats(results: Results) -> None:
    lines = configuration_lines(results, 0)
    assert [line.split()[0] for line in lines[:5]] == ["temperature", "alpha", "solver", "horizon", "evaluations"]
    text = " ".join(lines)
    assert "odenet-stem" in text
    assert "learning_rate 0.01" in text
    assert text.count("solver") == 1


def test_epsilons_are_ascending(results: Results) -> None:
    assert epsilons(results) == [0.0625, 0.1]
