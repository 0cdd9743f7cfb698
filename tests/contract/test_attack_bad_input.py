"""What no attack was made for: a clear message, or a correct answer, and never another error."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.catalog import NORMS, Norm
from nodekd.attacks.spec import Attack, run
from nodekd.attacks.threat import Threat
from nodekd.errors import AttackError
from tests.contract.attacked_networks import ATTACKS, THREATS

SIDE = 6
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
every_norm = pytest.mark.parametrize("norm", NORMS)


class Grey(nn.Module):
    """Class 1 exactly where the mean of the image exceeds one half; any further classes are far behind."""

    def __init__(self, classes: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        self.classes, self.scale = classes, scale

    def forward(self, x: Tensor) -> Tensor:
        lead = (x.flatten(1).mean(dim=1, keepdim=True) - 0.5) * self.scale
        rest = (-100.0 * self.scale - lead).expand(-1, max(self.classes - 2, 0))
        return torch.cat([-lead, lead, rest], dim=1)[:, : self.classes]


class Said(nn.Module):
    """Something made of another network's logits and the images."""

    def __init__(self, of: Callable[[Tensor, Tensor], Tensor], classes: int = 2) -> None:
        super().__init__()
        self.of, self.network = of, Grey(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.of(self.network(x), x)


def flat(*levels: float) -> Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).repeat(1, 1, SIDE, SIDE)


IMAGES = flat(0.49, 0.1, 0.51, 0.9)
LABELS = torch.tensor([0, 0, 1, 1])
NEAR = torch.tensor([True, False, True, False])
"""Images that a change of 0.06 (linf), resp. of 0.3 over 36 pixels (l2), carries over the boundary."""


def survivors(model: nn.Module, attack: Attack, norm: Norm, images: Tensor = IMAGES, labels: Tensor = LABELS) -> Tensor:
    """Attack through both doors; the second must be as good as the first."""
    threat = THREATS[norm]
    made = run(attack, model, images, labels, threat, 0)
    assert made.shape == images.shape
    assert torch.isfinite(made).all()
    assert threat.contains(made, images).all()
    survival = worst_case(model, images, labels, threat, [attack], seed=0)
    assert sum(survival.invalid) == 0
    return survival.survivors


def finds(attack: Attack) -> bool:
    """Whether the attack, shortened, is sure to break an image this near: not noise, squares, and very short steps."""
    blind = attack.method in ("sign-noise", "square", "feature-distance")
    return not blind and (attack.step_size is None or attack.step_size >= 0.25)


@every_attack
@every_norm
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_are_attacked_as_many_are(attack: Attack, norm: Norm, classes: int) -> None:
    left = survivors(Grey(classes), attack, norm)
    assert left[~NEAR].all()
    if finds(attack):
        assert torch.equal(left, ~NEAR)


@every_attack
@every_norm
def test_a_network_of_one_class_is_right_or_wrong_and_cannot_be_broken(attack: Attack, norm: Norm) -> None:
    one = Said(lambda logits, _: logits[:, :1])
    assert survivors(one, attack, norm, labels=torch.zeros(4, dtype=torch.long)).all()
    assert not survivors(one, attack, norm, labels=torch.ones(4, dtype=torch.long)).any()


@every_attack
@every_norm
def test_one_image_and_none(attack: Attack, norm: Norm) -> None:
    for row in range(4):
        left = survivors(Grey(), attack, norm, IMAGES[row : row + 1], LABELS[row : row + 1])
        assert left.shape == (1,)
        assert not finds(attack) or bool(left) != bool(NEAR[row])
    assert survivors(Grey(), attack, norm, IMAGES[:0], LABELS[:0]).shape == (0,)


@every_attack
@every_norm
def test_images_that_are_all_wrong_are_given_back(attack: Attack, norm: Norm) -> None:
    assert torch.equal(run(attack, Grey(), IMAGES, 1 - LABELS, THREATS[norm], 0), IMAGES)
    survival = worst_case(Grey(), IMAGES, 1 - LABELS, THREATS[norm], [attack], seed=0)
    assert not (survival.clean_correct | survival.survivors | survival.attempted | survival.broken).any()
    assert torch.equal(survival.images, IMAGES)


@every_attack
@every_norm
@pytest.mark.parametrize("label", [-1, 2, 10**6])
def test_labels_that_no_class_has_are_wrong_from_the_start(attack: Attack, norm: Norm, label: int) -> None:
    labels = LABELS.clone()
    labels[1] = label
    left = survivors(Grey(), attack, norm, labels=labels)
    assert not left[1]
    assert left[3]


@every_attack
@every_norm
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("spread", [False, True], ids=["the image", "its batch"])
def test_an_answer_that_is_not_finite_is_wrong_and_hides_no_other_image(
    attack: Attack, norm: Norm, value: float, spread: bool
) -> None:
    """The second image, which is dark, fails: alone, or with the whole batch it is in."""

    def failing(logits: Tensor, x: Tensor) -> Tensor:
        dark = x.flatten(1).mean(dim=1, keepdim=True) < 0.3
        return torch.where(dark.any() if spread else dark, value, logits)

    left = survivors(Said(failing), attack, norm)
    assert not left[1]
    assert left[3]
    if finds(attack):
        assert left.tolist() == [False, False, False, True]


