"""The attacks that watch other attacks, on networks where the number of steps or the start is known to decide."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.gradient import Trace
from nodekd.attacks.spec import PGD_20, PGD_20_MARGIN, Attack, craft
from nodekd.attacks.threat import Threat
from nodekd.checks.effort import watched
from nodekd.checks.optimisation import DOUBLED, Climber, everywhere, joined, still_rising
from tests.known_networks import (
    BALL,
    NarrowHole,
    Solid,
    Staircase,
    TwoBasins,
    grey,
    linear,
    moved,
    steps_up_the_stairs,
)

SEED = 5
NAN = math.nan


def starts(attack: Attack, images: Tensor, *purpose: str | int, batch: int = 0) -> Tensor:
    """Return where an attack on a batch begins."""
    batch_seed = streams.seed_of(SEED, attack.name, batch)
    return BALL.random_start(images, streams.generator(batch_seed, *purpose))


def broken(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(dim=1) == 1


def rises(losses: list[float]) -> bool:
    """State the rule again for one image: the last ten steps bring more than a tenth of the whole rise."""
    best, so_far = -math.inf, []
    for loss in losses:
        best = best if math.isnan(loss) else max(best, loss)
        so_far.append(best)
    if len(so_far) == 1 or math.isinf(so_far[0]):
        return False
    rise, late = so_far[-1] - so_far[0], so_far[-1] - so_far[max(0, len(so_far) - 11)]
    return rise > 0 and 10 * late > rise


LINE = [float(step) for step in range(41)]
BROKEN_HALFWAY = [*LINE[:20], *[NAN] * 21]
TRACES = {
    "a line": (LINE, True),
    "flat after half": ([min(step, 20.0) for step in LINE], False),
    "a tenth of the rise at the end": ([*[min(step, 18.0) for step in LINE[:-1]], 20.0], False),
    "a little more than a tenth": ([*[min(step, 17.0) for step in LINE[:-1]], 20.0], True),
    "all at the first of the last ten steps": ([*[0.0] * 31, *[1.0] * 10], True),
    "all at the step before them": ([*[0.0] * 30, *[1.0] * 11], False),
    "up and down again": ([20 - abs(step - 20) for step in LINE], False),
    "falling": (LINE[::-1], False),
    "flat": ([1.0] * 41, False),
    "broken halfway, so at rest": (BROKEN_HALFWAY, False),
    "no number at the start": ([NAN, *LINE[1:]], False),
    "no number on the way": ([0.0, *[NAN] * 39, 40.0], True),
    "no number at all": ([NAN] * 41, False),
}


@pytest.mark.parametrize("name", TRACES)
def test_a_loss_rises_where_its_last_steps_bring_more_than_a_tenth(name: str) -> None:
    losses, expected = TRACES[name]
    assert rises(losses) is expected
    assert still_rising(torch.tensor(losses)[:, None]).tolist() == [expected]


def test_ten_steps_are_all_of_a_short_attack() -> None:
    assert still_rising(torch.tensor([[0.0], [1.0]])).tolist() == [True]
    assert still_rising(torch.tensor([[0.0]])).tolist() == [False]
    assert still_rising(torch.zeros(41, 0)).tolist() == []


LOSSES = st.integers(1, 30).flatmap(
    lambda steps: st.lists(
        st.lists(st.one_of(st.integers(-40, 40).map(float), st.just(NAN)), min_size=steps, max_size=steps),
        min_size=1,
        max_size=6,
    )
)


@given(LOSSES)
@example([losses for losses, _ in TRACES.values()])
def test_every_trace_is_judged_for_itself(traces: list[list[float]]) -> None:
    assert still_rising(torch.tensor(traces).T).tolist() == [rises(losses) for losses in traces]


@pytest.mark.parametrize("attack", [PGD_20, PGD_20_MARGIN])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_climb_is_the_attack_itself_batch_by_batch(attack: Attack, norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network, images = linear(torch.tensor([1.0, -2.0])), 0.3 + 0.4 * torch.rand(300, 1, 1, 2, generator=generator)
    labels, threat = broken(network, images).long(), Threat(norm, 0.05)
    found = Climber(network, network, SEED).climb(attack, images, labels, threat)
    made = craft(attack, network, network, images, labels, threat, SEED, 256)
    torch.testing.assert_close(found.images, made, atol=0, rtol=0)
    assert found.loss.shape == (21, 300)
    assert torch.equal(found.broken_at >= 0, broken(network, made) != labels.bool())
    assert 0 < (found.broken_at >= 0).sum() < 300


def test_twice_the_steps_begin_with_the_same_steps() -> None:
    images, labels = grey(40, 2, 2)
    climber = Climber(Staircase(), Staircase(), SEED)
    once = climber.climb(PGD_20_MARGIN, images, labels, BALL, keep_going=True)
    twice = climber.climb(DOUBLED, images, labels, BALL, keep_going=True)
    torch.testing.assert_close(twice.loss[:21], once.loss, atol=0, rtol=0)
    assert twice.loss.shape == (41, 40)


def test_an_image_breaks_at_the_step_that_its_start_says() -> None:
    images, labels = grey(64, 2, 2)
    needed = steps_up_the_stairs(moved(starts(DOUBLED, images, "start")))
    found = Climber(Staircase(), Staircase(), SEED).climb(DOUBLED, images, labels, BALL)
    assert torch.equal(found.broken_at, torch.where(needed <= 40, needed, -1))
    assert 0 < (needed <= 20).sum() < (needed <= 40).sum() < 64


def test_another_judge_decides_what_is_broken() -> None:
    images, labels = grey(16, 1, 1)
    found = Climber(TwoBasins(), Solid(), SEED).climb(PGD_20_MARGIN, images, labels, BALL)
    assert broken(TwoBasins(), found.images).any()
    assert (found.broken_at == -1).all()


def test_restarts_go_on_until_a_start_lies_in_the_right_basin() -> None:
    images, labels = grey(64, 1, 1)
    open_rows, expected = torch.arange(64), torch.zeros(64, dtype=torch.bool)
    for restart in range(1, 5):
        up = (moved(starts(PGD_20_MARGIN, images[open_rows], "start", restart)) > 0).squeeze(1)
        expected[open_rows[up]] = True
        open_rows = open_rows[~up]
    made = Climber(TwoBasins(), TwoBasins(), SEED).broken_by_restarts(images, labels, BALL)
    assert torch.equal(broken(TwoBasins(), made), expected)
    assert expected.sum() > 48, "15 of 16 on average, where one start breaks a half"
    assert not expected.all()
    assert BALL.contains(made, images).all()
    first = starts(PGD_20_MARGIN, images, "start")
    assert not torch.equal(first, starts(PGD_20_MARGIN, images, "start", 1)), "further starts are other starts"


def test_patience_reaches_what_longer_steps_step_over() -> None:
    images, labels = grey(20, 1, 1)
    climber = Climber(NarrowHole(), NarrowHole(), SEED)
    for attack in (PGD_20_MARGIN, DOUBLED, replace(PGD_20_MARGIN, steps=500)):
        assert not broken(NarrowHole(), climber.climb(attack, images, labels, BALL).images).any()
    made = climber.broken_by_patience(images, labels, BALL)
    assert broken(NarrowHole(), made).all()
    torch.testing.assert_close(moved(made), torch.full((20, 1), 41 / 64), atol=1e-6, rtol=0)
    assert not broken(Solid(), Climber(Solid(), Solid(), SEED).broken_by_patience(images, labels, BALL)).any()


def test_patience_starts_where_the_image_is_and_shares_its_steps_out() -> None:
    images, labels = grey(3, 1, 1)
    solid = Solid()
    with watched(solid) as effort:
        Climber(solid, solid, SEED).broken_by_patience(images, labels, BALL)
        assert effort.forwards.total() == 3 * 4 * 251
        Climber(solid, solid, SEED).broken_by_patience(images, labels, BALL, 100)
        assert effort.forwards.total() == 3 * 4 * (251 + 26)
    few = Climber(TwoBasins(), TwoBasins(), SEED).broken_by_patience(images, labels, BALL)
    assert not broken(TwoBasins(), few).any(), "a clean image lies in the lower basin, a random start often does not"


def test_images_broken_by_patience_are_kept_and_not_attacked_again() -> None:
    images = torch.cat([grey(2, 1, 2)[0], grey(2, 1, 2)[0] + torch.tensor([0.2, 0.0])])
    network, labels = linear(torch.tensor([-1.0, 0.0])), torch.tensor([0, 0, 0, 0])
    with watched(network) as effort:
        made = Climber(network, network, SEED).broken_by_patience(images, labels, Threat("linf", 0.1))
    assert broken(network, made).tolist() == [True, True, False, False]
    assert effort.forwards.total() == 2 * 2 + 2 * 4 * 251, "the first two break at their first step"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_without_bounds_takes_every_image_across_the_middle(norm: str) -> None:
    weight = torch.tensor([1.0, 0.0, 0.0, 0.0])
    network, images = linear(weight), torch.rand(32, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    images[:, :, 0, 0] = torch.linspace(0.01, 0.99, 32)[:, None]
    labels = broken(network, images).long()
    ball = everywhere(Threat(norm, 0.01), images)
    assert ball == Threat(norm, 0.5 if norm == "linf" else 1.0)
    assert ball.contains(torch.full_like(images, 0.5), images).all()
    made = Climber(network, network, SEED).broken_without_bounds(images, labels, Threat(norm, 0.01))
    assert (broken(network, made) != labels.bool()).all()


def test_without_a_gradient_or_without_images_nothing_moves_beyond_the_start() -> None:
    images, labels = grey(8, 1, 1)
    made = Climber(Solid(), Solid(), SEED).broken_without_bounds(images, labels, BALL)
    ball = everywhere(BALL, images)
    start = ball.random_start(images, streams.generator(streams.seed_of(SEED, "pgd-20", 0), "start"))
    assert torch.equal(made, start)
    climber, none = Climber(Solid(), Solid(), SEED), (images[:0], labels[:0], BALL)
    made = (climber.broken_without_bounds(*none), climber.broken_by_restarts(*none), climber.broken_by_patience(*none))
    assert [each.shape for each in made] == [(0, 1, 1, 1)] * 3


def test_traces_lie_side_by_side_in_the_order_of_the_images() -> None:
    def trace(*values: float) -> Trace:
        row = torch.tensor(values)
        images = row.view(-1, 1, 1, 1)
        return Trace(images, torch.stack([row, row + 0.5]), (10 * row).long(), images / 2)

    found, expected = joined([trace(0.1, 0.2), trace(0.3)]), trace(0.1, 0.2, 0.3)
    for name in ("images", "loss", "broken_at", "last"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
