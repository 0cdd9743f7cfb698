"""A study as an experiment: cells, paired gains, the contrast and factorial effects from files with known effects."""

import json
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.comparisons import cells, contrast_gain, effects, gain, image_interval, imbalance, is_balanced, over_seeds
from study.designs import Design, design, key, records, same
from study.effects import mean_interval, paired_difference
from study.results import Results, load
from tests.design_folder import DesignPlan, law, settings_of, write_design
from tests.study_folder import Plan, write_study

PLAN = DesignPlan(attacked=False)
Make = Callable[[DesignPlan], Design]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load(write_design(tmp_path_factory.mktemp("studies")))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda plan: design(load(write_design(tmp_path, plan)))


def _laws(plan: DesignPlan, **where: Any) -> dict[tuple[int, int], list[float]]:
    found: dict[tuple[int, int], list[float]] = {}
    for trial, point in enumerate(plan.points()):
        if all(point[k] == v for k, v in where.items()):
            found.setdefault((point["seed"], point["teacher"]), []).append(law(plan, trial, point))
    return found


def test_factors_blocks_and_levels_are_told_apart(results: Results) -> None:
    of = design(results)
    assert (of.factors, of.blocks, of.unit) == (("method", "horizon"), ("seed", "teacher"), "seed")
    assert of.levels["method"] == ("none", "kd")
    assert of.levels["horizon"] == (0.5, 1.0, 2.0)
    assert (of.adaptive, of.accuracy_split, of.epsilon) == (False, "test", 0.0625)


def test_measures_come_from_bits_and_probes(results: Results) -> None:
    for row in records(design(results).table):
        bits, probe = results.survivors[f"student-{row['trial']:06d}"], results.probes[f"student-{row['trial']:06d}"]
        assert row["accuracy"] == bits.clean_correct.mean()
        assert row["robust_accuracy"] == bits.robust(0.0625).mean()
        assert row["ece"] == probe["calibration"]["ece"]
        assert row["noise_accuracy"] == pytest.approx(np.mean([entry["accuracy"] for entry in probe["noise"]]))
        assert row["transfer"] == 0.4
        assert row["distilled"] == (row["method"] == "kd")


def test_one_trial_that_was_not_attacked_keeps_splits_apart(results: Results) -> None:
    rest = {name: bits for name, bits in results.survivors.items() if name != "student-000003"}
    of = design(replace(results, survivors=rest))
    assert of.accuracy_split == "val_search"
    row = of.table[of.table["trial"] == 3].iloc[0]
    assert row["accuracy"] == results.trials["accuracy"][3]
    assert isnan(row["robust_accuracy"])


def test_half_an_attack_is_no_measurement(results: Results) -> None:
    bits = dict(results.survivors)
    bits["student-000003"] = replace(bits["student-000003"], shards_expected=2)
    assert design(replace(results, survivors=bits)).accuracy_split == "val_search"


def test_cells_average_teachers_within_seeds_first(make: Make) -> None:
    of = make(PLAN)
    found = {(c.levels["method"], c.levels["horizon"]): c for c in cells(of, measures=["accuracy"])}
    assert list(found) == [(m, h) for m in ("none", "kd") for h in (0.5, 1, 2)]
    own = _laws(PLAN, method="kd", horizon=2.0)
    by_seed = [np.mean([own[seed, teacher] for teacher in (0, 1)]) for seed in (0, 1, 2)]
    assert found["kd", 2].means["accuracy"] == pytest.approx(mean_interval(by_seed))
    assert found["kd", 2].means["accuracy"].n == 3


def test_gain_pairs_trials_that_differ_in_nothing_else(make: Make) -> None:
    of = make(PLAN)
    found = gain(of, "accuracy", "method", ("kd", "none"))
    kd, none = _laws(PLAN, method="kd"), _laws(PLAN, method="none")
    first, second = (np.concatenate([side[block] for block in sorted(side)]) for side in (kd, none))
    assert found.over_blocks.difference == pytest.approx(paired_difference(first, second).difference)
    assert found.over_blocks.difference.n == 18
    by_seed = [np.mean([kd[s, t] for t in (0, 1)]) - np.mean([none[s, t] for t in (0, 1)]) for s in (0, 1, 2)]
    assert found.over_seeds.difference == pytest.approx(mean_interval(by_seed))
    assert found.over_seeds.difference.low < 0.03 < found.over_seeds.difference.high
    assert {len(pair[1]) + len(pair[2]) for pair in found.pairs} == {2}


