"""AutoAttack's attacks through the classes of pyautoattack, one run at a time.

pyautoattack's driver, and the `perturb` of its classes, seed the global random state, follow a NaN, and need at least
4 classes for the targeted loss. So the loops over restarts and targets are ours, and theirs is the attack itself.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from nodekd.attacks.gradient import misclassified
from nodekd.attacks.isolation import isolated_logits, without_failures
from nodekd.attacks.threat import Threat
from nodekd.errors import AttackError
from nodekd.scoring import correct_rows
from nodekd.shapes import Images, Labels, Logits

RHO = 0.75
"""Share of rising steps below which APGD halves its step."""

EOT_ITERATIONS = 1
"""Gradients averaged per step; more is for randomised networks."""

FAB = {"alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
"""FAB's largest step towards the clean image, its overshoot, and how far it steps back from a success."""

P_INIT = 0.8
"""Share of pixels in Square's first squares."""

DLR_CLASSES = 4
"""Fewest classes of the targeted DLR loss; below, APGD-T climbs the plain margin to the target."""

_NORMS = {"linf": "Linf", "l2": "L2"}
_SILENT = logging.Logger("pyautoattack", logging.CRITICAL)
_TIE = 1e-12


@final
class _Guarded:
    """A network as APGD and FAB may see it: logits finite, images that fail alone misclassified, a finite gradient.

    A network whose logits hang on the image by no gradient has one that is zero.
    """

    def __init__(self, model: nn.Module, labels: Labels) -> None:
        self.model, self.labels = model, labels

    def __call__(self, images: Images) -> Logits:
        seen = images.view_as(images)
        if seen.requires_grad:
            seen.register_hook(lambda gradient: without_failures(gradient).contiguous())
        logits = isolated_logits(self.model, seen)
        failed = ~torch.isfinite(logits).all(dim=1, keepdim=True)
        if not bool(failed.any()) and logits.requires_grad == seen.requires_grad:
            return logits
        wrong = torch.zeros_like(logits).scatter_(1, (self.labels[:, None] + 1) % logits.shape[1], 1.0)
        return torch.where(failed, wrong, logits) + 0.0 * seen.flatten(1).sum(dim=1, keepdim=True)


@final
class _TargetedMargin(APGDAttack_targeted):
    """APGD-T for 2 and 3 classes: z_target - z_y, which APGD treats alike at every scale of the logits."""

    def dlr_loss_targeted(self, x: Logits, y: Labels) -> Tensor:
        """Return the lead (b,) of the target class over the true one."""
        rows = torch.arange(len(x), device=x.device)
        return x[rows, self.y_target] - x[rows, y]


@final
class _ScoredSquare(SquareAttack):
    """Square, with success decided as in scoring: ties and solves that fail alone included."""

    def margin_and_loss(self, x: Images, y: Labels) -> tuple[Tensor, Tensor]:
        """Return twice the lead (b,) of the true class over the others, negative exactly where `x` is misclassified."""
        logits = isolated_logits(self.predict, x)
        right = correct_rows(logits, y)
        others = logits.scatter(1, y[:, None], -torch.inf).max(dim=1).values
        # SquareAttack multiplies leads by 0, so that an infinite one would end the attack on the image
        lead = torch.nan_to_num(logits.gather(1, y[:, None]).squeeze(1) - others, nan=-1.0)
        lead = torch.where(right, lead.clamp_min(_TIE), lead.clamp_max(-_TIE))
        return lead, lead.clone()


