"""From `distill` in a trial's settings to the loss that its student is trained with."""

from dataclasses import fields
from typing import Any, final

import torch
from torch import nn

from nodekd.data.dataset import Dataset
from nodekd.distill.attacked import AdversarialTraining
from nodekd.distill.catalog import ATTACKING_METHODS, CHAINED_METHODS, FEATURE_METHODS, GENERATION_METHODS
from nodekd.distill.feature_objective import FeatureConfig, FeatureObjective, feature_objective
from nodekd.distill.feature_signal import FeatureSignal, FeatureTeacher, feature_teacher
from nodekd.distill.logits import Distillation, entropy
from nodekd.distill.objective import LABELS_ONLY, BornAgainObjective, LogitObjective, Objective
from nodekd.distill.robust import RobustObjective
from nodekd.distill.signals import MeanTeacher, PermutedTeacher, SmoothedLabels, signal_logits
from nodekd.distill.teacher_signal import CachedTeacher, LiveTeacher, TeacherSignal, logit_table, small_enough
from nodekd.distill.translators import train_paraphraser
from nodekd.streams import seed_of
from study.jobs.networks import trained_network
from study.jobs.work import Work

Settings = dict[str, Any]


def generations_of(distill: Settings) -> int:
    """Return how many networks are trained one after another; the last is the student."""
    if distill["method"] not in CHAINED_METHODS:
        return 1
    return distill["generations"] if distill["method"] in GENERATION_METHODS else 2


@final
class Lesson:
    """What one network of a trial learns from: its data, its teachers, and the network before it in a chain."""

    def __init__(self, work: Work, settings: Settings, dataset: Dataset, earlier: nn.Module | None) -> None:
        self._work, self._settings, self._dataset, self._earlier = work, settings, dataset, earlier
        self._distill: Settings = settings["distill"]
        self._train = dataset.splits["train"]

    def objective(self, student: nn.Module) -> Objective:
        """Build the loss; without a method, or without anybody to learn from yet, the labels alone count.

        Args:
            student: The untrained network, from which the shapes of its maps are read.
        """
        method = self._distill["method"]
        if method == "none" or (method in CHAINED_METHODS and self._earlier is None):
            return LABELS_ONLY
        if method in FEATURE_METHODS:
            return self._of_features(student)
        if method == "ban":
            return BornAgainObjective(self._teacher())
        if method in ATTACKING_METHODS and self._distillation().uses_teacher:  # else plain adversarial training
            adversarial = AdversarialTraining(**self._settings["train"]["adversarial"])
            return RobustObjective(method, self._distillation(), self._teacher(), adversarial)
        return self._of_logits()

    def _of_logits(self) -> LogitObjective:
        distillation = self._distillation()
        return LogitObjective(distillation, self._signal()) if distillation.uses_teacher else LABELS_ONLY

    def _distillation(self) -> Distillation:
        """Build the weights of the loss; at alpha 0 the temperature is inactive and absent."""
        known = {each.name for each in fields(Distillation)}
        return Distillation(**{name: value for name, value in self._distill.items() if name in known})

    def _signal(self) -> TeacherSignal:
        """Return what the student sees of its teachers' logits: as they are, or as one of the controls."""
        teacher, labels, classes = self._teacher(), self._train.labels, self._dataset.classes
        match self._distill["method"]:
            case "kd-permuted":
                return PermutedTeacher(teacher, labels, classes, self._settings["seed"])
            case "label-smoothing":
                temperature = self._distill["temperature"]
                softness = entropy(signal_logits(teacher, self._train, self._dataset.augmentation), temperature)
                return SmoothedLabels(labels, classes, temperature, softness)
            case _:
                return teacher

    def _teacher(self) -> TeacherSignal:
        if self._earlier is not None:
            return self._tabulated(self._earlier)
        signals = [self._stored(key) for key in dict.fromkeys(self._work.payload["teachers"])]
        return signals[0] if len(signals) == 1 else MeanTeacher(signals)

    def _stored(self, key: str) -> TeacherSignal:
        table = self._work.ledger.folder(key) / "logits.pt"
        if table.is_file():
            return CachedTeacher(torch.load(table, weights_only=True).to(self._work.device))
        return LiveTeacher(trained_network(self._work, key, self._dataset))

    def _tabulated(self, network: nn.Module) -> TeacherSignal:
        augmentation = self._dataset.augmentation
        if not small_enough(augmentation):
            return LiveTeacher(network)
        return CachedTeacher(logit_table(network.eval(), self._train, augmentation))

    def _of_features(self, student: nn.Module) -> FeatureObjective:
        known = {each.name for each in fields(FeatureConfig)} - {"kind"}
        given = {name: value for name, value in self._distill.items() if name in known}
        method = self._distill["method"]
        return feature_objective(
            FeatureConfig(kind="attention" if method == "at" else "translated", **given),
            self._feature_signals(),
            self._of_logits() if method == "kd-feed" else LABELS_ONLY,
            student=student,
            image=self._train.images(slice(0, 1)),
            seed=self._settings["seed"],
        )

    def _feature_signals(self) -> list[FeatureSignal]:
        """Return a source of maps per teacher; one that stands there several times is read once."""
        if self._earlier is not None:
            return [self._feature_teacher(self._earlier)]
        made = {key: self._of_key(key) for key in dict.fromkeys(self._work.payload["teachers"])}
        return [made[key] for key in self._work.payload["teachers"]]

    def _of_key(self, key: str) -> FeatureSignal:
        teacher = self._feature_teacher(trained_network(self._work, key, self._dataset))
        if self._distill["method"] != "ft":
            return teacher
        seed = seed_of(self._settings["seed"], key)
        return train_paraphraser(teacher, self._train, self._dataset.augmentation, seed=seed)

    def _feature_teacher(self, network: nn.Module) -> FeatureTeacher:
        return feature_teacher(network, self._train, self._dataset.augmentation)
