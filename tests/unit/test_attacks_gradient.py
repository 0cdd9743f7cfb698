"""The gradient attacks' losses, best iterates, and what they do when a solve fails."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.gradient import Loss, cross_entropy, logit_scale, margin, pgd
from nodekd.attacks.isolation import ascent_gradient, isolated_logits
from nodekd.attacks.spec import PGD_10_CE, PGD_10_MARGIN, Attack, run
from nodekd.attacks.threat import Threat
from nodekd.ode.adaptive import EvaluationCapError

THREAT = Threat("linf", 0.05)


class Failing(nn.Module):
    """Gives NaN logits for the whole batch as soon as one image's first pixel exceeds the cap."""

    def __init__(self, network: nn.Module, cap: float) -> None:
        super().__init__()
        self.network, self.cap, self.calls = network, cap, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits = self.network(x)
        return logits * torch.nan if bool((x[:, 0, 0, 0] > self.cap).any()) else logits


class Scaled(nn.Module):
    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) * self.factor


def network(classes: int = 4) -> nn.Sequential:
    """A small smooth network whose classes are about equally frequent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, classes, bias=False))
    layers.requires_grad_(False)
    layers[1].weight *= 4
    layers[1].bias[:] = -layers[1].weight.sum(dim=1) / 2
    return layers


def problem(model: nn.Module, n: int = 24) -> tuple[Tensor, Tensor]:
    images = 0.2 + 0.6 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return images, model(images).argmax(dim=1)


def attack(model: nn.Module, images: Tensor, labels: Tensor, loss: Loss = margin, **options: object):
    return pgd(model, images, labels, THREAT, loss=loss, steps=6, step_size=0.015, **options)  # pyright: ignore


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_margin_is_the_lead_of_the_best_wrong_class_in_standard_deviations(classes: int) -> None:
    generator = np.random.default_rng(classes)
    logits, labels = generator.normal(size=(7, classes)), generator.integers(0, classes, 7)
    expected = []
    for row, label in zip(logits, labels, strict=True):
        wrong = max(value for index, value in enumerate(row) if index != label)
        expected.append((wrong - row[label]) / np.sqrt(np.mean((row - row.mean()) ** 2)))
    z, y = torch.tensor(logits), torch.tensor(labels)
    np.testing.assert_allclose(margin(z, y, logit_scale(z)), expected, rtol=1e-12)
    np.testing.assert_allclose(margin(1000 * z, y, logit_scale(1000 * z)), expected, rtol=1e-12)


def test_logit_scale_never_divides_by_zero() -> None:
    assert logit_scale(torch.tensor([[2.0, 2.0], [torch.nan, 1.0], [1.0, 3.0]])).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_margin_attack_does_not_feel_the_scale_of_the_logits(norm: str) -> None:
    plain = network()
    images, labels = problem(plain)
    threat = Threat("linf", 0.05) if norm == "linf" else Threat("l2", 0.15)
    made = {k: run(PGD_10_MARGIN, Scaled(plain, k), images, labels, threat, 0) for k in (1.0, 1024.0, 1000.0)}
    assert torch.equal(made[1.0], made[1024.0])
    torch.testing.assert_close(made[1.0], made[1000.0], rtol=0, atol=1e-5)


def test_cross_entropy_attack_does_feel_it() -> None:
    plain = network()
    images, labels = problem(plain)
    broken = [
        (plain(run(PGD_10_CE, Scaled(plain, k), images, labels, THREAT, 0)).argmax(1) != labels).sum().item()
        for k in (1.0, 1e4)
    ]
    assert broken[1] < broken[0] / 2


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_trace_tells_the_first_success_and_keeps_its_image(loss: Loss) -> None:
    model = network()
    images, labels = problem(model)
    trace = attack(model, images, labels, loss, keep_going=True)
    wrong = model(trace.images).argmax(dim=1) != labels
    assert torch.equal(wrong, trace.broken_at >= 0)
    assert 2 < wrong.sum() < len(labels) - 2
    scale = logit_scale(model(images))
    kept = loss(model(trace.images), labels, scale)
    step = torch.where(wrong, trace.broken_at, trace.loss.argmax(dim=0))
    torch.testing.assert_close(kept, trace.loss[step, torch.arange(len(step))])
    if loss is margin:
        assert torch.equal((trace.loss > 0).any(dim=0), wrong)
        first = (trace.loss > 0).to(torch.int64).argmax(dim=0)
        assert torch.equal(first[wrong], trace.broken_at[wrong])


def test_broken_images_that_leave_change_no_other() -> None:
    model = network()
    images, labels = problem(model)
    left, stayed = attack(model, images, labels), attack(model, images, labels, keep_going=True)
    assert torch.equal(left.broken_at, stayed.broken_at)
    torch.testing.assert_close(left.images, stayed.images, rtol=0, atol=1e-6)
    after = torch.arange(7)[:, None] > torch.where(left.broken_at < 0, 7, left.broken_at)
    assert torch.equal(left.loss.isnan(), after)
    torch.testing.assert_close(left.loss[~after], stayed.loss[~after])


def test_an_image_broken_at_the_start_is_step_zero() -> None:
    model = network()
    images, labels = problem(model)
    trace = attack(model, images, (labels + 1) % 4)
    assert (trace.broken_at == 0).all()
    assert torch.equal(trace.images, images)


def test_two_classes_have_a_loss_that_tells_better_from_worse() -> None:
    model = network(2)
    images, labels = problem(model)
    trace = attack(model, images, labels, keep_going=True)
    assert (trace.loss.std(dim=0) > 1e-3).all()


def test_the_judge_decides_what_is_broken() -> None:
    source, judge = network(4), network(4)
    with torch.no_grad():
        judge[3].weight += 0.1 * torch.randn(4, 24, generator=torch.Generator().manual_seed(2))
    images, _ = problem(source)
    labels = judge(images).argmax(dim=1)
    trace = attack(source, images, labels, judge=judge)
    assert torch.equal(judge(trace.images).argmax(dim=1) != labels, trace.broken_at >= 0)
    assert (trace.broken_at != 0).all()
    assert (trace.broken_at > 0).any()


def test_one_failing_image_does_not_protect_its_batch() -> None:
    plain = network()
    images, labels = problem(plain)
    images[5, 0, 0, 0] = 0.9
    labels = plain(images).argmax(dim=1)
    model = Failing(plain, 0.88)
    assert model(images).isnan().all()
    rows = isolated_logits(model, images).isnan().all(dim=1)
    assert rows.nonzero().flatten().tolist() == [5]
    trace, healthy = attack(model, images, labels), attack(plain, images, labels)
    others = torch.arange(len(images)) != 5
    assert trace.broken_at[5] == 0
    assert torch.equal(trace.broken_at[others], healthy.broken_at[others])
    torch.testing.assert_close(trace.images[others], healthy.images[others], rtol=0, atol=1e-6)


def test_isolation_costs_one_pass_where_nothing_fails_and_few_where_one_does() -> None:
    plain = network()
    images, _ = problem(plain, 64)
    healthy, failing = Failing(plain, 2.0), Failing(plain, 0.9)
    isolated_logits(healthy, images)
    images[17, 0, 0, 0] = 1.0
    isolated_logits(failing, images)
    assert healthy.calls == 1
    assert failing.calls == 1 + 2 * 6


class FailingRows(nn.Module):
    """Answers nothing for images that are too bright, whatever their company, and counts its passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        bright = images.flatten(1).amax(dim=1, keepdim=True) > 0.95
        return torch.where(bright, torch.nan, self.inner(images))