def test_gain_where_and_swapped(make: Make) -> None:
    of = make(PLAN)
    at = gain(of, "accuracy", "method", ("kd", "none"), {"horizon": 1})
    assert at.over_blocks.difference.n == 6
    swapped = gain(of, "accuracy", "method", ("none", "kd"), {"horizon": 1})
    assert swapped.over_blocks.difference.value == pytest.approx(-at.over_blocks.difference.value)
    assert gain(of, "accuracy", "method", ("kd", "feed-parallel")).over_blocks.difference.n == 0
    with pytest.raises(ValueError, match="colour"):
        gain(of, "accuracy", "colour", (1, 2))


def test_what_exists_at_one_level_only_is_averaged(make: Make) -> None:
    plan = DesignPlan(attacked=False, probed=False, factors={"method": ["none", "kd"], "temperature": [1, 4]})
    of = make(plan)
    table = of.table[~((of.table["method"] == "none") & (of.table["temperature"] == 4))].copy()
    table.loc[table["method"] == "none", "temperature"] = None
    found = gain(replace(of, table=table), "accuracy", "method", ("kd", "none"))
    assert found.averaged == ("temperature",)
    assert {(len(first), len(second)) for _, first, second in found.pairs} == {(2, 1)}
    assert found.over_blocks.difference.n == 6


def test_order_of_trials_changes_nothing(make: Make) -> None:
    of = make(PLAN)
    turned = replace(of, table=of.table.sample(frac=1, random_state=1).reset_index(drop=True))
    assert repr(cells(turned)) == repr(cells(of))
    assert gain(turned, "accuracy", "method", ("kd", "none")) == gain(of, "accuracy", "method", ("kd", "none"))
    assert effects(turned, "accuracy") == effects(of, "accuracy")


def test_factorial_effects_recover_the_law(make: Make) -> None:
    found = effects(make(replace(PLAN, noise=1e-6)), "accuracy")
    estimates = {(e.factors, e.levels): e.estimate.value for e in found.effects}
    assert estimates == pytest.approx(
        {
            (("method",), (1,)): 0.03,
            (("horizon",), (1,)): 0.02,
            (("horizon",), (2,)): 0.04,
            (("method", "horizon"), (1, 1)): 0.0,
            (("method", "horizon"), (1, 2)): 0.0,
        },
        abs=1e-5,
    )
    assert found.blocks == 3
    by_p = sorted(zip((e.p_value for e in found.effects), found.adjusted, strict=True))
    assert by_p[0][1] == pytest.approx(min(1.0, 5 * by_p[0][0]))
    assert all(adjusted >= p for p, adjusted in by_p)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"drop": (4, 5)}, "1 of 18 cells hold no trial"),
        ({"drop": (4,)}, "in one block than in another"),
        ({"sampler": "tpe"}, "in view of earlier results"),
        ({"factors": {"method": ["kd"]}}, "takes two levels"),
    ],
)
def test_unbalanced_designs_refuse_effects_with_a_reason(make: Make, change: dict[str, Any], reason: str) -> None:
    of = make(replace(PLAN, **change))
    assert reason in (imbalance(of, "accuracy") or "")
    assert not is_balanced(of)
    assert effects(of, "accuracy").effects == ()
    assert reason in (effects(of, "accuracy").refusal or "")


def test_a_measure_that_some_trials_lack_is_unbalanced(results: Results) -> None:
    rest = {name: bits for name, bits in results.survivors.items() if name not in ("student-000000", "student-000001")}
    of = design(replace(results, survivors=rest))
    assert is_balanced(of)
    assert "1 of 18 cells" in (imbalance(of, "robust_accuracy") or "")


