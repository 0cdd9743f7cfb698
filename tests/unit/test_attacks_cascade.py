"""Which bit is set when, and what does not count."""

import re

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks import cascade
from nodekd.attacks.cascade import worst_case
from nodekd.attacks.spec import APGD_CE, APGD_T, FGSM, PGD_10_CE, PGD_20, PROXY, SQUARE, Attack, run
from nodekd.attacks.threat import Threat
from nodekd.errors import AttackError

THREAT = Threat("linf", 0.1)
QUICK = (FGSM, PGD_20)
STANDARD = (*QUICK, APGD_CE, APGD_T)


class Threshold(nn.Module):
    """Class 1 exactly where the mean of the image exceeds one half."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


class Masked(nn.Module):
    """The same predictions without any gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return Threshold()(x.detach()) + 0 * x.flatten(1).sum(dim=1, keepdim=True)


def flat(*levels: float) -> Tensor:
    """One image of each grey level."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 6, 6).contiguous()


IMAGES = flat(0.2, 0.45, 0.48, 0.55, 0.9, 0.3)
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])


def column(survival: cascade.Survival, name: str) -> list[int]:
    return survival.broken[survival.columns.index(name)].nonzero().flatten().tolist()


def test_every_image_is_broken_once_and_broken_images_do_not_go_on() -> None:
    survival = worst_case(Threshold(), IMAGES, LABELS, THREAT, STANDARD, seed=0)
    assert survival.columns == ("carried", "fgsm", "pgd-20", "apgd-ce", "apgd-t")
    assert survival.clean_correct.tolist() == [True] * 5 + [False]
    assert column(survival, "fgsm") == [1, 2, 3]
    assert survival.survivors.tolist() == [True, False, False, False, True, False]
    assert survival.attempted.sum(dim=1).tolist() == [0, 5, 2, 2, 2]
    assert (survival.broken <= survival.attempted).all()
    assert survival.broken.sum(dim=0).max() == 1
    changed = (survival.images != IMAGES).flatten(1).any(dim=1)
    assert changed.tolist() == survival.broken.any(dim=0).tolist()
    assert THREAT.contains(survival.images, IMAGES).all()
    assert len(survival.seconds) == len(survival.invalid) == 5


def test_carried_images_are_not_attacked_again() -> None:
    carried = torch.tensor([False, True, False, False, False, True])
    kept = IMAGES + 0.06
    survival = worst_case(Threshold(), IMAGES, LABELS, THREAT, QUICK, seed=0, carried=carried, carried_images=kept)
    assert column(survival, "carried") == [1]
    assert column(survival, "fgsm") == [2, 3]
    assert not survival.attempted[1:, 1].any()
    assert torch.equal(survival.images[1], kept[1])
    plain = worst_case(Threshold(), IMAGES, LABELS, THREAT, QUICK, seed=0, carried=carried)
    assert torch.equal(plain.images[1], IMAGES[1])


def test_pool_comes_before_the_attacks_and_must_lie_in_the_ball() -> None:
    near, far, odd = IMAGES + 0.07, IMAGES + 0.2, IMAGES.clone()
    far = far.clamp(max=1.0)
    odd[0], odd[3], odd[4] = torch.nan, torch.inf, 1.05
    pool = {"far": far, "odd": odd, "teacher": near}
    survival = worst_case(Threshold(), IMAGES, LABELS, THREAT, QUICK, seed=0, pool=pool)
    assert survival.columns == ("carried", "far", "odd", "teacher", "fgsm", "pgd-20")
    assert column(survival, "far") == []
    assert column(survival, "odd") == []
    assert survival.invalid == (0, 4, 3, 0, 0, 0)
    assert column(survival, "teacher") == [1, 2]
    assert torch.equal(survival.images[1], near[1])
    assert column(survival, "fgsm") == [3]


@pytest.mark.parametrize("planted", ["nan", "outside the box", "outside the ball", "unchanged"])
def test_an_attack_counts_only_what_scoring_confirms(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def craft(_a: Attack, _m: nn.Module, _j: nn.Module, images: Tensor, *_: object) -> Tensor:
        return {
            "nan": images * torch.nan,
            "outside the box": images + 1.0,
            "outside the ball": 1 - images,
            "unchanged": images,
        }[planted]

    monkeypatch.setattr(cascade, "craft", craft)
    survival = worst_case(Threshold(), flat(0.2, 0.3), LABELS[:2], THREAT, [FGSM], seed=0)
    assert survival.survivors.all()
    assert survival.invalid == (0, 0 if planted == "unchanged" else 2)


def test_other_sources_break_what_the_target_hides() -> None:
    arguments = (Masked(), IMAGES, LABELS, THREAT)
    alone = worst_case(*arguments, QUICK, seed=0)
    through = worst_case(*arguments, QUICK, seed=0, source=Threshold())
    single = worst_case(*arguments, QUICK, seed=0, sources={"pgd-20": Threshold()})
    assert alone.survivors.sum() > through.survivors.sum() == 2
    assert single.survivors.sum() == 2
    assert not column(single, "fgsm")


def test_a_target_past_its_cap_is_broken_also_when_the_source_is_healthy() -> None:
    class Capped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Threshold()(x) * (torch.nan if bool((x.flatten(1).mean(dim=1) > 0.95).any()) else 1.0)

    for attack in (PGD_20, STANDARD[2], STANDARD[3], SQUARE):
        arguments = (flat(0.88, 0.8), torch.tensor([1, 1]), Threat("linf", 0.1), [attack])
        healthy = worst_case(Threshold(), *arguments, seed=0)
        assert healthy.survivors.tolist() == [True, True]
        assert worst_case(Capped(), *arguments, seed=0, source=Threshold()).survivors[1]
    noisy = worst_case(Capped(), flat(0.96, 0.8), torch.tensor([1, 1]), THREAT, STANDARD, seed=0)
    assert noisy.clean_correct.tolist() == [False, True]
    assert noisy.survivors.tolist() == [False, True]


@pytest.mark.parametrize("attacks", [STANDARD, PROXY], ids=["standard", "proxy"])
def test_one_image_none_and_only_wrong_ones(attacks: tuple[Attack, ...]) -> None:
    one = worst_case(Threshold(), IMAGES[1:2], LABELS[1:2], THREAT, attacks, seed=0)
    assert one.broken.sum() == 1
    none = worst_case(Threshold(), IMAGES[:0], LABELS[:0], THREAT, attacks, seed=0, pool={"p": IMAGES[:0]})
    assert none.broken.shape == (len(attacks) + 2, 0)
    assert none.survivors.shape == (0,)
    wrong = worst_case(Threshold(), IMAGES[:5], 1 - LABELS[:5], THREAT, attacks, seed=0)
    assert not wrong.clean_correct.any()
    assert not wrong.survivors.any()
    assert not wrong.attempted.any()
    assert torch.equal(wrong.images, IMAGES[:5])


def test_equal_seeds_give_equal_images_whatever_ran_before() -> None:
    first = run(PGD_10_CE, Threshold(), IMAGES, LABELS, THREAT, 5, batch_size=2)
    torch.rand(7)
    run(SQUARE, Threshold(), IMAGES, LABELS, THREAT, 1)
    assert torch.equal(run(PGD_10_CE, Threshold(), IMAGES, LABELS, THREAT, 5, batch_size=2), first)
    assert not torch.equal(run(PGD_10_CE, Threshold(), IMAGES, LABELS, THREAT, 6, batch_size=2), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES * 2}, "images must be in [0, 1], but got values from 0.4"),
        ({"images": IMAGES.double()}, "images must be (n c h w) float32, but got (6, 1, 6, 6) torch.float64"),
        ({"images": IMAGES[0]}, "images must be (n c h w) float32, but got (1, 6, 6)"),
        ({"labels": LABELS[:2]}, "labels must be (6,) int64 as there are 6 images, but got (2,)"),
        ({"batch_size": 0}, "`batch_size >= 1` must hold, but got batch_size=0"),
        ({"attacks": [FGSM, FGSM]}, "columns must have different names, but got carried, fgsm, fgsm"),
        ({"pool": {"teacher": IMAGES[:2]}}, "teacher must hold (6, 1, 6, 6) torch.float32"),
        ({"carried": LABELS}, "carried must be (6,) bool, but got (6,) torch.int64"),
        ({"sources": {"pgd": Threshold()}}, "sources names pgd, but the attacks are fgsm"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {"images": IMAGES, "labels": LABELS, "threat": THREAT, "attacks": [FGSM], "seed": 0} | change
    with pytest.raises(AttackError, match=re.escape(message)):
        worst_case(Threshold(), **arguments)  # pyright: ignore
