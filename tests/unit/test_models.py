"""Networks: shapes for every data size, the ODE-net's known sizes, time as a channel, and shared weights."""

import pytest
import torch
import torch.nn.functional as F

from nodekd.models.catalog import CIFAR_DEPTHS, ODE_STUDENTS, TEACHERS
from nodekd.models.dynamics import PlainDynamics, TimeConv, group_norm
from nodekd.models.resnet import CifarResNet, build_teacher, shrinking_strides
from nodekd.models.student import StudentConfig, build_student, parameter_count
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import Status
from nodekd.scoring import correct, logits_of

RK4 = Integrator("rk4", 1.0, 2)


def facts(channels, size, classes=10):
    return {"shape": (channels, size, size), "classes": classes, "mean": [0.5] * channels, "std": [0.25] * channels}


def images(n, channels, size):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", ODE_STUDENTS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 16), (3, 32), (1, 28), (3, 64)])
@pytest.mark.parametrize("norm", ["group", "none"])
def test_ode_students_fit_every_image_size_with_a_state_of_at_least_4x4(arch, channels, size, norm):
    student = build_student(StudentConfig(arch, channels=8, norm=norm), RK4, **facts(channels, size, 5), seed=1).eval()
    state = student.stem(student.normalise(images(2, channels, size)))
    assert state.shape[:2] == (2, 8)
    assert min(state.shape[2:]) >= 4
    assert student(images(2, channels, size)).shape == (2, 5)
    assert student.nfe == 8


def test_the_stem_is_torchdiffeqs_on_32x32():
    student = build_student(StudentConfig(channels=64), RK4, **facts(3, 32), seed=0)
    assert student.stem(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 7, 7)
    assert student.blocks[0].norm1.num_groups == 32
    # torchdiffeq's ODE-net: stem 3x3 and two 4x4, two norms; f of three norms and two 65->64 convs; head.
    stem = (3 * 9 * 64 + 64) + 2 * (64 * 16 * 64 + 64) + 2 * 128
    f = 3 * 128 + 2 * (65 * 9 * 64 + 64)
    assert parameter_count(student) == stem + f + 128 + 64 * 10 + 10


def test_time_conv_equals_concatenating_the_time():
    generator = torch.Generator().manual_seed(3)
    conv, y = TimeConv(6, "channel"), torch.randn(4, 6, 5, 5, generator=generator)
    weight = torch.cat([conv.time.weight, conv.state.weight], dim=1)
    for t in (0.0, 0.7, torch.tensor(0.7)):
        stacked = torch.cat([torch.full_like(y[:, :1], float(t)), y], dim=1)
        assert torch.allclose(conv(t, y), F.conv2d(stacked, weight, conv.state.bias, padding=1), atol=1e-5)


def test_time_matters_only_where_it_is_seen():
    y = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    seeing, blind = PlainDynamics(8, norm="group", time="channel"), PlainDynamics(8, norm="group", time="none")
    assert not torch.equal(seeing(0.0, y), seeing(0.9, y))
    assert torch.equal(blind(0.0, y), blind(0.9, y))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (128, 32), (16, 8), (1, 1), (6, 3), (7, 1)])
def test_groups_hold_at_least_two_channels(channels, groups):
    assert group_norm(channels, "group").num_groups == groups


def test_weights_of_plain_students_keep_their_names():
    student = build_student(StudentConfig(channels=8), RK4, **facts(1, 8), seed=0)
    norms = {f"blocks.0.norm{i}.{what}" for i in (1, 2, 3) for what in ("weight", "bias")}
    convs = {f"blocks.0.conv{i}.{what}" for i in (1, 2) for what in ("state.weight", "state.bias", "time.weight")}
    head = {f"head.{i}.{what}" for i in (0, 4) for what in ("weight", "bias")}
    stem = {f"stem.{i}.{what}" for i in (0, 1, 3) for what in ("weight", "bias")}
    assert set(student.state_dict()) == norms | convs | head | stem | {"normalise.mean", "normalise.std"}


