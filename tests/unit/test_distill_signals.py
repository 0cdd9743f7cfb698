"""Controls made from a teacher's signal: what they keep, and what they take away."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, take_views
from nodekd.distill.logits import born_again_loss, entropy
from nodekd.distill.signals import (
    MeanTeacher,
    PermutedTeacher,
    SmoothedLabels,
    signal_logits,
    smoothed_entropy,
    smoothing_for,
)
from nodekd.distill.teacher_signal import CachedTeacher

ROWS, VIEWS = torch.tensor([2, 0, 5, 2]), torch.tensor([0, 1, 1, 1])
IMAGES = torch.zeros(4, 1, 8, 8)
LABELS = torch.tensor([0, 3, 1, 2, 3, 3])


def table(seed=0, n=6, views=2, classes=4):
    return torch.randn(n, views, classes, generator=torch.Generator().manual_seed(seed)) * 3


def test_several_teachers_are_the_mean_of_their_logits():
    tables = [table(seed) for seed in range(3)]
    mean = MeanTeacher([CachedTeacher(t) for t in tables])(ROWS, VIEWS, IMAGES)
    wanted = np.mean([[t[r, v].numpy() for r, v in zip(ROWS, VIEWS, strict=True)] for t in tables], axis=0)
    assert np.allclose(mean, wanted, atol=1e-6)
    alone = MeanTeacher([CachedTeacher(tables[0])] * 5)(ROWS, VIEWS, IMAGES)
    assert torch.allclose(alone, CachedTeacher(tables[0])(ROWS, VIEWS, IMAGES), atol=1e-6)
    with pytest.raises(ValueError, match="at least one teacher"):
        MeanTeacher([])


def test_permuted_labels_keep_the_label_and_the_set_of_probabilities():
    plain = CachedTeacher(table())(ROWS, VIEWS, IMAGES)
    permuted = PermutedTeacher(CachedTeacher(table()), LABELS, 4, seed=1)(ROWS, VIEWS, IMAGES)
    labels = LABELS[ROWS]
    assert torch.equal(permuted.gather(1, labels[:, None]), plain.gather(1, labels[:, None]))
    assert torch.equal(permuted.sort(dim=1).values, plain.sort(dim=1).values)
    assert entropy(permuted, 4.0) == pytest.approx(entropy(plain, 4.0), rel=1e-6)


def test_an_image_is_permuted_the_same_way_in_every_view_and_batch():
    constant = torch.arange(4.0).expand(6, 2, 4)
    teacher = PermutedTeacher(CachedTeacher(constant), LABELS, 4, seed=1)
    orders = teacher(ROWS, VIEWS, IMAGES)
    assert torch.equal(orders[0], orders[3])
    again = PermutedTeacher(CachedTeacher(constant), LABELS, 4, seed=1)
    assert torch.equal(again(ROWS[2:], VIEWS[2:], IMAGES[2:]), orders[2:])


def test_every_permutation_of_the_other_classes_is_equally_likely():
    n = 6000
    labels = torch.arange(n) % 4
    teacher = PermutedTeacher(CachedTeacher(torch.arange(4.0).expand(n, 1, 4)), labels, 4, seed=3)
    seen = teacher(torch.arange(n), torch.zeros(n, dtype=torch.int64), IMAGES)
    assert torch.equal(seen[torch.arange(n), labels], labels.float())
    of_zero = [tuple(row) for row in seen[labels == 0].int().tolist()]
    counts = [of_zero.count(order) for order in sorted(set(of_zero))]
    assert len(counts) == 6
    assert all(abs(count - 250) < 4 * math.sqrt(250) for count in counts)
    other = PermutedTeacher(teacher.signal, labels, 4, seed=4)
    assert not torch.equal(teacher.order, other.order)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("smoothing", [1e-6, 0.01, 0.3, 0.9, 1.0])
def test_smoothing_is_found_from_its_entropy(classes, smoothing):
    p = np.full(classes, smoothing / classes)
    p[0] += 1 - smoothing
    closed = float(-(p * np.log(p)).sum())
    assert smoothed_entropy(smoothing, classes) == pytest.approx(closed, rel=1e-9)
    # Near even labels the entropy is flat, so the smoothing itself is less exact there.
    assert smoothing_for(closed, classes) == pytest.approx(smoothing, rel=1e-6, abs=1e-6)


def test_the_ends_of_smoothing_are_the_label_and_no_knowledge():
    assert smoothing_for(0.0, 10) == 0
    assert smoothing_for(math.log(10), 10) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="`0 <= entropy <= ln"):
        smoothing_for(2.4, 10)
    with pytest.raises(ValueError, match="`0 <= entropy <= ln"):
        smoothing_for(float("nan"), 10)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_smoothed_labels_have_the_teachers_entropy_and_no_more(temperature):
    theirs = table()
    target = entropy(theirs, temperature)
    smooth = SmoothedLabels(LABELS, 4, temperature, target)
    logits = smooth(ROWS, VIEWS, IMAGES)
    assert entropy(logits, temperature) == pytest.approx(target, rel=1e-4)
    s = smooth.smoothing
    wanted = (1 - s) * np.eye(4)[LABELS[ROWS]] + s / 4
    assert np.allclose(softmax(logits.numpy() / temperature, axis=1), wanted, atol=1e-6)


def test_labels_that_are_not_smoothed_stay_finite():
    logits = SmoothedLabels(LABELS, 4, 4.0, 0.0)(ROWS, VIEWS, IMAGES)
    assert torch.isfinite(logits).all()
    assert np.allclose(softmax(logits.numpy() / 4, axis=1), np.eye(4)[LABELS[ROWS]])


def test_entropy_of_a_table_is_that_of_every_image_and_view():
    theirs = table()
    p = softmax(theirs.double().numpy() / 2, axis=-1)
    assert entropy(theirs, 2.0) == pytest.approx(float(-(p * np.log(p)).sum(-1).mean()), rel=1e-5)


@pytest.mark.parametrize(("augmentation", "views"), [(Augmentation(1, False), 9), (Augmentation(4, True), 1)])
def test_a_signal_is_asked_for_all_views_or_the_image_alone(augmentation, views):
    pixels = torch.randint(0, 17, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(pixels, 16, torch.arange(5) % 4, torch.arange(5))

    def signal(rows, seen, images):
        assert torch.equal(images, take_views(split.images(rows), seen, augmentation))
        return torch.stack([rows.float(), images.sum(dim=(1, 2, 3))], dim=1)

    logits = signal_logits(signal, split, augmentation, batch_size=2)
    assert logits.shape == (5, views, 2)
    assert torch.equal(logits[:, :, 0], torch.arange(5.0)[:, None].expand(5, views))
    assert torch.allclose(logits[:, views // 2, 1], split.images().sum(dim=(1, 2, 3)))


def test_born_again_networks_weigh_labels_and_teacher_alike():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 6, 5))
    labels = rng.integers(5, size=6)
    ours, theirs = log_softmax(student, axis=1), log_softmax(teacher, axis=1)
    hard = -ours[np.arange(6), labels].mean()
    soft = (np.exp(theirs) * (theirs - ours)).sum(axis=1).mean()
    loss = born_again_loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(labels))
    assert float(loss) == pytest.approx(hard + soft, rel=1e-5)
