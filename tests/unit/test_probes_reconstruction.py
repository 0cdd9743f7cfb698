"""Decoders and auto-encoders: what can be rebuilt is, what is lost is not."""

import math

import pytest
import torch
from torch import Tensor

from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.probes.reconstruction import autoencode, last_map_of, reconstruct


def images(n: int, seed: int = 0) -> Tensor:
    """Smooth random images: four grey squares each."""
    corners = torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    return corners.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


def halves(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, 4)


def nothing(x: Tensor) -> Tensor:
    return torch.zeros(len(x), 2, 2, 2)


def test_a_map_that_holds_all_rebuilds_the_image_and_an_empty_one_the_median() -> None:
    train, held = images(256), images(100, 1)
    full, empty = reconstruct(halves, train, held, 12), reconstruct(nothing, train, held, 12)
    assert full.l1 < 0.08
    # Uniform numbers are 1/4 away from their median on average.
    assert empty.baseline == pytest.approx(0.25, abs=0.02)
    assert empty.l1 == pytest.approx(empty.baseline, abs=0.02)
    assert full.baseline == empty.baseline
    assert full.curve[-1] == full.l1
    assert len(full.curve) == full.epochs == 12
    assert full.curve[0] > full.curve[-1]


def test_the_scale_of_a_map_does_not_count() -> None:
    train, held = images(64), images(32, 1)
    one = reconstruct(halves, train, held, 2)
    large = reconstruct(lambda x: 1024 * halves(x) + 512, train, held, 2)
    assert large.l1 == pytest.approx(one.l1, abs=2e-3)


def test_the_same_seed_gives_the_same_number_and_touches_no_global_state() -> None:
    train, held = images(64), images(32, 1)
    state = torch.get_rng_state()
    first = reconstruct(halves, train, held, 2, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    assert reconstruct(halves, train, held, 2, seed=3) == first
    torch.set_rng_state(state)
    assert reconstruct(halves, train, held, 2, seed=4) != first


def test_failed_solves_are_counted_and_left_out() -> None:
    def failing(x: Tensor) -> Tensor:
        return halves(x) * torch.nan if bool((x[:, 0, 0, 0] > 0.95).any()) else halves(x)

    train, held = images(100), images(40, 1)
    bad = int((train[:, 0, 0, 0] > 0.95).sum() + (held[:, 0, 0, 0] > 0.95).sum())
    assert bad > 0
    found = reconstruct(failing, train, held, 1)
    assert found.failures == bad
    assert math.isfinite(found.l1)
    lost = reconstruct(lambda x: halves(x) * torch.nan, train, held, 2)
    assert (lost.record()["l1"], lost.curve[0], lost.failures) == (None, pytest.approx(math.nan, nan_ok=True), 140)


def test_an_autoencoder_compresses_what_is_redundant_and_not_what_is_not() -> None:
    train, held = images(300), images(100, 1)

    def redundant(x: Tensor) -> Tensor:
        return halves(x).repeat(1, 16, 1, 1)

    def independent(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(1e6 * float(x.sum())))
        return torch.randn(len(x), 16, 2, 2, generator=generator)

    easy, hard = (autoencode(of, train, held, 15, rate=0.25) for of in (redundant, independent))
    assert easy.l1 < 0.5 * hard.l1
    # A standard normal number is sqrt(2/pi) away from its median on average.
    assert hard.baseline == pytest.approx(math.sqrt(2 / math.pi), rel=0.1)
    assert 0.5 * hard.baseline < hard.l1 < 1.2 * hard.baseline


@pytest.mark.parametrize("arch", ["odenet-stem", "odenet-raw", "untied-stem", "resnet20", "preact-resnet20"])
def test_every_network_can_be_studied(arch: str) -> None:
    common = {"shape": (1, 8, 8), "classes": 3, "mean": [0.5], "std": [0.3], "seed": 0}
    if arch == "resnet20":
        network = build_teacher(arch, **common)
    else:
        network = build_student(StudentConfig(arch, channels=4), Integrator("euler", 1.0, 2), **common)
    network.train()
    found = reconstruct(last_map_of(network), images(20), images(10, 1), 1)
    assert 0 < found.l1 < 1
    assert network.training


def test_sizes_that_are_no_power_of_two_are_met() -> None:
    train = torch.rand(8, 3, 30, 28, generator=torch.Generator().manual_seed(0))
    assert math.isfinite(reconstruct(lambda x: x[:, :, :7, :7], train, train, 1).l1)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs >= 1"):
        reconstruct(halves, images(2), images(2), 0)
    with pytest.raises(ValueError, match="at least one image"):
        reconstruct(halves, images(2), images(2)[:0], 1)
    with pytest.raises(ValueError, match="0 < rate <= 1"):
        autoencode(halves, images(2), images(2), 1, rate=0.0)
