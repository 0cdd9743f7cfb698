"""Records, and specifications that make no sense."""

import json
import re

import pytest
import torch
from torch import nn

from nodekd.attacks.autoattack import square
from nodekd.attacks.catalog import TIERS
from nodekd.attacks.spec import (
    APGD_CE,
    APGD_T,
    FGSM,
    PGD_10_CE,
    PGD_10_MARGIN,
    PGD_20,
    PROXY,
    SIGN_NOISE,
    SQUARE,
    Attack,
)
from nodekd.attacks.threat import Threat
from nodekd.attacks.tiers import SETS, THROUGH
from nodekd.errors import AttackError


def test_records_hold_every_hyper_parameter() -> None:
    pyautoattack = "pyautoattack 0.2.0"
    assert PGD_20.record() == {
        "name": "pgd-20",
        "method": "pgd",
        "loss": "cross-entropy",
        "steps": 20,
        "step_size": 0.125,
        "random_start": True,
        "restarts": 1,
    }
    assert APGD_T.record() == {
        "name": "apgd-t",
        "method": "apgd-targeted",
        "loss": "targeted-dlr",
        "loss_below_4_classes": "targeted-margin",
        "steps": 60,
        "restarts": 1,
        "targets": 5,
        "rho": 0.75,
        "eot_iterations": 1,
        "random_start": True,
        "library": pyautoattack,
    }
    assert SQUARE.record() == {
        "name": "square",
        "method": "square",
        "loss": "margin",
        "queries": 1000,
        "restarts": 1,
        "p_init": 0.8,
        "rescaled": True,
        "library": pyautoattack,
    }
    for attack in (FGSM, PGD_10_CE, PGD_10_MARGIN, APGD_CE, SIGN_NOISE):
        assert json.loads(json.dumps(attack.record())) == attack.record()


def test_the_tiers_are_those_of_the_science_rules() -> None:
    assert list(SETS) == list(TIERS)
    standard, full, adaptive = ([attack.name for attack in SETS[tier]] for tier in ("standard", "full", "adaptive"))
    assert standard == ["fgsm", "pgd-20", "pgd-20-fine", "pgd-20-euler", "apgd-ce", "apgd-t"]
    assert full[-4:] == ["apgd-ce", "apgd-t-9", "fab-t", "square-5000"]
    assert adaptive[: len(full)] == full
    assert set(THROUGH) <= set(adaptive)
    assert [attack.name for attack in PROXY] == ["pgd-10-ce", "pgd-10-margin"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "fab"},
            "a: method must be one of fgsm, pgd, apgd, apgd-targeted, fab-targeted, square, sign-noise, "
            "feature-distance, but got 'fab'",
        ),
        ({"method": "fgsm", "loss": "dlr"}, "a: loss must be one of cross-entropy, margin, but got 'dlr'"),
        ({"method": "fgsm", "loss": "margin", "steps": 3}, "a: fgsm takes exactly loss, but got loss, steps"),
        ({"method": "apgd", "steps": 0, "restarts": 1}, "a: `steps >= 1` must hold, but got steps=0"),
        (
            {"method": "pgd", "loss": "margin", "steps": 3, "step_size": 0.0, "random_start": True, "restarts": 1},
            "a: `step_size > 0` must hold, but got step_size=0.0",
        ),
        (
            {"method": "pgd", "loss": "margin", "steps": 3, "step_size": 0.1, "random_start": False, "restarts": 2},
            "a: restarts=2 repeat one run without a random_start; give 1",
        ),
    ],
)
def test_impossible_attacks_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(AttackError, match=re.escape(message)):
        Attack("a", **settings)  # pyright: ignore


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 1, 6, 8)])
def test_square_says_which_images_it_cannot_attack_under_l2(shape: tuple[int, ...]) -> None:
    images, labels = torch.full(shape, 0.5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(AttackError, match="Square under l2 needs square images of at least 5x5 pixels"):
        square(nn.Identity(), images, labels, Threat("l2", 0.1), queries=1, restarts=1, seed=0)
