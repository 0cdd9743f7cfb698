"""Loss and margin around images: a linear network has them in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.catalog import Norm
from nodekd.attacks.threat import Threat
from nodekd.errors import AttackError
from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.probes.landscape import around, line, random_direction, surface

WEIGHTS = torch.tensor([1.0, -2.0, 0.5, -1.5])
EPSILON = 0.05


class Linear(nn.Module):
    """Two classes whose lead is (x - 1/2) . w, times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def lead(self, x: Tensor) -> Tensor:
        return self.factor * ((x.flatten(1) - 0.5) @ WEIGHTS)

    def forward(self, x: Tensor) -> Tensor:
        lead = self.lead(x)
        return torch.stack([lead / 2, -lead / 2], dim=1)


def problem(n: int = 31) -> tuple[Tensor, Tensor]:
    images = 0.2 + 0.6 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(n) % 2


def towards_true(images: Tensor, labels: Tensor) -> Tensor:
    return Linear().lead(images) * torch.where(labels == 0, 1.0, -1.0)


def test_the_line_of_a_linear_network() -> None:
    images, labels = problem()
    found = line(Linear(), images, labels, EPSILON)
    assert found.distances[0] == -1.0
    assert found.distances[-1] == 2.0
    assert {0.0, 1.0} <= set(found.distances)
    clean = towards_true(images, labels)
    for index, d in enumerate(found.distances):
        lead = (clean - d * EPSILON * WEIGHTS.abs().sum()).double().numpy()
        loss = np.log1p(np.exp(-lead))
        expected = np.quantile(loss, [0.25, 0.5, 0.75])
        assert [found.loss.q25[index], found.loss.median[index], found.loss.q75[index]] == pytest.approx(
            list(expected), rel=1e-5
        )
        # The clean logits are +-lead/2, so their standard deviation is |lead|/2.
        margin = np.quantile(lead / (clean.abs().double().numpy() / 2), [0.25, 0.5, 0.75])
        assert [found.margin.q25[index], found.margin.median[index], found.margin.q75[index]] == pytest.approx(
            list(margin), rel=1e-4, abs=1e-5
        )
    assert found.flat == 0.0
    assert found.failures == (0,) * 25


def test_the_loss_rises_along_the_line_and_margins_do_not_feel_the_scale() -> None:
    images, labels = problem()
    one, ten = line(Linear(), images, labels, EPSILON), line(Linear(10), images, labels, EPSILON)
    assert list(one.loss.median) == sorted(one.loss.median)
    assert one.margin.median == pytest.approx(ten.margin.median, rel=1e-4)
    assert one.loss.median != pytest.approx(ten.loss.median, rel=1e-2)


def test_under_l2_the_direction_has_length_one() -> None:
    images, labels = problem()
    found = line(Linear(), images, labels, EPSILON, points=4, norm="l2")
    lead = (towards_true(images, labels) - 2 * EPSILON * WEIGHTS.norm()).double()
    assert found.loss.median[-1] == pytest.approx(torch.log1p((-lead).exp()).median().item(), rel=1e-5)


