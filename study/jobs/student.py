"""Train one student and measure it: a trial of the search, an alpha-0 twin, or the undistilled anchor."""

from typing import Any, final

from torch import nn

from nodekd.checkpoint import save_weights
from nodekd.data.dataset import Dataset
from nodekd.distill.logits import agreement, ensemble_accuracy, entropy
from nodekd.evaluate import Evaluation, evaluate
from nodekd.models.damping import damping_values
from nodekd.models.student import OdeStudent, parameter_count
from nodekd.streams import seed_of
from nodekd.train import Epoch, Training, TrainingStatus, train
from study.engine.epochs import epoch_is_over
from study.jobs.history import History
from study.jobs.integrators import training_integrator
from study.jobs.limits import broken
from study.jobs.networks import as_measured, student_of, train_config_of, trained_network
from study.jobs.objectives import Lesson, generations_of
from study.jobs.proxy import adversarial
from study.jobs.rungs import Rungs
from study.jobs.work import Result, Work, failed

REASONS = {TrainingStatus.DIVERGED: "diverged", TrainingStatus.CAPPED: "capped"}


def run_student(work: Work) -> Result:
    """Train, write `weights.pt` and `history.jsonl`, and measure on val_search.

    With a `search` in the payload the student is attacked as well and gets both objectives (S16), with what the checks
    say of the gradients that the attacks followed, and may keep the images that broke it; without one it is a twin and
    gets its accuracy alone.
    """
    settings, search = work.payload["settings"], work.payload.get("search")
    dataset = work.dataset("train", "val_search")
    chain, limits = Chain(work, settings, dataset), work.payload.get("constraints") or {}
    if against := broken(limits, {"parameter_count": parameter_count(chain.student)}):
        return failed("infeasible", _description(chain.student, settings) | {"infeasible": against})
    status = chain.train()
    metrics = _description(chain.student, settings) | chain.metrics()
    if status in REASONS:
        return failed(REASONS[status], metrics)
    if against := broken(limits, metrics):
        return failed("infeasible", metrics | {"infeasible": against})
    if status is TrainingStatus.STOPPED:
        return chain.rungs.result(metrics)
    save_weights(chain.student, work.folder / "weights.pt")
    student = as_measured(chain.student, settings)
    clean = evaluate(student, dataset.splits["val_search"])
    metrics |= _clean_metrics(clean)
    if clean.solve_failures == len(clean.correct):
        adaptive = isinstance(student, OdeStudent) and not student.integrator.fixed
        return failed("capped" if adaptive else "diverged", metrics)
    if work.payload["teachers"]:
        metrics |= _against_teachers(work, dataset, clean, settings["distill"].get("temperature", 1.0))
    values = {"accuracy": clean.accuracy}
    if search is not None:
        values["adversarial_accuracy"], attacked = adversarial(work, student, dataset, search)
        metrics |= attacked
    metrics["infeasible"] = [*metrics.get("infeasible", ()), *broken(limits, metrics)]
    return Result(metrics=metrics, values=values)


@final
class Chain:
    """The networks of one trial, trained one after another; without a chained method there is one."""

    def __init__(self, work: Work, settings: dict[str, Any], dataset: Dataset) -> None:
        self._work, self._settings, self._dataset = work, settings, dataset
        self._count = generations_of(settings["distill"])
        self.rungs = Rungs(work, settings, dataset)
        self._trained: list[Training] = []
        self._accuracies: list[float] = []
        self.student: nn.Module = student_of(settings, dataset, work.device)

    def train(self) -> TrainingStatus:
        """Train every generation; the last is `student`, with the weights at start and the batches of its twin (S7)."""
        status, earlier = TrainingStatus.FINISHED, None
        for generation in range(self._count - 1):
            network = student_of(self._settings, self._dataset, self._work.device, generation)
            seed = seed_of(self._settings["seed"], "generation", generation)
            status = self._train_one(network, earlier, seed, generation)
            if status is not TrainingStatus.FINISHED:
                return status
            earlier = network.eval()
        return self._train_one(self.student, earlier, self._settings["seed"], self._count - 1)

    def _train_one(self, network: nn.Module, earlier: nn.Module | None, seed: int, generation: int) -> TrainingStatus:
        split = self._dataset.splits["val_search"]
        history = History(self._work.folder, lambda: evaluate(network, split))
        try:
            objective = Lesson(self._work, self._settings, self._dataset, earlier).objective(network)
        except FloatingPointError:  # what is trained before the student, as factor transfer's paraphraser
            return TrainingStatus.DIVERGED
        training = train(
            network,
            self._dataset.splits["train"],
            train_config_of(self._settings["train"]),
            augmentation=self._dataset.augmentation,
            seed=seed,
            objective=objective,
            on_epoch=lambda epoch: self._after(epoch, network, history),
            savepoint=self._work.savepoint(generation),
        )
        self._trained.append(training)
        if self._count > 1:
            self._accuracies.append(evaluate(network, split).accuracy)
        return training.status

    def _after(self, epoch: Epoch, network: nn.Module, history: History) -> bool:
        """Note the epoch; tell whether the student, and with it the trial, ends here."""
        history.note(epoch)
        epoch_is_over()
        seconds = epoch.seconds + sum(training.seconds for training in self._trained)
        if broken(self._work.payload.get("constraints") or {}, {"training_seconds": seconds}):
            return True
        return network is self.student and self.rungs.stop(epoch.epoch, network)

    def metrics(self) -> dict[str, Any]:
        """Return time and updates of all generations, and where there are several, the accuracy of each."""
        total: dict[str, Any] = {
            "training_seconds": sum(training.seconds for training in self._trained),
            "updates": sum(training.updates for training in self._trained),
            **self.rungs.metrics(),
        }
        if self._count > 1:
            pairs = zip(self._trained, self._accuracies, strict=True)
            total["generations"] = [{"updates": training.updates, "accuracy": right} for training, right in pairs]
        return total


def _description(student: nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
    integrator = training_integrator(settings["student"])
    described: dict[str, Any] = {
        "parameter_count": parameter_count(student),
        "method": settings["distill"]["method"],
        "damping": damping_values(student),
    }
    if integrator is not None:
        described |= {
            "steps": integrator.steps,
            "step_size": integrator.step_size,
            "evaluations": integrator.evaluations,
            "horizon": integrator.horizon,
            "solver": integrator.solver,
        }
    return described


def _clean_metrics(clean: Evaluation) -> dict[str, Any]:
    return {
        "accuracy": clean.accuracy,
        "n": len(clean.correct),
        "nll": clean.nll,
        "nfe": clean.nfe,
        "solve_failures": clean.solve_failures,
    }


def _against_teachers(work: Work, dataset: Dataset, clean: Evaluation, temperature: float) -> dict[str, float | str]:
    """Compare with the first teacher; of several different ones, the accuracy of their mean logits is recorded."""
    split = dataset.splits["val_search"]
    keys = list(dict.fromkeys(work.payload["teachers"]))
    theirs = [evaluate(trained_network(work, key, dataset), split).logits for key in keys]
    compared: dict[str, float | str] = {
        "teacher": keys[0],
        "agreement": agreement(clean.logits, theirs[0]),
        "teacher_entropy": entropy(theirs[0], temperature),
    }
    if len(keys) > 1:
        compared["ensemble_accuracy"] = ensemble_accuracy(theirs, split.labels)
    return compared
