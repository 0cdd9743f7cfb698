"""The diagnosis of networks whose every number is known: who is broken by what, and which watching check speaks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.spec import FGSM, PGD_20, Attack
from nodekd.attacks.threat import Threat
from nodekd.checks import diagnosis
from nodekd.checks.diagnosis import OWN, Diagnosed, Share, diagnose
from nodekd.checks.optimisation import Climber
from nodekd.checks.preflight import preflight
from nodekd.checks.protocol import Alone, Subject, subject_of
from nodekd.checks.solver_matrix import SolverMatrix
from nodekd.checks.solver_work import solver_work
from nodekd.errors import AttackError
from nodekd.ode.integrator import Integrator, finer
from nodekd.ode.solver_text import solver_text
from study.checks.diagnostics import Diagnosis, compared
from tests.known_networks import (
    BALL,
    Decay,
    NarrowHole,
    Noisy,
    Solid,
    Staircase,
    Stiffer,
    TwoBasins,
    flowing,
    grey,
    linear,
    moved,
    steps_up_the_stairs,
)

SEED = 7
SHORT = ("fgsm", "pgd-20", "pgd-20-margin", "apgd-ce")
LONG = (*SHORT, "apgd-t", "square", "sign-noise", "rescaled-pgd-20")
SHARP = 1e5
"""So many times the logits that the cross-entropy has no gradient, and attacks that follow it stay where they start."""


def plain(network: nn.Module) -> Subject:
    return Subject(network, network, network, network, "batch", 1)


def examined(network: nn.Module, images: Tensor, labels: Tensor, *threats: Threat, brief: bool = False) -> Diagnosed:
    """Diagnose in the given balls, the last of which is the headline."""
    return diagnose(plain(network), images, labels, threats, threats[-1], seed=SEED, brief=brief)


def own(broken: dict[str, Tensor]) -> Tensor:
    """Tell who is broken by an attack on the network's own gradient."""
    return torch.stack([broken[each.name] for each in OWN if each.name in broken]).any(dim=0)


def starts(images: Tensor, *purpose: str | int) -> Tensor:
    """Return u at the random start of PGD on the margin."""
    batch_seed = streams.seed_of(SEED, "pgd-20-margin", 0)
    return moved(BALL.random_start(images, streams.generator(batch_seed, *purpose)))


def classes_of(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).argmax(dim=1)


