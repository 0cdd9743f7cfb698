"""Nothing of the network or of the global random state changes."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.autoattack import apgd, apgd_targeted, square
from nodekd.attacks.cascade import worst_case
from nodekd.attacks.frozen import frozen
from nodekd.attacks.spec import APGD_CE, APGD_T, FGSM, PGD_10_MARGIN, SIGN_NOISE, SQUARE, Attack, run
from nodekd.attacks.threat import Threat

SHORT = (
    FGSM,
    PGD_10_MARGIN,
    Attack("apgd-ce", APGD_CE.method, steps=3, restarts=1),
    Attack("apgd-t", APGD_T.method, steps=3, restarts=1, targets=2),
    Attack("square", SQUARE.method, queries=5, restarts=1, rescaled=True),
    SIGN_NOISE,
)


class Restless(nn.Module):
    """Changes its buffers and draws from every random stream whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = torch.full((1,), random.random() + np.random.rand() + torch.rand(()).item())  # noqa: NPY002
        return x


def mixed_network() -> nn.Sequential:
    """Batch norm and dropout, some modules training and some not, some weights frozen, one with a gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        Restless(),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 4),
    )
    network(torch.rand(16, 1, 6, 6))
    network.train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[6].weight.grad = torch.ones_like(network[6].weight)
    return network


def state(network: nn.Module) -> list[object]:
    return [
        [module.training for module in network.modules()],
        [(weight.requires_grad, weight.grad is None, weight.tolist()) for weight in network.parameters()],
        [weight.grad.tolist() for weight in network.parameters() if weight.grad is not None],
        [(name, id(buffer), buffer.tolist()) for name, buffer in network.named_buffers()],
        random.getstate(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


def problem(network: nn.Sequential) -> tuple[Tensor, Tensor]:
    images = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    with frozen(network):
        return images, network(images).argmax(dim=1)


@pytest.mark.parametrize("attack", SHORT, ids=lambda attack: attack.name)
def test_an_attack_leaves_no_trace(attack: Attack) -> None:
    network = mixed_network()
    images, labels = problem(network)
    before, given = state(network), (images.clone(), labels.clone())
    run(attack, network, images, labels, Threat("linf", 0.05), 0, batch_size=4)
    worst_case(network, images, labels, Threat("l2", 0.2), [attack], seed=0)
    assert state(network) == before
    assert torch.equal(images, given[0])
    assert torch.equal(labels, given[1])


@pytest.mark.parametrize("attack", SHORT, ids=lambda attack: attack.name)
def test_an_attack_that_raises_leaves_no_trace(attack: Attack) -> None:
    network = mixed_network()
    images, labels = problem(network)
    before = state(network)
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == (1 if attack.method == "sign-noise" else 3):  # whose draws are answered all at once
            raise RuntimeError("planted")

    handle = network[2].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        run(attack, network, images, labels, Threat("linf", 1e-5), 0)
    handle.remove()
    assert state(network) == before


def test_inside_the_network_is_frozen() -> None:
    network = mixed_network()
    with frozen(network):
        assert not any(module.training for module in network.modules())
        assert not any(weight.requires_grad for weight in network.parameters())


def test_networks_may_share_modules() -> None:
    network = mixed_network()
    view = nn.Sequential(*network)
    before = state(network)
    with frozen(network, view):
        view(torch.rand(2, 1, 6, 6))
    assert state(network) == before


def test_pyautoattack_does_not_seed_the_global_stream() -> None:
    network = mixed_network().eval()
    images, labels = problem(network)
    threat, before = Threat("linf", 0.05), torch.get_rng_state()
    layers = nn.Sequential(network[0], network[1], nn.Flatten(), network[6])
    apgd(layers, images, labels, threat, steps=2, restarts=1, seed=0)
    apgd_targeted(layers, images, labels, threat, steps=2, restarts=1, targets=1, seed=0)
    square(layers, images, labels, threat, queries=2, restarts=1, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