def test_one_seed_gives_means_without_intervals(make: Make) -> None:
    of = make(replace(PLAN, seeds=(0,), teachers=(0,)))
    assert of.unit is None
    assert all(not cell.means["accuracy"].known for cell in cells(of))
    found = effects(of, "accuracy")
    assert found.refusal is None
    assert all(not effect.estimate.known for effect in found.effects)


def test_contrast_is_read_and_answered(results: Results) -> None:
    of = design(results)
    found = contrast_gain(of)
    assert found is not None
    assert (found.measure, found.factor, found.levels) == ("robust_accuracy", "method", ("kd", "none"))
    both = image_interval(results, of, found)
    assert both is not None
    assert both.value == pytest.approx(found.over_blocks.difference.value)
    assert both.low < both.value < both.high


@pytest.mark.parametrize("stored", [{"measure": "accuracy", "factor": "colour", "levels": [1, 2]}, {"levels": [1]}])
def test_a_contrast_that_nothing_answers(make: Make, stored: dict[str, Any]) -> None:
    assert contrast_gain(make(replace(PLAN, contrast=stored))) is None


def test_the_seed_that_won_a_search_is_not_averaged(make: Make, tmp_path: Path) -> None:
    searched = make(replace(PLAN, name="searched", sampler="tpe", drop=()))
    winners = set(searched.table[searched.table["on_front"]]["trial"])
    assert winners
    assert not winners & {trial for cell in cells(searched) for trial in cell.trials}
    designed = make(PLAN)
    assert {trial for cell in cells(designed) for trial in cell.trials} == set(designed.table["trial"])


def test_studies_without_a_design_are_read_too(tmp_path: Path) -> None:
    of = design(load(write_study(tmp_path, Plan())))
    assert of.adaptive
    assert of.contrast is None
    empty = design(load(write_study(tmp_path, Plan(name="empty", stages=()))))
    assert (empty.factors, empty.measures, cells(empty)) == ((), (), [])
    assert imbalance(empty, "accuracy")


def test_settings_stand_in_the_table_whether_sampled_or_not(make: Make) -> None:
    of = make(replace(PLAN, fixed={"epochs": 30}, factors={"discretisation": ["steps", "evaluations"]}))
    assert set(of.table["epochs"]) == {30}
    assert set(of.table["arm"]) == {"steps", "evaluations"}
    assert settings_of(PLAN, {})["student"]["solver"] == of.table["solver"][0]


def test_a_failed_probe_is_named_and_left_out(tmp_path: Path) -> None:
    folder = write_design(tmp_path, replace(PLAN, seeds=(0,)))
    path = folder / "probes/student-000000/outcome.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "FAIL", "reason": "crash"}))
    found = load(folder)
    assert "student-000000" not in found.probes
    assert "student-000001" in found.probes
    assert any("probes/student-000000" in problem for problem in found.problems)


@pytest.mark.parametrize(("first", "second"), [(1, 1.0), (0.1 + 0.2, 0.3), (None, float("nan")), ("kd", "kd")])
def test_levels_that_are_the_same(first: Any, second: Any) -> None:
    assert same(first, second)


@pytest.mark.parametrize(("first", "second"), [(1, True), (0, False), (0, None), ("1", 1), (0.5, 0.6)])
def test_levels_that_are_not(first: Any, second: Any) -> None:
    assert not same(first, second)
    assert key(first) != key(second)


def test_means_over_seeds_by_hand() -> None:
    rows = [{"seed": 0, "y": 1.0}, {"seed": 0, "y": 3.0}, {"seed": 1, "y": 4.0}]
    assert over_seeds(rows, "y", "seed") == mean_interval([2.0, 4.0])
    assert over_seeds(rows, "y", None).n == 1


def test_a_parameter_that_some_trials_do_not_have_and_keys_of_other_solves(results: Results) -> None:
    first = results.configs[0]
    first["params"]["beta"] = 50.0
    first["settings"]["evaluate"] = {"horizon": 99.0}
    of = design(results)
    assert of.levels["beta"] == (50.0,)
    assert 99.0 not in set(of.table["horizon"])
