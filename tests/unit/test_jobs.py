"""Single jobs: the split they check, the room an attack is given, the subset they look at."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nodekd.data.dataset import DataConfig, load
from nodekd.errors import DataError
from study.jobs.integrators import attacking_integrator, integrator_of, measuring_integrator
from study.jobs.networks import train_config_of
from study.jobs.objectives import Lesson
from study.jobs.student import run_student
from study.jobs.subset import count_shards, subset
from study.jobs.work import Work
from study.ledger import Ledger
from study.space.reader import read_space

DATA = {"name": "digits", "root": "data", "image_size": None, "shuffle": False}


def test_a_worker_with_other_data_refuses_to_work(tmp_path: Path):
    digits = load(DataConfig())
    right = Work(Ledger(tmp_path), "trials/000000", {"data": DATA, "split_hash": digits.split_hash}, "cpu")
    assert set(right.dataset("train").splits) == {"train", "val_search", "val_front"}
    assert "test" in right.dataset("train", "test").splits
    wrong = Work(Ledger(tmp_path), "trials/000000", {"data": DATA, "split_hash": "0" * 64}, "cpu")
    with pytest.raises(DataError, match="All machines of a study must see the same data"):
        wrong.dataset("train")


def test_a_subset_is_fixed_evenly_spaced_and_shared_out():
    split = load(DataConfig()).splits["test"]
    assert subset(split, "all").tolist() == list(range(449))
    few = subset(split, 10)
    assert few.tolist() == subset(split, 10).tolist()
    assert (few[0], few[-1]) == (0, 448)
    assert len(set(few.tolist())) == 10
    assert subset(split, 10_000).tolist() == list(range(449))
    shards = [subset(split, "all", shard, 3) for shard in range(3)]
    assert torch.cat(shards).tolist() == list(range(449))
    assert (count_shards("all", 449, 256), count_shards(16, 449, 256), count_shards(1, 449, 256)) == (2, 1, 1)


def test_settings_become_configurations():
    fixed = {"solver": "midpoint", "horizon": 2.0, "evaluations": 8, "gradient": "direct"}
    assert integrator_of(fixed).steps == 4
    adaptive = {"solver": "dopri5", "horizon": 1.0, "rtol": 0.01, "atol": None, "max_evaluations": 32}
    assert integrator_of(adaptive).atol == 0.01
    adversarial = train_config_of({"epochs": 3, "adversarial": {"epsilon": 0.1, "steps": 4}}).adversarial
    assert adversarial is not None
    assert adversarial.steps == 4


TRAINED = {"solver": "rk4", "horizon": 2.0, "evaluations": 8, "gradient": "adjoint"}


def test_a_student_is_measured_as_trained_unless_the_space_says_otherwise():
    assert measuring_integrator({"student": TRAINED}) == replace(integrator_of(TRAINED), gradient="direct")
    longer = measuring_integrator({"student": TRAINED, "evaluate": {"horizon": 4.0}})
    assert (longer.solver, longer.horizon, longer.steps) == ("rk4", 4.0, 2)
    finer = measuring_integrator({"student": TRAINED, "evaluate": {"solver": "euler", "step_size": 0.25}})
    assert (finer.solver, finer.steps, finer.evaluations) == ("euler", 8, 8)
    exact = measuring_integrator({"student": TRAINED, "evaluate": {"solver": "dopri5", "rtol": 1e-5}})
    assert (exact.rtol, exact.atol, exact.steps) == (1e-5, 1e-5, None)
    fixed = measuring_integrator(
        {
            "student": {"solver": "dopri5", "horizon": 1.0, "rtol": 1e-3, "max_evaluations": 9},
            "evaluate": {"solver": "midpoint"},
        }
    )
    assert fixed.evaluations == 8
    assert measuring_integrator({"student": {"arch": "resnet20"}, "evaluate": {}}) is None


def test_evaluation_and_attack_are_laid_over_each_other_as_the_space_checks_them():
    trained = {"solver": "euler", "horizon": 1.0, "evaluations": 6, "gradient": "direct"}
    settings = {"student": trained, "evaluate": {"solver": "dopri5"}, "attack": {"solver": "rk4"}}
    attacked = attacking_integrator(settings)
    assert (attacked.solver, attacked.steps, attacked.evaluations) == ("rk4", 2, 8)
    exact = attacking_integrator(
        {"student": trained, "evaluate": {"solver": "dopri5", "rtol": 1e-3}, "attack": {"rtol": 1e-6}}
    )
    assert (exact.solver, exact.rtol, exact.atol) == ("dopri5", 1e-6, 1e-6)
    back = attacking_integrator({"student": trained, "evaluate": {"solver": "midpoint"}, "attack": {"solver": "euler"}})
    assert (back.solver, back.evaluations) == ("euler", 6)


def test_attacks_follow_the_measured_solver_unless_the_space_says_otherwise():
    settings = {"student": TRAINED, "evaluate": {"horizon": 4.0}, "attack": {"solver": "euler", "evaluations": 32}}
    attacked = attacking_integrator(settings)
    assert (attacked.solver, attacked.horizon, attacked.evaluations) == ("euler", 4.0, 32)
    assert attacking_integrator({"student": TRAINED, "evaluate": {"horizon": 4.0}}).horizon == 4.0
    both = {"student": TRAINED, "evaluate": {"steps": 3}, "attack": {"evaluations": 32}}
    assert attacking_integrator(both).evaluations == 32


def test_attacks_follow_the_gradient_that_the_space_names():
    coarse = {"student": {**TRAINED, "adjoint_steps": 1}}
    assert integrator_of(coarse["student"]).adjoint_steps == 1
    for settings in (coarse, {**coarse, "attack": {"horizon": 3.0}}, {**coarse, "attack": {"gradient": "direct"}}):
        assert measuring_integrator(settings).gradient == "direct"
        assert attacking_integrator(settings).gradient == "direct"
        assert attacking_integrator(settings).adjoint_steps is None
    trained = attacking_integrator({**coarse, "attack": {"gradient": "trained", "solver": "euler"}})
    assert (trained.solver, trained.gradient, trained.adjoint_steps) == ("euler", "adjoint", 1)
    fine = attacking_integrator({**coarse, "attack": {"gradient": "adjoint"}})
    assert (fine.gradient, fine.adjoint_steps) == ("adjoint", None)
    direct = {"student": {**TRAINED, "gradient": "direct"}}
    assert attacking_integrator({**direct, "attack": {"gradient": "trained"}}).gradient == "direct"
    asked = attacking_integrator({**direct, "attack": {"gradient": "adjoint", "adjoint_steps": 2}})
    assert (asked.gradient, asked.adjoint_steps) == ("adjoint", 2)


def test_a_student_trained_by_an_adjoint_is_measured_under_a_solver_that_has_none():
    measured = measuring_integrator({"student": TRAINED, "evaluate": {"solver": "rk4_classic", "steps": 2}})
    assert (measured.solver, measured.gradient) == ("rk4_classic", "direct")


def test_what_diverges_before_the_student_is_trained_is_a_failed_trial(tmp_path: Path, monkeypatch):
    def paraphraser_diverges(self: Lesson, network: object) -> object:
        raise FloatingPointError("the paraphraser's loss left the finite numbers")

    monkeypatch.setattr(Lesson, "objective", paraphraser_diverges)
    space = read_space(Path(__file__).parents[2] / "search_spaces" / "feed-original.yaml")
    settings = {name: dict(space.document()[name]) for name in ("student", "distill", "train")}
    settings["distill"]["method"] = "ft"
    payload = {
        "data": DATA,
        "split_hash": load(DataConfig()).split_hash,
        "settings": {**settings, "seed": 1},
        "teachers": ["teachers/absent"],
    }
    result = run_student(Work(Ledger(tmp_path), "trials/000000", payload, "cpu"))
    assert (result.state, result.reason) == ("FAIL", "diverged")
    assert result.metrics["updates"] == 0
