"""Training: separate random streams, bit-identical repeats, statuses instead of exceptions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.spec import PGD_20
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, count_views, take_views
from nodekd.distill.feature_objective import FeatureConfig, feature_objective
from nodekd.distill.feature_signal import FeatureTeacher
from nodekd.distill.logits import Distillation
from nodekd.distill.objective import LABELS_ONLY, BornAgainObjective, LogitObjective
from nodekd.distill.robust import RobustObjective
from nodekd.distill.teacher_signal import CachedTeacher, LiveTeacher, logit_table
from nodekd.evaluate import evaluate
from nodekd.models.resnet import build_teacher
from nodekd.models.student import StudentConfig, build_student, forward_evaluations, parameter_count
from nodekd.ode.integrator import Integrator
from nodekd.ode.solve import Status
from nodekd.streams import generator
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


def teacher(seed=1):
    return build_teacher("resnet20", shape=(1, 8, 8), classes=3, mean=[0.3], std=[0.3], seed=seed).eval()


def feed(model, split, teachers=2, **changes):
    signals = [FeatureTeacher(teacher(seed)) for seed in range(1, teachers + 1)]
    image = split.images(slice(0, 1))
    return feature_objective(FeatureConfig(**changes), signals, LABELS_ONLY, student=model, image=image, seed=5)


OBJECTIVES = {
    "labels": lambda model, split: LABELS_ONLY,
    "kd": lambda model, split: LogitObjective(Distillation(), LiveTeacher(teacher())),
    "ban": lambda model, split: BornAgainObjective(LiveTeacher(teacher())),
    "feed": feed,
    "ard": lambda model, split: RobustObjective(
        "ard", Distillation(), LiveTeacher(teacher()), AdversarialTraining(0.1, 2)
    ),
    "rslad": lambda model, split: RobustObjective(
        "rslad", Distillation(), LiveTeacher(teacher()), AdversarialTraining(0.1, 2)
    ),
}


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


def images_seen(split, name, config=BRIEF, **changes):
    seen, model = [], student()
    objective = OBJECTIVES[name](model, split)  # asks the student for its map, which is no part of training
    model.normalise.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    train(model, split, config, augmentation=SHIFTS, seed=5, objective=objective, **changes)
    return seen


@pytest.mark.parametrize("name", ["kd", "ban", "feed"])
def test_a_distilled_run_sees_the_same_batches_of_the_same_views(split, name):
    """The seen images are recorded through the network itself; a pull on features shifts no stream (S7)."""
    plain, distilled = images_seen(split, "labels"), images_seen(split, name)
    assert len(plain) == 2 * 4
    assert all(torch.equal(a, b) for a, b in zip(plain, distilled, strict=True))


def test_attacks_start_where_they_start_without_features(split):
    config = TrainConfig(epochs=1, batch_size=60, adversarial=AdversarialTraining(0.1, 1))
    plain, feature = images_seen(split, "labels", config), images_seen(split, "feed", config)
    assert torch.equal(plain[0], feature[0])  # one update: the networks are still equal
    assert torch.equal(plain[-1], feature[-1])


def test_a_robust_objective_leaves_no_attack_to_training(split):
    """One update of ARD shows the student the attack's 2 steps and last iterate, the batch, and the clean batch."""
    config = TrainConfig(epochs=1, batch_size=60, adversarial=AdversarialTraining(0.1, 50))
    seen = images_seen(split, "ard", config)
    assert len(seen) == 5
    assert torch.equal(seen[-1], images_seen(split, "labels", TrainConfig(epochs=1, batch_size=60))[0])
    assert 0.09 < float((seen[-2] - seen[-1]).abs().max()) <= 0.1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_and_repeats_bit_for_bit(split, name):
    ends = []
    for _ in range(2):
        model = student()
        result = train(model, split, BRIEF, augmentation=SHIFTS, seed=5, objective=OBJECTIVES[name](model, split))
        assert result.status is TrainingStatus.FINISHED
        ends.append(weights(model))
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], weights(student()))