@every_attack
@every_norm
def test_a_network_that_always_fails_is_broken_without_an_attack(attack: Attack, norm: Norm) -> None:
    assert not survivors(Said(lambda logits, _: logits * math.nan), attack, norm).any()


@every_attack
@every_norm
def test_probabilities_are_attacked_as_if_they_were_logits(attack: Attack, norm: Norm) -> None:
    left = survivors(Said(lambda logits, _: logits.softmax(dim=1)), attack, norm)
    assert left[~NEAR].all()
    if finds(attack):
        assert torch.equal(left, ~NEAR)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "constant": lambda logits, x: torch.tensor([1.0, 0.0]).repeat(len(x), 1),
    "no gradient": lambda logits, x: logits.detach(),
    "huge": lambda logits, x: logits * 1e35,
    "tiny": lambda logits, x: logits * 1e-35,
    "half precision": lambda logits, x: logits.half(),
    "bfloat16": lambda logits, x: logits.bfloat16(),
    "double precision": lambda logits, x: logits.double(),
    "kink": lambda logits, x: (
        logits * x.flatten(1).norm(dim=1, keepdim=True).sub(x.flatten(1).norm(dim=1)[:, None]).sqrt() + logits
    ),
    "minus infinity elsewhere": lambda logits, x: logits.clamp_min(-1e38),
}


@every_attack
@every_norm
@pytest.mark.parametrize("kind", SHAPES)
def test_odd_but_finite_answers_leave_what_cannot_be_broken(attack: Attack, norm: Norm, kind: str) -> None:
    model = Said(SHAPES[kind])
    with torch.no_grad():
        right = model(IMAGES).argmax(dim=1) == LABELS
    left = survivors(model, attack, norm)
    assert left[~NEAR & right].all()
    assert not left[~right].any()


@every_attack
@every_norm
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (2, 3, 7), (5, 8, 8)])
def test_images_of_any_shape_are_attacked_or_refused_in_words(
    attack: Attack, norm: Norm, shape: tuple[int, int, int]
) -> None:
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    labels = (images.flatten(1).mean(dim=1) > 0.5).long()
    if attack.method == "square" and norm == "l2" and (shape[1] != shape[2] or shape[1] < 5):
        with pytest.raises(AttackError, match="Square under l2 needs square images of at least 5x5 pixels"):
            survivors(Grey(), attack, norm, images, labels)
    else:
        survivors(Grey(), attack, norm, images, labels)


@every_attack
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 1.0), ("l2", 1.5), ("l2", 60.0), ("linf", 1e-9), ("l2", 1e-9)])
def test_radii_at_and_beyond_the_size_of_the_box(attack: Attack, norm: Norm, epsilon: float) -> None:
    threat = Threat(norm, epsilon)
    made = run(attack, Grey(), IMAGES, LABELS, threat, 0)
    assert ((made >= 0) & (made <= 1)).all()
    assert (threat.distance(made, IMAGES) <= epsilon).all()
    survival = worst_case(Grey(), IMAGES, LABELS, threat, [attack], seed=0)
    assert sum(survival.invalid) == 0
    if epsilon < 1e-8:
        assert survival.survivors.all()


REFUSED_THREATS: list[tuple[Any, Any, str]] = [
    ("linf", 0.0, "`0 < epsilon` must hold, but got epsilon=0.0"),
    ("l2", 0.0, "`0 < epsilon` must hold, but got epsilon=0.0"),
    ("linf", -0.1, "`0 < epsilon` must hold, but got epsilon=-0.1"),
    ("linf", math.nan, "`0 < epsilon` must hold, but got epsilon=nan"),
    ("l2", math.inf, "`0 < epsilon` must hold, but got epsilon=inf"),
    ("linf", 8.0, "`epsilon <= 1` must hold under linf, but got epsilon=8.0: images are in [0, 1], so write 8/255"),
    ("linf", 1.0000001, "`epsilon <= 1` must hold under linf"),
    ("l1", 0.1, "norm must be one of linf, l2, but got 'l1'"),
    ("Linf", 0.1, "norm must be one of linf, l2, but got 'Linf'"),
    (None, 0.1, "norm must be one of linf, l2, but got None"),
    ("linf", "0.1", "epsilon must be a number, but got '0.1'"),
    ("l2", None, "epsilon must be a number, but got None"),
    ("linf", True, "epsilon must be a number, but got True"),
]


@pytest.mark.parametrize(("norm", "epsilon", "message"), REFUSED_THREATS)
def test_a_threat_that_makes_no_sense_is_refused(norm: Any, epsilon: Any, message: str) -> None:
    with pytest.raises(AttackError, match=re.escape(message)):
        Threat(norm, epsilon)


