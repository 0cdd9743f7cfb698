"""The attacks of In-ResNet's paper as published: each alone, on every image, the last iterate scored.

They compare with that paper's tables and with nothing else: cross-entropy only, 20 steps, no restarts. What a network
really withstands is measured by `cascade`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks import gradient
from nodekd.attacks.frozen import frozen
from nodekd.attacks.spec import check_images, correct
from nodekd.attacks.threat import Threat
from nodekd.shapes import Images, Labels

STEPS = 20
"""Steps of I-FGSM and PGD."""

STEP_FRACTION = 1 / 8
"""Length of a step in epsilons. Published is 1/255, which is this at 8/255; as a fraction it suits every data set."""


@final
@dataclass(frozen=True)
class PublishedAttack:
    """What one attack left of a network's accuracy."""

    attack: str
    """`fgsm`, `i-fgsm`, `pgd` or `pgd-legacy`."""
    epsilon: float
    """Radius it is named by, under linf in units of [0, 1]."""
    accuracy: float
    """Share of all n images classified correctly; failed solves are wrong (S14)."""
    n: int
    """Images attacked: all, also those that are misclassified without it."""
    largest_perturbation: float
    """Largest change of a pixel from the clean image: at most epsilon; `pgd-legacy` reaches up to 2 epsilon."""
    correct: Tensor = field(repr=False, compare=False)
    """(n,) bool: which images are classified correctly."""

    def record(self) -> dict[str, Any]:
        """Return everything but the bits as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "correct"}


def published_attacks(
    target: nn.Module,
    images: Images,
    labels: Labels,
    epsilon: float,
    *,
    seed: int,
    source: nn.Module | None = None,
    legacy: bool = False,
    steps: int = STEPS,
    step_size: float | None = None,
    batch_size: int = 256,
) -> tuple[PublishedAttack, ...]:
    """Run FGSM, I-FGSM and PGD, each alone on all images.

    Args:
        target: Network that is scored; left exactly as it was, like the global random state.
        images: Clean images (n c h w) float32 in [0, 1].
        labels: True classes (n,) int64.
        epsilon: Radius in (0, 1] under linf.
        seed: Root seed of the random start, which is the same for `pgd` and `pgd-legacy`.
        source: Network whose gradients are followed; default the target.
        legacy: Also run `pgd-legacy`, see `pgd`.
        steps: Steps of I-FGSM and PGD.
        step_size: Length of their steps in units of the images; default epsilon/8.
        batch_size: Images attacked or scored at once.

    Returns:
        One result per attack: fgsm, i-fgsm, pgd, and pgd-legacy where asked.

    Raises:
        AttackError: If images, labels, epsilon or batch size are not as above.

    Source:
        [yang2020interpolation], the authors' code as of 17 August 2020 (in pixel space), which tests all images and
        scores the last iterate, as we do.
    """
    check_images(images, labels, batch_size)
    threat = Threat("linf", epsilon)
    model = target if source is None else source
    step = STEP_FRACTION * epsilon if step_size is None else step_size
    start = uniform_start(images, epsilon, seed)

    def iterated(rows: slice) -> Images:
        return ifgsm(model, images[rows], labels[rows], threat, steps=steps, step_size=step)

    def projected(rows: slice, *, legacy: bool) -> Images:
        return pgd(model, images[rows], labels[rows], threat, start[rows], steps=steps, step_size=step, legacy=legacy)

    attacks: dict[str, Callable[[slice], Images]] = {
        "fgsm": lambda rows: fgsm(model, images[rows], labels[rows], threat),
        "i-fgsm": iterated,
        "pgd": lambda rows: projected(rows, legacy=False),
    }
    if legacy:
        attacks["pgd-legacy"] = lambda rows: projected(rows, legacy=True)
    with frozen(target, model):
        return tuple(
            _scored(name, craft, target, images, labels, threat, batch_size) for name, craft in attacks.items()
        )


def fgsm(model: nn.Module, images: Images, labels: Labels, threat: Threat) -> Images:
    """Return clip(x + epsilon sign(grad_x CE)), also where it lowers the loss.

    Args:
        model: Network whose gradient is followed; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.

    Source:
        [goodfellow2015explaining] Sec. 4; one step of `ifgsm` of length epsilon.
    """
    return ifgsm(model, images, labels, threat, steps=1, step_size=threat.epsilon)


def ifgsm(model: nn.Module, images: Images, labels: Labels, threat: Threat, *, steps: int, step_size: float) -> Images:
    """Return x_N of x_0 = x, x_(i+1) = clip(P_x(x_i + step_size sign(grad CE(x_i)))), P_x onto the ball around x.

    Args:
        model: Network whose gradients are followed; call it inside `frozen`.
        images: Clean images x (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        steps: N >= 1.
        step_size: In units of the images.

    Source:
        [kurakin2017adversarial] Sec. 2.2, with the steps of [yang2020interpolation]: 20 of 1/255.
    """
    return _climb(model, images, labels, threat, None, steps, step_size)


def pgd(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    start: Images,
    *,
    steps: int,
    step_size: float,
    legacy: bool = False,
) -> Images:
    """Return the last of the steps of `ifgsm` from a random start.

    Args:
        model: Network whose gradients are followed; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        start: Start s (b c h w) from `uniform_start`, not cut to [0, 1].
        steps: At least 1.
        step_size: In units of the images.
        legacy: As published: project onto the ball around the start s instead of the clean image, so that pixels move
            by up to 2 epsilon from the clean image (and by epsilon on average, so it is not always the stronger one).
            Otherwise the standard attack, which never leaves the ball.

    Source:
        [madry2018towards] Sec. 2.1; with `legacy`, the authors' code of [yang2020interpolation], whose accuracies are
        not comparable with the standard attack's.
    """
    if legacy:
        return _climb(model, start, labels, threat, None, steps, step_size)
    return _climb(model, images, labels, threat, start, steps, step_size)


def uniform_start(images: Images, epsilon: float, seed: int) -> Images:
    """Draw x + u with u uniform in [-epsilon, epsilon], on the CPU; values may leave [0, 1] as published."""
    generator = streams.generator(seed, "published", "start")
    change = torch.rand(images.shape, generator=generator) * (2 * epsilon) - epsilon
    return images + change.to(images.device)


def _climb(
    model: nn.Module,
    centre: Images,
    labels: Labels,
    threat: Threat,
    start: Images | None,
    steps: int,
    step_size: float,
) -> Images:
    options: dict[str, Any] = {"steps": steps, "step_size": step_size, "start": start, "keep_going": True}
    return gradient.pgd(model, centre, labels, threat, loss=gradient.cross_entropy, **options).last


def _scored(
    name: str,
    craft: Callable[[slice], Images],
    target: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    batch_size: int,
) -> PublishedAttack:
    rows = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    made = torch.cat([craft(part) for part in rows]) if rows else images
    right = correct(target, made, labels, batch_size)
    n = len(images)
    return PublishedAttack(
        attack=name,
        epsilon=threat.epsilon,
        accuracy=int(right.sum()) / n if n else 0.0,
        n=n,
        largest_perturbation=float(threat.distance(made, images).max()) if n else 0.0,
        correct=right,
    )