@final
class _Found:
    """Adversarial images so far, and the positions of the images still to break."""

    def __init__(self, judge: nn.Module, images: Images, labels: Labels, threat: Threat) -> None:
        self.judge, self.clean, self.labels, self.threat = judge, images, labels, threat
        self.images = images.clone()
        self.rows = torch.arange(len(images), device=images.device)

    def take_(self, *candidates: Images) -> None:
        """Keep the first candidate of each open image that the judge misclassifies, otherwise the last candidate."""
        open_rows = torch.arange(len(self.rows), device=self.rows.device)
        for candidate in candidates:
            if len(open_rows) == 0:
                break
            rows = self.rows[open_rows]
            inside = self.threat.project(candidate[open_rows], self.clean[rows])
            self.images[rows] = inside
            open_rows = open_rows[~misclassified(self.judge, inside, self.labels[rows])]
        self.rows = self.rows[open_rows]


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed the stream pyautoattack draws from, the CPU's, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def apgd(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    steps: int,
    restarts: int,
    seed: int,
    judge: nn.Module | None = None,
) -> Images:
    """Run Auto-PGD on the cross-entropy, from random starts, on all images at once.

    Args:
        model: Network whose gradients are followed; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        steps: Steps of one restart.
        restarts: Random starts; only images still classified correctly go on to the next.
        seed: Seed of the random starts.
        judge: Network that decides what is misclassified; default `model`.

    Returns:
        Misclassified images where one was found, otherwise those with the largest loss; all inside the ball.

    Source:
        [croce2020reliable] Alg. 1, in pyautoattack's implementation.
    """
    found = _Found(judge or model, images, labels, threat)
    settings = _apgd_settings(threat, steps, images.device)
    with _drawing_from(seed):
        for _ in range(restarts):
            _run_apgd(found, APGDAttack, model, settings | {"loss": "ce"})
    return found.images


def apgd_targeted(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    steps: int,
    restarts: int,
    targets: int,
    seed: int,
    judge: nn.Module | None = None,
) -> Images:
    """Run Auto-PGD on the targeted DLR loss towards the classes that come next on the clean image.

    Args:
        model: Network whose gradients are followed; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        steps: Steps of one restart towards one target.
        restarts: Random starts per target.
        targets: Wrong classes to try, most likely first; at most all of them are tried.
        seed: Seed of the random starts.
        judge: Network that decides what is misclassified; default `model`.

    Returns:
        Misclassified images where one was found, otherwise those with the largest loss of the last target.

    Source:
        [croce2020reliable] Eq. 7, in pyautoattack's implementation. With 2 or 3 classes, for which the equation is
        undefined, the loss is the margin z_target - z_y.
    """
    found = _Found(judge or model, images, labels, threat)
    order = _wrong_classes(model, images, labels)
    attack = APGDAttack_targeted if order.shape[1] + 1 >= DLR_CLASSES else _TargetedMargin
    settings = _apgd_settings(threat, steps, images.device)
    with _drawing_from(seed):
        for target in order.T[:targets]:
            for _ in range(restarts):
                _run_apgd(found, attack, model, settings, target)
    return found.images


def fab_targeted(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    steps: int,
    restarts: int,
    targets: int,
    seed: int,
    judge: nn.Module | None = None,
) -> Images:
    """Look for the nearest image across the boundary to each of the classes that come next on the clean image.

    Args:
        model: Network whose gradients are followed; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images; a nearest image outside of it breaks nothing.
        steps: Steps of one restart towards one target.
        restarts: Runs per target: the first from the clean image, the others from random images nearby.
        targets: Wrong classes to try, most likely first; at most all of them are tried.
        seed: Seed of the random starts.
        judge: Network that decides what is misclassified; default `model`.

    Returns:
        Misclassified images where one was found inside the ball, otherwise the clean ones.

    Source:
        [croce2020minimally] Alg. 1, targeted as in [croce2020reliable], in pyautoattack's implementation.
    """
    found = _Found(judge or model, images, labels, threat)
    with _drawing_from(seed):
        for place in range(min(targets, _wrong_classes(model, images, labels).shape[1])):
            for restart in range(restarts):
                _run_fab(found, model, steps, place + 2, is_random=restart > 0)
    return found.images


