"""Every attack value, shortened, and small networks of every kind that is attacked."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from nodekd.attacks import spec, tiers
from nodekd.attacks.catalog import Norm
from nodekd.attacks.sources import Features
from nodekd.attacks.spec import Attack
from nodekd.attacks.threat import Threat
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator

CLASSES = 5
THREATS: Mapping[Norm, Threat] = {"linf": Threat("linf", 0.06), "l2": Threat("l2", 0.3)}
TINY: Mapping[Norm, Threat] = {"linf": Threat("linf", 0.25 / 255), "l2": Threat("l2", 0.01)}
_MOST = {"steps": 3, "targets": 2, "queries": 5, "draws": 3, "restarts": 2}


def shortened(attack: Attack) -> Attack:
    """Return the same attack with few steps, targets, queries, draws and restarts."""
    values = {key: getattr(attack, key) for key in _MOST}
    return replace(attack, **{key: min(value, _MOST[key]) for key, value in values.items() if value is not None})


def attack_values() -> dict[str, Attack]:
    """Return every attack that stands in nodekd, shortened, by name; what is then the same but for its name, once."""
    found = [value for module in (spec, tiers) for value in vars(module).values() if isinstance(value, Attack)]
    found += [attack for attacks in tiers.SETS.values() for attack in attacks]
    by_content = {}
    for attack in map(shortened, found):
        by_content.setdefault(replace(attack, name=""), attack)
    return {attack.name: attack for attack in by_content.values()}


ATTACKS = attack_values()


class Capped(nn.Module):
    """NaN for the whole batch as soon as one image's corner exceeds the cap, as a solve past its cap."""

    def __init__(self, network: nn.Module, cap: float) -> None:
        super().__init__()
        self.network, self.cap = network, cap

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) > 0, "no attack may call a network on an empty batch"
        logits = self.network(x)
        return logits * torch.nan if bool((x[:, 0, 0, 0] > self.cap).any()) else logits


class Randomised(nn.Module):
    """Draws from every global random stream whenever it is called, and notes it in a buffer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("drawn", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.drawn += random.random() + np.random.rand()  # noqa: NPY002
        return self.network(x + 0.03 * torch.randn_like(x))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def convolutional() -> nn.Module:
    """Batch norm with statistics of its own, and dropout; some modules training, a frozen weight, a gradient."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )
    network(torch.rand(16, 1, 8, 8))
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[5].weight.grad = torch.ones_like(network[5].weight)
    return network


def student(integrator: Integrator) -> OdeStudent:
    config = StudentConfig(arch="odenet-stem", channels=4)
    shape: tuple[int, int, int] = (1, 8, 8)
    network = build_student(config, integrator, shape=shape, classes=CLASSES, mean=(0.5,), std=(0.3,), seed=0)
    assert isinstance(network, OdeStudent)
    return network


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": linear,
    "batch norm and dropout": convolutional,
    "rk4": lambda: student(Integrator("rk4", steps=1)),
    "dopri5": lambda: student(Integrator("dopri5", steps=None, rtol=1e-1, atol=1e-1)),
    "randomised": lambda: Randomised(linear()),
    "giving NaN": lambda: Capped(linear(), 0.52),
}


def network_of(kind: str) -> nn.Module:
    """Build a network, always with the same weights; in training mode as far as it was left so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return NETWORKS[kind]()


def source_of(attack: Attack, network: nn.Module) -> nn.Module:
    """Return the network whose gradients the attack follows: its features, where it climbs those."""
    if attack.method != "feature-distance":
        return network
    return Features(nn.Sequential(network.normalise, network.stem) if isinstance(network, OdeStudent) else network)


def images_of(n: int = 5) -> Tensor:
    """Images with black and white pixels, so that the box binds; no corner exceeds one half."""
    drawn = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = (1.4 * drawn - 0.2).clamp(0.0, 1.0)
    images[:, 0, 0, 0].clamp_(max=0.5)
    return images


def labels_of(network: nn.Module, images: Tensor) -> Tensor:
    """Give what the network says in evaluation mode, one image excepted, which stays wrong."""
    modes = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        labels = network.eval()(images).argmax(dim=1)
    for module, mode in modes.items():
        module.training = mode
    for name, buffer in network.named_buffers():
        buffer.data.copy_(buffers[name])
    labels[-1] = (labels[-1] + 1) % CLASSES
    return labels


def traces(network: nn.Module) -> list[object]:
    """Everything an attack might leave changed, as plain values that can be compared."""
    return [
        [module.training for module in network.modules()],
        [(weight.requires_grad, weight.tolist()) for weight in network.parameters()],
        [None if weight.grad is None else weight.grad.tolist() for weight in network.parameters()],
        [(name, id(buffer), buffer.tolist()) for name, buffer in network.named_buffers()],
        random.getstate(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],  # noqa: NPY002
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    ]
