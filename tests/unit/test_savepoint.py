"""A training run that is interrupted anywhere and taken up again ends like one that never was, bit for bit."""

import dataclasses
import itertools

import pytest
import torch

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation
from nodekd.distill.feature_objective import FeatureConfig, feature_objective
from nodekd.distill.feature_signal import FeatureTeacher
from nodekd.distill.logits import Distillation
from nodekd.distill.objective import LABELS_ONLY, LogitObjective
from nodekd.distill.robust import RobustObjective
from nodekd.distill.teacher_signal import LiveTeacher
from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.savepoint import Paused, Savepoint, write_archive
from nodekd.train import AdversarialTraining, TrainConfig, TrainingStatus, train

IMAGES, BATCH, EPOCHS = 60, 16, 3
UPDATES = 4 * EPOCHS
"""Of a whole run; the last batch of an epoch is smaller than the others."""


@pytest.fixture(scope="module")
def split():
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 16, (IMAGES, 1, 8, 8), generator=draw, dtype=torch.uint8)
    return Split(pixels, 16, torch.arange(IMAGES) % 3, torch.arange(IMAGES))


def student(norm="batch"):
    config = StudentConfig(channels=8, norm=norm)
    integrator = Integrator(solver="euler", horizon=1.0, steps=2)
    return build_student(config, integrator, shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=0)


def teacher():
    return build_teacher("resnet20", shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=1).eval()


def feed(model, split):
    image = split.images(slice(0, 1))
    return feature_objective(
        FeatureConfig(), [FeatureTeacher(teacher())], LABELS_ONLY, student=model, image=image, seed=5
    )


OBJECTIVES = {
    "labels": lambda model, split: LABELS_ONLY,
    "kd": lambda model, split: LogitObjective(Distillation(), LiveTeacher(teacher())),
    "feed": feed,
    "rslad": lambda model, split: RobustObjective(
        "rslad", Distillation(), LiveTeacher(teacher()), AdversarialTraining(0.1, 2)
    ),
}


@dataclasses.dataclass
class Clock:
    """Says 'pause' when it is asked for the n-th time, and never before."""

    at: int
    asked: int = 0

    def __call__(self):
        self.asked += 1
        return self.asked == self.at


def run(split, path=None, *, pause_at=0, objective="labels", run_name="r", **config):
    """Train; return the status, all weights and buffers, and what every epoch showed."""
    model, epochs = student(), []
    savepoint = None
    if path is not None:
        savepoint = Savepoint(path, run_name, interval_s=1e9, is_paused=Clock(pause_at))
    training = train(
        model,
        split,
        TrainConfig(**{"epochs": EPOCHS, "batch_size": BATCH, **config}),
        augmentation=Augmentation(1, False),
        seed=0,
        objective=OBJECTIVES[objective](model, split),
        on_epoch=lambda epoch: epochs.append(dataclasses.replace(epoch, seconds=0.0)),
        savepoint=savepoint,
    )
    return training.status, training.updates, model.state_dict(), epochs


def assert_alike(found, wanted):
    assert found[:2] == wanted[:2]
    assert found[2].keys() == wanted[2].keys()
    for name, tensor in wanted[2].items():
        assert torch.equal(found[2][name], tensor), name
    assert found[3] == wanted[3][-len(found[3]) :]


@pytest.fixture(autouse=True)
def always_look(monkeypatch):
    monkeypatch.setattr("nodekd.savepoint.LOOK_S", 0.0)


@pytest.mark.parametrize("pause_at", range(1, UPDATES + EPOCHS))
def test_an_interruption_after_any_update_changes_nothing(split, tmp_path, pause_at):
    with pytest.raises(Paused):
        run(split, tmp_path / "s.pt", pause_at=pause_at)
    assert_alike(run(split, tmp_path / "s.pt"), run(split))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("optimizer", "schedule"), [("adamw", "one-cycle"), ("adamw", "constant"), ("sgd", "step"), ("sgd", "cosine")]
)
def test_every_objective_optimiser_and_schedule_goes_on(split, tmp_path, objective, optimizer, schedule):
    given = {"objective": objective, "optimizer": optimizer, "schedule": schedule}
    with pytest.raises(Paused):
        run(split, tmp_path / "s.pt", pause_at=7, **given)
    assert_alike(run(split, tmp_path / "s.pt", **given), run(split, **given))


def test_many_interruptions_change_nothing(split, tmp_path):
    interruptions = 0
    while True:
        try:
            ended = run(split, tmp_path / "s.pt", pause_at=2)
        except Paused:
            interruptions += 1
        else:
            break
    assert interruptions > UPDATES / 3
    assert_alike(ended, run(split))


def test_a_run_that_ended_is_not_run_again(split, tmp_path):
    first = run(split, tmp_path / "s.pt")
    again = run(split, tmp_path / "s.pt")
    assert again[0] is TrainingStatus.FINISHED
    assert again[3] == []
    assert_alike(again, (*first[:3], []))


@pytest.mark.parametrize("fault", ["torn", "empty", "another run", "missing"])
def test_a_file_that_is_no_savepoint_of_this_run_is_not_used(split, tmp_path, fault):
    path = tmp_path / "s.pt"
    with pytest.raises(Paused):
        run(split, path, pause_at=7, run_name="another" if fault == "another run" else "r")
    match fault:
        case "torn":
            path.write_bytes(path.read_bytes()[:1000])
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
    found = run(split, path)
    assert len(found[3]) == EPOCHS
    assert_alike(found, run(split))


def test_a_kill_costs_no_more_than_the_interval(split, tmp_path, monkeypatch):
    """With a clock that ticks once per look, the file is at most that many updates old."""
    ticks = itertools.count()
    monkeypatch.setattr("nodekd.savepoint.time.monotonic", lambda: float(next(ticks)))
    kept = []
    savepoint = Savepoint(tmp_path / "s.pt", "r", interval_s=3.0)

    def write(document, path):
        kept.append(document["state"]["updates"])
        write_archive(document, path)

    monkeypatch.setattr("nodekd.savepoint.write_archive", write)
    train(
        student(),
        split,
        TrainConfig(epochs=EPOCHS, batch_size=BATCH),
        augmentation=Augmentation(1, False),
        seed=0,
        savepoint=savepoint,
    )
    assert max(after - before for before, after in itertools.pairwise([0, *kept])) <= 3
    assert kept[-1] == UPDATES


def test_a_run_that_is_stopped_after_an_epoch_says_so(split):
    training = train(
        student(),
        split,
        TrainConfig(epochs=EPOCHS, batch_size=BATCH),
        augmentation=Augmentation(1, False),
        seed=0,
        on_epoch=lambda epoch: epoch.epoch == 2,
    )
    assert training.status is TrainingStatus.STOPPED
    assert training.updates == UPDATES / EPOCHS * 2
