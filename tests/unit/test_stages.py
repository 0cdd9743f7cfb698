"""The order of stages, batches that lose workers, and who is chosen for test."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from study.durable import read_json
from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.errors import StudyFailed
from study.ledger import Ledger
from study.stages import front
from study.stages.batch import Batch, Planned
from study.stages.pipeline import Pipeline


@dataclass
class Watcher:
    """Records what it is told."""

    told: list = field(default_factory=list)

    def stage(self, name, total, done):
        self.told.append((name, total, done))

    def started(self, job):
        self.told.append(("started", job.key))

    def settled(self, job, outcome):
        self.told.append((outcome["state"], job.key))

    def note(self, text):
        self.told.append(("note", text))


@pytest.fixture
def context(tmp_path):
    ledger = Ledger(tmp_path / "s")
    complete = lambda key: (ledger.outcome(key) or {}).get("state") == "COMPLETE"  # noqa: E731
    return SimpleNamespace(
        ledger=ledger,
        observer=Watcher(),
        is_complete=complete,
        metrics=lambda key: ledger.outcome(key)["metrics"],
        space=SimpleNamespace(robustness=SimpleNamespace(max_students=8, racing=False, tier="screen")),
        smoke=False,
    )


def planned(context, *keys):
    return [Planned(Job(str(context.ledger.root), key, "stub"), {"settings": {"of": key}}) for key in keys]


def commit(context, state="COMPLETE", **more):
    return lambda job: context.ledger.commit(job.key, {"state": state, **more})


def test_a_stage_is_planned_when_the_one_before_has_finished(context):
    order = []

    def stages():
        order.append("first planned")
        yield Batch(context, "first", planned(context, "a", "b"))
        order.append([context.ledger.outcome(key)["state"] for key in ("a", "b")])
        yield Batch(context, "empty", [])
        yield Batch(context, "second", planned(context, "c"))

    pipeline = Pipeline(stages())
    InlineEngine().run(pipeline, commit(context))
    assert order == ["first planned", ["COMPLETE", "COMPLETE"]]
    assert pipeline.finished
    assert context.ledger.config("c") == {"schema": 1, "kind": "stub", "settings": {"of": "c"}}


def test_settled_jobs_are_not_run_again(context):
    context.ledger.commit("a", {"state": "FAIL", "reason": "diverged"})
    InlineEngine().run(Pipeline(iter([Batch(context, "x", planned(context, "a", "b"))])), commit(context))
    assert context.ledger.outcome("a")["reason"] == "diverged"
    assert ("x", 2, 1) in context.observer.told


@pytest.mark.parametrize("reason", ["error: RuntimeError: x", "crashed: the worker died"])
def test_crashes_of_an_earlier_launch_are_tried_again_and_kept(context, reason):
    with context.ledger.begin("a"):
        context.ledger.commit("a", {"state": "FAIL", "reason": reason})
    InlineEngine().run(Pipeline(iter([Batch(context, "x", planned(context, "a"))])), commit(context))
    assert context.ledger.outcome("a")["state"] == "COMPLETE"
    assert read_json(context.ledger.folder("a") / "attempts" / "01" / "outcome.json")["reason"] == reason


def test_a_lost_worker_is_replaced_twice_and_then_told(context):
    def die(job):
        with context.ledger.begin(job.key):
            raise OSError("gone")

    InlineEngine().run(Pipeline(iter([Batch(context, "x", planned(context, "a"))])), die)
    assert context.ledger.attempts("a") == 3
    assert context.ledger.outcome("a")["reason"] == "crashed: OSError: gone"
    assert sum(what == "note" for what, *_ in context.observer.told) == 2


def measured(context, **points):
    for number, (accuracy, robust) in enumerate(points.values()):
        key = f"{number:06d}"
        trial = {"accuracy": accuracy, "adversarial_accuracy": robust}
        context.ledger.commit(
            f"trials/{key}", {"state": "COMPLETE", "values": trial, "metrics": {"n": 100, "n_adversarial": 100}}
        )
        found = {"accuracy": accuracy, "n": 100, "robust": [{"epsilon": 0.0625, "robust_accuracy": robust}]}
        context.ledger.commit(f"front/{key}", {"state": "COMPLETE", "metrics": found})


def test_the_front_is_filled_up_to_three_within_one_standard_error(context):
    measured(context, best=(0.95, 0.6), near=(0.94, 0.59), nearer=(0.95, 0.59), far=(0.7, 0.2))
    front.write_selection(context)
    selection = read_json(context.ledger.root / front.SELECTION)
    assert selection["front"] == [0]
    assert selection["attacked"] == [0, 1, 2]
    assert 3 not in selection["candidates"]


def test_a_long_front_is_thinned_with_both_ends_kept(context):
    measured(context, **{f"p{i}": (0.5 + i / 100, 0.9 - i / 100) for i in range(20)})
    front.write_selection(context)
    selection = read_json(context.ledger.root / front.SELECTION)
    assert len(selection["front"]) == 20
    assert len(selection["attacked"]) == 8
    assert {0, 19} <= set(selection["attacked"])


def commit_trial(context, number, accuracy, adversarial, *infeasible):
    values = {"accuracy": accuracy, "adversarial_accuracy": adversarial}
    metrics = {"n": 100, "n_adversarial": 100, "infeasible": list(infeasible)}
    context.ledger.commit(f"trials/{number:06d}", {"state": "COMPLETE", "values": values, "metrics": metrics})


def test_what_failed_a_check_is_no_candidate_and_casts_no_shadow(context):
    commit_trial(context, 0, 0.9, 0.5)
    commit_trial(context, 1, 0.5, 0.2)  # far behind trial 0
    commit_trial(context, 2, 1.0, 1.0, "G2 fails")  # would beat both
    assert front.candidates(context)[0] == ["trials/000000"]


def test_where_all_fail_their_checks_the_study_says_why(context):
    commit_trial(context, 0, 0.9, 0.5, "G2 fails: correlation 0.4", "G3 fails")
    with pytest.raises(
        StudyFailed, match=r"all 1 that completed fail, e\.g\. trials/000000: G2 fails: correlation 0\.4"
    ):
        front.candidates(context)


def test_without_a_completed_trial_the_study_says_so(context):
    context.ledger.commit("trials/000000", {"state": "FAIL", "reason": "diverged"})
    with pytest.raises(StudyFailed, match="At least one trial must complete, but of 1 none did"):
        front.candidates(context)