def test_images_stay_images() -> None:
    class Watching(Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert ((x >= 0) & (x <= 1)).all()
            return super().forward(x)

    images, labels = (problem()[0] > 0.5).float(), problem()[1]
    found = line(Watching(), images, labels, 0.5)
    assert found.loss.median[-1] > found.loss.median[8]
    surface(Watching(), images, labels, 0.5, points=3, seed=0)


def test_a_saturated_network_is_told_from_a_flat_one() -> None:
    images, labels = problem()
    right = towards_true(images, labels) > 0
    found = line(Linear(1e5), images, labels, EPSILON)
    assert found.flat == pytest.approx(right.double().mean().item(), abs=0.1)


def test_the_surface_of_a_linear_network() -> None:
    images, labels = problem()
    found = surface(Linear(), images, labels, EPSILON, points=5, seed=0)
    assert found.axis == pytest.approx((-1.0, -0.5, 0.0, 0.5, 1.0))
    clean = towards_true(images, labels)
    for i, a in enumerate(found.axis):
        lead = (clean - a * EPSILON * WEIGHTS.abs().sum()).double()
        assert found.loss[i][2] == pytest.approx(torch.log1p((-lead).exp()).mean().item(), rel=1e-5)
    middle = [row[2] for row in found.loss]
    assert middle == sorted(middle)
    assert max(found.loss[2]) - min(found.loss[2]) < middle[-1] - middle[0]
    assert surface(Linear(), images, labels, EPSILON, points=5, seed=0) == found
    assert surface(Linear(), images, labels, EPSILON, points=5, seed=1) != found


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_any_change_of_a_linear_network_however_images_are_batched(batch_size: int) -> None:
    images, labels = problem()
    changes = [0.01 * k * torch.randn(images.shape, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    found = around(Linear(), images, labels, iter(changes), batch_size=batch_size)
    unit = towards_true(images, labels).abs().double() / 2
    for index, change in enumerate(changes):
        lead = towards_true((images + change).clamp(0, 1), labels).double()
        assert found.loss[index].tolist() == pytest.approx(torch.log1p((-lead).exp()).tolist(), rel=1e-5)
        assert found.margin[index].tolist() == pytest.approx((lead / unit).tolist(), rel=1e-4, abs=1e-5)


def test_a_failed_solve_has_no_loss_and_hides_no_other() -> None:
    class Failing(Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits * torch.nan if bool((x[:, 0, 0, 0] > 0.95).any()) else logits

    images, labels = problem()
    changes = [images * 0, images * 0]
    changes[1][7, 0, 0, 0] = 1.0
    found = around(Failing(), images, labels, changes)
    assert torch.isfinite(found.loss[0]).all()
    for values in (found.loss[1], found.margin[1]):
        assert torch.isnan(values).nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_directions_have_length_one_and_a_seed(norm: Norm) -> None:
    images, threat = problem()[0], Threat(norm, EPSILON)
    found = random_direction(images, threat, 3).flatten(1)
    lengths = found.abs().amax(dim=1) if norm == "linf" else found.norm(dim=1)
    assert lengths.tolist() == pytest.approx([1.0] * len(images))
    assert torch.equal(found, random_direction(images, threat, 3).flatten(1))
    assert not torch.equal(found, random_direction(images, threat, 4).flatten(1))


def test_failed_solves_are_counted_and_left_out() -> None:
    class Failing(Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits * torch.nan if bool((x[:, 0, 0, 0] > 0.95).any()) else logits

    images, labels = problem()
    images[0, 0, 0, 0] = 1.0
    found = line(Failing(), images, labels, 1e-6, points=4)
    rest = line(Linear(), images[1:], labels[1:], 1e-6, points=4)
    assert found.failures == (1, 1, 1, 1)
    assert found.loss.median == pytest.approx(rest.loss.median, rel=1e-5)
    nothing = line(Failing(), images[:1], labels[:1], 1e-6, points=4)
    assert nothing.record()["loss"]["median"] == [None] * 4
    assert math.isnan(surface(Failing(), images[:1], labels[:1], 1e-6, points=2, seed=0).loss[0][0])


@pytest.mark.parametrize("arch", ["odenet-stem", "untied-stem", "resnet20", "preact-resnet20"])
def test_every_network_has_a_landscape_and_keeps_its_state(arch: str) -> None:
    common = {"shape": (1, 8, 8), "classes": 3, "mean": [0.5], "std": [0.3], "seed": 0}
    if arch == "resnet20":
        network = build_teacher(arch, **common)
    else:
        network = build_student(StudentConfig(arch, channels=4), Integrator("euler", 1.0, 2), **common)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    found = line(network, images, torch.arange(6) % 3, EPSILON, points=4, batch_size=4)
    surface(network, images, torch.arange(6) % 3, EPSILON, points=2, seed=0)
    assert found.loss.median[-1] > found.loss.median[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_impossible_arguments_are_refused() -> None:
    images, labels = problem()
    with pytest.raises(ValueError, match="points >= 2"):
        line(Linear(), images, labels, EPSILON, points=1)
    with pytest.raises(AttackError, match=r"images must be in \[0, 1\]"):
        line(Linear(), images + 1, labels, EPSILON)
