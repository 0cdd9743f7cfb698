"""Every attack value, norm and kind of network: the ball, the box, and nothing left behind."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.catalog import NORMS, Norm
from nodekd.attacks.spec import Attack, run
from nodekd.attacks.threat import Threat
from tests.contract.attacked_networks import (
    ATTACKS,
    NETWORKS,
    THREATS,
    TINY,
    images_of,
    labels_of,
    linear,
    network_of,
    source_of,
    traces,
)

OTHERS = ("square", "apgd-ce")
every_attack = pytest.mark.parametrize("name", ATTACKS)
SLOW = {"dopri5": pytest.mark.slow}
every_network = pytest.mark.parametrize("kind", [pytest.param(kind, marks=SLOW.get(kind, ())) for kind in NETWORKS])
every_norm = pytest.mark.parametrize("norm", NORMS)


class PlantedError(Exception):
    """No error of ours or of torch."""


class _Breaks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise PlantedError


class BreaksBackwards(nn.Module):
    """Answers as another network does, and raises where it is differentiated."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(_Breaks.apply(x))


def attacked(
    attack: Attack, network: nn.Module, images: Tensor, labels: Tensor, threat: Threat, seed: int = 3
) -> Tensor:
    source = source_of(attack, network)
    judge = network if source is not network else None
    return run(attack, source, images, labels, threat, seed, batch_size=3, judge=judge)


def outside(made: Tensor, clean: Tensor, threat: Threat) -> list[str]:
    """Restate the threat in numpy and float64, with no tolerance: give what is wrong with each image."""
    after, before = made.numpy().astype(np.float64), clean.numpy().astype(np.float64)
    change = (after - before).reshape(len(after), -1)
    size = np.abs(change).max(axis=1) if threat.norm == "linf" else np.sqrt((change**2).sum(axis=1))
    said = [f"image {i} moved by {size[i]}" for i in np.flatnonzero(~(size <= threat.epsilon))]
    boxed = ((after >= 0) & (after <= 1)).reshape(len(after), -1).all(axis=1)
    return said + [f"image {i} left the box" for i in np.flatnonzero(~boxed)]


@cache
def _attempt(name: str, norm: Norm, kind: str) -> tuple[Tensor, Tensor, Tensor, bool, bool]:
    """Attack once: (made, clean, labels, whether nothing was left behind, whether the arguments are as they were)."""
    network, images = network_of(kind), images_of()
    labels = labels_of(network, images)
    given_images, given_labels = images.clone(), labels.clone()
    torch.manual_seed(5)
    before = traces(network)
    made = attacked(ATTACKS[name], network, images, labels, THREATS[norm])
    same = torch.equal(images, given_images) and torch.equal(labels, given_labels)
    return made, images, labels, traces(network) == before, same


def test_no_attack_value_is_forgotten() -> None:
    methods = {attack.method for attack in ATTACKS.values()}
    assert methods == {
        "fgsm",
        "pgd",
        "apgd",
        "apgd-targeted",
        "fab-targeted",
        "square",
        "sign-noise",
        "feature-distance",
    }
    for name in ("fgsm", "pgd-20", "apgd-ce", "apgd-t", "fab-t", "square", "square-5000", "sign-noise"):
        assert name in ATTACKS
    assert {attack.loss for attack in ATTACKS.values() if attack.method == "feature-distance"} == {"l1", "l2"}


@every_attack
@every_norm
@every_network
def test_the_perturbation_stays_in_the_ball_and_the_image_in_the_box(name: str, norm: Norm, kind: str) -> None:
    made, images, _, _, _ = _attempt(name, norm, kind)
    assert outside(made, images, THREATS[norm]) == []
    assert (made.shape, made.dtype, made.requires_grad) == (images.shape, torch.float32, False)
    assert torch.equal(made[-1], images[-1])  # wrong from the start
    if ATTACKS[name].method != "fab-targeted":  # which returns an image inside the ball that breaks, or nothing
        assert not torch.equal(made, images)


@every_attack
@every_norm
@every_network
def test_nothing_is_left_behind(name: str, norm: Norm, kind: str) -> None:
    *_, network_and_streams, arguments = _attempt(name, norm, kind)
    assert network_and_streams
    assert arguments


@every_attack
@every_norm
@every_network
def test_nothing_is_left_behind_when_the_network_raises(name: str, norm: Norm, kind: str) -> None:
    network, images = network_of(kind), images_of()
    labels = labels_of(network, images)
    before, calls = traces(network), []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == 4:  # the first two score
            raise PlantedError

    handle = network.register_forward_hook(fail)
    with pytest.raises(PlantedError):
        attacked(ATTACKS[name], network, images, labels, TINY[norm])
    handle.remove()
    assert traces(network) == before


