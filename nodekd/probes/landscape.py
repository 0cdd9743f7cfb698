"""Loss and margin around the images, along the direction in which an attack would go."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.catalog import Norm
from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import cross_entropy, logit_scale, margin
from nodekd.attacks.isolation import ascent_gradient, isolated_logits
from nodekd.attacks.spec import check_images
from nodekd.attacks.threat import Threat
from nodekd.probes.numbers import mean_finite, plain_list
from nodekd.shapes import Images, Labels, Logits

FIRST, LAST = -1.0, 2.0
"""Where a line begins and ends, in epsilons; 2 is how far the published PGD may reach."""


@final
@dataclass(frozen=True)
class Quartiles:
    """A curve over the images: its middle and its spread, at every distance; NaN where every solve failed."""

    q25: tuple[float, ...]
    median: tuple[float, ...]
    q75: tuple[float, ...]

    def record(self) -> dict[str, Any]:
        """Return the curves as plain lists."""
        return {"q25": plain_list(self.q25), "median": plain_list(self.median), "q75": plain_list(self.q75)}


@final
@dataclass(frozen=True)
class Line:
    """Loss and margin on the way from each image along its attack direction."""

    epsilon: float
    """Unit of the distances."""
    distances: tuple[float, ...]
    """In epsilons, from -1 to 2; 0 is the clean image, 1 the FGSM image."""
    loss: Quartiles
    """Cross-entropy in nats."""
    margin: Quartiles
    """Lead of the true class over the best other one, in standard deviations of the clean image's logits; positive =
    classified correctly."""
    flat: float
    """Share of the images whose gradient is zero in every pixel: their line never leaves the clean image."""
    failures: tuple[int, ...]
    """Failed solves at each distance; they are left out of the quartiles."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "epsilon": self.epsilon,
            "distances": list(self.distances),
            "loss": self.loss.record(),
            "margin": self.margin.record(),
            "flat": self.flat,
            "failures": list(self.failures),
        }


@final
@dataclass(frozen=True)
class Surface:
    """Mean loss over the plane of the attack direction and a random one."""

    axis: tuple[float, ...]
    """Distances along both directions, in epsilons."""
    loss: tuple[tuple[float, ...], ...]
    """loss[i][j]: mean cross-entropy in nats, axis[i] along the attack and axis[j] along random signs."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"axis": list(self.axis), "loss": [plain_list(row) for row in self.loss]}


@torch.no_grad()
def line(
    network: nn.Module,
    images: Images,
    labels: Labels,
    epsilon: float,
    points: int = 25,
    *,
    norm: Norm = "linf",
    batch_size: int = 256,
) -> Line:
    """Walk from every image along the sign of its gradient: x(d) = clip(x + d epsilon sign(grad_x CE(x))).

    Args:
        network: Any network; left exactly as it was, like the global random state.
        images: Clean images (n c h w) float32 in [0, 1], at least one.
        labels: True classes (n,).
        epsilon: Unit of the distances, > 0.
        points: Number of distances; 0 and 1 are among them if 3 divides points - 1.
        norm: Under `l2` the direction is the gradient scaled to length 1.
        batch_size: Images in one forward.

    Returns:
        Quartiles over the images at every distance.

    Raises:
        AttackError: If images, labels, epsilon or batch size are not as above.
        ValueError: If points < 2 or there is no image.

    Source:
        [yang2020interpolation] draws the loss along the attack direction for single images, in a setting unknown to
        us. Quartiles, margin, distances and clipping are ours.
    """
    distances = _axis(FIRST, LAST, points, images)
    place = _Place(network, Threat(norm, epsilon), labels, batch_size)
    check_images(images, labels, batch_size)
    with frozen(network):
        towards = place.attack_direction(images)
        scale = logit_scale(place.logits(images))
        seen = [place.logits((images + d * epsilon * towards).clamp_(0.0, 1.0)) for d in distances]
    losses = [cross_entropy(logits, labels, scale) for logits in seen]
    margins = [-margin(logits, labels, scale) for logits in seen]
    return Line(
        epsilon=epsilon,
        distances=distances,
        loss=quartiles(losses),
        margin=quartiles(margins),
        flat=float((towards == 0).flatten(1).all(dim=1).double().mean()),
        failures=tuple(int((~torch.isfinite(logits).all(dim=1)).sum()) for logits in seen),
    )


@torch.no_grad()
def surface(
    network: nn.Module,
    images: Images,
    labels: Labels,
    epsilon: float,
    points: int = 11,
    *,
    seed: int,
    norm: Norm = "linf",
    reach: float = 1.0,
    batch_size: int = 256,
) -> Surface:
    """Spread every image over two directions: x(a, b) = clip(x + epsilon (a sign(grad_x CE(x)) + b r)), r random signs.

    Args:
        network: Any network; left exactly as it was, like the global random state.
        images: Clean images (n c h w) float32 in [0, 1], at least one.
        labels: True classes (n,).
        epsilon: Unit of the distances, > 0.
        points: Number of distances along each direction; points^2 forward passes. 0 is among them if points is odd.
        seed: Seed of the random signs, one set per image.
        norm: Under `l2` both directions have length 1.
        reach: Largest distance in epsilons.
        batch_size: Images in one forward.

    Returns:
        Mean loss over the images whose solve succeeded.

    Raises:
        AttackError: If images, labels, epsilon or batch size are not as above.
        ValueError: If points < 2 or there is no image.

    Source:
        As `line`: [yang2020interpolation] draws such figures, in a setting unknown to us; every detail is ours.
    """
    axis = _axis(-reach, reach, points, images)
    threat = Threat(norm, epsilon)
    place = _Place(network, threat, labels, batch_size)
    check_images(images, labels, batch_size)
    with frozen(network):
        towards, aside = place.attack_direction(images), random_direction(images, threat, seed)

        def loss(a: float, b: float) -> float:
            moved = (images + epsilon * (a * towards + b * aside)).clamp_(0.0, 1.0)
            return mean_finite(cross_entropy(place.logits(moved), labels, labels))

        return Surface(axis, tuple(tuple(loss(a, b) for b in axis) for a in axis))


@final
@dataclass(frozen=True)
class Around:
    """Every image at m changed places; NaN where the solve fails."""

    loss: Tensor
    """(m n) cross-entropy in nats."""
    margin: Tensor
    """(m n) lead of the true class over the best other one, in standard deviations of the clean image's logits."""


