"""Losses of feature maps against independent re-statements of their equations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, take_views
from nodekd.distill.feature_loss import attention_distance, feature_distance, to_side, unit_length
from nodekd.distill.feature_objective import FeatureConfig, FeatureObjective, feature_objective
from nodekd.distill.feature_signal import FeatureMemory, FeatureTeacher, feature_teacher, map_of
from nodekd.distill.logits import Distillation, distillation_loss
from nodekd.distill.objective import LABELS_ONLY, Batch, LogitObjective
from nodekd.distill.teacher_signal import LiveTeacher
from nodekd.distill.translators import ParaphraserConfig, build_translator, train_paraphraser
from nodekd.models.features import forward_with_features
from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator

SHIFTS = Augmentation(1, False)


def maps(seed, channels=5, side=4, batch=3):
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def split():
    pixels = torch.randint(0, 17, (12, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(pixels, 16, torch.arange(12) % 3, torch.arange(12))


def student(steps=2, arch="odenet-stem"):
    integrator = Integrator(solver="euler", horizon=1.0, steps=steps)
    config = StudentConfig(arch=arch, channels=6)
    return build_student(config, integrator, shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=0)


def teacher(seed=1, arch="resnet20"):
    return build_teacher(arch, shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=seed).eval()


def batch_of(split, n=6):
    rows, views = torch.arange(n) * 2 % len(split), torch.arange(n) % 9
    clean = take_views(split.images(rows), views, SHIFTS)
    return Batch(rows, views, clean, (clean + 0.1).clamp(max=1.0), split.labels[rows], seed=7, update=0)


def restated(ours, theirs, distance, normalise, reduction):
    """Write the distance out in numpy, sample by sample."""
    values = []
    for y, x in zip(ours.double().numpy(), theirs.double().numpy(), strict=True):
        lengths = (np.sqrt((x**2).sum()), np.sqrt((y**2).sum())) if normalise else (1, 1)
        gap = x / lengths[0] - y / lengths[1]
        values.append(np.abs(gap).sum() if distance == "l1" else (gap**2).sum())
    return np.mean(values) / (ours[0].numel() if reduction == "mean" else 1)


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_feature_distance_equals_the_equation(distance, normalise, reduction):
    ours, theirs = maps(0), maps(1)
    value = feature_distance(ours, theirs, distance=distance, normalise=normalise, reduction=reduction)
    assert float(value) == pytest.approx(restated(ours, theirs, distance, normalise, reduction), rel=1e-5)


def test_the_mean_is_the_sum_over_the_number_of_entries():
    """500 times the mean of Factor Transfer's 32 x 8 x 8 maps is 0.244 times the sum; of FEED's 64 x 8 x 8, 0.122."""
    for channels, factor in ((32, 0.244), (64, 0.122)):
        ours, theirs = maps(0, channels, 8), maps(1, channels, 8)
        mean = feature_distance(ours, theirs, reduction="mean")
        total = feature_distance(ours, theirs, reduction="sum")
        assert float(500 * mean / total) == pytest.approx(factor, abs=5e-4)


def test_normalised_distance_ignores_scale_and_is_bounded():
    ours, theirs = maps(0), maps(1)
    value = feature_distance(ours, theirs, reduction="sum")
    assert torch.allclose(feature_distance(7 * ours, 0.1 * theirs, reduction="sum"), value)
    assert float(feature_distance(theirs, theirs)) == 0
    assert 0 < value <= 2 * np.sqrt(ours[0].numel())
    assert torch.equal(unit_length(torch.zeros(2, 3, 4, 4)), torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="maps of one shape"):
        feature_distance(maps(0), maps(1, side=3))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("channels", [5, 9])
def test_attention_transfer_equals_the_equation(reduction, channels):
    ours, theirs = maps(0, channels), maps(1)
    q_s, q_t = ((m.double().numpy() ** 2).sum(axis=1).reshape(3, -1) for m in (ours, theirs))
    difference = q_s / np.linalg.norm(q_s, axis=1)[:, None] - q_t / np.linalg.norm(q_t, axis=1)[:, None]
    equation = 0.5 * np.linalg.norm(difference, axis=1).mean()
    wanted = equation if reduction == "sum" else (difference**2).mean()
    assert float(attention_distance(ours, theirs, reduction)) == pytest.approx(wanted, rel=1e-5)


def test_equal_attention_has_a_finite_gradient():
    leaf = maps(0).requires_grad_()
    attention_distance(leaf, maps(0), "sum").backward()
    assert torch.isfinite(leaf.grad).all()


def test_larger_maps_are_averaged_and_smaller_ones_interpolated():
    fine = maps(0, side=8)
    blocks = fine.reshape(3, 5, 4, 2, 4, 2).mean(dim=(3, 5))
    assert torch.allclose(to_side(fine, 4, 4), blocks, atol=1e-6)
    assert to_side(fine, 8, 8) is fine
    assert torch.equal(to_side(maps(0), 8, 8), F.interpolate(maps(0), (8, 8), mode="bilinear", align_corners=False))
    for shape in ((3, 3), (7, 7), (5, 3)):
        constant = torch.full((2, 3, 4, 4), 2.5)
        assert torch.allclose(to_side(constant, *shape), torch.full((2, 3, *shape), 2.5))


def test_translators_are_as_published():
    three = build_translator("conv3x3", 6, 64, seed=0)
    assert [type(layer).__name__ for layer in three] == ["Conv2d", "LeakyReLU"] * 3
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.bias is None) for c in three[::2]] == [
        (6, 64, (3, 3), False),
        (64, 64, (3, 3), False),
        (64, 64, (3, 3), False),
    ]
    assert {layer.negative_slope for layer in three[1::2]} == {0.1}
    factor = build_translator("conv3x3", 6, 64, seed=0, factors=32)
    assert [(c.in_channels, c.out_channels) for c in factor[::2]] == [(6, 64), (64, 32), (32, 32)]
    linear = build_translator("conv1x1", 6, 64, seed=0)
    x = maps(0, 6)
    assert torch.allclose(linear(2 * x) - linear(x), linear(x) - linear(torch.zeros_like(x)), atol=1e-5)
    with pytest.raises(ValueError, match="`translator` must be"):
        build_translator("conv5x5", 6, 64, seed=0)


def test_translators_have_a_stream_of_their_own(split):
    before = torch.get_rng_state()
    image = split.images(slice(0, 1))
    built = {
        n: feature_objective(
            FeatureConfig(), [FeatureTeacher(teacher())] * n, LABELS_ONLY, student=student(), image=image, seed=3
        ).translators
        for n in (1, 3)
    }
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(built[1][0].parameters(), built[3][0].parameters(), strict=True))
    assert not torch.equal(built[3][0][0].weight, built[3][1][0].weight)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("base", ["labels", "kd"])
def test_feed_equals_its_equation(split, reduction, divided, base):
    """L = L_base + beta sum_n L_n, from the equation, with teachers on clean images and the student on its own."""
    networks, batch, model = [teacher(1), teacher(2)], batch_of(split), student()
    distillation = Distillation(0.9, 4.0) if base == "kd" else Distillation(0.0)
    logit_base = LogitObjective(distillation, LiveTeacher(networks[0]))
    config = FeatureConfig(beta=20.0, beta_reduction=reduction, beta_divided=divided)
    signals = [FeatureTeacher(network) for network in networks]
    objective = feature_objective(config, signals, logit_base, student=model, image=split.images(slice(0, 1)), seed=0)
    logits, loss = objective.loss(model, batch)
    with torch.no_grad():
        state = model.flow(model.stem(model.normalise(batch.images)))
        wanted = distillation_loss(model(batch.images), networks[0](batch.clean), batch.labels, distillation)
        for network, translator in zip(networks, objective.translators, strict=True):
            normalise, body = network
            theirs = body.stages(torch.relu(body.bn1(body.conv1(normalise(batch.clean)))))
            pull = restated(translator(state), theirs, "l1", True, reduction)
            wanted = wanted + 20.0 * pull / (2 if divided else 1)
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-4)
    assert torch.equal(logits, model(batch.images))


def test_attention_transfer_has_no_translators(split):
    model, batch = student(), batch_of(split)
    config = FeatureConfig(kind="attention", beta=1000.0)
    objective = feature_objective(
        config, [FeatureTeacher(teacher())], LABELS_ONLY, student=model, image=split.images(slice(0, 1)), seed=0
    )
    assert objective.helpers() == []
    ours, theirs = map_of(model, batch.images), map_of(teacher(), batch.clean)
    wanted = F.cross_entropy(model(batch.images), batch.labels) + 1000 * attention_distance(ours, theirs)
    assert torch.allclose(objective.loss(model, batch)[1], wanted, rtol=1e-5)


def test_several_times_are_averaged_and_the_last_is_the_horizon(split):
    model, batch = student(steps=4), batch_of(split)
    image = split.images(slice(0, 1))
    built = {
        times: feature_objective(
            FeatureConfig(feature_times=times),
            [FeatureTeacher(teacher())],
            LABELS_ONLY,
            student=model,
            image=image,
            seed=0,
        )
        for times in (1, 2)
    }
    _, states = forward_with_features(model, batch.images, 2)
    each = [float(built[1].pull([state], batch).detach()) for state in states]
    assert float(built[2].pull(states, batch).detach()) == pytest.approx(np.mean(each), rel=1e-5)
    whole = built[1].loss(model, batch)[1] - F.cross_entropy(model(batch.images), batch.labels)
    assert float(whole.detach()) == pytest.approx(500 * each[-1], rel=1e-4)


def test_a_shared_translator_is_one_network_and_needs_equal_maps(split):
    config, image = FeatureConfig(translator_shared=True), split.images(slice(0, 1))
    signals = [FeatureTeacher(teacher(seed)) for seed in (1, 2, 3)]
    objective = feature_objective(config, signals, LABELS_ONLY, student=student(), image=image, seed=0)
    assert len(objective.helpers()) == 1
    own = feature_objective(FeatureConfig(), signals, LABELS_ONLY, student=student(), image=image, seed=0)
    assert len(own.helpers()) == 3
    mixed = [signals[0], FeatureTeacher(teacher(1, "resnet18"))]
    with pytest.raises(ValueError, match="equally many channels"):
        feature_objective(config, mixed, LABELS_ONLY, student=student(), image=image, seed=0)
    feature_objective(FeatureConfig(), mixed, LABELS_ONLY, student=student(), image=image, seed=0)


@pytest.mark.parametrize("arch", ["odenet-stem", "odenet-raw", "untied-stem", "resnet20", "preact-resnet20"])
def test_every_student_learns_from_features(split, arch):
    model, batch = student(arch=arch).train(), batch_of(split)
    objective = feature_objective(
        FeatureConfig(),
        [FeatureTeacher(teacher())],
        LABELS_ONLY,
        student=model,
        image=split.images(slice(0, 1)),
        seed=0,
    )
    objective.loss(model, batch)[1].backward()
    for network in (model, *objective.helpers()):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_asking_for_a_map_changes_no_network(split):
    network = teacher().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    map_of(network, split.images())
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_remembered_maps_are_those_of_the_live_teacher(split):
    network = teacher()
    remembering, live = feature_teacher(network, split, SHIFTS), FeatureTeacher(network)
    assert remembering.memory is not None
    for start in (0, 3, 0):
        rows, views = (torch.arange(6) + start) % 12, torch.arange(6) % 9
        images = take_views(split.images(rows), views, SHIFTS)
        assert torch.allclose(remembering(rows, views, images), live(rows, views, images), atol=1e-5)
    assert feature_teacher(network, split, Augmentation(4, True)).memory is None


def test_a_known_map_is_not_computed_again():
    memory, computed = FeatureMemory(4, 2), []

    def compute(images):
        computed.append(len(images))
        return images * 2

    rows, views = torch.tensor([0, 1]), torch.tensor([1, 0])
    images = torch.rand(2, 1, 3, 3)
    memory.recall(rows, views, images, compute)
    again = memory.recall(rows, views, torch.zeros_like(images), compute)
    assert torch.equal(again, images * 2)
    other = torch.cat([images, torch.ones(1, 1, 3, 3)])
    memory.recall(torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0]), other, compute)
    assert computed == [2, 1]


def test_a_paraphraser_learns_to_reconstruct_and_gives_factors(split):
    signal = feature_teacher(teacher(), split, SHIFTS)
    config = ParaphraserConfig(epochs=8, least_updates=8, batch_size=3)
    state = torch.get_rng_state()
    factor_teacher = train_paraphraser(signal, split, SHIFTS, seed=0, config=config)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(factor_teacher.curve) == 8
    assert factor_teacher.curve[-1] < factor_teacher.curve[0]
    paraphraser = factor_teacher.paraphraser
    assert [type(layer).__name__ for layer in paraphraser.decoder[::2]] == ["ConvTranspose2d"] * 3
    batch = batch_of(split)
    theirs = signal(batch.rows, batch.views, batch.clean)
    assert paraphraser(theirs).shape == theirs.shape
    factors = factor_teacher(batch.rows, batch.views, batch.clean)
    assert factors.shape == (6, 32, *theirs.shape[2:])
    assert torch.equal(factors, paraphraser.encoder(theirs))
    repeated = train_paraphraser(FeatureTeacher(teacher()), split, SHIFTS, seed=0, config=config)
    assert torch.allclose(repeated(batch.rows, batch.views, batch.clean), factors, atol=1e-5)


def test_a_paraphraser_that_diverges_says_so(split):
    config = ParaphraserConfig(epochs=4, least_updates=4, learning_rate=1e6)
    with pytest.raises(FloatingPointError, match="learning_rate=1000000"):
        train_paraphraser(FeatureTeacher(teacher()), split, SHIFTS, seed=0, config=config)


def test_small_sets_are_passed_over_more_often(split):
    config = ParaphraserConfig(epochs=2, least_updates=7, batch_size=6)
    assert len(train_paraphraser(FeatureTeacher(teacher()), split, SHIFTS, seed=0, config=config).curve) == 4


def test_factor_transfer_equals_its_equation(split):
    """L = CE + beta mean | F_T / ||F_T|| - F_S / ||F_S|| |, F_T the paraphraser's code, F_S the translator's."""
    model, batch = student(), batch_of(split)
    config = ParaphraserConfig(epochs=1, least_updates=1)
    factor_teacher = train_paraphraser(FeatureTeacher(teacher()), split, SHIFTS, seed=0, config=config)
    objective = feature_objective(
        FeatureConfig(), [factor_teacher], LABELS_ONLY, student=model, image=split.images(slice(0, 1)), seed=0
    )
    translator = objective.translators[0]
    assert [(c.in_channels, c.out_channels) for c in translator[::2]] == [(6, 64), (64, 32), (32, 32)]
    with torch.no_grad():
        f_t = factor_teacher.paraphraser.encoder(map_of(teacher(), batch.clean))
        f_s = translator(map_of(model, batch.images))
        f_t, f_s = (f / f.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for f in (f_t, f_s))
        wanted = F.cross_entropy(model(batch.images), batch.labels) + 500 * (f_t - f_s).abs().mean()
    assert torch.allclose(objective.loss(model, batch)[1], wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "`beta > 0`"),
        ({"beta_reduction": "max"}, "`beta_reduction` must be"),
        ({"feature_distance": "l3"}, "`feature_distance` must be"),
        ({"feature_times": 0}, "`feature_times >= 1`"),
        ({"kind": "feed"}, "`kind` must be"),
    ],
)
def test_impossible_feature_losses_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FeatureConfig(**changes)


def test_features_need_teachers_and_translators():
    with pytest.raises(ValueError, match="at least one teacher"):
        FeatureObjective(FeatureConfig(), [], LABELS_ONLY)
    with pytest.raises(ValueError, match="as many translators"):
        FeatureObjective(FeatureConfig(), [FeatureTeacher(nn.Identity())], LABELS_ONLY)
    with pytest.raises(ValueError, match="`rate > 0`"):
        ParaphraserConfig(rate=0)
