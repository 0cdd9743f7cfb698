"""The published attacks against a plain re-statement of them, their reach, and what they leave untouched."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks import gradient
from nodekd.attacks.published import fgsm, ifgsm, pgd, published_attacks, uniform_start
from nodekd.attacks.threat import Threat
from nodekd.attacks.tiers import SCREEN
from nodekd.errors import AttackError

EPSILON = 8 / 255
THREAT = Threat("linf", EPSILON)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()


def problem(n: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    # Many pixels at and near the ends of the range, where cutting to [0, 1] matters.
    images = (1.4 * torch.rand(n, 3, 4, 4, generator=generator) - 0.2).clamp(0, 1)
    labels = torch.where(torch.arange(n) % 4 == 0, 1, network()(images).argmax(dim=1))
    return images, labels


def restated(x: np.ndarray, centre: np.ndarray, labels: Tensor, steps: int, size: float) -> np.ndarray:
    """x <- clip(P(x + size sign(grad))) in numpy, with the gradient of a two-layer tanh network by hand."""
    model = network()
    w1, b1 = (model[1].weight.detach().double().numpy(), model[1].bias.detach().double().numpy())
    w2, b2 = (model[4].weight.detach().double().numpy(), model[4].bias.detach().double().numpy())
    target = np.eye(4)[labels.numpy()]
    for _ in range(steps):
        hidden = np.tanh(x.reshape(len(x), -1) @ w1.T + b1)
        scores = hidden @ w2.T + b2
        chances = np.exp(scores - scores.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        gradient_ = (((chances - target) @ w2) * (1 - hidden**2)) @ w1
        x = x + size * np.sign(gradient_).reshape(x.shape)
        x = np.clip(np.clip(x, centre - EPSILON, centre + EPSILON), 0, 1)
    return x


def test_iterated_attacks_are_their_plain_restatement() -> None:
    images, labels = problem()
    start = uniform_start(images, EPSILON, 0)
    clean, begun = images.double().numpy(), start.double().numpy()
    options = {"steps": 20, "step_size": 1 / 255}
    model = network()
    made = {
        "i-fgsm": (ifgsm(model, images, labels, THREAT, **options), restated(clean, clean, labels, 20, 1 / 255)),
        "fgsm": (fgsm(model, images, labels, THREAT), restated(clean, clean, labels, 1, EPSILON)),
        "legacy": (
            pgd(model, images, labels, THREAT, start, legacy=True, **options),
            restated(begun, begun, labels, 20, 1 / 255),
        ),
        "pgd": (
            pgd(model, images, labels, THREAT, start, **options),
            restated(np.clip(begun, 0, 1), clean, labels, 20, 1 / 255),
        ),
    }
    for name, (ours, expected) in made.items():
        # A pixel whose gradient changes sign at the last bit may end a step elsewhere.
        different = np.abs(ours.double().numpy() - expected) > 1e-6
        assert different.mean() < 0.005, name


def test_the_random_start_is_uniform_and_not_cut() -> None:
    images = torch.zeros(100, 1, 10, 10)
    change = uniform_start(images, EPSILON, 0).double()
    assert change.abs().max() <= EPSILON
    assert change.mean().abs() < 5 * EPSILON / (3 * change.numel()) ** 0.5
    assert change.std().item() == pytest.approx(EPSILON / 3**0.5, rel=0.02)
    assert torch.equal(change, uniform_start(images, EPSILON, 0).double())


def test_fgsm_is_the_one_of_the_cascade_on_images_that_are_right() -> None:
    images, labels = problem()
    model = network()
    right = model(images).argmax(dim=1) == labels
    assert 5 < right.sum() < len(labels)
    ours = fgsm(model, images, labels, THREAT)
    assert torch.equal(ours[right], gradient.fgsm(model, images, labels, THREAT).last[right])
    assert (ours[~right] != images[~right]).any()


def test_only_the_legacy_attack_leaves_the_ball_and_it_says_so() -> None:
    images, labels = problem()
    found = {row.attack: row for row in published_attacks(network(), images, labels, EPSILON, seed=0, legacy=True)}
    assert list(found) == ["fgsm", "i-fgsm", "pgd", "pgd-legacy"]
    for name in ("fgsm", "i-fgsm", "pgd"):
        assert 0.9 * EPSILON < found[name].largest_perturbation <= EPSILON * (1 + 1e-6), name
    assert 1.5 * EPSILON < found["pgd-legacy"].largest_perturbation <= 2 * EPSILON * (1 + 1e-6)
    assert [row.attack for row in published_attacks(network(), images, labels, EPSILON, seed=0)] == [
        "fgsm",
        "i-fgsm",
        "pgd",
    ]


def test_on_a_linear_network_the_reach_and_the_accuracy_have_a_closed_form() -> None:
    weights = torch.tensor([[1.0, -2.0, 0.5, -1.0]]).view(1, 1, 2, 2)
    generator = torch.Generator().manual_seed(0)
    images = 0.3 + 0.4 * torch.rand(200, 1, 2, 2, generator=generator)

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            lead = ((x - 0.5) * weights).sum(dim=(1, 2, 3))
            return torch.stack([torch.zeros_like(lead), lead], dim=1)

    lead = ((images - 0.5) * weights).sum(dim=(1, 2, 3))
    labels = (lead > 0).long()
    epsilon = 0.03
    for row in published_attacks(Linear(), images, labels, epsilon, seed=1):
        kept = (lead.abs() > epsilon * 4.5).double().mean().item()
        assert row.accuracy == pytest.approx(kept, abs=1e-9), row.attack
        assert row.n == 200


def test_accuracy_is_over_all_images_and_bits_agree() -> None:
    images, labels = problem()
    labels = labels.clone()
    labels[:10] = (network()(images[:10]).argmax(dim=1) + 1) % 4
    for row in published_attacks(network(), images, labels, 1e-4, seed=0):
        assert row.n == len(images)
        assert row.accuracy == pytest.approx(row.correct.double().mean().item())
        assert not row.correct[:10].any()
        assert set(row.record()) == {"attack", "epsilon", "accuracy", "n", "largest_perturbation"}


def test_nothing_is_left_behind_and_batches_do_not_matter() -> None:
    images, labels = problem()
    model = network().train()
    state = torch.get_rng_state()
    whole = published_attacks(model, images, labels, EPSILON, seed=0, legacy=True)
    parts = published_attacks(model, images, labels, EPSILON, seed=0, legacy=True, batch_size=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.correct, other.correct)


def test_a_failing_solve_is_wrong_and_does_not_protect_its_batch() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = network()(x)
            return logits * torch.nan if bool((x[:, 0, 0, 0] > 0.93).any()) else logits

    images, labels = problem()
    images[:, 0, 0, 0] *= 0.5
    labels = network()(images).argmax(dim=1)
    healthy = published_attacks(network(), images, labels, EPSILON, seed=0)
    images[3, 0, 0, 0] = 1.0
    failing = published_attacks(Failing(), images, labels, EPSILON, seed=0)
    others = torch.arange(len(images)) != 3
    for one, other in zip(healthy, failing, strict=True):
        assert not other.correct[3]
        assert torch.equal(one.correct[others], other.correct[others])


def test_gradients_may_come_from_another_network() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network()(x).detach() + 0 * x.sum()

    images, labels = problem()
    plain = published_attacks(network(), images, labels, EPSILON, seed=0)
    masked = published_attacks(Flat(), images, labels, EPSILON, seed=0)
    through = published_attacks(Flat(), images, labels, EPSILON, seed=0, source=network())
    assert masked[1].accuracy > plain[1].accuracy
    assert [row.accuracy for row in through] == [row.accuracy for row in plain]


def test_impossible_arguments_are_refused() -> None:
    images, labels = problem(2)
    with pytest.raises(AttackError, match="epsilon"):
        published_attacks(network(), images, labels, 8.0, seed=0)
    with pytest.raises(AttackError, match=r"images must be in \[0, 1\]"):
        published_attacks(network(), images - 1, labels, 0.1, seed=0)


def test_the_screen_is_four_cheap_attacks() -> None:
    assert [attack.name for attack in SCREEN] == ["fgsm", "pgd-10-ce", "pgd-10-margin", "sign-noise"]
