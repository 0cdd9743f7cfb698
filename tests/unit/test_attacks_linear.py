"""A linear network's robust accuracy is known in closed form: one image on the wrong side fails a test.

For z = W x + b the attack towards class j gains at most, over d = w_j - w_y,

    linf, box [0, 1]   sum over pixels of |d| min(epsilon, room), room = 1 - x where d > 0, else x
    l2, far from it    epsilon ||d||_2

and the image is broken exactly if that exceeds z_y - z_j for some j. Numbers are restated here in float64.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import Survival, worst_case
from nodekd.attacks.catalog import NORMS, Norm
from nodekd.attacks.spec import (
    APGD_CE,
    APGD_T,
    APGD_T_9,
    FAB_T,
    FGSM,
    PGD_10_CE,
    PGD_10_MARGIN,
    PGD_20,
    PGD_20_MARGIN,
    SIGN_NOISE,
    SQUARE,
    Attack,
)
from nodekd.attacks.threat import Threat

SIDE = 6
N = 30
CLASSES = (2, 3, 5, 10)
ALL_TARGETS = replace(APGD_T_9, steps=30)
TARGETED = (ALL_TARGETS, replace(FAB_T, steps=20))
GREEDY = (FGSM, PGD_20, PGD_10_CE, PGD_10_MARGIN, PGD_20_MARGIN, replace(APGD_CE, steps=40), replace(APGD_T, steps=40))
"""Attacks that need not find the nearest class, where another one leads."""
BLIND = (SIGN_NOISE, replace(SQUARE, queries=100), replace(SQUARE, name="square-unscaled", queries=60, rescaled=False))
PRECISION = {"fgsm": 5e-4, "pgd": 0.05, "apgd": 2e-3, "apgd-targeted": 5e-4, "fab-targeted": 1e-2}
"""How near to its smallest epsilon an image is not held against an attack, relative to it: a PGD whose steps keep their
length circles around the optimum, FAB steps beyond the boundary."""


def network(weight: Tensor) -> nn.Sequential:
    layer = nn.Linear(SIDE * SIDE, len(weight))
    layer.weight.data = weight
    layer.bias.data = -0.5 * weight.sum(dim=1)  # a grey image stands on every boundary, so that leads vary widely
    return nn.Sequential(nn.Flatten(), layer)


def arbitrary(classes: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(classes)
    return network(torch.randn(classes, SIDE * SIDE, generator=generator))


def blocks(classes: int) -> nn.Sequential:
    """Each class counts pixels of its own, sharply: the nearest class is the one that comes next, for every loss."""
    return network(5.0 * classes * (owners(classes)[None, :] == torch.arange(classes)[:, None]).float())


def owners(classes: int) -> Tensor:
    """The class of each pixel; all classes have equally many, and what is left over belongs to none (-1)."""
    pixels = torch.arange(SIDE * SIDE)
    return torch.where(pixels < SIDE * SIDE // classes * classes, pixels % classes, -1)


def arbitrary_images(norm: Norm) -> Tensor:
    """Under linf a third of the pixels is black or white, or nearly; under l2 all are so grey that the box is far."""
    drawn = torch.rand(N, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return 0.4 + 0.2 * drawn if norm == "l2" else (1.5 * drawn - 0.25).clamp(0.0, 1.0)


def block_images(norm: Norm, classes: int) -> Tensor:
    """One class ahead, one not far behind, the rest well behind; under linf some pixels are at the box."""
    generator = torch.Generator().manual_seed(classes)
    levels = torch.full((N, classes), 0.35)
    first = torch.randint(classes, (N,), generator=generator)
    second = (first + 1 + torch.randint(classes - 1, (N,), generator=generator)) % classes
    levels[torch.arange(N), first] = 0.6
    levels[torch.arange(N), second] = 0.6 - 0.02 - 0.1 * torch.rand(N, generator=generator)
    owner = owners(classes)
    images = levels[:, owner] + 0.02 * torch.rand(N, SIDE * SIDE, generator=generator)
    if norm == "linf":
        at_box = torch.rand(N, SIDE * SIDE, generator=generator) < 0.2
        images = torch.where(at_box & (levels[:, owner] < 0.4), images * 0.02, images)
    return images.view(N, 1, SIDE, SIDE)


def excess(model: nn.Sequential, images: Tensor, labels: Tensor, norm: Norm, epsilon: Tensor) -> Tensor:
    """max over wrong j of the gain less the gap (n,), of each image at an epsilon of its own."""
    weight, x = model[1].weight.detach().double(), images.double().flatten(1)
    logits = x @ weight.T + model[1].bias.detach().double()
    gap = logits.gather(1, labels[:, None]) - logits
    difference = weight[None] - weight[labels][:, None]
    if norm == "linf":
        room = torch.where(difference > 0, 1 - x[:, None], x[:, None])
        gain = (difference.abs() * torch.minimum(room, epsilon[:, None, None])).sum(dim=2)
    else:
        gain = epsilon[:, None] * difference.square().sum(dim=2).sqrt()
    return (gain - gap).scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def smallest_epsilon(model: nn.Sequential, images: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """Bisect the epsilon (n,) at which each image breaks; 0 where it is misclassified without any change."""
    low, high = torch.zeros(len(images), dtype=torch.float64), torch.full((len(images),), 4.0, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        broken = excess(model, images, labels, norm, middle) > 0
        low, high = torch.where(broken, low, middle), torch.where(broken, middle, high)
    return torch.where(excess(model, images, labels, norm, torch.zeros_like(low)) > 0, 0.0, high)


def labels_of(model: nn.Sequential, images: Tensor) -> Tensor:
    """Predictions, a few of them made wrong."""
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    labels[::10] = (labels[::10] + 1) % model[1].out_features
    return labels


def half_broken(smallest: Tensor) -> float:
    return smallest[smallest > 0].median().item() * 1.001


def wrongly_judged(survival: Survival, smallest: Tensor, epsilon: float, precision: float) -> list[int]:
    decided = (smallest / epsilon - 1).abs() > precision
    assert decided.float().mean() > 0.7
    return ((survival.survivors != (smallest > epsilon)) & decided).nonzero().flatten().tolist()


def reached(attack: Attack, model: nn.Sequential, images: Tensor, norm: Norm) -> list[int]:
    """Attack at an epsilon that breaks about half of the images; give those that are on the wrong side."""
    labels = labels_of(model, images)
    smallest = smallest_epsilon(model, images, labels, norm)
    epsilon = half_broken(smallest)
    survival = worst_case(model, images, labels, Threat(norm, epsilon), [attack], seed=0)
    assert sum(survival.invalid) == 0
    assert torch.equal(survival.clean_correct, smallest > 0)
    return wrongly_judged(survival, smallest, epsilon, PRECISION[attack.method])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("attack", TARGETED, ids=lambda attack: attack.name)
def test_attacks_on_all_classes_reach_the_closed_form(attack: Attack, classes: int, norm: Norm) -> None:
    assert reached(attack, arbitrary(classes), arbitrary_images(norm), norm) == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [*GREEDY, *TARGETED], ids=lambda attack: attack.name)
def test_with_two_classes_every_white_box_attack_reaches_the_closed_form(attack: Attack, norm: Norm) -> None:
    assert reached(attack, arbitrary(2), arbitrary_images(norm), norm) == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("attack", [*GREEDY, *TARGETED], ids=lambda attack: attack.name)
def test_every_white_box_attack_reaches_it_where_the_nearest_class_comes_next(
    attack: Attack, classes: int, norm: Norm
) -> None:
    assert reached(attack, blocks(classes), block_images(norm, classes), norm) == []


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("attack", [*GREEDY, *BLIND], ids=lambda attack: attack.name)
def test_no_attack_breaks_what_cannot_be_broken(attack: Attack, classes: int, norm: Norm) -> None:
    model, images = arbitrary(classes), arbitrary_images(norm)
    labels = labels_of(model, images)
    smallest = smallest_epsilon(model, images, labels, norm)
    for epsilon in (half_broken(smallest), smallest[smallest > 0].quantile(0.9).item()):
        survival = worst_case(model, images, labels, Threat(norm, epsilon), [attack], seed=0)
        assert survival.survivors[smallest > epsilon * (1 + 1e-5)].all()
    assert survival.broken.any() or attack in BLIND
    if attack.method == "square":
        threat = Threat(norm, 2 * smallest.max().item())
        assert worst_case(model, images, labels, threat, [attack], seed=0).broken.any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", CLASSES)
def test_a_cascade_over_ascending_epsilons_is_the_curve_of_the_closed_form(classes: int, norm: Norm) -> None:
    model, images = arbitrary(classes), arbitrary_images(norm)
    labels = labels_of(model, images)
    smallest = smallest_epsilon(model, images, labels, norm)
    carried = None
    for share in (0.2, 0.5, 0.8):
        epsilon = smallest[smallest > 0].quantile(share).item() * 1.001
        attacks = (FGSM, ALL_TARGETS)
        survival = worst_case(model, images, labels, Threat(norm, epsilon), attacks, seed=0, carried=carried)
        assert wrongly_judged(survival, smallest, epsilon, 2e-3) == []
        carried = survival.broken.any(dim=0)


def test_the_box_matters_in_these_images() -> None:
    """Were the box forgotten in the closed form, some image would change sides."""
    model, images = arbitrary(5), arbitrary_images("linf")
    labels = labels_of(model, images)
    smallest = smallest_epsilon(model, images, labels, "linf")
    epsilon = smallest[smallest > 0].quantile(0.8).item()
    weight = model[1].weight.detach().double()
    logits = images.double().flatten(1) @ weight.T + model[1].bias.detach().double()
    gap = logits.gather(1, labels[:, None]) - logits
    free = epsilon * (weight[None] - weight[labels][:, None]).abs().sum(dim=2)
    without_box = (free - gap).scatter(1, labels[:, None], -torch.inf).amax(dim=1) > 0
    assert (without_box & (smallest > epsilon)).any()