def test_training_equals_the_loop_written_out(split):
    """AdamW with a one-cycle rate on cross-entropy; order and views drawn by their streams. Bit for bit."""
    model = student()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=9)
    model.train()
    for epoch in (1, 2):
        order = torch.randperm(60, generator=generator(0, "order", epoch))
        views = torch.randint(9, (60,), generator=generator(0, "views", epoch))
        for rows in order.split(16):
            loss = F.cross_entropy(model(take_views(split.images(rows), views[rows], SHIFTS)), split.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    assert torch.equal(weights(model), run(split))
    twin = LogitObjective(Distillation(0.0, 7.0), LiveTeacher(teacher()))
    assert torch.equal(weights(model), run(split, objective=twin))


def test_a_pull_that_vanishes_leaves_the_weights_as_they_were(split):
    config = TrainConfig("sgd", 0.05, epochs=2, batch_size=16, clip=0.5)
    model = student()
    train(model, split, config, augmentation=SHIFTS, seed=0, objective=feed(model, split, beta=1e-30))
    assert torch.allclose(weights(model), run(split, config=config), rtol=0, atol=1e-25)


def test_features_pull_the_student_and_train_their_translators(split):
    ends = {}
    for beta in (1e-30, 500.0):
        model = student()
        objective = feed(model, split, beta=beta)
        start = weights(objective.helpers()[0])
        train(model, split, TrainConfig(epochs=6, batch_size=16), augmentation=SHIFTS, seed=0, objective=objective)
        rows = torch.arange(60)
        view = torch.full_like(rows, 4)
        states = model.states(split.images(), 1)
        theirs = [signal(rows, view, split.images()) for signal in objective.teachers]
        ours = [translator(states[0]) for translator in objective.translators]
        ends[beta] = sum(
            float((a / a.norm() - b / b.norm()).detach().norm()) for a, b in zip(ours, theirs, strict=True)
        )
        assert not torch.equal(weights(objective.helpers()[0]), start)
    assert ends[500.0] < 0.7 * ends[1e-30]


def test_a_student_of_features_costs_what_a_plain_one_costs(split):
    """Translators are dropped: parameters, names, evaluations and floating-point operations are the plain student's."""
    trained, plain = student(), student()
    train(trained, split, BRIEF, augmentation=SHIFTS, seed=0, objective=feed(trained, split))
    assert parameter_count(trained) == parameter_count(plain)
    assert list(trained.state_dict()) == list(plain.state_dict())
    assert forward_evaluations(trained, split.images()) == forward_evaluations(plain, split.images())
    operations = []
    for model in (trained, plain):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(split.images())
        operations.append(counter.get_total_flops())
    assert operations[0] == operations[1] > 0


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
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant", "step"])
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


@pytest.mark.parametrize("name", ["feed", "ard", "rslad"])
def test_a_capped_student_of_another_objective_is_a_status(split, name):
    model = student(solver="dopri5", steps=None, rtol=1e-6, atol=1e-6, max_evaluations=14)
    objective = OBJECTIVES[name](model, split)
    before = weights(model)
    result = train(model, split, BRIEF, augmentation=SHIFTS, seed=0, objective=objective)
    assert result.status is TrainingStatus.CAPPED
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("name", ["ard", "rslad"])
def test_a_solve_capped_on_attacked_images_alone_is_not_hidden_by_the_clean_ones(split, name):
    model, forwards = student(), []

    def cap_the_first(module, _inputs, logits):
        forwards.append(module.training)
        if not module.training or forwards.count(True) > 1:
            return logits
        module.status = Status.CAPPED
        return logits * torch.nan

    model.register_forward_hook(cap_the_first)
    result = train(model, split, BRIEF, augmentation=SHIFTS, seed=0, objective=OBJECTIVES[name](model, split))
    assert result.status is TrainingStatus.CAPPED
    assert result.updates == 0


def test_an_objective_with_a_teacher_needs_its_signal():
    with pytest.raises(ValueError, match=r"alpha=0\.9 needs a teacher's signal"):
        LogitObjective(Distillation())
