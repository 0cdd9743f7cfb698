"""The ball and the box."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nodekd.attacks.catalog import EPSILONS, NORMS, Norm
from nodekd.attacks.gradient import LOSSES, pgd
from nodekd.attacks.threat import Threat
from nodekd.errors import AttackError

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
SEEDS = st.integers(0, 2**32)
EPSILON_RANGE = st.floats(1e-4, 1.0)


def pixels(shape: tuple[int, ...], seed: int, *, wide: bool = False) -> torch.Tensor:
    """Images, many pixels exactly 0 or 1; wide ones leave [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=generator) * 3 - 1
    return values if wide else values.clamp(0, 1)


@settings(max_examples=60, deadline=None)
@given(SHAPES, SEEDS, st.sampled_from(NORMS), EPSILON_RANGE)
def test_projection_and_random_start_stay_in_ball_and_box(
    shape: tuple[int, ...], seed: int, norm: Norm, epsilon: float
) -> None:
    threat, clean = Threat(norm, epsilon), pixels(shape, seed)
    projected = threat.project(pixels(shape, seed + 1, wide=True), clean)
    started = threat.random_start(clean, torch.Generator().manual_seed(seed))
    for images in (projected, started):
        assert threat.contains(images, clean).all()
        assert (threat.distance(images, clean) <= epsilon).all()
        torch.testing.assert_close(threat.project(images, clean), images, rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from(NORMS), EPSILON_RANGE, st.sampled_from(sorted(LOSSES)), st.floats(0.01, 4.0))
def test_pgd_never_leaves_ball_and_box(seed: int, norm: Norm, epsilon: float, loss: str, step: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(32, 3)
    layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 10.0 ** (seed % 9 - 4)
    threat, clean = Threat(norm, epsilon), pixels((5, 2, 4, 4), seed)
    labels = torch.randint(0, 3, (5,), generator=generator)
    start = threat.random_start(clean, generator)
    trace = pgd(
        nn.Sequential(nn.Flatten(), layer),
        clean,
        labels,
        threat,
        loss=LOSSES[loss],
        steps=3,
        step_size=step * epsilon,
        start=start,
    )
    assert threat.contains(trace.images, clean).all()


@pytest.mark.parametrize("norm", NORMS)
def test_projection_loses_next_to_nothing_of_the_ball(norm: Norm) -> None:
    clean = torch.full((3, 1, 8, 8), 0.5)
    threat = Threat(norm, 1 / 64)
    far = clean + torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1, 1)
    length = threat.distance(threat.project(far, clean), clean)
    assert (length > threat.epsilon * (1 - 5e-5)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_direction_has_length_one_whatever_the_size_of_the_gradient(norm: Norm) -> None:
    gradient = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    unit = Threat(norm, 0.1).direction(gradient)
    torch.testing.assert_close(
        Threat(norm, 0.1).distance(unit, torch.zeros_like(unit)), torch.ones(4, dtype=torch.float64)
    )
    torch.testing.assert_close(Threat(norm, 0.1).direction(gradient * 1e-30), unit)
    assert (Threat(norm, 0.1).direction(torch.zeros_like(gradient)) == 0).all()


def test_contains_refuses_what_is_not_finite_out_of_range_or_too_far() -> None:
    clean = torch.full((5, 1, 2, 2), 0.95)
    images = clean.clone()
    images[1] = math.nan
    images[2] = 1.01
    images[3] = 0.95 - 0.1 * (1 + 1e-4)
    images[4] = 0.85 + 1e-7
    assert Threat("linf", 0.1).contains(images, clean).tolist() == [True, False, False, False, True]
    assert Threat("l2", 0.2).contains(images, clean).tolist() == [True, False, False, False, True]


def test_random_starts_fill_the_l2_ball_evenly() -> None:
    clean = torch.full((4000, 1, 1, 2), 0.5)
    threat = Threat("l2", 0.1)
    reach = threat.distance(threat.random_start(clean, torch.Generator().manual_seed(0)), clean) / 0.1
    assert abs((reach < 0.5).double().mean().item() - 0.25) < 0.03


@pytest.mark.parametrize(
    ("norm", "epsilon", "message"),
    [
        ("l7", 0.1, "norm must be one of linf, l2, but got 'l7'"),
        ("linf", 0.0, "`0 < epsilon` must hold, but got epsilon=0.0"),
        ("l2", math.nan, "`0 < epsilon` must hold, but got epsilon=nan"),
        ("linf", 8.0, "write 8/255 instead of 8"),
    ],
)
def test_impossible_threats_are_refused(norm: Norm, epsilon: float, message: str) -> None:
    with pytest.raises(AttackError, match=re.escape(message)):
        Threat(norm, epsilon)


def test_every_data_set_has_ascending_epsilons_for_every_norm() -> None:
    assert set(EPSILONS) == {"digits", "cifar10", "cifar100", "svhn", "food101", "folder"}
    for by_norm in EPSILONS.values():
        assert tuple(by_norm) == NORMS
        for epsilons in by_norm.values():
            assert list(epsilons.grid) == sorted(set(epsilons.grid))
            assert set(epsilons.stage) <= set(epsilons.grid)
            assert list(epsilons.stage) == sorted(epsilons.stage)
    assert EPSILONS["digits"]["linf"].stage == (1 / 16, 0.1)
