"""Fronts on which nobody can be told apart, and which epsilon would tell them apart."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from study_folder import Plan, write_study

from nodekd.attacks.catalog import EPSILONS
from study.flat_fronts import Counts, FlatFront, flat_at, flat_fronts
from study.report.drawing import front_svg
from study.report.flat import flat_front_text, flat_search_text, flat_text
from study.report.page import render
from study.results import Results, load
from study.show import print_results

GRID = EPSILONS["cifar10"]["linf"].grid
NOBODY, SOME, EVERYBODY = Counts(0, 450, 500), Counts(200, 450, 500), Counts(440, 450, 500)


@pytest.mark.parametrize(
    ("counts", "where"),
    [
        ([], None),
        ([Counts(0, 0, 0)], None),
        ([NOBODY], "zero"),
        ([NOBODY, Counts(0, 300, 500)], "zero"),
        ([NOBODY, SOME], None),
        ([NOBODY, EVERYBODY], None),
        ([EVERYBODY, Counts(386, 400, 500)], "clean"),
        ([EVERYBODY, Counts(380, 400, 500)], None),  # 95 % exactly does not exceed 95 %
        ([Counts(0, 0, 500)], "zero"),
        ([Counts(1, 450, 500)], "zero"),  # the interval begins at 0.04 per cent
    ],
)
def test_where_a_front_is_flat(counts, where):
    assert flat_at(counts) == where


@pytest.mark.parametrize(("robust", "n", "touches"), [(0, 20, True), (1, 20, False), (1, 1000, True), (5, 1000, False)])
def test_an_interval_touches_zero_where_it_is_printed_as_from_zero(robust, n, touches):
    z = 1.959963984540054
    p = robust / n
    low = (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    assert (f"{100 * low:.1f}" == "0.0") is touches
    assert (flat_at([Counts(robust, n, n)]) == "zero") is touches


def test_an_attacked_epsilon_that_tells_is_named_first():
    measured = {GRID[1]: [EVERYBODY], GRID[2]: [SOME, NOBODY], GRID[5]: [NOBODY, NOBODY]}
    assert flat_fronts(measured, GRID) == {
        GRID[1]: FlatFront("clean", 1, GRID[2], True),
        GRID[5]: FlatFront("zero", 2, GRID[2], True),
    }


def test_the_nearest_by_ratio_of_several():
    measured = {0.01: [SOME], 0.04: [SOME], 0.09: [NOBODY]}
    assert flat_fronts(measured)[0.09].instead == 0.04


@pytest.mark.parametrize(
    ("flat", "instead"),
    [
        ({GRID[5]: NOBODY}, GRID[4]),
        ({GRID[4]: NOBODY, GRID[5]: NOBODY}, GRID[3]),
        ({GRID[0]: EVERYBODY}, GRID[1]),
        ({GRID[0]: EVERYBODY, GRID[5]: NOBODY}, GRID[1]),
        ({GRID[1]: EVERYBODY, GRID[2]: NOBODY}, math.sqrt(GRID[1] * GRID[2])),
        ({GRID[0]: NOBODY}, GRID[0] / 2),
        ({GRID[5]: EVERYBODY}, GRID[5] * 2),
        ({0.6: EVERYBODY}, None),
    ],
)
def test_otherwise_the_next_value_of_the_grid(flat, instead):
    found = flat_fronts({epsilon: [counts] for epsilon, counts in flat.items()}, GRID, largest=1.0)
    first = found[min(flat)]
    assert first.instead == pytest.approx(instead) if instead is not None else first.instead is None
    assert not first.is_attacked


def test_without_a_grid_the_radius_is_halved_or_doubled():
    assert flat_fronts({0.1: [NOBODY]})[0.1].instead == 0.05
    assert flat_fronts({0.1: [EVERYBODY]})[0.1].instead == 0.2


@pytest.fixture
def results(tmp_path: Path) -> Results:
    folder = write_study(tmp_path, Plan(trials=10, attacked=3, images=200))
    study = json.loads((folder / "study.json").read_text())
    grids = {norm: list(radii.grid) for norm, radii in EPSILONS["digits"].items()}
    (folder / "study.json").write_text(json.dumps(study | {"epsilon_grids": grids}))
    return load(folder)


def broken_at(results: Results, level: int, everybody: bool) -> Results:
    """The same study in which the attacks break every image, or none, of everybody at one epsilon."""
    survivors = {}
    for name, model in results.survivors.items():
        broken = model.broken.copy()
        broken[level] = everybody
        survivors[name] = replace(model, broken=broken)
    return replace(results, survivors=survivors)


def test_an_ordinary_front_is_drawn_without_a_warning(results):
    assert [flat_text(results, epsilon) for epsilon in (0.0625, 0.1)] == [None, None]
    assert flat_search_text(results) is flat_front_text(results) is None
    assert "FLAT: at" not in render(results)
    assert "FLAT" not in front_svg(results)


def test_a_front_at_zero_is_said_beside_its_figure(results, capsys):
    fallen = broken_at(results, 1, everybody=True)
    said = flat_text(fallen, 0.1)
    assert said == (
        "FLAT: at epsilon 0.1 the 95 % interval of the robust accuracy of all 3 students touches 0, so nothing can be "
        "read from this front. Look at epsilon 1/16 instead, where it is not flat."
    )
    assert flat_text(fallen, 0.0625) is None
    page = render(fallen)
    assert page.count(said) == 1
    assert page.index('data-variant="robustness-1"') < page.index(said)
    assert "FLAT" not in front_svg(fallen)
    assert "FLAT: at epsilon 0.1 " in front_svg(fallen, 0.1)
    print_results(fallen)
    assert "FLAT: at epsilon 0.1 the 95 %" in capsys.readouterr().out


def test_a_front_at_its_clean_accuracy_names_a_larger_epsilon(results):
    untouched = broken_at(broken_at(results, 0, everybody=False), 1, everybody=False)
    assert flat_text(untouched, 0.0625) == (
        "FLAT: at epsilon 1/16 the robust accuracy of all 3 students exceeds 95 % of the clean accuracy, so nothing "
        "can be read from this front. Attack at epsilon 0.15 instead (in robustness.epsilons)."
    )


def test_the_searchs_and_the_fronts_own_epsilon_are_judged_too(results, capsys):
    trials = results.trials.assign(adversarial_accuracy=0.0, n_adversarial=256)
    front = results.front.assign(adversarial_accuracy=results.front["accuracy"], n_adversarial=270)
    flat = replace(results, trials=trials, front=front)
    page = render(flat)
    said = flat_search_text(flat)
    assert said is not None
    assert "students touches 0" in said
    assert said.endswith("Attack at epsilon 1/32 instead (as search.epsilon, in a study of its own).")
    assert said in page
    print_results(flat)
    assert "exceeds 95 % of the clean accuracy" in (capsys.readouterr().out.replace("\n", " "))
    assert flat_search_text(replace(flat, study=flat.study | {"epsilon": None})) is None