def separable(n: int, height: int, width: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Return a linear network, images and classes, a tenth of them wrong, and each image's distance from the edge."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(height * width, generator=generator)
    images = 0.3 + 0.4 * torch.rand(n, 1, height, width, generator=generator)
    lead = (images.flatten(1) - 0.5) @ weight
    labels = (lead > 0).long()
    labels[::10] = 1 - labels[::10]
    return linear(weight), images, labels, torch.stack([lead.abs() / weight.abs().sum(), lead.abs() / weight.norm()])


@pytest.mark.parametrize(("norm", "epsilons"), [("linf", (0.005, 0.02)), ("l2", (0.03, 0.1))])
def test_a_linear_network_loses_exactly_what_lies_near_its_edge(norm: str, epsilons: tuple[float, ...]) -> None:
    network, images, labels, distances = separable(40, 5, 5)
    distance = distances[0 if norm == "linf" else 1]
    clear = torch.stack([(distance / epsilon - 0.975).abs() > 0.03 for epsilon in epsilons]).all(dim=0)
    images, labels, distance = images[clear], labels[clear], distance[clear]
    right = labels == classes_of(network, images)
    found = examined(network, images, labels, *(Threat(norm, epsilon) for epsilon in epsilons))
    assert torch.equal(found.clean_correct, right)
    assert tuple(record["name"] for record in found.attacks) == LONG
    m, counts = int(right.sum()), []
    for level, epsilon in zip(found.levels, epsilons, strict=True):
        expected = right & (distance <= epsilon)
        counts.append(int(expected.sum()))
        for name in (*(each.name for each in OWN), "rescaled-pgd-20"):
            assert torch.equal(level.broken[name], expected), (name, epsilon)
        for name in ("square", "sign-noise"):
            assert not (level.broken[name] & ~expected).any(), (name, epsilon)
        survivors = m - counts[-1]
        assert (level.strayed, level.lost) == (Share(0, m * len(LONG)), Share(0, m))
        assert (level.rising, level.doubled, level.restarted) == (Share(0, survivors), Share(0, m), Share(0, m))
        assert level.longer == (Share(0, min(survivors, 8)) if epsilon == epsilons[-1] else None)
        assert (level.work, level.solvers) == (None, None)
    assert 0 < counts[0] < counts[1] < m < len(images)
    assert found.unbounded == Share(0, m)


def test_more_steps_than_twenty_are_what_a_staircase_asks_for() -> None:
    """A3, doubled: the step at which each image breaks follows from its start."""
    images, labels = grey(64, 2, 2)
    (level,) = examined(Staircase(SHARP), images, labels, BALL, brief=True).levels
    needed = steps_up_the_stairs(starts(images, "start"))
    assert torch.equal(level.broken["pgd-20-margin"], needed <= 20)
    expected = (needed > 20) & (needed <= 40) & ~own(dict(level.broken))
    assert level.doubled == Share(int(expected.sum()), 64)
    assert expected.sum() > 20
    assert not level.broken["pgd-20"].any(), "there is no cross-entropy to climb"


def test_a_success_that_scoring_alone_sees_is_of_the_step_that_made_it() -> None:
    """A3, doubled, where the judge on the way sees nothing broken: the image that is given back is the highest."""
    images, labels = grey(64, 2, 2)
    network = Staircase(SHARP)
    subject = Subject(network, network, Solid(), network, "alone", 1)
    (level,) = diagnose(subject, images, labels, (BALL,), BALL, seed=SEED, brief=True).levels
    needed = steps_up_the_stairs(starts(images, "start"))
    assert torch.equal(level.broken["pgd-20-margin"], needed <= 20)
    expected = (needed > 20) & (needed <= 40) & ~own(dict(level.broken))
    assert level.doubled == Share(int(expected.sum()), 64)
    assert expected.sum() > 20


class SteeperAndSteeper(Staircase):
    """Of every ten steps, which climb by 0.6 or more, the loss gains a quarter of what it gained from the start."""

    def lead(self, u: Tensor) -> Tensor:
        return (super().lead(u) / 2).exp() - 1.2


def test_an_attack_that_is_still_under_way_is_seen_on_every_survivor() -> None:
    """A2: sixteen pixels are not climbed in forty steps."""
    images, labels = grey(12, 4, 4)
    (level,) = examined(SteeperAndSteeper(SHARP), images, labels, BALL, brief=True).levels
    assert not own(dict(level.broken)).any()
    assert level.rising == Share(12, 12)
    assert level.doubled == Share(0, 12)


def test_the_last_steps_decide_only_among_survivors() -> None:
    """A2: some images are broken, and those that are not have stopped at the ball's edge long ago."""
    images, labels = grey(12, 1, 1)
    (level,) = examined(TwoBasins(SHARP), images, labels, BALL, brief=True).levels
    alive = 12 - int(own(dict(level.broken)).sum())
    assert level.rising == Share(0, alive)
    assert 0 < alive < 12


def test_more_starts_are_what_two_basins_ask_for() -> None:
    """A4: which basin an image lies in follows from the start alone."""
    images, labels = grey(160, 1, 1)
    (level,) = examined(TwoBasins(SHARP), images, labels, BALL).levels
    assert torch.equal(level.broken["pgd-20-margin"], (starts(images, "start") > 0).squeeze(1))
    alive, count = int((~own(dict(level.broken))).sum()), 0
    left = alive
    for restart in range(1, 5):
        up = int((starts(images[:left], "start", restart) > 0).sum())
        left, count = left - up, count + up
    assert level.restarted == Share(count, 160)
    assert 8 < count < alive
    assert level.doubled == Share(0, 160)
    assert level.longer == Share(0, min(alive, 20)), "many steps from the clean image stay in its basin"


def test_a_thousand_ever_smaller_steps_are_what_a_narrow_hole_asks_for() -> None:
    """A3-long: see `NarrowHole`; of 80 survivors, an eighth are asked, and all of them fall."""
    images, labels = grey(80, 1, 1)
    (level,) = examined(NarrowHole(), images, labels, BALL).levels
    assert not own(dict(level.broken)).any()
    assert level.longer == Share(10, 10)
    assert (level.doubled, level.restarted) == (Share(0, 80), Share(0, 80))


class Gated(nn.Module):
    """Images darker than 0.5 get no gradient; the others are pushed to 0.5, where class 0 begins."""

    def forward(self, images: Tensor) -> Tensor:
        rising = (images.flatten(1)[:, 0] - 0.5).relu()
        return torch.stack([torch.full_like(rising, 0.01), rising], dim=1)


def test_what_no_ball_moves_is_counted_and_no_more_than_the_first_are_asked() -> None:
    """A8: an image at 0 stays below 0.5 from any start, without a gradient for ever."""
    images = torch.tensor([0.0, 0.9, 0.0, 0.9, 0.9, 0.0, 0.0]).view(-1, 1, 1, 1)
    labels = (images.flatten() > 0.5).long()
    assert examined(Gated(), images, labels, BALL, brief=True).unbounded == Share(4, 7)
    assert examined(Gated(), images, 1 - labels, BALL, brief=True).unbounded == Share(0, 0), "none is right"
    many = grey(140, 1, 1)
    assert examined(Solid(), *many, BALL, brief=True).unbounded == Share(128, 128)
    network, images, labels, _ = separable(150, 5, 5)
    assert examined(network, images, labels, Threat("l2", 0.1), brief=True).unbounded == Share(0, 128)


class Watched(nn.Module):
    """Says class 1 of dark images, but only while somebody takes gradients."""

    def forward(self, images: Tensor) -> Tensor:
        dark = (images.flatten(1)[:, 0] < 0.5) if torch.is_grad_enabled() else torch.zeros(len(images)).bool()
        return torch.stack([torch.ones(len(images)), 2 * dark + 0 * images.flatten(1).sum(dim=1)], dim=1)


def test_a_success_that_is_gone_in_scoring_is_counted() -> None:
    """A1: three of seven images are seen broken by the attack, and none is when it is scored."""
    images = torch.tensor([0.25, 0.75, 0.75, 0.25, 0.75, 0.75, 0.25]).view(-1, 1, 1, 1)
    labels, tiny = torch.zeros(7, dtype=torch.int64), Threat("linf", 0.01)
    (level,) = examined(Watched(), images, labels, tiny, brief=True).levels
    assert level.lost == Share(3, 7)
    assert not own(dict(level.broken)).any()


@pytest.mark.parametrize("draws", [1, 10])
def test_what_is_scored_otherwise_than_it_is_attacked_has_no_success_to_lose(draws: int) -> None:
    images, labels = grey(4, 1, 1)
    network = Watched()
    target = network if draws > 1 else Alone(network)
    subject = Subject(network, network, network, target, "batch" if draws > 1 else "alone", draws)
    found = diagnose(subject, images, labels, (BALL,), BALL, seed=SEED, brief=True)
    assert found.levels[0].lost is None


def test_images_outside_of_ball_or_box_are_counted_and_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """P2: of an attack's images, three have left; the network is wrong on everything that was moved at all."""

    class AtTheSpot(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            far = ((images - 0.95).abs().flatten(1).amax(dim=1) > 1e-3).float()
            return torch.stack([torch.full_like(far, 0.5), far], dim=1)

    clean = torch.full((6, 1, 1, 1), 0.95)
    made = torch.tensor([0.9, 0.84, 1.01, torch.nan, 0.95, 0.86]).view(-1, 1, 1, 1)
    original = diagnosis.craft

    def careless(attack: Attack, *others: object) -> Tensor:
        return made if attack.name == FGSM.name else original(attack, *others)

    monkeypatch.setattr(diagnosis, "craft", careless)
    (level,) = examined(AtTheSpot(), clean, torch.zeros(6).long(), Threat("linf", 0.1), brief=True).levels
    assert level.strayed == Share(3, 6 * 4)
    assert level.broken["fgsm"].tolist() == [True, False, False, False, False, True]


def test_rescaling_finds_what_huge_logits_hide_from_the_cross_entropy() -> None:
    """S11: 1e5 times the logits change no answer, and leave the cross-entropy without a gradient."""
    network, images, labels, distances = separable(60, 1, 2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(SHARP)
    epsilon = 0.05
    clear = (distances[0] / epsilon - 1).abs() > 0.01
    images, labels, distance = images[clear], labels[clear], distances[0][clear]
    found = examined(network, images, labels, Threat("linf", epsilon))
    (record,) = [record for record in found.attacks if record["name"] == "rescaled-pgd-20"]
    with torch.no_grad():
        lead = network(images).diff(dim=1).abs().squeeze(1)[found.clean_correct]
    assert float(lead.median()) * record["logits_times"] == pytest.approx(1.0)
    (level,) = found.levels
    expected = found.clean_correct & (distance <= epsilon)
    assert torch.equal(level.broken["rescaled-pgd-20"], expected)
    assert torch.equal(level.broken["pgd-20-margin"], expected), "the margin has its gradient all the time"
    blind = {name: level.broken[name].numpy() for name in ("fgsm", "pgd-20", "rescaled-pgd-20")}
    measured = {each.id: each for each in compared(Diagnosis(found.clean_correct.numpy(), blind))}
    by_luck = int((level.broken["pgd-20"] & expected).sum())
    assert measured["S11"].count == int(expected.sum()) - by_luck
    assert measured["S11"].count > 5
    assert measured["S11"].n == int(found.clean_correct.sum())
    assert not level.broken["fgsm"].any()


def test_where_nothing_is_right_there_is_nothing_to_break() -> None:
    network, images, _, _ = separable(20, 1, 2)
    found = examined(network, images, 1 - classes_of(network, images), Threat("linf", 0.01), BALL)
    assert not found.clean_correct.any()
    assert found.unbounded == Share(0, 0)
    for level in found.levels:
        assert tuple(level.broken) == LONG
        assert all(bits.shape == (20,) and not bits.any() for bits in level.broken.values())
        asked = (level.strayed, level.lost, level.rising, level.doubled, level.restarted)
        assert asked == (Share(0, 0),) * 5
    assert [level.longer for level in found.levels] == [None, Share(0, 0)]


def test_one_image_is_enough_and_none_is_not() -> None:
    images, labels = grey(1, 1, 1)
    found = examined(TwoBasins(), images, labels, BALL)
    assert found.clean_correct.tolist() == [True]
    assert all(bits.shape == (1,) for bits in found.levels[0].broken.values())
    with pytest.raises(AttackError, match="labels must be"):
        examined(TwoBasins(), images, labels[:0], BALL)


def test_a_brief_diagnosis_leaves_the_long_attacks_out_and_changes_no_other() -> None:
    images, labels = grey(32, 1, 1)
    brief, whole = (examined(TwoBasins(), images, labels, BALL, brief=each) for each in (True, False))
    assert (tuple(brief.levels[0].broken), tuple(whole.levels[0].broken)) == (SHORT, LONG)
    for name in SHORT:
        assert torch.equal(brief.levels[0].broken[name], whole.levels[0].broken[name])
    assert (brief.levels[0].longer, brief.levels[0].restarted) == (None, Share(0, 0))
    assert brief.unbounded == whole.unbounded


def test_who_asks_how_often_is_counted() -> None:
    """A network that nothing breaks is asked steps + 1 times by every start, and once more where a check scores."""
    images, _ = grey(10, 1, 1)
    by = examined(Solid(), images, torch.tensor([0] * 8 + [1] * 2), BALL).effort["by"]
    asked = {name: (found["forwards_per_image"], found["backwards_per_image"]) for name, found in by.items()}
    right = 0.8
    assert asked["fgsm"] == pytest.approx((2 * right, right))
    assert asked["pgd-20"] == pytest.approx((21 * right, 20 * right))
    assert asked["pgd-20-margin"] == pytest.approx((41 * right, 40 * right)), "twice the steps hold the first twenty"
    assert asked["A3"] == pytest.approx(((4 * 251 + 1) * right, 1000 * right))
    assert asked["A4"] == pytest.approx(((4 * 21 + 1) * right, 4 * 20 * right))


def same(first: Diagnosed, second: Diagnosed) -> bool:
    """Compare all bits and counts."""
    counts = [
        [
            (level.strayed, level.lost, level.rising, level.doubled, level.longer, level.restarted)
            for level in each.levels
        ]
        for each in (first, second)
    ]
    pairs = zip(first.levels, second.levels, strict=True)
    bits = all(torch.equal(one.broken[name], other.broken[name]) for one, other in pairs for name in one.broken)
    return bits and counts[0] == counts[1] and first.unbounded == second.unbounded


def test_a_diagnosis_is_its_seeds_and_leaves_no_trace() -> None:
    network = Staircase(SHARP)
    network.train()
    images, labels = grey(24, 2, 2)
    before = torch.get_rng_state()
    first = examined(network, images, labels, BALL, brief=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training
    torch.manual_seed(99)
    assert same(first, examined(network, images, labels, BALL, brief=True))
    other = diagnose(plain(network), images, labels, (BALL,), BALL, seed=SEED + 1, brief=True)
    assert not same(first, other)
    alone, pair = (
        examined(network, images, labels, *each, brief=True) for each in ([BALL], [Threat("linf", 0.1), BALL])
    )
    assert same(alone, replace(pair, levels=pair.levels[1:])), "a smaller ball leaves nothing behind"


def test_a_randomised_network_is_asked_for_its_expectation() -> None:
    network, (images, _) = Noisy(linear(torch.tensor([6.0, -4.0]))), grey(24, 1, 2)
    images = images + torch.linspace(-0.2, 0.2, 24).view(-1, 1, 1, 1) * torch.tensor([1.0, -1.0])
    labels, subject = (images[:, 0, 0, 0] > 0.5).long(), subject_of(network, network, preflight(network, images))
    assert subject.draws == 10
    torch.manual_seed(1)
    state, weights = torch.get_rng_state(), {name: each.clone() for name, each in network.state_dict().items()}
    first = diagnose(subject, images, labels, (Threat("linf", 0.02),), Threat("linf", 0.02), seed=SEED, brief=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(each, weights[name]) for name, each in network.state_dict().items())
    assert all(weight.requires_grad for weight in network.parameters())
    torch.manual_seed(2)
    second = diagnose(subject, images, labels, (Threat("linf", 0.02),), Threat("linf", 0.02), seed=SEED, brief=True)
    assert same(first, second)
    assert first.levels[0].lost is None
    assert {record["draws_per_answer"] for record in first.attacks} == {10}
    assert [record["steps"] for record in first.attacks if record["name"] == "apgd-ce"] == [20]
    far = (images[:, 0, 0, 0] - 0.5).abs() > 0.1
    assert own(dict(first.levels[0].broken)).any()
    assert not own(dict(first.levels[0].broken))[far].any(), "the ball's radius and its noise together are less"


EDGE = torch.tensor([1.0, 0.3])
"""Logit of class 1: by Euler's one step 0.3 y2, by the flow y1 / e + 0.3 y2."""


def scattered(n: int) -> tuple[Tensor, Tensor]:
    """Return images (n 1 1 2) at whose edge neither way to solve stands alone, and y (n 2)."""
    images = 0.25 + 0.5 * torch.rand(n, 1, 1, 2, generator=torch.Generator().manual_seed(2))
    return images, images.flatten(1) - 0.5


def test_the_solvers_of_an_ode_are_attacked_and_judged_in_turn() -> None:
    """A12: attacks through Euler's one step do not see y1, and break under the flow less than its own."""
    euler, fine, threat = Integrator("euler", 1.0, steps=1), Integrator("rk4", 1.0, steps=8), Threat("linf", 0.08)
    network, (images, y) = flowing(Decay(), euler, EDGE), scattered(60)
    leads = torch.stack([0.3 * y[:, 1], y[:, 0] / torch.e + 0.3 * y[:, 1]])
    labels = (leads[0] > 0).long()
    labels[:5] = 1 - labels[:5]
    near = leads.abs() <= threat.epsilon * torch.tensor([[0.3], [1 / torch.e + 0.3]])
    right = (leads > 0).long() == labels
    solvers = {solver_text(each): each for each in (euler, fine)}
    subject = subject_of(network, network, preflight(network, images))
    found = diagnose(subject, images, labels, (threat,), threat, seed=SEED, solvers=solvers, brief=True)
    assert (found.solvers, found.solver_converged) == (("euler:1", "rk4:32"), (False, True))
    assert torch.equal(found.solver_correct, right)
    assert torch.equal(found.clean_correct, right[0])
    (level,) = found.levels
    assert torch.equal(level.broken["pgd-20"], right[0] & near[0])
    assert torch.equal(level.solvers[0, 0], right[0] & near[0])
    assert torch.equal(level.solvers[1, 1], right[1] & near[1])
    assert torch.equal(level.solvers[1, 0], right[0] & right[1] & near[0])
    missed = level.solvers[1, 1] & ~level.solvers[0, 1]
    assert missed.sum() > 5
    assert torch.equal(level.solvers, SolverMatrix(subject, solvers, images, labels, SEED).broken(threat))
    assert level.work is None, "fixed steps always take the same work"
    for asked in ({}, {"euler:1": euler}):
        without = diagnose(subject, images, labels, (threat,), threat, seed=SEED, solvers=asked, brief=True)
        assert (without.solvers, without.solver_correct, without.levels[0].solvers) == ((), None, None)


def test_an_attack_that_makes_the_solver_work_shows_in_its_evaluations() -> None:
    """A15: attacked images lie on the other side of y2 = 0, where the equation is stiff."""
    adaptive = Integrator("dopri5", 1.0, steps=None, rtol=1e-2, atol=1e-2, error_control="image")
    network, threat = flowing(Stiffer(), adaptive, torch.tensor([0.0, 1.0])), Threat("linf", 0.2)
    images, labels = torch.full((3, 1, 1, 2), 0.75), torch.zeros(3, dtype=torch.int64)
    images[..., 1] = 0.4
    (level,) = diagnose(plain(network), images, labels, (threat,), threat, seed=SEED, brief=True).levels
    assert level.broken["pgd-20"].all()
    attacked = Climber(network, network, SEED).climb(PGD_20, images, labels, threat).images
    assert level.work == solver_work(network, images, attacked)
    assert level.work.attacked > 2 * level.work.clean


def test_a_record_says_through_which_solve_a_gradient_came_back() -> None:
    """Forwards as deployed, backwards through four times the steps: under the key that the stage's attacks use."""
    network = flowing(Decay(), Integrator("rk4", steps=4), torch.tensor([-1.0, 1.0]))
    found = examined(network, *grey(4, 1, 2), Threat("linf", 0.1))
    records = {record["name"]: record for record in found.attacks}
    assert records["straight-through"]["gradient_of"] == solver_text(finer(network.integrator))
    assert "gradient_of" not in records["pgd-20"]
