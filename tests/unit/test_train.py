"""Training: separate random streams, bit-identical repeats, statuses instead of exceptions."""

import numpy as np
import pytest
import torch

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.spec import PGD_20
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, count_views, take_views
from nodekd.distill.logits import Distillation
from nodekd.distill.teacher_signal import CachedTeacher, LiveTeacher, logit_table
from nodekd.evaluate import evaluate
from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.train import AdversarialTraining, TrainConfig, TrainingStatus, train

SHIFTS = Augmentation(1, False)
BRIEF = TrainConfig(epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def split(request):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    pixels = torch.randint(0, 5, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for index, label in enumerate(labels):
        pixels[index, :, :, 2 * label : 2 * label + 2] += 10
    return Split(pixels, 16, labels, torch.arange(60))


def student(seed=0, **integrator):
    given = {"solver": "euler", "horizon": 1.0, "steps": 2, **integrator}
    return build_student(
        StudentConfig(channels=8), Integrator(**given), shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=seed
    )


def teacher():
    return build_teacher("resnet20", shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=1).eval()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(split, seed=0, disturb=False, **changes):
    model = student(seed)
    if disturb:  # whatever was computed before must not matter
        torch.manual_seed(99)
        torch.randn(1000) @ torch.randn(1000)
        np.random.default_rng().normal(size=10)
    config = changes.pop("config", BRIEF)
    train(model, split, config, augmentation=SHIFTS, seed=seed, **changes)
    return weights(model)


def test_one_seed_gives_bit_identical_weights_whatever_came_before(split):
    first = run(split)
    assert torch.equal(first, run(split, disturb=True))
    assert not torch.equal(first, run(split, seed=1))


def test_a_distilled_run_sees_the_same_batches_of_the_same_views(split):
    """The seen images are recorded through the teacher signal and through the network itself."""
    seen = {}

    def record(name):
        seen[name] = []

        def hook(_module, inputs):
            seen[name].append(inputs[0].clone())

        model = student()
        model.normalise.register_forward_pre_hook(hook)
        return model

    train(record("plain"), split, BRIEF, augmentation=SHIFTS, seed=5)
    signal = LiveTeacher(teacher())
    train(record("distilled"), split, BRIEF, augmentation=SHIFTS, seed=5, distillation=Distillation(), teacher=signal)
    assert len(seen["plain"]) == 2 * 4
    assert all(torch.equal(a, b) for a, b in zip(seen["plain"], seen["distilled"], strict=True))


def test_the_table_of_views_equals_the_live_teacher(split):
    network = teacher()
    table = logit_table(network, split, SHIFTS)
    assert table.shape == (60, count_views(SHIFTS), 3)
    rows, views = torch.tensor([3, 59, 17]), torch.tensor([0, 8, 4])
    images = take_views(split.images(rows), views, SHIFTS)
    looked_up = CachedTeacher(table)(rows, views, images)
    assert torch.allclose(looked_up, LiveTeacher(network)(rows, views, images), atol=1e-5)


def test_without_augmentation_every_view_is_the_image(split):
    seen = []
    model = student()
    model.normalise.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    train(model, split, TrainConfig(epochs=1, batch_size=60, augment=False), augmentation=SHIFTS, seed=0)
    ours = {tuple(image.flatten().tolist()) for image in seen[0]}
    assert ours == {tuple(image.flatten().tolist()) for image in split.images()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_every_optimiser_and_schedule_learns(split, optimizer, schedule):
    model = student()
    rate = 0.02 if optimizer == "adamw" else 0.2
    config = TrainConfig(optimizer, rate, epochs=30, batch_size=20, schedule=schedule, clip=1.0)
    epochs = []
    result = train(model, split, config, augmentation=SHIFTS, seed=0, on_epoch=epochs.append)
    assert result.status is TrainingStatus.FINISHED
    assert result.updates == 90
    assert [e.epoch for e in epochs] == list(range(1, 31))
    assert epochs[-1].loss < epochs[0].loss / 2
    assert evaluate(model, split).accuracy > 0.9


def test_divergence_is_a_status(split):
    model = student()
    result = train(model, split, TrainConfig("sgd", 1e30, epochs=3, batch_size=20), augmentation=SHIFTS, seed=0)
    assert result.status is TrainingStatus.DIVERGED


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_a_student_past_its_cap_is_a_status(split, gradient):
    capped = student(solver="dopri5", steps=None, rtol=1e-6, atol=1e-6, max_evaluations=14, gradient=gradient)
    result = train(capped, split, BRIEF, augmentation=SHIFTS, seed=0)
    assert result.status is TrainingStatus.CAPPED


def test_adversarial_training_makes_robust(split):
    robust = {}
    for name, adversarial in {"plain": None, "adversarial": AdversarialTraining(0.3, 5)}.items():
        model = student()
        config = TrainConfig(epochs=15, batch_size=20, adversarial=adversarial)
        train(model, split, config, augmentation=SHIFTS, seed=0)
        images, labels = split.images(), split.labels
        robust[name] = worst_case(model, images, labels, Threat("linf", 0.3), [PGD_20], seed=0).survivors.float().mean()
    assert robust["adversarial"] > robust["plain"] + 0.2


def test_impossible_training_is_refused():
    with pytest.raises(ValueError, match="`epochs >= 1`"):
        TrainConfig(epochs=0)
    with pytest.raises(ValueError, match="`learning_rate > 0`"):
        TrainConfig(learning_rate=0.0)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_momentum_is_the_one_that_was_asked_for(split, schedule):
    ends = [
        run(split, config=TrainConfig("sgd", 0.05, momentum=m, epochs=2, batch_size=16, schedule=schedule))
        for m in (0.5, 0.9, 0.5)
    ]
    assert torch.equal(ends[0], ends[2])
    assert (ends[0] - ends[1]).norm() > 1e-2
