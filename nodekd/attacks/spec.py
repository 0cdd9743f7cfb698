"""An attack as a value: every hyper-parameter in a record, and one call that runs it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import pyautoattack
import torch
from torch import Tensor, nn

from nodekd import scoring, streams
from nodekd.attacks import autoattack
from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import LOSSES, Distance, distance_from, fgsm, pgd
from nodekd.attacks.isolation import isolated_logits
from nodekd.attacks.noise import sign_noise
from nodekd.attacks.threat import Threat
from nodekd.errors import AttackError
from nodekd.shapes import Images, Labels

Method = Literal["fgsm", "pgd", "apgd", "apgd-targeted", "fab-targeted", "square", "sign-noise", "feature-distance"]


DISTANCES: tuple[Distance, ...] = ("l1", "l2")
"""What `feature-distance` climbs."""


@final
@dataclass(frozen=True)
class Attack:
    """One attack with all its hyper-parameters; those a method does not have are None."""

    name: str
    """Its column in results, and the word that separates its random stream."""

    method: Method
    """Which algorithm."""

    loss: str | None = None
    """`cross-entropy` or `margin` (fgsm, pgd), `l1` or `l2` (feature-distance); the others have one of their own."""

    steps: int | None = None
    """Gradient steps per restart (pgd, apgd, apgd-targeted, fab-targeted, feature-distance)."""

    step_size: float | None = None
    """Length of a step as a fraction of epsilon (pgd, feature-distance)."""

    random_start: bool | None = None
    """Whether pgd starts from a uniform draw in the ball; otherwise from the clean image."""

    restarts: int | None = None
    """Starts (pgd with a random start, apgd, apgd-targeted, fab-targeted, square)."""

    targets: int | None = None
    """Wrong classes to aim at, at most all (apgd-targeted, fab-targeted)."""

    queries: int | None = None
    """Evaluations per restart (square)."""

    rescaled: bool | None = None
    """Whether the squares shrink in proportion to the queries (square)."""

    draws: int | None = None
    """Random draws (sign-noise)."""

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise AttackError(f"{self.name}: method must be one of {', '.join(_METHODS)}, but got {self.method!r}.")
        needed = _METHODS[self.method].needed
        given = {key for key, value in asdict(self).items() if value is not None} - {"name", "method"}
        if given != set(needed):
            raise AttackError(
                f"{self.name}: {self.method} takes exactly {', '.join(needed)}, but got {', '.join(sorted(given))}."
            )
        self._check_values()

    def record(self) -> dict[str, Any]:
        """Return every hyper-parameter, also those that are fixed, as plain values for a JSON file."""
        chosen = {key: value for key, value in asdict(self).items() if value is not None}
        return chosen | _METHODS[self.method].constants

    def _check_values(self) -> None:
        losses = DISTANCES if self.method == "feature-distance" else tuple(LOSSES)
        if self.loss is not None and self.loss not in losses:
            raise AttackError(f"{self.name}: loss must be one of {', '.join(losses)}, but got {self.loss!r}.")
        for key in ("steps", "restarts", "targets", "queries", "draws"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise AttackError(f"{self.name}: `{key} >= 1` must hold, but got {key}={value}.")
        if self.step_size is not None and not self.step_size > 0:
            raise AttackError(f"{self.name}: `step_size > 0` must hold, but got step_size={self.step_size}.")
        if self.method == "pgd" and not self.random_start and self.restarts != 1:
            raise AttackError(f"{self.name}: restarts={self.restarts} repeat one run without a random_start; give 1.")


@final
@dataclass(frozen=True)
class Batch:
    """What an algorithm is given: images that are still classified correctly, and two networks."""

    model: nn.Module
    """Whose gradients are followed."""

    judge: nn.Module
    """Which decides; the same module in the ordinary case. Attacks without gradients query it alone."""

    images: Images
    labels: Labels
    threat: Threat
    seed: int
    """Seed of this attack on this batch."""

    @property
    def transfer_judge(self) -> nn.Module | None:
        """The judge where it is another network than the model."""
        return None if self.judge is self.model else self.judge


def _craft_fgsm(attack: Attack, batch: Batch) -> Images:
    loss = LOSSES[str(attack.loss)]
    judge = batch.transfer_judge
    return fgsm(batch.model, batch.images, batch.labels, batch.threat, loss=loss, judge=judge).images


def _craft_pgd(attack: Attack, batch: Batch) -> Images:
    found = batch.images.clone()
    rows = torch.arange(len(found), device=found.device)
    generator = streams.generator(batch.seed, "start")
    for _ in range(attack.restarts or 1):
        clean, labels = batch.images[rows], batch.labels[rows]
        trace = pgd(
            batch.model,
            clean,
            labels,
            batch.threat,
            loss=LOSSES[str(attack.loss)],
            steps=attack.steps or 1,
            step_size=(attack.step_size or 0.0) * batch.threat.epsilon,
            start=batch.threat.random_start(clean, generator) if attack.random_start else None,
            judge=batch.transfer_judge,
        )
        found[rows] = trace.images
        rows = rows[trace.broken_at < 0]
        if len(rows) == 0:
            break
    return found


def _craft_apgd(attack: Attack, batch: Batch) -> Images:
    return autoattack.apgd(
        batch.model,
        batch.images,
        batch.labels,
        batch.threat,
        steps=attack.steps or 1,
        restarts=attack.restarts or 1,
        seed=batch.seed,
        judge=batch.judge,
    )


def _craft_apgd_targeted(attack: Attack, batch: Batch) -> Images:
    return autoattack.apgd_targeted(
        batch.model,
        batch.images,
        batch.labels,
        batch.threat,
        steps=attack.steps or 1,
        restarts=attack.restarts or 1,
        targets=attack.targets or 1,
        seed=batch.seed,
        judge=batch.judge,
    )


def _craft_fab_targeted(attack: Attack, batch: Batch) -> Images:
    return autoattack.fab_targeted(
        batch.model,
        batch.images,
        batch.labels,
        batch.threat,
        steps=attack.steps or 1,
        restarts=attack.restarts or 1,
        targets=attack.targets or 1,
        seed=batch.seed,
        judge=batch.judge,
    )


def _craft_square(attack: Attack, batch: Batch) -> Images:
    return autoattack.square(
        batch.judge,
        batch.images,
        batch.labels,
        batch.threat,
        queries=attack.queries or 1,
        restarts=attack.restarts or 1,
        seed=batch.seed,
        rescaled=bool(attack.rescaled),
    )


def _craft_sign_noise(attack: Attack, batch: Batch) -> Images:
    generator = streams.generator(batch.seed, "signs")
    draws = attack.draws or 1
    return sign_noise(batch.judge, batch.images, batch.labels, batch.threat, draws=draws, generator=generator)


def _craft_feature_distance(attack: Attack, batch: Batch) -> Images:
    """Climb the distance of the model's output, which are features, from what it was; the judge alone decides."""
    generator = streams.generator(batch.seed, "start")
    with torch.no_grad():
        features = isolated_logits(batch.model, batch.images)  # as `pgd` asks for them: a failure stays alone
    trace = pgd(
        batch.model,
        batch.images,
        batch.labels,
        batch.threat,
        loss=distance_from(features, "l1" if attack.loss == "l1" else "l2"),
        steps=attack.steps or 1,
        step_size=(attack.step_size or 0.0) * batch.threat.epsilon,
        start=batch.threat.random_start(batch.images, generator),
        judge=batch.judge,
        keep_going=True,  # the loss holds a row for every image of the batch
    )
    return trace.images


