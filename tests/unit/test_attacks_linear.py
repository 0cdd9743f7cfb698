"""A linear network's robust accuracy is known in closed form."""

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.catalog import NORMS, Norm
from nodekd.attacks.spec import APGD_CE, APGD_T, FGSM, PGD_20, SQUARE, Attack
from nodekd.attacks.threat import Threat

PIXELS = 25
ALL_TARGETS = Attack("apgd-t", "apgd-targeted", steps=30, restarts=1, targets=9)
PGD_MARGIN = Attack("pgd-margin", "pgd", loss="margin", steps=20, step_size=0.125, random_start=True, restarts=1)


def linear(classes: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(classes)
    layer = nn.Linear(PIXELS, classes)
    layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
    layer.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def grey_images(n: int = 80) -> Tensor:
    """Images so far from 0 and 1 that the box never binds."""
    return 0.4 + 0.2 * torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(0))


def smallest_epsilon(network: nn.Sequential, images: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """min over wrong j of (z_y - z_j) / ||w_y - w_j||_dual, in float64."""
    weight = network[1].weight.detach().double()
    logits = images.double().flatten(1) @ weight.T
    gaps = logits.gather(1, labels[:, None]) - logits
    difference = weight[labels][:, None, :] - weight[None, :, :]
    dual = difference.abs().sum(dim=2) if norm == "linf" else difference.square().sum(dim=2).sqrt()
    return (gaps / dual).scatter(1, labels[:, None], torch.inf).amin(dim=1)


def labels_of(network: nn.Sequential, images: Tensor) -> Tensor:
    """Predictions, a few of them made wrong."""
    labels = network(images).argmax(dim=1)
    labels[::10] = (labels[::10] + 1) % network[1].out_features
    return labels


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 5, 10])
@pytest.mark.parametrize("attacks", [(FGSM, ALL_TARGETS), (ALL_TARGETS,)], ids=["cascade", "apgd-t"])
def test_survivors_are_exactly_those_beyond_epsilon(norm: Norm, classes: int, attacks: tuple[Attack, ...]) -> None:
    network, images = linear(classes), grey_images()
    labels = labels_of(network, images)
    smallest = smallest_epsilon(network, images, labels, norm)
    epsilon = smallest[smallest > 0].median().item() * 1.001
    decided = (smallest / epsilon - 1).abs() > 5e-4
    survival = worst_case(network, images, labels, Threat(norm, epsilon), attacks, seed=0)
    assert torch.equal(survival.survivors[decided], (smallest > epsilon)[decided])
    assert 0.2 < survival.survivors.float().mean() < 0.8
    assert sum(survival.invalid) == 0


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [FGSM, PGD_20, PGD_MARGIN, APGD_CE, APGD_T], ids=lambda attack: attack.name)
def test_with_two_classes_every_gradient_attack_reaches_the_closed_form(norm: Norm, attack: Attack) -> None:
    network, images = linear(2), grey_images()
    labels = labels_of(network, images)
    smallest = smallest_epsilon(network, images, labels, norm)
    epsilon = smallest[smallest > 0].median().item() * 1.001
    decided = (smallest / epsilon - 1).abs() > 0.05
    survival = worst_case(network, images, labels, Threat(norm, epsilon), [attack], seed=0)
    assert torch.equal(survival.survivors[decided], (smallest > epsilon)[decided])


@pytest.mark.parametrize("norm", NORMS)
def test_square_breaks_only_what_can_be_broken(norm: Norm) -> None:
    network, images = linear(5), grey_images()
    labels = labels_of(network, images)
    smallest = smallest_epsilon(network, images, labels, norm)
    epsilon = smallest[smallest > 0].quantile(0.8).item()
    attack = Attack("square", SQUARE.method, queries=100, restarts=1, rescaled=True)
    survival = worst_case(network, images, labels, Threat(norm, epsilon), [attack], seed=0)
    assert survival.survivors[smallest > epsilon * (1 + 1e-4)].all()
    assert survival.broken.any()
