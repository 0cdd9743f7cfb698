"""Gradients from elsewhere: the same answers, and a gradient that a closed form confirms."""

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.gradient import distance_from
from nodekd.attacks.sources import Expectation, Features, Rescaled, StraightThrough, with_unit_margin
from nodekd.attacks.spec import APGD_CE, PGD_10_CE, PGD_10_MARGIN, Attack, run
from nodekd.attacks.threat import Threat

IMAGES = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
THREAT = Threat("linf", 0.1)


class Linear(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1) @ self.weight


class Rounded(Linear):
    """Sees its images in 20 steps: no gradient at all."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 20).round() / 20)


LABELS = Linear()(IMAGES).argmax(dim=1)


def survivors_of_linear() -> Tensor:
    """Closed form: z_y - z_j keeps its sign unless epsilon times the l1 norm of w_y - w_j can turn it."""
    weight, logits = Linear().weight, Linear()(IMAGES)
    room = (
        torch.minimum(IMAGES.flatten(1), torch.full((1,), 0.1)),
        torch.minimum(1 - IMAGES.flatten(1), torch.full((1,), 0.1)),
    )
    alive = torch.ones(len(IMAGES), dtype=torch.bool)
    for rival in range(3):
        apart = weight[:, LABELS].T - weight[:, rival]
        loss = torch.where(apart > 0, apart * room[0], -apart * room[1]).sum(dim=1)
        lead = logits.gather(1, LABELS[:, None]).squeeze(1) - logits[:, rival]
        alive &= (lead > loss) | (rival == LABELS)
    return alive


def test_unit_margin_scales_the_median_lead_to_one_and_keeps_every_prediction() -> None:
    for scale in (1.0, 1000.0):
        network = Linear(scale)
        scaled = with_unit_margin(network, network(IMAGES), LABELS)
        top = scaled(IMAGES).topk(2, dim=1).values
        assert (top[:, 0] - top[:, 1]).median().item() == pytest.approx(1.0, rel=1e-5)
        assert torch.equal(scaled(IMAGES).argmax(dim=1), LABELS)
    assert with_unit_margin(Linear(), Linear()(IMAGES), (LABELS + 1) % 3).factor == 1.0
    with pytest.raises(ValueError, match="factor > 0"):
        Rescaled(Linear(), 0.0)


def test_rescaling_gives_a_saturated_network_its_gradient_back() -> None:
    sharp = Linear(1e4)
    source = with_unit_margin(sharp, sharp(IMAGES), LABELS)
    own = worst_case(sharp, IMAGES, LABELS, THREAT, [PGD_10_CE], seed=0).survivors
    through = worst_case(sharp, IMAGES, LABELS, THREAT, [PGD_10_CE], seed=0, source=source).survivors
    assert torch.equal(through, survivors_of_linear())
    assert int(own.sum()) > int(through.sum()) + 2


@pytest.mark.parametrize("attack", [PGD_10_MARGIN, APGD_CE], ids=lambda attack: attack.name)
def test_straight_through_answers_as_deployed_and_breaks_what_has_no_gradient(attack: Attack) -> None:
    deployed, source = Rounded(), StraightThrough(Rounded(), Linear())
    torch.testing.assert_close(source(IMAGES), deployed(IMAGES), atol=1e-5, rtol=0)
    seen = IMAGES.clone().requires_grad_()
    source(seen)[:, 0].sum().backward()
    assert seen.grad is not None
    torch.testing.assert_close(seen.grad.flatten(1), Linear().weight[:, 0].expand(len(IMAGES), -1))
    labels = deployed(IMAGES).argmax(dim=1)
    blind = worst_case(deployed, IMAGES, labels, THREAT, [attack], seed=0).survivors
    through = worst_case(deployed, IMAGES, labels, THREAT, [attack], seed=0, source=source).survivors
    assert not (through & ~blind).any()
    assert int(blind.sum()) > int(through.sum())


class Noisy(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return Linear()(images + 0.3 * torch.randn(images.shape))


def test_the_expectation_is_the_log_of_the_mean_probability() -> None:
    class Alternating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return Linear()(images) * self.calls

    expected = (Linear()(IMAGES).softmax(1) + (2 * Linear()(IMAGES)).softmax(1)) / 2
    torch.testing.assert_close(Expectation(Alternating(), 2)(IMAGES).exp(), expected)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one, many = (torch.stack([Expectation(Noisy(), k)(IMAGES) for _ in range(8)]) for k in (1, 50))
    assert many.exp().std(dim=0).mean() < one.exp().std(dim=0).mean() / 4
    with pytest.raises(ValueError, match="draws >= 1"):
        Expectation(Noisy(), 0)


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2)])
def test_feature_distance_drives_the_features_to_the_corner_that_is_farthest(norm: str, order: int) -> None:
    class Part(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 2 * images

    inside = 0.3 + 0.4 * IMAGES
    attack = Attack("latent", "feature-distance", loss=norm, steps=20, step_size=0.25)
    never = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(never[1].weight)
    with torch.no_grad():
        never[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    labels = torch.zeros(len(inside), dtype=torch.int64)
    made = run(attack, Features(Part()), inside, labels, THREAT, 0, judge=never)
    torch.testing.assert_close((made - inside).abs(), torch.full_like(inside, 0.1), atol=1e-6, rtol=0)
    moved = distance_from(Part()(inside).flatten(1), norm)(Part()(made).flatten(1), labels, labels)  # type: ignore[arg-type]
    torch.testing.assert_close(moved, torch.full((12,), 0.2 * 16 ** (1 / order)))