ATTACK = next(iter(ATTACKS.values()))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "images beyond the box": ({"images": IMAGES + 0.2}, "images must be in [0, 1], but got values from 0.3"),
    "images of pixels": ({"images": IMAGES * 255}, "normalisation belongs into the network"),
    "images with NaN": ({"images": IMAGES * math.nan}, "images must be in [0, 1], but got values from nan to nan"),
    "images in double precision": ({"images": IMAGES.double()}, "but got (4, 1, 6, 6) torch.float64"),
    "images as bytes": ({"images": (IMAGES * 255).byte()}, "but got (4, 1, 6, 6) torch.uint8"),
    "images without channels": ({"images": IMAGES[:, 0]}, "images must be (n c h w) float32, but got (4, 6, 6)"),
    "images as numpy": ({"images": IMAGES.numpy()}, "images must be (n c h w) float32, but got a ndarray"),
    "no pixels": ({"images": IMAGES[:, :, :0]}, "images must hold at least one pixel, but got (4, 1, 0, 6)"),
    "labels of another length": (
        {"labels": LABELS[:3]},
        "labels must be (4,) int64 as there are 4 images, but got (3,)",
    ),
    "labels as a column": (
        {"labels": LABELS[:, None]},
        "labels must be (4,) int64 as there are 4 images, but got (4, 1)",
    ),
    "labels of 32 bits": ({"labels": LABELS.int()}, "but got (4,) torch.int32"),
    "labels as probabilities": ({"labels": torch.eye(2)[LABELS]}, "but got (4, 2) torch.float32"),
    "labels as a list": ({"labels": [0, 0, 1, 1]}, "labels must be (4,) int64 as there are 4 images, but got a list"),
    "no batch": ({"batch_size": 0}, "`batch_size >= 1` must hold, but got batch_size=0"),
}
ONLY_CASCADE: dict[str, tuple[dict[str, Any], str]] = {
    "a pool of other images": (
        {"pool": {"teacher": IMAGES[:2]}},
        "teacher must hold (4, 1, 6, 6) torch.float32 as the",
    ),
    "a pool of other sizes": ({"pool": {"t": torch.rand(4, 3, 32, 32)}}, "but got (4, 3, 32, 32) torch.float32"),
    "a pool in double precision": ({"pool": {"t": IMAGES.double()}}, "but got (4, 1, 6, 6) torch.float64"),
    "a pool that is a list": ({"pool": {"t": [1, 2]}}, "but got a list"),
    "a pool with an attack's name": ({"pool": {ATTACK.name: IMAGES}}, "columns must have different names"),
    "carried of other images": ({"carried": NEAR[:2]}, "carried must be (4,) bool, but got (2,)"),
    "carried as numbers": ({"carried": LABELS}, "carried must be (4,) bool, but got (4,) torch.int64"),
    "what broke other images": (
        {"carried": NEAR, "carried_images": IMAGES[:1]},
        "carried_images must hold (4, 1, 6, 6)",
    ),
    "an attack twice": (
        {"attacks": [ATTACK, ATTACK]},
        "columns must have different names, but got carried, fgsm, fgsm",
    ),
    "a source for no attack": ({"sources": {"pgd": Grey()}}, "sources names pgd, but the attacks are fgsm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_make_no_sense_are_refused_by_run(name: str) -> None:
    change, message = REFUSED[name]
    arguments: dict[str, Any] = {"images": IMAGES, "labels": LABELS, "threat": THREATS["linf"], "seed": 0}
    with pytest.raises(AttackError, match=re.escape(message)):
        run(ATTACK, Grey(), **arguments | change)


@pytest.mark.parametrize("name", [*REFUSED, *ONLY_CASCADE])
def test_arguments_that_make_no_sense_are_refused_by_the_cascade(name: str) -> None:
    change, message = (REFUSED | ONLY_CASCADE)[name]
    arguments: dict[str, Any] = {"images": IMAGES, "labels": LABELS, "threat": THREATS["linf"], "attacks": [ATTACK]}
    with pytest.raises(AttackError, match=re.escape(message)):
        worst_case(Grey(), **arguments | {"seed": 0} | change)


@every_norm
def test_a_pool_of_another_data_set_of_the_same_shape_breaks_nothing_and_is_counted(norm: Norm) -> None:
    foreign = torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(1))
    survival = worst_case(Grey(), IMAGES, LABELS, THREATS[norm], [], seed=0, pool={"foreign": foreign})
    assert survival.survivors.all()
    assert survival.invalid == (0, 4)


@every_norm
def test_nothing_to_try_leaves_the_clean_answer(norm: Norm) -> None:
    survival = worst_case(Grey(), IMAGES, torch.tensor([0, 1, 1, 1]), THREATS[norm], [], seed=0)
    assert survival.columns == ("carried",)
    assert survival.survivors.tolist() == [True, False, True, True]
