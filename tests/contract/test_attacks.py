"""What every attack promises."""

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.catalog import NORMS, Norm
from nodekd.attacks.spec import FGSM, PGD_10_CE, PGD_10_MARGIN, SIGN_NOISE, Attack, run
from nodekd.attacks.threat import Threat

FAMILY = (
    FGSM,
    Attack("fgsm-margin", "fgsm", loss="margin"),
    PGD_10_CE,
    PGD_10_MARGIN,
    Attack("pgd-clean-start", "pgd", loss="margin", steps=4, step_size=0.3, random_start=False, restarts=1),
    Attack("pgd-restarts", "pgd", loss="margin", steps=4, step_size=0.3, random_start=True, restarts=3),
    Attack("apgd-ce", "apgd", steps=6, restarts=2),
    Attack("apgd-t", "apgd-targeted", steps=6, restarts=1, targets=9),
    Attack("fab-t", "fab-targeted", steps=10, restarts=2, targets=9),
    Attack("square", "square", queries=40, restarts=2, rescaled=True),
    Attack("square-unscaled", "square", queries=40, restarts=1, rescaled=False),
    SIGN_NOISE,
    Attack("feature-l1", "feature-distance", loss="l1", steps=5, step_size=0.3),
    Attack("feature-l2", "feature-distance", loss="l2", steps=5, step_size=0.3),
)
THREATS: dict[Norm, Threat] = {"linf": Threat("linf", 0.06), "l2": Threat("l2", 0.3)}
TINY: dict[Norm, Threat] = {"linf": Threat("linf", 0.25 / 255), "l2": Threat("l2", 0.01)}


class Capped(nn.Module):
    """NaN for the whole batch as soon as one image's corner exceeds the cap, as a solve past its cap."""

    def __init__(self, network: nn.Module, cap: float) -> None:
        super().__init__()
        self.network, self.cap = network, cap

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) > 0, "no attack may call a network on an empty batch"
        logits = self.network(x)
        return logits * torch.nan if bool((x[:, 0, 0, 0] > self.cap).any()) else logits


def network(classes: int, cap: float = 2.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(144, classes)]
        return Capped(nn.Sequential(*layers), cap).eval()


def problem(model: nn.Module, n: int = 9) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, 0].clamp_(max=0.5)
    with torch.no_grad():
        return images, model(images).argmax(dim=1)


def wrong(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1) != labels


@pytest.mark.parametrize("attack", FAMILY, ids=lambda attack: attack.name)
@pytest.mark.parametrize("norm", NORMS)
class TestAttack:
    @pytest.mark.parametrize("classes", [2, 3, 5, 10])
    def test_result_fits_the_threat(self, attack: Attack, norm: Norm, classes: int) -> None:
        model = network(classes)
        images, labels = problem(model)
        for threat in (THREATS[norm], TINY[norm]):
            made = run(attack, model, images, labels, threat, 0)
            assert made.shape == images.shape
            assert made.dtype == images.dtype
            assert not made.requires_grad
            assert threat.contains(made, images).all()
            if attack.method != "fab-targeted":  # which returns an image inside the ball that breaks, or nothing
                assert not torch.equal(made, images)

    def test_something_is_broken_by_a_large_radius(self, attack: Attack, norm: Norm) -> None:
        model = network(5)
        images, labels = problem(model)
        threat = Threat("linf", 0.5) if norm == "linf" else Threat("l2", 3.0)
        assert wrong(model, run(attack, model, images, labels, threat, 0), labels).any()

    def test_same_seed_same_images_whatever_ran_before(self, attack: Attack, norm: Norm) -> None:
        model = network(5)
        images, labels = problem(model)
        first = run(attack, model, images, labels, THREATS[norm], 3, batch_size=4)
        run(FAMILY[6], model, images, labels, THREATS[norm], 9)
        torch.rand(3)
        assert torch.equal(run(attack, model, images, labels, THREATS[norm], 3, batch_size=4), first)

    def test_batch_of_one_and_of_none(self, attack: Attack, norm: Norm) -> None:
        model = network(5)
        images, labels = problem(model)
        one = run(attack, model, images[:1], labels[:1], THREATS[norm], 0)
        assert THREATS[norm].contains(one, images[:1]).all()
        assert run(attack, model, images[:0], labels[:0], THREATS[norm], 0).shape == (0, 1, 6, 6)

    def test_images_that_are_wrong_already_are_left_alone(self, attack: Attack, norm: Norm) -> None:
        model = network(5)
        images, labels = problem(model)
        labels[::2] = (labels[::2] + 1) % 5
        made = run(attack, model, images, labels, THREATS[norm], 0)
        assert torch.equal(made[::2], images[::2])
        all_wrong = (model(images).argmax(dim=1) + 1) % 5
        assert torch.equal(run(attack, model, images, all_wrong, THREATS[norm], 0), images)

    def test_a_solve_past_its_cap_stops_no_attack(self, attack: Attack, norm: Norm) -> None:
        model = network(5, cap=0.52)
        images, labels = problem(network(5))
        made = run(attack, model, images, labels, THREATS[norm], 0)
        assert THREATS[norm].contains(made, images).all()
        always = network(5, cap=-1.0)
        assert run(attack, always, images, labels, THREATS[norm], 0).equal(images)
        through = run(attack, always, images, labels, THREATS[norm], 0, judge=network(5))
        assert THREATS[norm].contains(through, images).all()

    def test_an_image_that_fails_does_not_hide_the_others_of_its_batch(self, attack: Attack, norm: Norm) -> None:
        """A source that is undone by one image is followed for the rest, as far as it can be."""
        judge, source = network(5), network(5, cap=0.52)
        images, labels = problem(judge)
        images[0, 0, 0, 0] = 0.6
        with torch.no_grad():
            labels[0] = judge(images[:1]).argmax()
        threat = Threat("linf", 0.3) if norm == "linf" else Threat("l2", 2.0)
        together = run(attack, source, images, labels, threat, 0, judge=judge)
        assert threat.contains(together, images).all()
        if attack.method not in ("square", "sign-noise"):  # which ask the judge alone
            assert wrong(judge, together[1:], labels[1:]).any()

    def test_the_judge_is_what_gets_broken(self, attack: Attack, norm: Norm) -> None:
        judge, model = network(5), network(5)
        with torch.no_grad():
            model.network[0].weight += 0.02
        images, labels = problem(judge)
        threat = Threat("linf", 0.5) if norm == "linf" else Threat("l2", 3.0)
        assert wrong(judge, run(attack, model, images, labels, threat, 0, judge=judge), labels).any()
