"""Teacher signals made from others: the mean of several teachers, and controls that tell what distillation adds."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, count_views, identity_view, take_views
from nodekd.distill.teacher_signal import TeacherSignal, small_enough
from nodekd.shapes import Images, Labels, Logits
from nodekd.streams import generator

_LEAST_PROBABILITY = 1e-30
"""Keeps the logarithm of a label that is not smoothed at all finite; its share of any loss is far below float32."""


@final
class MeanTeacher:
    """Several teachers as one: the mean of their logits.

    z = (1/N) sum_n z_n

    Source:
        [park2020feature], its baseline of knowledge distillation from several teachers; softening comes after the
        mean.
    """

    def __init__(self, signals: Sequence[TeacherSignal]) -> None:
        if not signals:
            raise ValueError("a mean needs at least one teacher, but got none.")
        self.signals = tuple(signals)

    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Logits:
        """Return the mean (b k)."""
        return torch.stack([signal(rows, views, images) for signal in self.signals]).mean(dim=0)


@final
class PermutedTeacher:
    """A teacher whose logits of the classes that are not the label change places, fixed per image.

    The label's probability, the entropy and everything else that does not depend on which wrong class is which stay
    as they were: what the student loses is the teacher's knowledge of similar classes.

    Source:
        [furlanello2018born], dark knowledge with permuted predictions. They leave the teacher's largest output where
        it is, we leave the label's, and the permutation of an image is the same in every epoch and view.
    """

    def __init__(self, signal: TeacherSignal, labels: Labels, classes: int, seed: int) -> None:
        self.signal = signal
        self.order = _permutations(labels, classes, generator(seed, "permuted classes"))

    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Logits:
        """Return the teacher's logits (b k) in each image's own order."""
        logits = self.signal(rows, views, images)
        return logits.gather(1, self.order[rows.to(self.order.device)].to(logits.device))


def _permutations(labels: Labels, classes: int, stream: torch.Generator) -> Tensor:
    """Return (n k) places from which each class takes its logit; the label takes its own."""
    every = torch.arange(classes)
    target = labels.cpu()[:, None]
    others = every.expand(len(labels), classes)[every != target].view(len(labels), classes - 1)
    shuffled = others.gather(1, torch.rand(others.shape, generator=stream).argsort(dim=1))
    return target.repeat(1, classes).scatter(1, others, shuffled).to(labels.device)


@final
class SmoothedLabels:
    """Labels smoothed evenly until their mean entropy is a teacher's: soft targets that know nothing of the image.

    p(j) = (1 - s) * [j = y] + s / k, as logits: temperature * log p

    Source:
        [szegedy2016rethinking] Sec. 7, eps = s. We choose s by the entropy, so that softening by `temperature` gives
        targets as soft as the teacher's at that temperature.
    """

    def __init__(self, labels: Labels, classes: int, temperature: float, entropy: float) -> None:
        self.smoothing = smoothing_for(entropy, classes)
        """s in [0, 1]."""
        even = torch.full((classes, classes), self.smoothing / classes, dtype=torch.float64)
        probabilities = even + (1 - self.smoothing) * torch.eye(classes, dtype=torch.float64)
        logits = temperature * probabilities.clamp_min(_LEAST_PROBABILITY).log()
        self.table = logits.float().to(labels.device)
        self.labels = labels

    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Logits:
        """Return logits (b k) whose softmax at the temperature is the smoothed label; views do not matter."""
        del views, images
        return self.table[self.labels[rows.to(self.labels.device)]]


def smoothed_entropy(smoothing: float, classes: int) -> float:
    """Return the entropy, in nats, of a label smoothed by s: one class of 1 - s + s/k and k - 1 of s/k."""
    rest = smoothing / classes
    return -sum(count * p * math.log(p) for count, p in ((1, 1 - smoothing + rest), (classes - 1, rest)) if p > 0)


def smoothing_for(entropy: float, classes: int) -> float:
    """Return the smoothing s in [0, 1] that gives labels this entropy, by bisection.

    Args:
        entropy: In nats, in [0, ln k]; entropy rises strictly with s from 0 to ln k.
        classes: k >= 2.

    Raises:
        ValueError: If no smoothing has this entropy.
    """
    if classes < 2 or not -1e-6 <= entropy <= math.log(classes) + 1e-6:
        raise ValueError(
            f"`0 <= entropy <= ln(classes)` must hold, but got entropy={entropy} for {classes} classes; "
            "give the mean entropy of a teacher of the same classes, in nats."
        )
    low, high = 0.0, 1.0
    while high - low > 1e-15 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if smoothed_entropy(middle, classes) < entropy else (low, middle)
    return high if entropy > 0 else 0.0


@torch.no_grad()
def signal_logits(signal: TeacherSignal, split: Split, augmentation: Augmentation, batch_size: int = 512) -> Tensor:
    """Return what a signal says of every training image: (n views k), e.g. for `entropy`.

    Args:
        signal: A teacher, or the mean of several.
        split: The training images.
        augmentation: All views are asked where there are few, otherwise the image alone.
        batch_size: Images in one call.
    """
    every = small_enough(augmentation)
    views = range(count_views(augmentation)) if every else (identity_view(augmentation),)
    rows = torch.arange(len(split), device=split.labels.device)
    columns = []
    for view in views:
        parts = []
        for batch in rows.split(batch_size):
            seen = torch.full_like(batch, view)
            parts.append(signal(batch, seen, take_views(split.images(batch), seen, augmentation)))
        columns.append(torch.cat(parts))
    return torch.stack(columns, dim=1)
