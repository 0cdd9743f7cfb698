"""Pre-activation ResNets against an independent re-statement, counts in closed form, and the limits of the damping."""

import pytest
import torch
import torch.nn.functional as F

from nodekd.models.catalog import PREACT_DEPTHS
from nodekd.models.damping import DampingConfig, InitialRange, damping_range, damping_values, initial_range
from nodekd.models.preact import CARDINALITY, EXPANSION, LAYERS, PreactResNet, build_preact
from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student, parameter_count
from nodekd.ode.fixed_grid import solve_fixed

DAMPED = ("damped", "lambda-damped")
FACTS = {"shape": (3, 8, 8), "classes": 5, "mean": [0.5] * 3, "std": [0.25] * 3, "seed": 3}


def images(n=4, size=8, channels=3):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def network(kind, depth, size=8, damping=None):
    torch.manual_seed(2)
    return PreactResNet(kind, depth, 3, size, 5, damping=damping)


def config(dynamics, fixed=None):
    return DampingConfig(dynamics, InitialRange(0.1, 0.9, assumed=True), fixed)


def blocks_of(net):
    return [block for stage in net.stages for block in stage]


def batch_norm(x, weights, name):
    mean, var = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    scale, shift = weights[f"{name}.weight"].view(1, -1, 1, 1), weights[f"{name}.bias"].view(1, -1, 1, 1)
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


