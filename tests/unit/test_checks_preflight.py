"""P1 to P7 and G1 to G4 on networks whose answers are known."""

import math

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.gradient import cross_entropy
from nodekd.attacks.threat import Threat
from nodekd.checks.gradients import agreement, differences, gradient_of, roughness, zero_gradients
from nodekd.checks.preflight import preflight
from nodekd.checks.protocol import subject_of
from study.checks.rules import RULES

THREAT = Threat("linf", 1 / 16)
IMAGES = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(), nn.Flatten(), nn.Linear(216, 5)]
        return nn.Sequential(*layers).eval()


HEALTHY = network()
with torch.no_grad():
    LABELS = HEALTHY(IMAGES).argmax(dim=1)


class Around(nn.Module):
    """The healthy network with something done to what goes in or comes out."""

    def __init__(self, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.network, self.before, self.after = network(), before, after

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.network(self.before(images)))


def noise(x: Tensor) -> Tensor:
    return x + 0.05 * torch.randn(x.shape)


def own_batch(x: Tensor) -> Tensor:
    return x - 0.5 * x.mean(dim=0, keepdim=True)


def quantised(x: Tensor) -> Tensor:
    return (x * 16).round() / 16


class Optimises(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            seen = images.detach().requires_grad_()
            (step,) = torch.autograd.grad(HEALTHY(seen).sum(), seen)
            HEALTHY(seen).sum().backward()
        return HEALTHY(images + 0.01 * step)


def test_a_healthy_network_passes_the_preflight() -> None:
    found = preflight(HEALTHY, IMAGES)
    assert (found.training_modules, found.optimisations, found.classes, found.n) == (0, 0, 5, 40)
    assert found.repeat == 0
    assert found.batch < 1e-5
    assert found.batch_flips == 0
    assert not found.is_softmax
    assert not found.is_saturated


def test_each_defect_shows_in_its_own_number() -> None:
    training = network()
    training[1].train()
    assert preflight(training, IMAGES).training_modules == 1
    assert training[1].training
    assert preflight(Around(before=noise), IMAGES).repeat > 1e-3
    coupled = preflight(Around(before=own_batch), IMAGES)
    assert coupled.batch > 0.05
    assert coupled.batch_flips > 0
    assert coupled.repeat == 0
    assert preflight(Around(after=lambda z: z.softmax(dim=1)), IMAGES).is_softmax
    assert preflight(Around(after=lambda z: 1e4 * z), IMAGES).is_saturated
    assert preflight(Optimises(), IMAGES).optimisations == 2
    grad = torch.autograd.grad
    assert torch.autograd.grad is grad
    with pytest.raises(ValueError, match="at least one image"):
        preflight(HEALTHY, IMAGES[:0])
    assert preflight(HEALTHY, IMAGES[:1]).batch < 1e-5


def test_digits_that_an_offset_takes_show_as_lost_precision() -> None:
    with torch.no_grad():
        logits = HEALTHY(IMAGES)
    assert preflight(HEALTHY, IMAGES).precision == pytest.approx(float(logits.std() / logits.mean().abs()), rel=1e-4)
    for offset in (1e3, 1e5):
        found = preflight(Around(after=lambda z, offset=offset: z + offset), IMAGES).precision
        assert found == pytest.approx(float(logits.std()) / offset, rel=0.05)
        assert RULES["P5-precision"].limit(found) == ("warn" if float(logits.std()) / offset < 1e-5 else "pass")
    assert RULES["P5-precision"].limit(preflight(Around(after=lambda z: z + 1e6), IMAGES).precision) == "warn"
    assert RULES["P5-precision"].limit(preflight(Around(after=lambda z: z - z), IMAGES).precision) == "pass"


@pytest.mark.parametrize("of", [lambda z: (0 * z, z), lambda z: (-z / 2, z / 2)], ids=["one logit", "antisymmetric"])
def test_noise_shows_in_two_classes_too(of) -> None:
    """Rows of such logits have two directions only, whatever their size."""

    class Two(nn.Module):
        deviation = 0.0

        def forward(self, images: Tensor) -> Tensor:
            z = images.flatten(1).sum(dim=1)
            return torch.stack(of(z + self.deviation * torch.randn(len(z))), dim=1)

    network = Two().eval()
    assert preflight(network, IMAGES).repeat == 0
    network.deviation = 1e-2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = preflight(network, IMAGES)
    assert RULES["P3"].limit(found.repeat) == "warn"
    assert subject_of(network, network, found).draws > 1


def test_a_network_that_fails_on_some_images_is_looked_at_without_them() -> None:
    def failing(z: Tensor) -> Tensor:
        return torch.where(torch.arange(len(z))[:, None] % 2 == 0, z, torch.nan) if len(z) > 1 else z * torch.nan

    found = preflight(Around(after=failing), IMAGES[:4])
    assert not found.is_saturated


def test_zero_gradients_are_counted_on_images_that_are_right() -> None:
    healthy = zero_gradients(HEALTHY, IMAGES, LABELS, THREAT, 0)
    assert (healthy.margin, healthy.cross_entropy, healthy.n) == (0, 0, 40)
    wrong = LABELS.clone()
    wrong[:10] = (wrong[:10] + 1) % 5
    assert zero_gradients(HEALTHY, IMAGES, wrong, THREAT, 0).n == 30
    rounded = Around(before=quantised)
    labels = rounded(IMAGES).argmax(dim=1)
    none = zero_gradients(rounded, IMAGES, labels, THREAT, 0)
    assert none.margin == none.cross_entropy == none.n == 40
    saturated = zero_gradients(Around(after=lambda z: 1e5 * z), IMAGES, LABELS, THREAT, 0)
    assert saturated.margin == 0
    assert saturated.cross_entropy > 35
    assert zero_gradients(HEALTHY, IMAGES, (LABELS + 1) % 5, THREAT, 0).n == 0


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(-1) + 0.5 * gradient


class WrongHere(torch.autograd.Function):
    """Passes the gradient of all images but the first few, which it turns around."""

    @staticmethod
    def forward(ctx, x, wrong):
        ctx.wrong = wrong
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        turned = gradient.clone()
        turned[: ctx.wrong] *= -1
        return turned, None


def test_two_images_never_decide_on_the_gradient_but_more_do() -> None:
    def correlation(wrong: int, images: int = 40) -> float:
        liar = Around(before=lambda x: WrongHere.apply(x, wrong))
        return differences(liar, IMAGES[:images], LABELS[:images], 0).correlation

    assert correlation(2) > 0.999
    assert correlation(8) < 0.9
    assert correlation(1, images=3) > 0.999
    assert math.isnan(correlation(0, images=2)), "nobody is left"


def test_differences_confirm_an_honest_gradient_and_expose_a_wrong_one() -> None:
    honest = differences(HEALTHY, IMAGES, LABELS, 0)
    assert honest.correlation > 0.999
    assert honest.ratio == pytest.approx(1.0, abs=0.02)
    liar = Around(before=WrongBackward.apply)
    found = differences(liar, IMAGES, LABELS, 0)
    assert found.correlation < 0.9
    blind = differences(Around(before=quantised), IMAGES, LABELS, 0)
    assert math.isnan(blind.correlation)
    assert math.isnan(blind.ratio)
    assert agreement(liar, HEALTHY, IMAGES, LABELS) < 0.9
    assert agreement(HEALTHY, network(), IMAGES, LABELS) == pytest.approx(1.0, abs=1e-5)
    assert math.isnan(agreement(HEALTHY, Around(before=quantised), IMAGES, LABELS))


def test_the_gradient_is_that_of_the_margin_over_a_constant_scale() -> None:
    weight = torch.randn(36, 3, generator=torch.Generator().manual_seed(2))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False)).requires_grad_(requires_grad=False)
    linear[1].weight.copy_(weight.T)
    logits = linear(IMAGES)
    labels = logits.argmax(dim=1)
    rival = logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    expected = (weight[:, rival] - weight[:, labels]).T / logits.std(dim=1, correction=0)[:, None]
    torch.testing.assert_close(gradient_of(linear, IMAGES, labels).flatten(1), expected)


def test_roughness_is_small_where_the_loss_is_smooth() -> None:
    smooth = roughness(HEALTHY, IMAGES[:16], LABELS[:16], 0, draws=20)
    rough = roughness(Around(after=lambda z: z + 3 * torch.sin(2000 * z)), IMAGES[:16], LABELS[:16], 0, draws=20)
    assert smooth < RULES["G4"].warn < rough
    assert roughness(HEALTHY, IMAGES[:16], LABELS[:16], 0, draws=20) == smooth


def test_limits_are_crossed_in_the_right_direction() -> None:
    assert [RULES["G2"].limit(value) for value in (0.99, 0.95, 0.5, float("nan"))] == ["pass", "warn", "fail", "absent"]
    assert [RULES["A11"].limit(value) for value in (0.001, 0.005, 0.02)] == ["pass", "warn", "fail"]
    assert cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.ones(1)).item() > 0