@final
@dataclass(frozen=True)
class _Algorithm:
    craft: Callable[[Attack, Batch], Images]
    needed: tuple[str, ...]
    constants: dict[str, Any]


_LIBRARY = {"library": f"pyautoattack {pyautoattack.__version__}"}
_APGD = _LIBRARY | {"rho": autoattack.RHO, "eot_iterations": autoattack.EOT_ITERATIONS, "random_start": True}
_METHODS: dict[str, _Algorithm] = {
    "fgsm": _Algorithm(_craft_fgsm, ("loss",), {"steps": 1, "step_size": 1.0, "random_start": False, "restarts": 1}),
    "pgd": _Algorithm(_craft_pgd, ("loss", "steps", "step_size", "random_start", "restarts"), {}),
    "apgd": _Algorithm(_craft_apgd, ("steps", "restarts"), _APGD | {"loss": "cross-entropy"}),
    "apgd-targeted": _Algorithm(
        _craft_apgd_targeted,
        ("steps", "restarts", "targets"),
        _APGD | {"loss": "targeted-dlr", "loss_below_4_classes": "targeted-margin"},
    ),
    "fab-targeted": _Algorithm(
        _craft_fab_targeted,
        ("steps", "restarts", "targets"),
        _LIBRARY | autoattack.FAB | {"loss": "distance to the boundary"},
    ),
    "square": _Algorithm(
        _craft_square,
        ("queries", "restarts", "rescaled"),
        _LIBRARY | {"loss": "margin", "p_init": autoattack.P_INIT},
    ),
    "sign-noise": _Algorithm(_craft_sign_noise, ("draws",), {}),
    "feature-distance": _Algorithm(
        _craft_feature_distance, ("loss", "steps", "step_size"), {"random_start": True, "restarts": 1}
    ),
}

