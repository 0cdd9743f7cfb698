"""`auto` epsilon: the pilot's bisection against a linear network, snapping, what is frozen, who reads it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nodekd.attacks.catalog import EPSILONS
from study.durable import read_json, replace_json
from study.engine.inline import InlineEngine
from study.epsilons import (
    FROZEN,
    attacked_epsilons,
    epsilon_text,
    epsilons_text,
    freeze,
    headline,
    judged_epsilon,
    norms_to_settle,
    settle,
    settled,
    snapped,
)
from study.errors import StudyError, StudyFailed
from study.jobs.pilot import HalfKept, bisected
from study.ledger import Ledger
from study.space.reader import read_space
from study.space.settings import Space
from study.stages import pilot
from study.stages.context import Context, Facts
from study.stages.pipeline import Pipeline

KD = Path(__file__).parents[2] / "search_spaces" / "kd.yaml"
DIGITS = EPSILONS["digits"]["linf"].grid


def space(*overrides: str) -> Space:
    return read_space(KD, list(overrides))


class Linear(nn.Module):
    """Two classes; the second logit is the sum of the pixels less half their number, the first is 0."""

    def forward(self, images):
        z = (images - 0.5).flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(z), z], dim=1)


def images_at(distances: list[float], pixels: int = 16) -> torch.Tensor:
    """Images whose every pixel is off 0.5 by a distance: under linf exactly that radius carries them over."""
    side = math.isqrt(pixels)
    return torch.stack([torch.full((1, side, side), 0.5 + distance) for distance in distances])


def asked(distances: list[float], norm: str = "linf", wrong: int = 0) -> HalfKept:
    labels = torch.ones(len(distances), dtype=torch.int64)
    labels[:wrong] = 0
    return HalfKept(Linear(), images_at(distances), labels, norm, 7)


@pytest.mark.parametrize(("norm", "factor"), [("linf", 1.0), ("l2", 4.0)])
def test_bisection_finds_where_a_linear_network_keeps_half(norm, factor):
    distances = [0.02, 0.03, 0.05, 0.08, 0.11, 0.2]
    half = asked(distances, norm)
    low, high, rounds = 1 / 128, 1.0, 8
    radius = bisected(half, low, high, rounds)
    # Three of six survive up to the fourth distance: under l2 a pixel's distance counts sqrt(16) times.
    slack = (high / low) ** 2.0 ** -(rounds + 1)
    assert radius == pytest.approx(0.08 * factor, rel=slack - 1 + 1e-3)
    assert len(half.tried) == rounds
    for question in half.tried:
        survivors = sum(distance * factor > question["epsilon"] for distance in distances)
        assert (question["survivors"], question["n"]) == (survivors, 6)


def test_half_is_of_the_images_that_are_right_without_attack():
    half = asked([0.05, 0.05, 0.02, 0.04, 0.06, 0.08], wrong=2)
    assert half.correct == 4
    assert [half(0.03), half(0.07), half(0.05)] == [True, False, True]
    assert [question["survivors"] for question in half.tried] == [3, 1, 2]


def test_only_images_between_what_fell_and_what_stood_are_attacked_again():
    half = asked([0.01, 0.05, 0.1, 0.15, 0.2, 0.4])
    assert [half(0.02), half(0.3), half(0.06), half(0.12)] == [True, False, True, True]
    assert [question["attacked"] for question in half.tried] == [6, 5, 4, 3]
    assert [question["survivors"] for question in half.tried] == [5, 1, 4, 3]


def test_a_bisection_that_never_changes_its_answer_ends_at_an_end():
    assert bisected(lambda radius: True, 0.01, 1.0, 8) == pytest.approx(1.0, rel=0.01)
    assert bisected(lambda radius: False, 0.01, 1.0, 8) == pytest.approx(0.01, rel=0.01)
    assert bisected(lambda radius: radius < 0.1, 0.04, 0.4, 0) == pytest.approx(math.sqrt(0.016))


@pytest.mark.parametrize("value", DIGITS)
def test_snapping_is_by_ratio_and_keeps_what_is_on_the_grid(value):
    assert snapped(value, DIGITS) == value
    assert snapped(value * 1.01, DIGITS) == value
    by_hand = min(DIGITS, key=lambda other: max(other / (value * 1.3), value * 1.3 / other))
    assert snapped(value * 1.3, DIGITS) == by_hand


def test_the_middle_of_two_is_geometric():
    assert snapped(0.019, (0.01, 0.04)) == 0.01
    assert snapped(0.021, (0.01, 0.04)) == 0.04
    assert snapped(1e-9, (0.01, 0.04)) == 0.01
    assert snapped(1e9, (0.01, 0.04)) == 0.04


def test_a_teacher_off_the_grid_is_told():
    inside = settle(0.058, 190, 200, DIGITS)
    assert inside.epsilon == 1 / 16
    assert "keeps half its accuracy at about 0.058 on 200 images of val_front (190 right without attack)" in inside.said
    fragile = settle(0.01, 190, 200, DIGITS)
    assert (fragile.epsilon, "less than half its accuracy even at 0.01562" in fragile.said) == (1 / 64, True)
    robust = settle(0.39, 190, 200, DIGITS)
    assert (robust.epsilon, "more than half its accuracy even at 0.2" in robust.said) == (0.2, True)
    assert "its gradients are masked" in robust.said
    wrong = settle(None, 0, 200, DIGITS)
    assert (wrong.epsilon, "wrong on all 200 images" in wrong.said) == (1 / 64, True)


@pytest.mark.parametrize(
    ("overrides", "norms"),
    [
        ([], []),
        (["search.epsilon=auto"], ["linf"]),
        (["search.epsilon=auto", "robustness.epsilons=auto"], ["linf"]),
        (["robustness.epsilons=auto"], []),
        (["robustness.epsilons=auto", "robustness.norm=l2"], ["l2"]),
        (["search.epsilon=auto", "robustness.epsilons=[auto, 1]", "robustness.norm=l2"], ["linf", "l2"]),
        (["search.epsilon=auto", "search.norm=l2", "robustness.norm=l2"], ["l2"]),
    ],
)
def test_a_pilot_is_needed_for_each_norm_without_a_number(overrides, norms):
    assert norms_to_settle(space(*overrides)) == norms


def test_numbers_are_in_force_at_once(tmp_path):
    fixed = space("search.epsilon=0.05", "robustness.epsilons=[0.1, 0.05]")
    assert headline(fixed, tmp_path) == 0.05
    assert attacked_epsilons(fixed, tmp_path) == (0.05, 0.1)
    assert judged_epsilon(fixed, tmp_path) == 0.05
    assert judged_epsilon(replace(fixed, search=fixed.search.model_copy(update={"epsilon": 0.07})), tmp_path) == 0.05
    assert epsilon_text(fixed, tmp_path) == "epsilon 0.05 linf"
    assert epsilons_text(fixed, tmp_path) == "2 epsilons"


def test_auto_is_in_force_once_it_is_frozen(tmp_path):
    auto = space("search.epsilon=auto", "robustness.epsilons=[0.15, auto]")
    assert headline(auto, tmp_path) is attacked_epsilons(auto, tmp_path) is judged_epsilon(auto, tmp_path) is None
    assert epsilon_text(auto, tmp_path) == "epsilon auto (settled after the teachers) linf"
    assert epsilons_text(auto, tmp_path) == "epsilons auto (settled after the teachers)"
    freeze(tmp_path, "linf", 1 / 32, {"radius": 0.03})
    assert headline(auto, tmp_path) == judged_epsilon(auto, tmp_path) == 1 / 32
    assert attacked_epsilons(auto, tmp_path) == (1 / 32, 0.1, 0.15)
    assert epsilon_text(auto, tmp_path) == "epsilon 0.03125 (auto) linf"
    assert epsilons_text(auto, tmp_path) == "3 epsilons"


def test_the_usual_radius_is_added_only_where_it_is_larger(tmp_path):
    auto = space("search.epsilon=auto", "robustness.epsilons=auto")
    freeze(tmp_path / "a", "linf", 0.15, {})
    assert attacked_epsilons(auto, tmp_path / "a") == (0.15,)
    freeze(tmp_path / "b", "linf", 0.1, {})
    assert attacked_epsilons(auto, tmp_path / "b") == (0.1,)
    headed = space("search.epsilon=1/32", "robustness.epsilons=auto")
    assert attacked_epsilons(headed, tmp_path / "none") == (1 / 32, 0.1)


def test_each_norm_is_frozen_for_itself_and_once(tmp_path):
    freeze(tmp_path, "linf", 1 / 16, {"radius": 0.06})
    freeze(tmp_path, "l2", 0.5, {})
    freeze(tmp_path, "linf", 0.2, {})
    assert (settled(tmp_path, "linf"), settled(tmp_path, "l2"), settled(tmp_path, "l1")) == (1 / 16, 0.5, None)
    both = space("search.epsilon=auto", "robustness.epsilons=auto", "robustness.norm=l2")
    assert (headline(both, tmp_path), attacked_epsilons(both, tmp_path)) == (1 / 16, (0.5, 1.0))
    assert read_json(tmp_path / FROZEN) == {
        "schema": 1,
        "linf": {"epsilon": 1 / 16, "radius": 0.06},
        "l2": {"epsilon": 0.5},
    }


def test_a_number_under_one_norm_is_none_under_another(tmp_path):
    mixed = space("search.epsilon=0.05", "robustness.epsilons=auto", "robustness.norm=l2")
    assert headline(mixed, tmp_path) == 0.05
    assert attacked_epsilons(mixed, tmp_path) is None
    freeze(tmp_path, "l2", 0.25, {})
    assert attacked_epsilons(mixed, tmp_path) == (0.25, 1.0)
    assert judged_epsilon(mixed, tmp_path) == 0.25


@pytest.mark.parametrize("entry", [3, {"epsilon": "big"}, {"epsilon": -1}, {"epsilon": 0}, {}, {"epsilon": None}])
def test_a_changed_file_is_refused(tmp_path, entry):
    replace_json(tmp_path / FROZEN, {"linf": entry})
    with pytest.raises(StudyError, match="must hold a number > 0 as linf"):
        settled(tmp_path, "linf")


def test_auto_stands_in_the_identity_and_in_the_document():
    auto, also = space("search.epsilon=auto"), space("search.epsilon=auto", "robustness.epsilons=auto")
    assert auto.identity() == also.identity() != space("search.epsilon=1/16").identity()
    assert json.loads(json.dumps(also.document()))["robustness"]["epsilons"] == ["auto"]
    assert also.document()["search"]["epsilon"] == "auto"
    assert space("robustness.epsilons=[0.2, auto, 0.1]").robustness.epsilons == ("auto", 0.1, 0.2)
    assert space("robustness.epsilons=[0.2, auto, 0.1]").smoke().robustness.epsilons == ("auto",)
    assert space("robustness.epsilons=[0.3, 0.2, 0.1]").smoke().robustness.epsilons == (0.1, 0.2)


@pytest.fixture
def context(tmp_path):
    notes: list[str] = []
    observer = SimpleNamespace(
        stage=lambda *_: None, started=lambda *_: None, settled=lambda *_: None, note=notes.append, notes=notes
    )
    facts = Facts(classes=10, split_hash="ab" * 32, sizes={"val_front": 270, "test": 449}, views=1)
    auto = space("search.epsilon=auto", "robustness.epsilons=auto")
    replace_json(tmp_path / "s" / "study.json", {"name": "s", "epsilon": None})
    return Context(auto, Ledger(tmp_path / "s"), facts, observer)


def run(context, radius=0.058, ran=None):
    def execute(job):
        if ran is not None:
            ran.append((job.key, job.kind, job.payload["images"], job.payload["low"], job.payload["high"]))
        found = {"radius": radius, "n": 200, "clean_correct": 190, "network": "t", "split": "val_front"}
        context.ledger.commit(job.key, {"state": "COMPLETE", "metrics": found})

    InlineEngine().run(Pipeline(pilot.stages(context)), execute)


def test_the_stage_freezes_and_tells_readers_and_people(context):
    with pytest.raises(StudyFailed, match=r"epsilon auto is settled by a pilot after the teachers, but .*epsilon.json"):
        _ = context.epsilon
    ran: list = []
    run(context, ran=ran)
    assert ran == [("pilot/linf", "pilot", 200, 1 / 128, 0.4)]
    assert (context.epsilon, context.epsilons, context.headline) == (1 / 16, (1 / 16, 0.1), 1 / 16)
    assert read_json(context.ledger.root / "study.json") == {"name": "s", "epsilon": 1 / 16}
    assert [note.split(":")[0] for note in context.observer.notes] == ["epsilon auto (linf)"]


def test_a_resumed_study_reads_what_was_frozen(context):
    run(context)
    again: list = []
    run(context, radius=0.2, ran=again)
    assert again == []
    assert context.epsilon == 1 / 16
    assert len(context.observer.notes) == sum(event["type"] == "stage" for event in context.ledger.events()) == 1
    (context.ledger.root / FROZEN).unlink()  # the job's outcome stands, so the same value comes back
    run(context, radius=0.2, ran=again)
    assert again == []
    assert context.epsilon == 1 / 16


def test_a_pilot_that_crashes_ends_the_study_with_its_reason(context):
    def execute(job):
        context.ledger.commit(job.key, {"state": "FAIL", "reason": "error: RuntimeError: x"})

    with pytest.raises(StudyFailed, match="pilot/linf must succeed before the study can go on"):
        InlineEngine().run(Pipeline(pilot.stages(context)), execute)
    assert not (context.ledger.root / FROZEN).exists()


def test_a_study_with_numbers_has_no_pilot(context):
    fixed = replace(context, space=space())
    run(fixed, ran=(ran := []))
    assert ran == []
    assert fixed.epsilon == 1 / 16
    assert not (fixed.ledger.root / FROZEN).exists()


def test_a_smoke_study_looks_at_few_images(context):
    small = replace(context, space=context.space.smoke(), smoke=True)
    run(small, ran=(ran := []))
    assert ran[0][2] == 16
