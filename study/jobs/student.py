"""Train one student and measure it: a trial of the search, an alpha-0 twin, or the undistilled anchor."""

from typing import Any

import torch

from nodekd.attacks.threat import Threat
from nodekd.checkpoint import save_weights
from nodekd.data.dataset import Dataset
from nodekd.distill.logits import agreement, entropy
from nodekd.distill.teacher_signal import CachedTeacher, LiveTeacher, TeacherSignal
from nodekd.evaluate import Evaluation, evaluate
from nodekd.models.student import OdeStudent, parameter_count
from nodekd.search_proxy import proxy_survival
from nodekd.streams import seed_of
from nodekd.train import TrainingStatus, train
from study.jobs.history import History
from study.jobs.networks import distillation_of, student_of, train_config_of, trained_network
from study.jobs.subset import subset
from study.jobs.survivors import read_pool, write_images
from study.jobs.work import Result, Work, failed

REASONS = {TrainingStatus.DIVERGED: "diverged", TrainingStatus.CAPPED: "capped"}


def run_student(work: Work) -> Result:
    """Train, write `weights.pt` and `history.jsonl`, and measure on val_search.

    With a `search` in the payload the student is attacked as well and gets both objectives (S16), and may keep the
    images that broke it; without one it is a twin and gets its accuracy alone.
    """
    settings, search = work.payload["settings"], work.payload.get("search")
    dataset = work.dataset("train", "val_search")
    student = student_of(settings, dataset, work.device)
    distillation = distillation_of(settings["distill"])
    teacher_key = work.payload.get("teacher") if distillation.uses_teacher else None
    history = History(work.folder, lambda: evaluate(student, dataset.splits["val_search"]))
    training = train(
        student,
        dataset.splits["train"],
        train_config_of(settings["train"]),
        augmentation=dataset.augmentation,
        seed=settings["seed"],
        distillation=distillation,
        teacher=_signal(work, teacher_key, dataset) if teacher_key else None,
        on_epoch=history.note,
    )
    metrics = _description(student, training.seconds, training.updates)
    if training.status in REASONS:
        return failed(REASONS[training.status], metrics)
    save_weights(student, work.folder / "weights.pt")
    clean = evaluate(student, dataset.splits["val_search"])
    metrics |= _clean_metrics(clean)
    if clean.solve_failures == len(clean.correct):
        return failed("capped" if not student.integrator.fixed else "diverged", metrics)
    if teacher_key:
        metrics |= _against_teacher(work, teacher_key, dataset, clean, distillation.temperature)
    values = {"accuracy": clean.accuracy}
    if search is not None:
        values["adversarial_accuracy"], attacked = _adversarial(work, student, dataset, search)
        metrics |= attacked
    return Result(metrics=metrics, values=values)


def _signal(work: Work, key: str, dataset: Dataset) -> TeacherSignal:
    table = work.ledger.folder(key) / "logits.pt"
    if table.is_file():
        return CachedTeacher(torch.load(table, weights_only=True).to(work.device))
    return LiveTeacher(trained_network(work, key, dataset))


def _description(student: OdeStudent, seconds: float, updates: int) -> dict[str, Any]:
    integrator = student.integrator
    return {
        "parameter_count": parameter_count(student),
        "training_seconds": seconds,
        "updates": updates,
        "steps": integrator.steps,
        "step_size": integrator.step_size,
        "evaluations": integrator.evaluations,
        "horizon": integrator.horizon,
        "solver": integrator.solver,
    }


def _clean_metrics(clean: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": clean.accuracy,
        "n": len(clean.correct),
        "nll": clean.nll,
        "nfe": clean.nfe,
        "solve_failures": clean.solve_failures,
    }


def _against_teacher(
    work: Work, key: str, dataset: Dataset, clean: Evaluation, temperature: float
) -> dict[str, float | str]:
    theirs = evaluate(trained_network(work, key, dataset), dataset.splits["val_search"])
    return {
        "teacher": key,
        "agreement": agreement(clean.logits, theirs.logits),
        "teacher_entropy": entropy(theirs.logits, temperature),
    }


def _adversarial(
    work: Work, student: OdeStudent, dataset: Dataset, search: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    split = dataset.splits["val_search"]
    rows = subset(split, search["images"])
    pool = read_pool({name: work.ledger.folder(key) for name, key in search["pool"].items()}, split.ids[rows], 0)
    survival = proxy_survival(
        student,
        split.images(rows),
        split.labels[rows],
        Threat(search["norm"], search["epsilon"]),
        pool,
        seed=seed_of(search["seed"], "search"),
    )
    if search["keep_images"]:
        write_images(work.folder, split.ids[rows], [survival])
    n = len(rows)
    still = survival.clean_correct.clone()
    columns: dict[str, float] = {}
    for index, name in enumerate(survival.columns):
        still &= ~survival.broken[index]
        columns[name] = float(still.float().mean())
    return columns[survival.columns[-1]], {"n_adversarial": n, "proxy": columns}
