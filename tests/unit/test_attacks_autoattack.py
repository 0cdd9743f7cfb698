"""What stands between pyautoattack's classes and a network whose solves may fail."""

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.autoattack import _Found, apgd, apgd_targeted, square
from nodekd.attacks.catalog import NORMS, Norm
from nodekd.attacks.gradient import misclassified
from nodekd.attacks.threat import Threat

IMAGES, LABELS = torch.full((6, 1, 6, 6), 0.5), torch.zeros(6, dtype=torch.int64)
THREATS: dict[Norm, Threat] = {"linf": Threat("linf", 0.1), "l2": Threat("l2", 0.6)}


class Steady(nn.Module):
    """Always class 0, with a gradient towards dark images."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(dim=1)
        return torch.stack([5 + mean, -mean, mean * 0, mean * 0], dim=1)


class Cliff(nn.Module):
    """Like `Steady`, but the gradient of one pixel is not finite."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        return Steady()(x) + (pixel - pixel.detach()).abs().sqrt()[:, None]


class FailsWhenBright(nn.Module):
    """Like `Steady`, but an image with a bright corner takes its whole batch with it."""

    def forward(self, x: Tensor) -> Tensor:
        return Steady()(x) * (torch.nan if bool((x[:, 0, 0, 0] > 0.55).any()) else 1.0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_that_is_not_finite_counts_as_zero(norm: Norm) -> None:
    threat = THREATS[norm]
    for made in (
        apgd(Cliff(), IMAGES, LABELS, threat, steps=5, restarts=1, seed=0),
        apgd_targeted(Cliff(), IMAGES, LABELS, threat, steps=5, restarts=1, targets=1, seed=0),
    ):
        assert threat.contains(made, IMAGES).all()
        assert ((made - 0.5).abs()[:, 0, 1:] > 0.05).float().mean() > 0.9


@pytest.mark.parametrize("norm", NORMS)
def test_square_finds_images_whose_solve_fails(norm: Norm) -> None:
    made = square(FailsWhenBright(), IMAGES, LABELS, THREATS[norm], queries=20, restarts=1, seed=0)
    assert torch.equal(misclassified(FailsWhenBright(), made, LABELS), made[:, 0, 0, 0] > 0.55)
    assert (made[:, 0, 0, 0] > 0.55).any()


def test_apgd_keeps_images_whose_solve_fails() -> None:
    made = apgd(FailsWhenBright(), IMAGES, LABELS, THREATS["linf"], steps=3, restarts=4, seed=0)
    assert (made[:, 0, 0, 0] > 0.55).sum() >= 3


def test_the_judge_sees_every_candidate_until_one_breaks_it() -> None:
    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(dim=1)
            return torch.stack([0.55 - mean, mean - 0.55], dim=1)

    found = _Found(Bright(), IMAGES[:3], LABELS[:3], THREATS["linf"])
    shift = torch.tensor([0.08, 0.02, 0.02]).view(3, 1, 1, 1)
    found.take_(IMAGES[:3] + shift, IMAGES[:3] + shift.flip(0))
    torch.testing.assert_close(found.images[:, 0, 0, 0], torch.tensor([0.58, 0.52, 0.58]))
    assert found.rows.tolist() == [1]
    found.take_(IMAGES[:1] + 0.5)
    torch.testing.assert_close(found.images[:, 0, 0, 0], torch.tensor([0.58, 0.60, 0.58]))
    assert found.rows.tolist() == []


@pytest.mark.parametrize("best_breaks", [True, False])
def test_through_another_source_the_image_of_largest_loss_is_tried_too(
    best_breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(dim=1)
            return torch.stack([0.55 - mean, mean - 0.55], dim=1)

    def single_run(_self: object, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        wrong = torch.zeros_like(y, dtype=torch.bool)
        return x + (0.08 if best_breaks else 0.01), wrong, y.float(), x + 0.02

    monkeypatch.setattr("pyautoattack.autopgd_base.APGDAttack.attack_single_run", single_run)
    made = apgd(Steady(), IMAGES, LABELS, THREATS["linf"], steps=1, restarts=1, seed=0, judge=Bright())
    assert misclassified(Bright(), made, LABELS).all() == best_breaks
