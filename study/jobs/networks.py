"""From settings and weights on disk to a network in memory."""

from collections.abc import Callable
from typing import Any

from torch import nn

from nodekd.checkpoint import load_weights
from nodekd.data.dataset import Dataset
from nodekd.distill.attacked import AdversarialTraining
from nodekd.models.resnet import build_teacher
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import Integrator, per_image
from nodekd.streams import seed_of
from nodekd.train import TrainConfig
from study.jobs.integrators import (
    INTEGRATOR_KEYS,
    attacking_integrator,
    measuring_integrator,
    training_integrator,
)
from study.jobs.work import Work

Settings = dict[str, Any]


def student_of(settings: Settings, dataset: Dataset, device: str, generation: int | None = None) -> nn.Module:
    """Build an untrained student; its initial weights depend on the seed alone, so twins share them.

    Args:
        settings: Settings of a trial.
        dataset: Gives shape, classes and normalisation.
        device: Where the network goes.
        generation: Number of an earlier network in a chain, which starts from weights of its own; None for the
            student itself.
    """
    purpose = ("weights",) if generation is None else ("generation", generation)
    network = build_student(
        student_config(settings["student"]),
        training_integrator(settings["student"]),
        shape=dataset.shape,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        seed=seed_of(settings["seed"], *purpose),
    )
    return network.to(device)


def student_config(student: Settings) -> StudentConfig:
    """Build the configuration of a student's network; how it is solved is left out."""
    network = {name: value for name, value in student.items() if name not in INTEGRATOR_KEYS}
    if network.get("damping") == "learned":
        del network["damping"]
    return StudentConfig(**network)


def teacher_of(settings: Settings, dataset: Dataset, device: str) -> nn.Sequential:
    """Build an untrained teacher."""
    network = build_teacher(
        settings["arch"],
        shape=dataset.shape,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        seed=seed_of(settings["seed"], "weights"),
    )
    return network.to(device)


def trained_network(work: Work, key: str, dataset: Dataset) -> nn.Module:
    """Load the network that another job of this study trained, in eval mode, solved as it is measured."""
    settings = _settings(work, key)
    build = student_of if "student" in settings else teacher_of
    network = build(settings, dataset, "cpu")
    load_weights(network, work.ledger.folder(key) / "weights.pt")
    return as_measured(network.to(work.device).eval(), settings)


def as_measured(network: nn.Module, settings: Settings) -> nn.Module:
    """Return a network solved as `evaluate` says, with direct gradients; networks without an ODE as they are.

    An adaptive solver chooses its steps for every image by itself, so that no answer depends on batch mates (S23).
    """
    return _solved(network, settings, measuring_integrator)


def as_attacked(network: nn.Module, settings: Settings) -> nn.Module:
    """Return the network whose gradients attacks follow: as measured, but for what `attack` says."""
    return _solved(network, settings, attacking_integrator)


def _solved(
    network: nn.Module, settings: Settings, integrator_of: Callable[[Settings], Integrator | None]
) -> nn.Module:
    if not isinstance(network, OdeStudent):
        return network
    integrator = integrator_of(settings)
    assert integrator is not None, "an ODE student has a solver"
    return network.with_integrator(per_image(integrator))


def attack_source(work: Work, key: str, network: nn.Module) -> nn.Module | None:
    """Return `as_attacked` of a trained network where `attack` says anything; None where attacks see what is scored."""
    settings = _settings(work, key)
    return as_attacked(network, settings) if settings.get("attack") else None


def _settings(work: Work, key: str) -> Settings:
    config = work.ledger.config(key)
    assert config is not None, f"{key} was trained before it is used"
    return config["settings"]


def train_config_of(train: Settings) -> TrainConfig:
    """Build the training configuration; `adversarial` is null or {epsilon, steps}."""
    adversarial = train.get("adversarial")
    return TrainConfig(
        **{**train, "adversarial": AdversarialTraining(**adversarial) if adversarial is not None else None}
    )