def test_blocks_follow_each_other_and_add_their_evaluations():
    student = build_student(StudentConfig(channels=8, blocks=3), RK4, **facts(1, 8), seed=0)
    student(images(2, 1, 8))
    assert student.nfe == 3 * 8


def test_a_view_with_another_integrator_shares_every_weight():
    student = build_student(StudentConfig(channels=8), RK4, **facts(1, 8), seed=0).eval()
    view = student.with_integrator(Integrator("euler", 1.0, 50))
    batch = images(3, 1, 8)
    assert all(a is b for a, b in zip(student.parameters(), view.parameters(), strict=True))
    assert not torch.equal(student(batch), view(batch))
    assert torch.allclose(student(batch), view(batch), atol=0.05)
    assert (student.nfe, view.nfe) == (8, 50)
    assert student.integrator == RK4


def test_a_capped_solve_is_nan_and_told_by_the_status():
    capped = Integrator("dopri5", 1.0, None, rtol=1e-5, atol=1e-5, max_evaluations=9)
    student = build_student(StudentConfig(channels=8), capped, **facts(1, 8), seed=0).eval()
    assert student(images(3, 1, 8)).isnan().all()
    assert student.status is Status.CAPPED
    labels = torch.zeros(3, dtype=torch.int64)
    assert not correct(student, images(3, 1, 8), labels).any()


def test_one_failing_image_does_not_fail_its_batch():
    class OneBad(torch.nn.Module):
        calls = 0

        def forward(self, batch):
            OneBad.calls += 1
            bad = (batch.flatten(1)[:, 0] > 0.99).any()
            return (
                torch.full((len(batch), 3), torch.nan) if bad else F.one_hot(batch.flatten(1)[:, 1].long(), 3).float()
            )

    batch = torch.zeros(5, 1, 2, 2)
    batch[2, 0, 0, 0] = 1.0
    logits = logits_of(OneBad(), batch)
    assert logits.isnan().any(dim=1).tolist() == [False, False, True, False, False]
    assert correct(OneBad(), batch, torch.zeros(5, dtype=torch.int64)).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("arch", ["resnet20", "resnet32", "resnet18", "resnet50"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 64)])
def test_teachers_fit_every_image_size(arch, channels, size):
    teacher = build_teacher(arch, **facts(channels, size, 7), seed=0).eval()
    assert teacher(images(2, channels, size)).shape == (2, 7)


@pytest.mark.parametrize("arch", CIFAR_DEPTHS)
def test_cifar_resnets_have_the_published_depth_and_size(arch):
    network = CifarResNet(CIFAR_DEPTHS[arch], 3, 32, 10)
    layers = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in network.modules())
    assert layers == CIFAR_DEPTHS[arch]
    published = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85, "resnet110": 1.7}
    assert parameter_count(network) / 1e6 == pytest.approx(published[arch], abs=0.03)


def test_small_images_keep_stride_1_until_the_last_stage():
    assert shrinking_strides(8, 2) == (1, 2)
    assert shrinking_strides(32, 2) == (2, 2)
    assert shrinking_strides(8, 3) == (1, 1, 2)
    assert shrinking_strides(32, 3) == (2, 2, 2)
    seen = []
    network = CifarResNet(20, 1, 8, 10)
    network.stages[-1].register_forward_hook(lambda m, i, o: seen.append((i[0].shape[-1], o.shape[-1])))
    network(torch.zeros(1, 1, 8, 8))
    assert seen == [(8, 4)]


@pytest.mark.parametrize("arch", TEACHERS[:1])
def test_initial_weights_come_from_the_seed_alone(arch):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_teacher(arch, **facts(1, 8), seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = build_teacher(arch, **facts(1, 8), seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    third = build_teacher(arch, **facts(1, 8), seed=5)
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="`arch` must be one of"):
        build_teacher("resnet21", **facts(1, 8), seed=0)
    with pytest.raises(ValueError, match="`arch` must be one of"):
        StudentConfig("odenet")
    with pytest.raises(ValueError, match="6n \\+ 2, but got 21"):
        CifarResNet(21, 1, 8, 10)
    with pytest.raises(ValueError, match="`channels >= 1`"):
        StudentConfig(channels=0)
