"""Objectives that compare the last feature map of a student with those of its teachers: FEED, FT and AT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from nodekd.distill.feature_loss import Distance, Reduction, attention_distance, feature_distance, to_side
from nodekd.distill.feature_signal import FeatureSignal, map_of
from nodekd.distill.objective import Batch, LogitLoss
from nodekd.distill.translators import Translator, build_translator
from nodekd.models.features import forward_with_features
from nodekd.shapes import Images, Logits
from nodekd.streams import seed_of


@final
@dataclass(frozen=True)
class FeatureConfig:
    """How feature maps enter the loss."""

    kind: Literal["translated", "attention"] = "translated"
    """`translated`: FEED and FT, whose students' maps go through translators; `attention`: AT, which has none."""
    beta: float = 500.0
    """Weight > 0 of the sum over teachers; means something only together with `beta_reduction`."""
    beta_reduction: Reduction = "mean"
    """`mean` over all entries of a batch of maps, or `sum` per sample, averaged over the batch."""
    beta_divided: bool = False
    """Whether beta is divided by the number of teachers, with which the sum grows."""
    feature_distance: Distance = "l1"
    feature_normalise: bool = True
    """Whether each sample's map is divided by its L2 norm."""
    translator: Translator = "conv3x3"
    translator_shared: bool = False
    """One translator for all teachers instead of one for each."""
    feature_times: int = 1
    """States of an ODE student that are compared, at equally spaced times up to the horizon."""

    def __post_init__(self) -> None:
        if self.kind not in ("translated", "attention"):
            raise ValueError(f"`kind` must be translated or attention, but got {self.kind!r}.")
        if not self.beta > 0:
            raise ValueError(f"`beta > 0` must hold, but got {self.beta}; leave features out with another method.")
        if self.beta_reduction not in ("mean", "sum"):
            raise ValueError(f"`beta_reduction` must be mean or sum, but got {self.beta_reduction!r}.")
        if self.feature_distance not in ("l1", "l2"):
            raise ValueError(f"`feature_distance` must be l1 or l2, but got {self.feature_distance!r}.")
        if self.feature_times < 1:
            raise ValueError(f"`feature_times >= 1` must hold, but got {self.feature_times}.")


@final
class FeatureObjective:
    """A loss of the logits, and a pull of the student's map towards each teacher's.

    L = L_base + beta * sum_n mean_t L_n(h(t)),  or beta/N

    Teachers and translators see maps of the teacher's side: the student's is brought there first, by `to_side`; its
    channels are brought to the teacher's by the translator. Each teacher has one translator for all times.

    Source:
        [park2020feature] Sec. 3, pFEED, with L_base the cross-entropy; sFEED is one teacher, the generation before.
        [kim2018paraphrasing] where teachers are `FactorTeacher`, [zagoruyko2017paying] with `attention`. Sides,
        several times and beta/N are our extensions.
    """

    attacks = False

    def __init__(
        self,
        config: FeatureConfig,
        teachers: Sequence[FeatureSignal],
        base: LogitLoss,
        translators: Sequence[nn.Module] = (),
    ) -> None:
        if not teachers:
            raise ValueError("features are compared with at least one teacher, but got none.")
        if config.kind == "translated" and len(translators) != len(teachers):
            raise ValueError(f"{len(teachers)} teachers need as many translators, but got {len(translators)}.")
        self.config, self.teachers, self.base = config, tuple(teachers), base
        self.translators = tuple(translators) if config.kind == "translated" else ()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Logits, Tensor]:
        """Return the student's logits (b k) and the loss; the student runs once."""
        logits, maps = forward_with_features(model, batch.images, self.config.feature_times)
        beta = self.config.beta / (len(self.teachers) if self.config.beta_divided else 1)
        return logits, self.base.of_logits(logits, batch) + beta * self.pull(maps, batch)

    def pull(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the sum over teachers of the mean over times, without beta; a scalar.

        Args:
            maps: The student's maps (b c h w), one for each time.
            batch: The images; teachers see the clean ones.
        """
        pulls: list[Tensor] = []
        for index, teacher in enumerate(self.teachers):
            theirs = teacher(batch.rows, batch.views, batch.clean)
            pulls.append(torch.stack([self._distance(index, ours, theirs) for ours in maps]).mean())
        return torch.stack(pulls).sum()

    def helpers(self) -> list[nn.Module]:
        """Return the translators, a shared one once."""
        return list(dict.fromkeys(self.translators))

    def _distance(self, index: int, ours: Tensor, theirs: Tensor) -> Tensor:
        config = self.config
        if config.kind == "attention":
            return attention_distance(ours, theirs, config.beta_reduction)
        translated = self.translators[index](to_side(ours, *theirs.shape[2:]))
        return feature_distance(
            translated,
            theirs,
            distance=config.feature_distance,
            normalise=config.feature_normalise,
            reduction=config.beta_reduction,
        )


def feature_objective(
    config: FeatureConfig,
    teachers: Sequence[FeatureSignal],
    base: LogitLoss,
    *,
    student: nn.Module,
    image: Images,
    seed: int,
) -> FeatureObjective:
    """Build the objective with untrained translators between this student and these teachers.

    Args:
        config: The loss.
        teachers: Sources of maps; `FactorTeacher` for factor transfer.
        base: The loss of the logits.
        student: The untrained student; asked for the channels of its map, not changed.
        image: One training image (1 c h w) as it is, the first of the split, from which the shapes are read.
        seed: Root seed of the run; translators have a stream of their own (S7).

    Raises:
        ValueError: If a shared translator would have to end in different numbers of channels.
    """
    if config.kind == "attention":
        return FeatureObjective(config, teachers, base)
    ours = map_of(student, image).shape[1]
    sizes = [teacher.channels(image) for teacher in teachers]
    if config.translator_shared and len(set(sizes)) > 1:
        raise ValueError(
            f"a shared translator needs teachers whose maps have equally many channels, but got {sizes}; "
            "set translator_shared to false."
        )
    kinds = [0] * len(sizes) if config.translator_shared else list(range(len(sizes)))
    built = {
        index: build_translator(
            config.translator, ours, sizes[index][0], factors=sizes[index][1], seed=seed_of(seed, "translators", index)
        ).to(image.device)
        for index in dict.fromkeys(kinds)
    }
    return FeatureObjective(config, teachers, base, [built[index] for index in kinds])
