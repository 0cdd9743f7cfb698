"""`--deterministic`: trials are asked for in generations, so that the study is the same for any number of workers."""

import random
from dataclasses import replace

import made_up_world
import pytest
from made_up_world import World, a_context

from study.engine.dispatch import Dispatch
from study.engine.inline import InlineEngine
from study.ledger import Ledger
from study.number_ranges import numbers_in
from study.stages.pipeline import Pipeline
from study.stages.plan import plan
from study.stages.search import early_stopping

SIZE = 4


def run_with(workers, source, execute, luck, most=10**6):
    """Run up to `workers` jobs at a time; which one ends next is left to chance. Ends early after `most` jobs."""
    dispatch, flight = Dispatch(source, workers), {}
    for ticket in range(10**6):
        while len(flight) < workers and (job := dispatch.take(str(ticket + len(flight)))) is not None:
            flight[job.key] = (str(ticket + len(flight)), job)
        if not flight or dispatch.settled >= most:
            break
        key = luck.choice(sorted(flight))
        taken, job = flight.pop(key)
        execute(job)
        dispatch.settle(taken, None)
    if dispatch.fault is not None:
        raise dispatch.fault


def searched(folder, workers, seed, *, generation=SIZE, sampler="tpe", interruptions=()):
    """Run a search and return what was suggested, and what had been told by then."""
    luck = random.Random(seed)
    for most in (*interruptions, 10**6):
        context = a_context(folder, f"sampler.name={sampler}", "budget.trials=14")
        context = replace(context, generation=generation)
        run_with(workers, Pipeline(plan(context, "search")), World(context.ledger), luck, most)
    ledger = Ledger(folder)
    configs = [ledger.config(key) or {} for key in ledger.keys("trials")]
    assert [config["number"] for config in configs] == list(range(14))
    assert all(ledger.outcome(key) for key in ledger.keys("trials"))
    return [(config["params"], numbers_in(config["seen"])) for config in configs]


@pytest.mark.parametrize(("workers", "sampler"), [(2, "tpe"), (9, "tpe"), (3, "nsga2"), (3, "gp"), (3, "qmc")])
def test_any_number_of_workers_in_any_order_gives_the_study_of_one(tmp_path, monkeypatch, workers, sampler):
    if sampler in ("nsga2", "qmc"):  # which have no start-up trials
        kept = tuple(each for each in made_up_world.SHORT if "startup" not in each)
        monkeypatch.setattr(made_up_world, "SHORT", kept)
    alone = searched(tmp_path / "one", 1, 0, sampler=sampler)
    assert searched(tmp_path / "many", workers, 1, sampler=sampler) == alone


def test_without_generations_the_order_in_which_trials_end_matters(tmp_path):
    found = [searched(tmp_path / str(seed), 3, seed, generation=None) for seed in (0, 1)]
    assert found[0] != found[1]


@pytest.mark.parametrize("interruptions", [(3,), (9, 2), (6, 1, 1, 1)])
def test_an_interrupted_study_is_the_same(tmp_path, interruptions):
    alone = searched(tmp_path / "one", 1, 0)
    assert searched(tmp_path / "torn", 3, 5, interruptions=interruptions) == alone


def test_every_generation_has_seen_all_that_came_before_and_nothing_of_itself(tmp_path):
    for number, (_, seen) in enumerate(searched(tmp_path, 3, 2)):
        assert seen == list(range(number // SIZE * SIZE))


def test_rungs_compare_with_earlier_generations_alone(tmp_path):
    context = a_context(tmp_path, "early_stopping.name=mo-asha", "train.epochs=60")
    config = {"number": 5, "seen": [0, 1, 2, 3], "settings": {"train": {"epochs": 60}}}
    told = early_stopping(replace(context, generation=SIZE), config["number"], config)
    assert told is not None
    assert told["peers"] == ["000000", "000001", "000002", "000003"]
    assert told["rungs"] == [7, 20]
    free = early_stopping(context, config["number"], config)
    assert free is not None
    assert free["peers"] is None
    assert free["draw"] == told["draw"]


def test_the_inline_engine_runs_generations_to_the_end(tmp_path):
    context = replace(a_context(tmp_path, "budget.trials=6"), generation=SIZE)
    InlineEngine().run(Pipeline(plan(context, "search")), World(context.ledger))
    assert len(context.ledger.keys("trials")) == 6