def restated(weights, x, *, convs, blocks, strides, dynamics, groups):
    """The forward of the published code, written from its description, with batch statistics."""
    x = F.conv2d(x, weights["conv.weight"], padding=1)
    for stage in range(3):
        for block in range(blocks):
            name = f"stages.{stage}.{block}"
            change = x
            for c in range(convs):
                change = torch.relu(batch_norm(change, weights, f"{name}.residual.{3 * c}"))
                kernel = weights[f"{name}.residual.{3 * c + 2}.weight"]
                strided = strides[stage] if block == 0 and c == (0 if convs == 2 else 1) else 1
                padding = kernel.shape[-1] // 2
                change = F.conv2d(change, kernel, stride=strided, padding=padding, groups=groups if padding else 1)
            if f"{name}.shortcut.2.weight" in weights:
                x = torch.relu(batch_norm(x, weights, f"{name}.shortcut.0"))
                x = F.conv2d(x, weights[f"{name}.shortcut.2.weight"], stride=strides[stage])
            k = weights.get(f"{name}.damping.k")
            if dynamics == "damped" and k is not None:
                x = (1 - torch.relu(1 - k)) * x + change
            elif k is not None:
                x = (1 - torch.relu(k)) * x + (1 + torch.relu(k)) * change
            else:
                x = x + change
    x = torch.relu(batch_norm(x, weights, "bn"))
    return x.mean(dim=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.parametrize("dynamics", ["plain", *DAMPED])
@pytest.mark.parametrize(("kind", "depth", "size"), [("basic", 20, 16), ("bottleneck", 20, 8), ("grouped", 20, 8)])
def test_the_forward_is_the_published_one(kind, depth, size, dynamics):
    net = network(kind, depth, size, None if dynamics == "plain" else config(dynamics)).double().train()
    convs = 2 if kind == "basic" else 3
    expected = restated(
        net.state_dict(),
        images(size=size).double(),
        convs=convs,
        blocks=(depth - 2) // (3 * convs),
        strides=(1, 2, 2) if size == 16 else (1, 1, 2),
        dynamics=dynamics,
        groups=CARDINALITY if kind == "grouped" else 1,
    )
    assert torch.allclose(net(images(size=size).double()), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("arch", "count"), [("preact-resnet110", 51), ("preact-resnet164", 51), ("preact-resnet20", 6)]
)
def test_the_first_block_of_every_stage_is_excepted(arch, count):
    net = build_preact(arch, 3, 8, 10, damping=config("damped", 0.3))
    per_stage = len(net.stages[0])
    damped = [number for number, block in enumerate(blocks_of(net)) if block.damping is not None]
    assert damped == [n for n in range(3 * per_stage) if n not in (0, per_stage, 2 * per_stage)]
    assert damping_values(net) == [0.3] * count


def basic_count(blocks, channels_in, classes):
    """Weights of a basic pre-activation ResNet: 3x3 convs, two norms per block, two 1x1 shortcuts with a norm."""
    total = 9 * channels_in * 16
    for before, width in ((16, 16), (16, 32), (32, 64)):
        total += 9 * before * width + 9 * width * width + 2 * before + 2 * width
        total += (blocks - 1) * (18 * width * width + 4 * width)
        total += before * width + 2 * before if before != width else 0
    return total + 2 * 64 + 64 * classes + classes


def bottleneck_count(blocks, channels_in, classes, inner_of, groups):
    total = 9 * channels_in * 16
    for before, planes in ((16, 16), (64, 32), (128, 64)):
        out, inner = 4 * planes, inner_of(planes)
        for number in range(blocks):
            into = before if number == 0 else out
            total += 2 * into + into * inner + 2 * inner + 9 * inner * inner // groups + 2 * inner + inner * out
        total += before * out + 2 * before
    return total + 2 * 256 + 256 * classes + classes


def test_parameter_counts_in_closed_form():
    for arch, depth in PREACT_DEPTHS.items():
        if arch != "preact-resnet164":
            assert parameter_count(build_preact(arch, 3, 32, 10)) == basic_count((depth - 2) // 6, 3, 10), arch
    deep = parameter_count(build_preact("preact-resnet110", 3, 32, 10))
    assert deep / 1e6 == pytest.approx(1.7, abs=0.05)
    assert parameter_count(build_preact("preact-resnet110", 3, 32, 10, damping=config("damped"))) == deep + 51
    bottleneck = parameter_count(build_preact("preact-resnet164", 3, 32, 10))
    assert bottleneck == bottleneck_count(18, 3, 10, lambda planes: planes, 1)
    assert bottleneck / 1e6 == pytest.approx(1.7, abs=0.05)
    grouped = parameter_count(build_preact("preact-resnext29", 3, 32, 10))
    assert grouped == bottleneck_count(3, 3, 10, lambda planes: 4 * planes, 8)
    assert grouped / 1e6 == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("arch", [*PREACT_DEPTHS, "preact-resnext29"])
def test_the_name_tells_the_depth(arch):
    net = build_preact(arch, 3, 32, 10)
    shortcuts = sum(block.shortcut is not None for block in blocks_of(net))
    layers = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in net.modules()) - shortcuts
    assert layers == int("".join(filter(str.isdigit, arch)))
    assert all(m.bias is None for m in net.modules() if isinstance(m, torch.nn.Conv2d))


@pytest.mark.parametrize("dynamics", DAMPED)
@pytest.mark.parametrize("kind", ["basic", "bottleneck", "grouped"])
def test_damping_0_is_the_resnet_and_1_has_no_skip(dynamics, kind):
    depth = 3 * LAYERS[kind] * 2 + 2
    plain = network(kind, depth).train()
    undamped = network(kind, depth, damping=config(dynamics, 0.0)).train()
    assert torch.allclose(plain(images()), undamped(images()), atol=1e-6, rtol=0)
    block = blocks_of(network(kind, depth, damping=config(dynamics, 1.0)))[1].eval()
    x = torch.randn(2, 16 * EXPANSION[kind], 8, 8, generator=torch.Generator().manual_seed(3))
    factor = 1 if dynamics == "damped" else 2
    assert torch.allclose(block(x), factor * block.residual(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dynamics", DAMPED)
@pytest.mark.parametrize("fixed", [0.0, 0.3, 1.0, None])
def test_a_block_is_an_euler_step_of_length_1(dynamics, fixed):
    block = blocks_of(network("basic", 14, damping=config(dynamics, fixed)))[1].eval()
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(3))

    def slope(t, y):
        return block.damping.slope(y, block.residual(y))

    end = solve_fixed(slope, x, solver="euler", horizon=1.0, steps=1)
    assert torch.allclose(end, block(x), atol=1e-6, rtol=0)


def test_convolutions_start_as_published():
    net = network("basic", 44, 32)
    for stage, width in ((1, 32), (2, 64)):
        weights = torch.cat([block.residual[5].weight.flatten() for block in net.stages[stage]])
        assert float(weights.detach().std()) == pytest.approx((2 / (9 * width)) ** 0.5, rel=0.02)
    assert float(net.stages[2][0].shortcut[2].weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.1)


def test_learned_scalars_lie_in_the_published_ranges():
    for arch, dynamics, low, high in (
        ("preact-resnet110", "damped", 0.2, 0.25),
        ("preact-resnet164", "damped", 0.1, 0.2),
        ("preact-resnet110", "lambda-damped", 0.2, 0.25),
        ("preact-resnet164", "lambda-damped", 0.1, 0.2),
    ):
        student = build_student(StudentConfig(arch, dynamics=dynamics), None, **FACTS)
        values = damping_values(student)
        assert len(set(values)) == 51
        assert low - 1e-6 <= min(values) < max(values) <= high + 1e-6
        assert damping_range(student) == initial_range(arch, dynamics)
        assert not damping_range(student).assumed


def test_a_student_is_the_teacher_of_its_name():
    for arch in ("preact-resnet20", "resnet20"):
        student, teacher = build_student(StudentConfig(arch), None, **FACTS), build_teacher(arch, **FACTS)
        assert student.state_dict().keys() == teacher.state_dict().keys()
        assert torch.equal(student.eval()(images()), teacher.eval()(images()))


def test_impossible_depths_are_refused():
    with pytest.raises(ValueError, match="6n \\+ 2 for basic blocks, but got 21"):
        PreactResNet("basic", 21, 3, 8, 5)
    with pytest.raises(ValueError, match="9n \\+ 2 for bottleneck blocks, but got 2"):
        PreactResNet("bottleneck", 2, 3, 8, 5)