def square(
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    queries: int,
    restarts: int,
    seed: int,
    rescaled: bool = True,
) -> Images:
    """Search without gradients: change random squares and keep what lowers the margin.

    Args:
        model: Network that is queried; call it inside `frozen`.
        images: Clean images (b c h w) in [0, 1].
        labels: True classes (b,).
        threat: Ball around the clean images.
        queries: Evaluations of one restart.
        restarts: Random starts; only images still classified correctly go on to the next.
        seed: Seed of all draws.
        rescaled: Whether the squares shrink in proportion to `queries`; otherwise as over 10000 queries, as AutoAttack
            runs it, which wastes a small budget.

    Returns:
        Images of smallest margin, all inside the ball.

    Raises:
        AttackError: If the images are too small, or not square, for the l2 variant.

    Source:
        [andriushchenko2020square] Alg. 1 to 3, in pyautoattack's implementation.
    """
    height, width = images.shape[-2:]
    if threat.norm == "l2" and (height != width or height < 5):
        raise AttackError(
            f"Square under l2 needs square images of at least 5x5 pixels, but got {height}x{width}. "
            "Attack under linf, or leave Square out."
        )
    found = _Found(model, images, labels, threat)
    with _drawing_from(seed):
        for _ in range(restarts):
            _run_square(found, model, queries, rescaled)
    return found.images


def _apgd_settings(threat: Threat, steps: int, device: torch.device) -> dict[str, Any]:
    return {
        "n_iter": steps,
        "norm": _NORMS[threat.norm],
        "eps": threat.epsilon,
        "rho": RHO,
        "eot_iter": EOT_ITERATIONS,
        "device": device,
        "logger": _SILENT,
    }


def _run_apgd(
    found: _Found,
    attack_class: type[APGDAttack],
    model: nn.Module,
    settings: dict[str, Any],
    target: Labels | None = None,
) -> None:
    """Run APGD once on the open images; without further ado where none is open."""
    if len(found.rows) == 0:
        return
    images, labels = found.clean[found.rows].contiguous(), found.labels[found.rows]
    attack: Any = attack_class(_Guarded(model, labels), **settings)
    attack.y_target = None if target is None else target[found.rows]
    attack.init_hyperparam(images)
    best, right, _, adversarial = attack.attack_single_run(images, labels)
    chosen = torch.where(right.view(-1, *[1] * (images.dim() - 1)), best, adversarial).detach()
    found.take_(*((chosen,) if found.judge is model else (chosen, best.detach())))


def _run_fab(found: _Found, model: nn.Module, steps: int, rank: int, *, is_random: bool) -> None:
    """Run FAB once on the open images that the model gets right, towards the class of a rank (the first is 1)."""
    if len(found.rows) == 0:
        return
    rows = found.rows[~misclassified(model, found.clean[found.rows], found.labels[found.rows])]
    if len(rows) == 0:
        return
    images, labels = found.clean[rows].contiguous(), found.labels[rows]
    attack = FABAttack_PT(
        _Guarded(model, labels),
        norm=_NORMS[found.threat.norm],
        eps=found.threat.epsilon,
        n_iter=steps,
        targeted=True,
        device=images.device,
        alpha_max=FAB["alpha_max"],
        eta=FAB["eta"],
        beta=FAB["beta"],
    )
    attack.target_class = rank
    nearest = attack.attack_single_run(images, labels, use_rand_start=is_random, is_targeted=True)
    near = found.threat.contains(nearest, images).view(-1, *[1] * (images.dim() - 1))
    candidate = found.images.clone()
    candidate[rows] = torch.where(near, nearest, images)
    found.take_(candidate[found.rows])


def _run_square(found: _Found, model: nn.Module, queries: int, rescaled: bool) -> None:
    """Run Square once on the open images; without further ado where none is open."""
    if len(found.rows) == 0:
        return
    images, labels = found.clean[found.rows].contiguous(), found.labels[found.rows]
    norm, epsilon = _NORMS[found.threat.norm], found.threat.epsilon
    attack = _ScoredSquare(
        model, norm=norm, eps=epsilon, n_queries=queries, p_init=P_INIT, resc_schedule=rescaled, device=images.device
    )
    attack.init_hyperparam(images)
    _, best = attack.attack_single_run(images, labels)
    found.take_(best)


@torch.no_grad()
def _wrong_classes(model: nn.Module, images: Images, labels: Labels) -> Labels:
    """Return the wrong classes (b k-1) of each image, most likely first."""
    logits = isolated_logits(model, images)
    ranked = torch.nan_to_num(logits).scatter(1, labels[:, None], -torch.inf)
    return ranked.argsort(dim=1, descending=True)[:, :-1]
