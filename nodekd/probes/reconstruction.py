"""What a network's last map still knows of the image, and how compressible the map is: two small auto-encoder studies.

`reconstruct` trains a decoder from the map to the image: the network is the encoder, and fixed. `autoencode` trains
encoder and decoder on the map itself, as factor transfer's paraphraser does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.frozen import frozen
from nodekd.models.features import forward_with_features
from nodekd.probes.numbers import plain, plain_list
from nodekd.shapes import Images

MapOf = Callable[[Images], Tensor]
"""Images (b c h w) -> the network's map (b C H W); rows of failed solves are NaN."""

LEARNING_RATE = 2e-3
BATCH = 64
WIDTH = 32
SLOPE = 0.1


@final
@dataclass(frozen=True)
class Reconstruction:
    """How well held-out targets are rebuilt."""

    l1: float
    """Mean absolute error per value on the held-out images after the last epoch; NaN where every solve failed."""
    baseline: float
    """The same error of the best constant, the training targets' median per position: what knowing nothing gives."""
    epochs: int
    """Passes over the training images."""
    curve: tuple[float, ...]
    """(epochs,) the error after each of them."""
    failures: int
    """Images of both sets whose solve failed; they are left out."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "l1": plain(self.l1),
            "baseline": plain(self.baseline),
            "epochs": self.epochs,
            "curve": plain_list(self.curve),
            "failures": self.failures,
        }


def reconstruct(
    map_of: MapOf, train_images: Images, test_images: Images, epochs: int = 20, seed: int = 0
) -> Reconstruction:
    """Train a decoder that rebuilds images in [0, 1] from a fixed network's maps.

    Decoder: 3x3 convolution to 32 channels, ReLU, then doubling by nearest neighbours, 3x3 convolution and ReLU until
    the image's size is reached, then a 3x3 convolution to the image's channels. Maps are standardised per channel with
    their training mean and deviation, so that their scale does not count. Adam with 2e-3, batches of 64, L1 loss.

    Args:
        map_of: The network's map, see `last_map_of`.
        train_images: (n c h w) in [0, 1].
        test_images: (m c h w) held-out images.
        epochs: Passes, >= 1.
        seed: Seed of weights and batches; the global random state is left as it was.

    Returns:
        L1 error on the held-out images, in units of [0, 1].

    Raises:
        ValueError: If epochs < 1 or a set of images is empty.

    Source:
        After [park2020feature]'s reconstruction study, whose networks and settings are unknown to us: all is ours.
    """
    _check(epochs, train_images, test_images)
    maps, held_maps = _maps(map_of, train_images), _maps(map_of, test_images)
    keep, held_keep = _finite(maps), _finite(held_maps)
    side = (int(train_images.shape[2]), int(train_images.shape[3]))
    return _study(
        lambda: _decoder(maps.shape[1], (int(maps.shape[2]), int(maps.shape[3])), train_images.shape[1], side),
        _Pairs(*_standardised(maps[keep], held_maps[held_keep]), train_images[keep], test_images[held_keep]),
        epochs,
        seed,
        failures=int((~keep).sum() + (~held_keep).sum()),
    )


def autoencode(
    map_of: MapOf, train_images: Images, test_images: Images, epochs: int = 20, seed: int = 0, rate: float = 0.5
) -> Reconstruction:
    """Train an auto-encoder on a fixed network's maps, with `rate` times their channels in its middle.

    Three 3x3 convolutions (C -> C -> rC -> rC) and three transposed ones back (rC -> rC -> C -> C), LeakyReLU(0.1)
    between them. Maps are standardised per channel as in `reconstruct`, so that errors compare over networks. Adam with
    2e-3, batches of 64, L1 loss.

    Args:
        map_of: As in `reconstruct`.
        train_images: (n c h w) in [0, 1].
        test_images: (m c h w) held-out images.
        epochs: Passes, >= 1.
        seed: Seed of weights and batches; the global random state is left as it was.
        rate: Share of the channels kept, in (0, 1].

    Returns:
        L1 error on the held-out maps, in their standard deviations.

    Raises:
        ValueError: If epochs < 1, a set of images is empty, or the rate is not in (0, 1].

    Source:
        The paraphraser of factor transfer, in which [park2020feature] has its roots; there SGD with 0.1, 5 epochs, no
        standardisation.
    """
    _check(epochs, train_images, test_images)
    if not 0 < rate <= 1:
        raise ValueError(f"`0 < rate <= 1` must hold, but got rate={rate}.")
    maps, held_maps = _maps(map_of, train_images), _maps(map_of, test_images)
    keep, held_keep = _finite(maps), _finite(held_maps)
    inputs, held = _standardised(maps[keep], held_maps[held_keep])
    channels = int(maps.shape[1])
    return _study(
        lambda: _paraphraser(channels, max(1, round(rate * channels))),
        _Pairs(inputs, held, inputs, held),
        epochs,
        seed,
        failures=int((~keep).sum() + (~held_keep).sum()),
    )


def last_map_of(network: nn.Module) -> MapOf:
    """Return the map before the pooling of a student or teacher, in evaluation mode; the network is left as it was."""

    def map_of(images: Images) -> Tensor:
        with frozen(network):
            return forward_with_features(network, images)[1][-1]

    return map_of


def _check(epochs: int, train_images: Images, test_images: Images) -> None:
    if epochs < 1 or len(train_images) == 0 or len(test_images) == 0:
        raise ValueError(
            f"`epochs >= 1` and at least one image to train on and one held out are needed, but got {epochs}, "
            f"{len(train_images)} and {len(test_images)}."
        )


@torch.no_grad()
def _maps(map_of: MapOf, images: Images) -> Tensor:
    return torch.cat([_isolated(map_of, batch) for batch in images.split(256)]).detach().float()


def _isolated(map_of: MapOf, images: Images) -> Tensor:
    """Map a batch; where an adaptive solve fails, only the images that fail alone stay NaN."""
    found = map_of(images)
    if len(images) == 1 or bool(torch.isfinite(found).all()):
        return found
    half = len(images) // 2
    return torch.cat([_isolated(map_of, images[:half]), _isolated(map_of, images[half:])])


def _finite(maps: Tensor) -> Tensor:
    return torch.isfinite(maps.flatten(1)).all(dim=1)


def _standardised(train: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    if len(train) == 0:
        return train, held_out
    mean = train.mean(dim=(0, 2, 3), keepdim=True)
    std = train.std(dim=(0, 2, 3), keepdim=True, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return (train - mean) / std, (held_out - mean) / std


def _decoder(channels: int, size: tuple[int, int], channels_out: int, size_out: tuple[int, int]) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU()]
    while size[0] < size_out[0] or size[1] < size_out[1]:
        size = (min(2 * size[0], size_out[0]), min(2 * size[1], size_out[1]))
        layers += [nn.Upsample(size=size, mode="nearest"), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, channels_out, 3, padding=1))


def _paraphraser(channels: int, kept: int) -> nn.Module:
    widths = [channels, channels, kept, kept]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
    back = widths[::-1]
    for before, after in pairwise(back):
        layers += [nn.ConvTranspose2d(before, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])


@final
@dataclass(frozen=True, eq=False)
class _Pairs:
    """What is read and what is to be rebuilt, for training and held out."""

    inputs: Tensor
    held_inputs: Tensor
    targets: Tensor
    held_targets: Tensor


def _study(build: Callable[[], nn.Module], pairs: _Pairs, epochs: int, seed: int, *, failures: int) -> Reconstruction:
    if len(pairs.inputs) == 0 or len(pairs.held_inputs) == 0:
        return Reconstruction(float("nan"), float("nan"), epochs, (float("nan"),) * epochs, failures)
    with torch.random.fork_rng():
        torch.manual_seed(streams.seed_of(seed, "reconstruction", "weights"))
        module = build().to(pairs.inputs.device)
    curve = _train(module, pairs, epochs, seed)
    constant = pairs.targets.median(dim=0).values
    return Reconstruction(curve[-1], _l1(constant.expand_as(pairs.held_targets), pairs), epochs, tuple(curve), failures)


@torch.enable_grad()
def _train(module: nn.Module, pairs: _Pairs, epochs: int, seed: int) -> list[float]:
    optimiser = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    curve: list[float] = []
    for epoch in range(epochs):
        generator = streams.generator(seed, "reconstruction", "batches", epoch)
        for rows in torch.randperm(len(pairs.inputs), generator=generator).to(pairs.inputs.device).split(BATCH):
            optimiser.zero_grad()
            F.l1_loss(module(pairs.inputs[rows]), pairs.targets[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            curve.append(_l1(torch.cat([module(part) for part in pairs.held_inputs.split(256)]), pairs))
    return curve


def _l1(rebuilt: Tensor, pairs: _Pairs) -> float:
    return float((rebuilt.double() - pairs.held_targets.double()).abs().mean())