@every_attack
@every_norm
def test_nothing_is_left_behind_when_its_gradient_raises(name: str, norm: Norm) -> None:
    network, images = BreaksBackwards(network_of("batch norm and dropout")), images_of()
    labels = labels_of(network, images)
    before = traces(network)
    attack = ATTACKS[name]
    if attack.method in ("square", "sign-noise"):
        attacked(attack, network, images, labels, TINY[norm])
    else:
        with pytest.raises(PlantedError):
            attacked(attack, network, images, labels, TINY[norm])
    assert traces(network) == before


@every_attack
@every_norm
@every_network
def test_equal_seeds_give_equal_images_bit_for_bit_whatever_ran_before(name: str, norm: Norm, kind: str) -> None:
    made, images, labels, _, _ = _attempt(name, norm, kind)
    network = network_of(kind)
    for other in OTHERS:
        if other != name:
            attacked(ATTACKS[other], network, images[:1], labels[:1], TINY[norm], seed=9)
    torch.manual_seed(5)  # a randomised network draws from the global stream, which is as it was for the first run
    assert torch.equal(attacked(ATTACKS[name], network, images, labels, THREATS[norm]), made)


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].method not in ("fgsm", "fab-targeted")])
def test_another_seed_gives_other_images(name: str) -> None:
    """Under l2, as signs of gradients lead every start to the same corner."""
    made, images, labels, _, _ = _attempt(name, "l2", "rk4")
    assert not torch.equal(attacked(ATTACKS[name], network_of("rk4"), images, labels, THREATS["l2"], seed=4), made)


@every_attack
@every_norm
def test_in_a_cascade_an_attack_finds_what_it_finds_alone_on_what_is_left(name: str, norm: Norm) -> None:
    """Whatever came before matters only through the images that it broke."""
    attack, network, images = ATTACKS[name], network_of("rk4"), images_of(9)
    labels, threat = labels_of(network, images), THREATS[norm]
    sources = {name: source_of(attack, network)} if attack.method == "feature-distance" else {}
    for first in (ATTACKS["sign-noise"], ATTACKS["square"]):
        if first.name == name:
            continue
        both = worst_case(network, images, labels, threat, [first, attack], seed=2, sources=sources)
        left = both.attempted[2]
        alone = worst_case(network, images[left], labels[left], threat, [attack], seed=2, sources=sources)
        assert torch.equal(both.broken[2][left], alone.broken[1])
        assert torch.equal(both.images[both.broken[2]], alone.images[alone.broken[1]])


@every_attack
@every_norm
def test_images_that_record_gradients_are_treated_as_constants(name: str, norm: Norm) -> None:
    made, images, labels, _, _ = _attempt(name, norm, "linear")
    leaf = images.clone().requires_grad_(True)
    again = attacked(ATTACKS[name], network_of("linear"), leaf, labels, THREATS[norm])
    assert torch.equal(again, made)
    assert not again.requires_grad
    assert leaf.grad is None


def _epsilons(norm: Norm) -> st.SearchStrategy[float]:
    low, high = (-5.0, 0.0) if norm == "linf" else (-4.0, 1.5)
    return st.floats(low, high, allow_nan=False, width=32).map(
        lambda power: min(10.0**power, 1.0 if high == 0 else 40.0)
    )


@every_attack
@every_norm
@given(data=st.data())
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_no_radius_and_no_image_lets_an_attack_out(name: str, norm: Norm, data: st.DataObject) -> None:
    """Radii over five orders of magnitude; black, white, grey and random images, and nearly black ones."""
    threat = Threat(norm, data.draw(_epsilons(norm)))
    kinds = data.draw(st.lists(st.sampled_from(["black", "white", "grey", "random", "faint"]), min_size=1, max_size=3))
    seed = data.draw(st.integers(0, 2**31))
    drawn = torch.rand(len(kinds), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    made_of = {"black": 0 * drawn, "white": 0 * drawn + 1, "grey": 0 * drawn + 0.5, "random": drawn}
    made_of["faint"] = drawn * 1e-6
    images = torch.stack([made_of[kind][row] for row, kind in enumerate(kinds)])
    network = _LINEAR
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
    assert outside(attacked(ATTACKS[name], network, images, labels, threat, seed), images, threat) == []


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(2)
    _LINEAR = linear()
