"""The worst case per image over many attacks, counted only where our own scoring confirms it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.attacks.spec import Attack, check_images, correct, craft, described
from nodekd.attacks.threat import Threat
from nodekd.errors import AttackError
from nodekd.shapes import Images, Labels

CARRIED = "carried"
"""First column of every result: broken at a smaller epsilon already."""


@final
@dataclass(frozen=True)
class Survival:
    """Which image was broken by what; a columns in the order they were tried, n images."""

    columns: tuple[str, ...]
    """`carried`, then the pool's names, then the attacks'."""

    clean_correct: Tensor
    """(n,) bool: classified correctly without any change."""

    broken: Tensor
    """(a n) bool: misclassified by this column; at most one column per image, as broken images do not go on."""

    attempted: Tensor
    """(a n) bool: still correct when this column's turn came."""

    invalid: tuple[int, ...]
    """(a,) images that were not finite, not in [0, 1] or not in the ball; such an image breaks nothing."""

    seconds: tuple[float, ...]
    """(a,) time spent in each column."""

    images: Images
    """(n c h w) the image that broke the network, otherwise the clean one."""

    @property
    def survivors(self) -> Tensor:
        """(n,) bool: classified correctly under everything."""
        return self.clean_correct & ~self.broken.any(dim=0)


@torch.no_grad()
def worst_case(  # noqa: PLR0913 - one call with everything by keyword, each with its default
    target: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    attacks: Sequence[Attack],
    *,
    seed: int,
    source: nn.Module | None = None,
    sources: Mapping[str, nn.Module] = {},
    pool: Mapping[str, Images] = {},
    carried: Tensor | None = None,
    carried_images: Images | None = None,
    batch_size: int = 256,
) -> Survival:
    """Try everything in turn on the images that are still classified correctly.

    Order: what a smaller epsilon broke, the pool, the attacks as given (cheap to dear). Every image an attack returns
    is scored again on the target, in evaluation mode, and counts only if it lies inside the ball.

    Args:
        target: Network under attack; left exactly as it was, like the global random state.
        images: Clean images (n c h w) float32 in [0, 1].
        labels: True classes (n,) int64.
        threat: Ball around the clean images.
        attacks: Attacks with different names.
        seed: Root seed of all attacks.
        source: Module whose gradients are followed, e.g. the target without its cap; default the target. The target
            decides in every step whether an image is broken.
        sources: Other sources for single attacks, by the attack's name.
        pool: Stored adversarial images (n c h w) of the same clean images, by column name.
        carried: (n,) images broken at a smaller epsilon under the same norm.
        carried_images: (n c h w) what broke them, for `Survival.images`; default the clean images.
        batch_size: Images attacked or scored at once.

    Returns:
        Survivor bits per column, and the final images.

    Raises:
        AttackError: If arguments do not fit each other.

    Source:
        [croce2020reliable] (worst case per image over an ensemble). We try stored images first and score again
        what an attack returns.
    """
    check_images(images, labels, batch_size)
    columns = (CARRIED, *pool, *(attack.name for attack in attacks))
    _check_columns(columns, images, pool, carried, carried_images, {attack.name for attack in attacks}, sources)
    usual = target if source is None else source
    with frozen(target, usual, *sources.values()):
        tally = _Tally(target, images, labels, threat, columns, batch_size)
        tally.carry_(carried, carried_images)
        for name, stored in pool.items():
            with tally.timed(name):
                tally.settle_(name, stored[tally.open])
        for attack in attacks:
            model = sources.get(attack.name, usual)
            with tally.timed(attack.name):
                rows = tally.open
                made = craft(attack, model, target, images[rows], labels[rows], threat, seed, batch_size)
                tally.settle_(attack.name, made)
    return tally.survival()


@final
class _Tally:
    """The bits while they are being filled; `open` holds the positions of the images still classified correctly."""

    def __init__(
        self,
        target: nn.Module,
        images: Images,
        labels: Labels,
        threat: Threat,
        columns: tuple[str, ...],
        batch_size: int,
    ) -> None:
        self.target, self.clean, self.labels, self.threat = target, images, labels, threat
        self.columns, self.batch_size = columns, batch_size
        self.clean_correct = correct(target, images, labels, batch_size)
        self.open = self.clean_correct.nonzero().flatten()
        self.broken = torch.zeros(len(columns), len(images), dtype=torch.bool, device=images.device)
        self.attempted = self.broken.clone()
        self.invalid, self.seconds = [0] * len(columns), [0.0] * len(columns)
        self.images = images.clone()

    def carry_(self, carried: Tensor | None, images: Images | None) -> None:
        """Take over what a smaller epsilon broke."""
        if carried is None:
            return
        kept = carried[self.open]
        rows = self.open[kept]
        self.broken[0, rows] = self.attempted[0, rows] = True
        if images is not None:
            self.images[rows] = images[rows]
        self.open = self.open[~kept]

    def settle_(self, name: str, made: Images) -> None:
        """Score the images (of the open positions) a column offers; those that break the target leave."""
        column, clean = self.columns.index(name), self.clean[self.open]
        valid = self.threat.contains(made, clean)
        wrong = torch.zeros_like(valid)
        wrong[valid] = ~correct(self.target, made[valid], self.labels[self.open[valid]], self.batch_size)
        rows = self.open[wrong]
        self.attempted[column, self.open] = True
        self.broken[column, rows] = True
        self.invalid[column] = int((~valid).sum())
        self.images[rows] = made[wrong]
        self.open = self.open[~wrong]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the body's time to a column."""
        start = time.perf_counter()
        yield
        self.seconds[self.columns.index(name)] += time.perf_counter() - start

    def survival(self) -> Survival:
        return Survival(
            columns=self.columns,
            clean_correct=self.clean_correct,
            broken=self.broken,
            attempted=self.attempted,
            invalid=tuple(self.invalid),
            seconds=tuple(self.seconds),
            images=self.images,
        )


def _check_columns(
    columns: tuple[str, ...],
    images: Images,
    pool: Mapping[str, Images],
    carried: Tensor | None,
    carried_images: Images | None,
    attacks: set[str],
    sources: Mapping[str, nn.Module],
) -> None:
    if len(set(columns)) < len(columns):
        raise AttackError(f"columns must have different names, but got {', '.join(columns)}; rename an attack.")
    for name, stored in [*pool.items(), ("carried_images", images if carried_images is None else carried_images)]:
        if not isinstance(stored, Tensor) or stored.shape != images.shape or stored.dtype != images.dtype:
            raise AttackError(
                f"{name} must hold {tuple(images.shape)} {images.dtype} as the clean images do, "
                f"but got {described(stored)}."
            )
    if carried is not None and (carried.shape != (len(images),) or carried.dtype != torch.bool):
        raise AttackError(f"carried must be ({len(images)},) bool, but got {tuple(carried.shape)} {carried.dtype}.")
    unknown = sorted(set(sources) - attacks)
    if unknown:
        raise AttackError(f"sources names {', '.join(unknown)}, but the attacks are {', '.join(sorted(attacks))}.")
