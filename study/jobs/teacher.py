"""Train a teacher, or load it from a checkpoint, and keep its logits where a table of all views is small."""

from pathlib import Path
from typing import Any

from torch import nn

from nodekd.checkpoint import load_weights, save_weights, stored_names
from nodekd.data.dataset import Dataset
from nodekd.distill.logits import entropy
from nodekd.distill.objective import LABELS_ONLY
from nodekd.distill.teacher_signal import logit_table, small_enough
from nodekd.distill.tempered import TemperedLabels
from nodekd.evaluate import evaluate
from nodekd.models.student import parameter_count
from nodekd.savepoint import write_archive
from nodekd.train import TrainingStatus, train
from study.jobs.history import History
from study.jobs.networks import teacher_of, train_config_of
from study.jobs.work import Result, Work, failed

ENTROPY_TEMPERATURES = (1, 2, 4, 8, 16)
"""Temperatures at which the teacher's mean entropy is recorded (S6)."""


def run_teacher(work: Work) -> Result:
    """Write `weights.pt`, and `logits.pt` for small data sets; the metrics describe the teacher.

    The payload names the settings, the checkpoint or null, and, for a control, the `temperature` of the cross-entropy
    in training, which no space can ask for.
    """
    settings = work.payload["settings"]
    dataset = work.dataset("train", "val_search", "val_front")
    teacher = teacher_of(settings, dataset, work.device)
    training = _obtain(teacher, settings, dataset, work)
    if training.get("status") == TrainingStatus.DIVERGED.name:
        return failed("diverged", training)
    teacher.eval()
    save_weights(teacher, work.folder / "weights.pt")
    train_split = dataset.splits["train"]
    if small_enough(dataset.augmentation):
        table = logit_table(teacher, train_split, dataset.augmentation)
        write_archive(table.cpu(), work.folder / "logits.pt")
    clean = evaluate(teacher, train_split)
    accuracy = {name: evaluate(teacher, dataset.splits[name]).accuracy for name in ("val_search", "val_front")}
    return Result(
        metrics={
            **training,
            "arch": settings["arch"],
            "seed": settings["seed"],
            "accuracy": accuracy["val_search"],
            "val_front_accuracy": accuracy["val_front"],
            "n": len(dataset.splits["val_search"]),
            "parameter_count": parameter_count(teacher),
            "entropy": {str(t): entropy(clean.logits, t) for t in ENTROPY_TEMPERATURES},
        }
    )


def _obtain(teacher: nn.Sequential, settings: dict[str, Any], dataset: Dataset, work: Work) -> dict[str, Any]:
    if settings.get("checkpoint"):
        load_teacher(teacher, Path(work.payload["checkpoint"]))
        return {"training_seconds": 0.0, "trained_on": settings.get("trained_on") or "unknown"}
    temperature = float(work.payload.get("temperature", 1))
    history = History(work.folder, lambda: evaluate(teacher, dataset.splits["val_search"]))
    training = train(
        teacher,
        dataset.splits["train"],
        train_config_of(settings["train"]),
        augmentation=dataset.augmentation,
        seed=settings["seed"],
        objective=TemperedLabels(temperature) if temperature != 1 else LABELS_ONLY,
        on_epoch=history.note,
        savepoint=work.savepoint(),
    )
    return {
        "status": training.status.name,
        "training_seconds": training.seconds,
        "updates": training.updates,
        "trained_on": f"{dataset.name} train",
    }


def load_teacher(teacher: nn.Sequential, path: Path) -> None:
    """Load a checkpoint of the bare network, or one that this project wrote with its normalisation.

    Raises:
        CheckpointError: If it fits neither; the message lists the keys of the bare network.
    """
    network = teacher[1]
    whole = set(teacher.state_dict())
    stored = stored_names(path)
    load_weights(teacher if stored == whole else network, path)