def test_rows_that_fail_by_themselves_are_not_asked_again_and_have_no_gradient() -> None:
    plain = network()
    images, _ = problem(plain, 64)
    images = images.clamp(0, 0.9)
    images[[3, 40], 0, 0, 0] = 1.0
    model = FailingRows(plain)
    seen = images.requires_grad_()
    logits = isolated_logits(model, seen)
    assert model.calls == 1
    assert logits.isnan().all(dim=1).nonzero().flatten().tolist() == [3, 40]
    gradient = ascent_gradient(logits.nan_to_num().sum(dim=1), seen)
    others = torch.tensor([row not in (3, 40) for row in range(64)])
    torch.testing.assert_close(gradient[others], ascent_gradient(plain(seen).sum(dim=1), seen)[others])
    assert not gradient[~others].any()


def test_an_adjoint_that_fails_on_its_way_back_gives_no_gradient() -> None:
    class Capped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, values: Tensor) -> Tensor:
            return values.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            raise EvaluationCapError("too many evaluations")

    images = torch.rand(3, 1, 2, 2, requires_grad=True)
    values = Capped.apply(images.flatten(1).sum(dim=1))
    assert isinstance(values, Tensor)
    assert not ascent_gradient(values, images).any()


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_a_network_that_always_fails_breaks_every_image_at_once(loss: Loss) -> None:
    model = Failing(network(), -1.0)
    images, labels = problem(model.network)
    trace = attack(model, images, labels, loss)
    assert (trace.broken_at == 0).all()
    assert torch.equal(trace.images, images)
    assert trace.loss.isnan().all()


def test_where_the_judge_disagrees_a_failing_source_is_never_the_best_iterate() -> None:
    judge = network()
    images, labels = problem(judge)
    model = Failing(judge, images[:, 0, 0, 0].median().item())
    trace = attack(model, images, labels, judge=judge, keep_going=True)
    failed = trace.loss[0].isnan()
    assert failed.any()
    assert torch.equal(trace.images[failed], images[failed])
    assert (trace.broken_at[failed] == -1).all()
    assert (trace.broken_at[~failed] > 0).any()


@pytest.mark.parametrize("threat", [Threat("linf", 0.1), Threat("l2", 0.1)], ids=["linf", "l2"])
def test_a_gradient_that_is_not_finite_counts_as_zero(threat: Threat) -> None:
    class Cliff(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(dim=1)
            return torch.stack([1 + total * 0 + (total - total.detach()).abs().sqrt(), total * 0], dim=1)

    images, labels = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    trace = pgd(Cliff(), images, labels, threat, loss=cross_entropy, steps=3, step_size=0.05)
    assert torch.equal(trace.images, images)
    assert torch.isfinite(trace.loss).all()
    assert (trace.broken_at == -1).all()


def test_an_infinite_loss_is_never_the_best_one() -> None:
    class Explosive(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            lead = x.flatten(1).mean(dim=1) - 0.5
            lead = lead + 3e38 * (lead.detach() > 0.01)
            return torch.stack([-lead, lead], dim=1)

    class Steady(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    images, labels = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    trace = pgd(Explosive(), images, labels, THREAT, loss=margin, steps=2, step_size=0.05, judge=Steady())
    assert torch.isfinite(Explosive()(images + 0.05)).all()
    assert trace.loss[1].isnan().all()
    assert torch.equal(trace.images, images)


def test_restarts_go_on_with_what_is_not_broken_and_lose_nothing() -> None:
    model = network()
    images, labels = problem(model, 64)
    once, often = (
        run(
            Attack("pgd", "pgd", loss="margin", steps=1, step_size=0.1, random_start=True, restarts=restarts),
            model,
            images,
            labels,
            THREAT,
            0,
        )
        for restarts in (1, 8)
    )
    first = model(once).argmax(dim=1) != labels
    assert torch.equal(often[first], once[first])
    assert (model(often).argmax(dim=1) != labels).sum() > first.sum() > 0
