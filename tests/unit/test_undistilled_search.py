"""The second baseline (S8): an equally long search without distillation, beside the students' and out of its way."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study import driver
from study.attacked import SPECIFICATION
from study.durable import read_json, replace_json
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.fronts_on_test import against_undistilled
from study.ledger import Ledger
from study.order import Order
from study.preview import plan_text
from study.report.twins import matched_gains
from study.report.undistilled import best_of, undistilled_part, undistilled_text
from study.results import load
from study.space.reader import read_space
from study.stages.context import Facts
from study.stages.pipeline import Pipeline
from study.stages.plan import plan
from tests.made_up_world import KD, SHORT, SIZES, TRIALS, World, a_context, run

DISTILL = {"temperature", "alpha", "method", "kl_scale", "teacher"}
WITH = "robustness.undistilled_search=true"


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """The same study twice: `plain`, and `rival` with the baseline."""
    root = tmp_path_factory.mktemp("studies")
    run(root / "1" / "plain")
    run(root / "2" / "rival", WITH)
    return root


@pytest.fixture
def plain(both: Path) -> Path:
    return both / "1" / "plain"


@pytest.fixture
def rival(both: Path) -> Path:
    return both / "2" / "rival"


def files_of(folder: Path, *but: str) -> dict[str, str]:
    """Contents of all files but the sampler's, which hold times, by path."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".db" not in path.name]
    named = {path.relative_to(folder).as_posix(): path for path in found}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if name != "events.jsonl" and not any(part in name for part in but)
    }


def test_it_is_as_long_and_nothing_in_it_belongs_to_distillation(rival: Path) -> None:
    ledger = Ledger(rival)
    keys = ledger.keys("undistilled")
    assert keys == [f"undistilled/{number:06d}" for number in range(TRIALS)]
    assert (rival / "optuna-undistilled.db").is_file()
    for key in keys:
        config = ledger.config(key) or {}
        assert not DISTILL & set(config["params"])
        assert config["settings"]["distill"] == {"method": "none"}
        assert "teacher" not in config["settings"]
        assert config["teacher"] is None
        assert config["teachers"] == []
        assert config["seed"] == 0, "trainings start from the weights of the students' search"
    student = ledger.config("trials/000000") or {}
    anchor = ledger.config("undistilled/000000") or {}
    assert anchor["params"] == {name: value for name, value in student["params"].items() if name not in DISTILL}


def test_the_sampler_draws_from_a_stream_of_its_own(rival: Path) -> None:
    ledger = Ledger(rival)
    horizons = [
        [(ledger.config(key) or {})["params"]["horizon"] for key in ledger.keys(folder)[1:]]
        for folder in ("trials", "undistilled")
    ]
    assert len({*horizons[0], *horizons[1]}) == 2 * (TRIALS - 1)


def test_both_searches_attack_alike(tmp_path: Path) -> None:
    jobs = {}
    context = a_context(tmp_path / "s", WITH)
    world = World(context.ledger)

    def remember(job: Job) -> None:
        jobs[job.key] = job
        world(job)

    InlineEngine().run(Pipeline(plan(context, "search")), remember)
    searches = {json.dumps(jobs[f"{folder}/000003"].payload["search"]) for folder in ("trials", "undistilled")}
    assert len(searches) == 1
    assert not (tmp_path / "s" / "front").exists()


