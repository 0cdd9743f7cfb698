"""The table of last maps against the networks themselves, and logits that reading the maps must not change."""

import copy
import subprocess
import sys

import pytest
import torch

from nodekd.models.catalog import STUDENTS, TEACHERS, is_ode, is_stepped
from nodekd.models.feature_maps import last_map
from nodekd.models.features import forward_with_features
from nodekd.models.geometry import SMALLEST_MAP
from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator

EULER = Integrator("euler", 1.0, 4)
SHALLOW = ("resnet20", "resnet18", "preact-resnet20", "preact-resnext29")
EVERY = sorted({*STUDENTS, *TEACHERS})


def build(arch, size, integrator=EULER, **config):
    facts = {"shape": (1, size, size), "classes": 5, "mean": [0.5], "std": [0.25], "seed": 1}
    if arch in STUDENTS:
        return build_student(StudentConfig(arch, channels=6, **config), integrator, **facts)
    return build_teacher(arch, **facts)


def images(size, n=2):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0))


def check(arch, size, **config):
    network = build(arch, size, **config).eval()
    with torch.no_grad():
        logits, maps = forward_with_features(network, images(size))
        assert logits.shape == (2, 5)
        assert torch.equal(logits, network(images(size)))
    channels, side = last_map(arch, 6, size)
    assert [tuple(map_.shape) for map_ in maps] == [(2, channels, side, side)]
    assert side >= SMALLEST_MAP
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("arch", EVERY)
def test_every_network_fits_small_images_and_the_table(arch):
    check(arch, 8)


@pytest.mark.parametrize("size", [12, 15, 16, 28, 32, 64])
@pytest.mark.parametrize("arch", [*SHALLOW, *(arch for arch in STUDENTS if is_stepped(arch))])
def test_the_table_holds_at_every_size(arch, size):
    check(arch, size)


@pytest.mark.parametrize("arch", TEACHERS)
def test_teachers_maps_are_those_of_the_students_of_their_name(arch):
    # Depth changes no map: the deep ones at 32x32, by the table of the shallow one of their family.
    family = {"preact-resnet164": "preact-resnext29", "resnet34": "resnet18"}.get(arch)
    if family is not None:
        assert last_map(arch, 6, 32) == last_map(family, 6, 32)
    assert last_map(arch, 6, 32) == last_map(arch, 99, 32)


@pytest.mark.parametrize("dynamics", ["damped", "lambda-damped"])
@pytest.mark.parametrize("arch", ["odenet-stem", "untied-raw", "preact-resnet20"])
def test_damping_changes_no_map(arch, dynamics):
    check(arch, 8, dynamics=dynamics)


@pytest.mark.parametrize("arch", ["resnet20", "resnet18", "preact-resnet20", "odenet-stem", "untied-stem"])
def test_training_goes_the_same_way_with_and_without_the_maps(arch):
    one, other = build(arch, 8).train(), None
    other = copy.deepcopy(one)
    logits, maps = forward_with_features(one, images(8, 4))
    expected = other(images(8, 4))
    assert torch.equal(logits, expected)
    assert maps[0].requires_grad
    logits.square().sum().backward()
    expected.square().sum().backward()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    assert all(torch.equal(p, q) for p, q in zip(one.buffers(), other.buffers(), strict=True))


def test_the_map_is_what_the_pooling_reads():
    for arch, head in (("resnet20", "fc"), ("preact-resnet20", "fc"), ("resnet18", "fc")):
        network = build(arch, 8).eval()
        logits, (map_,) = forward_with_features(network, images(8))
        assert torch.allclose(getattr(network[1], head)(map_.mean(dim=(2, 3))), logits, atol=1e-5)
        assert (map_ >= 0).all()  # behind a ReLU


@pytest.mark.parametrize("times", [1, 2, 4])
def test_states_at_several_times_leave_the_logits_as_they_are(times):
    network = build("odenet-stem", 8).eval()
    logits, maps = forward_with_features(network, images(8), times)
    assert torch.equal(logits, network(images(8)))
    assert len(maps) == times
    assert torch.equal(network.head(maps[-1]), logits)


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_pieces_give_the_same_logits_up_to_the_tolerance(gradient):
    adaptive = Integrator("dopri5", 1.0, None, rtol=1e-6, atol=1e-6, gradient=gradient)
    network = build("odenet-stem", 8, adaptive).eval()
    assert torch.equal(forward_with_features(network, images(8))[0], network(images(8)))
    logits, maps = forward_with_features(network, images(8), 3)
    assert torch.allclose(logits, network(images(8)), atol=1e-4)
    assert all(map_.requires_grad for map_ in maps)


def test_several_times_need_an_ode():
    for arch in ("resnet20", "untied-stem"):
        assert not is_ode(arch)
        with pytest.raises(ValueError, match="`times` must be 1 for a network without an ODE, but got 2"):
            forward_with_features(build(arch, 8), images(8), 2)


def test_strange_networks_are_refused():
    with pytest.raises(TypeError, match="must come from build_student or build_teacher, but got Linear"):
        forward_with_features(torch.nn.Linear(2, 2), images(8))
    with pytest.raises(ValueError, match="`arch` must be one of"):
        last_map("resnet21", 8, 32)


def test_the_table_loads_no_torch():
    code = "import sys, nodekd.models.feature_maps; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
