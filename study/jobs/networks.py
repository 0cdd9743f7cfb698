"""From settings and weights on disk to a network in memory."""

from typing import Any

from torch import nn

from nodekd.checkpoint import load_weights
from nodekd.data.dataset import Dataset
from nodekd.distill.logits import PLAIN, Distillation
from nodekd.models.resnet import build_teacher
from nodekd.models.student import OdeStudent, StudentConfig, build_student
from nodekd.ode.integrator import FIXED, Integrator, steps_for
from nodekd.streams import seed_of
from nodekd.train import AdversarialTraining, TrainConfig
from study.jobs.work import Work

Settings = dict[str, Any]

INTEGRATOR_KEYS = (
    "solver",
    "horizon",
    "steps",
    "step_size",
    "evaluations",
    "rtol",
    "atol",
    "max_evaluations",
    "gradient",
)


def integrator_of(student: Settings) -> Integrator:
    """Build the integrator that a student's settings describe."""
    solver, horizon = student["solver"], float(student["horizon"])
    common = {"solver": solver, "horizon": horizon, "gradient": student.get("gradient", "direct")}
    if solver in FIXED:
        given = {name: student.get(name) for name in ("steps", "step_size", "evaluations")}
        return Integrator(**common, steps=steps_for(solver, horizon, **given))
    rtol = float(student["rtol"])
    return Integrator(
        **common,
        steps=None,
        rtol=rtol,
        atol=float(student["atol"]) if student.get("atol") is not None else rtol,
        max_evaluations=int(student["max_evaluations"]),
    )


def student_of(settings: Settings, dataset: Dataset, device: str) -> OdeStudent:
    """Build an untrained student; its initial weights depend on the seed alone, so twins share them."""
    student = settings["student"]
    config = StudentConfig(**{name: value for name, value in student.items() if name not in INTEGRATOR_KEYS})
    network = build_student(
        config,
        integrator_of(student),
        shape=dataset.shape,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        seed=seed_of(settings["seed"], "weights"),
    )
    return network.to(device)


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
    """Load the network that another job of this study trained, in eval mode."""
    config = work.ledger.config(key)
    assert config is not None, f"{key} was trained before it is used"
    build = student_of if "student" in config["settings"] else teacher_of
    network = build(config["settings"], dataset, "cpu")
    load_weights(network, work.ledger.folder(key) / "weights.pt")
    return network.to(work.device).eval()


def train_config_of(train: Settings) -> TrainConfig:
    """Build the training configuration; `adversarial` is null or {epsilon, steps}."""
    adversarial = train.get("adversarial")
    return TrainConfig(
        **{**train, "adversarial": AdversarialTraining(**adversarial) if adversarial is not None else None}
    )


def distillation_of(distill: Settings) -> Distillation:
    """Build the loss; without a method, or at alpha 0, the labels alone count and the temperature is inactive."""
    if distill.get("method") == "none" or distill.get("alpha") == 0:
        return PLAIN
    return Distillation(**{name: value for name, value in distill.items() if name != "method"})