def test_it_changes_no_byte_of_the_students(plain: Path, rival: Path) -> None:
    own = ("undistilled", SPECIFICATION)
    assert files_of(rival, *own) == files_of(plain, SPECIFICATION)
    first, second = load(plain), load(rival)
    for name in ("trials", "front", "robustness", "twins"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert first.summary() == second.summary()
    in_force = [read_json(path / SPECIFICATION) or {} for path in (plain, rival)]
    assert in_force[0]["pool"] == in_force[1]["pool"]
    students = {name: kind for name, kind in in_force[1]["models"].items() if kind != "undistilled"}
    assert students == in_force[0]["models"]


def test_its_front_is_chosen_on_val_front_and_attacked_like_every_other_network(rival: Path) -> None:
    results, ledger = load(rival), Ledger(rival)
    selection = read_json(rival / "front" / "undistilled.json") or {}
    measured = {key.rpartition("-")[2] for key in ledger.keys("front") if "undistilled" in key}
    assert {int(number) for number in measured} == set(selection["candidates"])
    chosen = selection["attacked"]
    assert 0 < len(chosen) <= 8
    assert {m.model for m in results.beside.values() if m.kind == "undistilled"} == {
        f"undistilled-{number:06d}" for number in chosen
    }
    assert results.undistilled.trials == results.undistilled.complete == TRIALS
    network = results.beside[f"undistilled-{chosen[0]:06d}"]
    assert network.trial is None
    pool = {name for name in network.columns if name.startswith("transfer-")}
    assert any("student" in name for name in pool)
    assert not any("undistilled" in name for column in results.survivors.values() for name in column.columns)
    (access,) = [event for event in ledger.events() if event["type"] == "test_access"]
    assert access["undistilled"] == chosen
    assert not any("undistilled" in str(model) for model in results.robustness["model"])


def killed_at(folder: Path, key: str) -> list[str]:
    """Begin the study and stop when a job has its config and no outcome; return what was done."""
    context = a_context(folder, WITH)
    world, source = World(context.ledger), Pipeline(plan(context, "all"))
    while (job := source.next()) is not None and job.key != key:
        world(job)
        source.settled(job, None)
    return world.done


@pytest.mark.parametrize("database", ["kept", "lost"])
@pytest.mark.parametrize("after", [3, 7])
def test_resumed_it_is_what_it_is_uninterrupted(tmp_path: Path, rival: Path, after: int, database: str) -> None:
    done = killed_at(tmp_path / "s", f"undistilled/{after:06d}")
    assert done[-1] == f"undistilled/{after - 1:06d}"
    for path in (tmp_path / "s").glob("optuna-undistilled.db*") if database == "lost" else ():
        path.unlink()
    _, rest = run(tmp_path / "s", WITH)
    assert not set(done) & set(rest.done), "nothing is run twice"
    assert files_of(tmp_path / "s") == files_of(rival)


def test_switched_on_after_the_study_it_adds_itself_and_repeats_nothing(tmp_path: Path, rival: Path) -> None:
    run(tmp_path / "s")
    _, world = run(tmp_path / "s", WITH)
    assert world.done
    assert all("undistilled" in key for key in world.done)
    assert files_of(tmp_path / "s") == files_of(rival)
    assert read_space(KD, [WITH]).identity() == read_space(KD).identity()


def test_networks_that_are_no_longer_chosen_are_not_shown(tmp_path: Path) -> None:
    run(tmp_path / "s", WITH)
    path = tmp_path / "s" / "front" / "undistilled.json"
    selection = json.loads(path.read_text())
    path.write_text(json.dumps({**selection, "attacked": selection["attacked"][:1]}))
    assert sum(model.kind == "undistilled" for model in load(tmp_path / "s").beside.values()) == 1


def test_where_nothing_trains_the_students_study_goes_on(tmp_path: Path, plain: Path) -> None:
    context, _ = run(tmp_path / "s", WITH, undistilled_fails="diverged")
    (note,) = [text for text in context.observer.notes if "without distillation" in text]
    assert "of 9 none did" in note
    results = load(tmp_path / "s")
    assert results.summary() == load(plain).summary() | {"study": "s"}
    assert not any(model.kind == "undistilled" for model in results.beside.values())
    assert "No network of the search without distillation" in undistilled_part(results)


def test_crashes_count_against_the_budget_of_its_own_search(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(driver, "_report", lambda *_: None)
    context, world = run(tmp_path / "s", WITH, undistilled_fails="crashed: gone")
    assert sum(key.startswith("undistilled/") for key in world.done) == 6, "it ends after five crashes and one more"
    order = Order(space=context.space, source=KD, command="")
    assert driver._finish(order, context.ledger, set()) == 1
    said = capsys.readouterr().err
    assert "6 trials crashed, more than budget.max_failed_trials=5" in said
    assert "goes on: undistilled/000000" in said
    assert "front" not in context.observer.stages, "one search that broke off ends the study before test"
    without = Order(space=read_space(KD, SHORT), source=KD, command="")
    assert driver._finish(without, context.ledger, set()) == 0


def test_a_crash_under_an_earlier_specification_does_not_keep_a_study_from_finishing(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(driver, "_report", lambda *_: None)
    context, _ = run(tmp_path / "s")
    order = Order(space=context.space, source=KD, command="")
    stale = "robustness/student-000001/0ldspec1-000"
    context.ledger.write_config(stale, {"schema": 1})
    failed = {"schema": 1, "key": stale, "state": "FAIL", "reason": "error: OutOfMemoryError", "metrics": {}}
    replace_json(context.ledger.folder(stale) / "outcome.json", failed)
    assert driver._finish(order, context.ledger, set()) == 0
    assert driver._finish(order, context.ledger, {stale}) == 1


def test_racing_keeps_the_two_fronts_apart(tmp_path: Path) -> None:
    racing = "robustness.racing=true"
    run(tmp_path / "1" / "s", racing)
    run(tmp_path / "2" / "s", racing, WITH)
    without, rival = tmp_path / "1" / "s", tmp_path / "2" / "s"
    assert files_of(rival, "undistilled", SPECIFICATION) == files_of(without, SPECIFICATION)
    pd.testing.assert_frame_equal(load(without).front, load(rival).front)
    parts = [key for key in Ledger(rival).keys("front") if key.startswith("front/undistilled-")]
    assert all("/part-" in key for key in parts)
    assert len(parts) > len(load(rival).undistilled.chosen) > 0


def test_the_preview_counts_its_trials(tmp_path: Path) -> None:
    def text(*overrides: str) -> str:
        order = Order(space=read_space(KD, [*SHORT, *overrides]), source=KD, command="")
        return plan_text(order, Facts(10, "f" * 64, SIZES, 1), tmp_path / "none")

    assert "baseline   9 trials without distillation over solver, horizon, evaluations, rtol" in text(WITH)
    assert "baseline" not in text()


# ------------------------------------------------------------ the report


def test_a_distilled_front_that_is_better_is_called_better(rival: Path) -> None:
    """In this world distillation adds up to 10 points to both accuracies."""
    results = load(rival)
    found = against_undistilled(results, 0.0625)
    assert found.gain is not None
    assert found.n == SIZES["test"]
    text = undistilled_text(results, found)
    assert "9 trials each" in text
    page = undistilled_part(results)
    assert "n = 90" in page
    assert 'id="table-undistilled"' in page
    (best, _) = best_of(results, [against_undistilled(results, each) for each in (0.0625, 0.1)])
    assert best is not None
    assert best.robust.n == SIZES["test"]
    # An undistilled network of like clean accuracy is compared with students, wherever it stands (S27).
    assert any(gain.other and gain.other.kind == "undistilled" for gain in matched_gains(results, 0.0625))


def test_a_front_without_believable_networks_is_no_loser(rival: Path) -> None:
    results = load(rival)
    none = replace(results, beside={})
    said = undistilled_text(none, against_undistilled(none, 0.0625))
    assert "cannot be compared: no believable network of the search without was attacked" in said


def test_searches_of_unequal_length_are_said_to_be_unequal(rival: Path) -> None:
    results = load(rival)
    short = replace(results, undistilled=replace(results.undistilled, trials=4))
    said = undistilled_text(short, against_undistilled(short, 0.0625))
    assert "9 trials against 4: they are not equally long" in said


def test_no_baseline_no_words(plain: Path) -> None:
    assert undistilled_part(load(plain)) == ""


@pytest.mark.parametrize(
    ("lead", "said"),
    [(0.15, "with distillation is better than"), (0, "it cannot be told"), (-0.15, "with distillation is worse than")],
)
def test_the_words_follow_the_truth(rival: Path, lead: float, said: str) -> None:
    """On 2000 images whose luck both share, a lead of 15 points is told and none is not."""
    results = load(rival)
    luck = np.random.default_rng(0).random(2000)
    mine, other = (next(m for m in some if m.kind == kind) for some, kind in _sides(results))

    def network(model, clean, robust):
        right = luck < clean
        broken = (right & (luck >= robust))[None, None]
        ids, columns = np.arange(len(luck)), model.columns[:1]
        return replace(
            model,
            image_id=ids,
            clean_correct=right,
            broken=broken,
            attempted=broken,
            columns=columns,
            epsilons=(0.0625,),
        )

    own, second = network(mine, 0.8 + lead / 2, 0.5 + lead), network(other, 0.8, 0.5)
    only = replace(results, survivors={own.model: own}, beside={second.model: second})
    text = undistilled_text(only, against_undistilled(only, 0.0625))
    assert said in text
    assert "n = 2000" in text


def _sides(results):
    return (results.survivors.values(), "student"), (results.beside.values(), "undistilled")