@torch.no_grad()
def around(
    network: nn.Module, images: Images, labels: Labels, changes: Iterable[Images], *, batch_size: int = 256
) -> Around:
    """Look at clip(x + change) for every image x and each of several changes.

    Args:
        network: Any network; left exactly as it was, like the global random state.
        images: Clean images (n c h w) float32 in [0, 1], at least one.
        labels: True classes (n,).
        changes: m times (n c h w), at least once; taken as they are needed, so that not all are in memory at a time.
        batch_size: Images in one forward; few images are looked at under several changes at once.

    Returns:
        Loss and margin of every image at every change.

    Raises:
        AttackError: If images, labels or batch size are not as above.
    """
    check_images(images, labels, batch_size)
    with frozen(network):
        scale = logit_scale(_logits(network, images, batch_size))
        seen = list(_logits_around(network, images, changes, batch_size))
    return Around(
        loss=torch.stack([_or_nan(logits, cross_entropy(logits, labels, scale)) for logits in seen]),
        margin=torch.stack([_or_nan(logits, -margin(logits, labels, scale)) for logits in seen]),
    )


@final
@dataclass(frozen=True)
class _Place:
    network: nn.Module
    threat: Threat
    labels: Labels
    batch_size: int

    def logits(self, images: Images) -> Logits:
        return _logits(self.network, images, self.batch_size)

    def attack_direction(self, images: Images) -> Images:
        pairs = zip(images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)
        return torch.cat([self.threat.direction(_gradient(self.network, x, y)) for x, y in pairs])


def _logits(network: nn.Module, images: Images, batch_size: int) -> Logits:
    return torch.cat([isolated_logits(network, batch) for batch in images.split(batch_size)])


def _logits_around(network: nn.Module, images: Images, changes: Iterable[Images], batch_size: int) -> Iterator[Logits]:
    """Yield the logits (n k) under each change."""
    together, left = max(1, batch_size // max(1, len(images))), iter(changes)
    while group := list(islice(left, together)):
        moved = torch.cat([images + change for change in group]).clamp_(0.0, 1.0)
        yield from _logits(network, moved, batch_size).split(len(images))


def _or_nan(logits: Logits, values: Tensor) -> Tensor:
    return torch.where(torch.isfinite(logits).all(dim=1), values, torch.nan)


def _gradient(network: nn.Module, images: Images, labels: Labels) -> Images:
    with torch.enable_grad():
        x = images.detach().requires_grad_(True)
        values = cross_entropy(isolated_logits(network, x), labels, labels)
    return ascent_gradient(values, x)


def random_direction(images: Images, threat: Threat, seed: int) -> Images:
    """Return random signs (n c h w), one set per image; under `l2` scaled to length 1. Drawn on the CPU."""
    generator = streams.generator(seed, "landscape", "random direction")
    signs = torch.randint(0, 2, images.shape, generator=generator, dtype=torch.int8).to(images) * 2.0 - 1.0
    return threat.direction(signs)


def _axis(first: float, last: float, points: int, images: Images) -> tuple[float, ...]:
    if points < 2 or len(images) == 0:
        raise ValueError(f"`points >= 2` and at least one image are needed, but got {points} and {len(images)} images.")
    return tuple(first + (last - first) * index / (points - 1) for index in range(points))


def quartiles(values: Sequence[Tensor] | Tensor) -> Quartiles:
    """Summarise (n,) values at every distance over the images whose value is finite; NaN where there are none."""
    q25, median, q75 = (tuple(_quantile(row, q) for row in values) for q in (0.25, 0.5, 0.75))
    return Quartiles(q25, median, q75)


def _quantile(values: Tensor, q: float) -> float:
    kept = values[torch.isfinite(values)].double()
    return float(torch.quantile(kept, q)) if len(kept) else float("nan")