FGSM = Attack("fgsm", "fgsm", loss="cross-entropy")
PGD_20 = Attack("pgd-20", "pgd", loss="cross-entropy", steps=20, step_size=0.125, random_start=True, restarts=1)
PGD_10_CE = Attack("pgd-10-ce", "pgd", loss="cross-entropy", steps=10, step_size=0.25, random_start=True, restarts=1)
PGD_20_MARGIN = Attack("pgd-20-margin", "pgd", loss="margin", steps=20, step_size=0.125, random_start=True, restarts=1)
PGD_10_MARGIN = Attack("pgd-10-margin", "pgd", loss="margin", steps=10, step_size=0.25, random_start=True, restarts=1)
APGD_CE = Attack("apgd-ce", "apgd", steps=100, restarts=1)
APGD_T = Attack("apgd-t", "apgd-targeted", steps=60, restarts=1, targets=5)
"""As dear as three targets at 100 steps, and breaks what nine targets at 100 break (docs/decisions/0008)."""
APGD_T_9 = Attack("apgd-t-9", "apgd-targeted", steps=100, restarts=1, targets=9)
FAB_T = Attack("fab-t", "fab-targeted", steps=100, restarts=1, targets=9)
SQUARE = Attack("square", "square", queries=1000, restarts=1, rescaled=True)
SQUARE_5000 = Attack("square-5000", "square", queries=5000, restarts=1, rescaled=False)
SIGN_NOISE = Attack("sign-noise", "sign-noise", draws=20)

PROXY = (PGD_10_CE, PGD_10_MARGIN)
"""The search's gradient attacks (S16); the stage adds noise, stored images and the finer solver."""


def run(
    attack: Attack,
    model: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    seed: int,
    batch_size: int = 256,
    judge: nn.Module | None = None,
) -> Images:
    """Attack every image that is still classified correctly.

    Args:
        attack: What to do.
        model: Network whose gradients are followed; left exactly as it was, like the global random state.
        images: Clean images (n c h w) float32 in [0, 1].
        labels: True classes (n,) int64.
        threat: Ball around the clean images.
        seed: Root seed; the attack's name and the batch's number separate the streams.
        batch_size: Images attacked at once, >= 1.
        judge: Network that decides what is classified correctly; default `model`.

    Returns:
        Images (n c h w) inside the ball; those misclassified from the start are returned as they are. Whether an
        image is adversarial is for the caller to score.

    Raises:
        AttackError: If images, labels or batch size are not as above.
    """
    check_images(images, labels, batch_size)
    judge = model if judge is None else judge
    images = images.detach()  # a caller's graph would grow through every step
    with frozen(model, judge):
        found = images.clone()
        rows = correct(judge, images, labels, batch_size).nonzero().flatten()
        found[rows] = craft(attack, model, judge, images[rows], labels[rows], threat, seed, batch_size)
    return found


def craft(
    attack: Attack,
    model: nn.Module,
    judge: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    seed: int,
    batch_size: int,
) -> Images:
    """Attack all images, batch by batch, inside `frozen`; see `run` for the arguments."""
    if len(images) == 0:
        return images
    algorithm = _METHODS[attack.method].craft
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat(
        [
            algorithm(attack, Batch(model, judge, x, y, threat, streams.seed_of(seed, attack.name, index)))
            for index, (x, y) in enumerate(batches)
        ]
    )


def correct(model: nn.Module, images: Images, labels: Labels, batch_size: int) -> Tensor:
    """Score images as `nodekd.scoring` does, also where there are none."""
    if len(images) == 0:
        return torch.zeros(0, dtype=torch.bool, device=images.device)
    return scoring.correct(model, images, labels, batch_size)


def described(value: object) -> str:
    """Say what was got where a tensor of a shape and type was asked for."""
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def check_images(images: Images, labels: Labels, batch_size: int) -> None:
    """Refuse what no attack can work on.

    Raises:
        AttackError: If images are not (n c h w) float32 in [0, 1], labels not (n,) int64, or the batch size not >= 1.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or images.dtype != torch.float32:
        raise AttackError(f"images must be (n c h w) float32, but got {described(images)}.")
    if len(images) > 0 and images.numel() == 0:
        raise AttackError(f"images must hold at least one pixel, but got {described(images)}.")
    if not isinstance(labels, Tensor) or labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise AttackError(
            f"labels must be ({len(images)},) int64 as there are {len(images)} images, but got {described(labels)}."
        )
    if batch_size < 1:
        raise AttackError(f"`batch_size >= 1` must hold, but got batch_size={batch_size}.")
    if len(images) > 0 and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise AttackError(
            f"images must be in [0, 1], but got values from {low} to {high}: normalisation belongs into the network."
        )
