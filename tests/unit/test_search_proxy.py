"""The search's proxy (S16): below clean accuracy, moved by each of its parts, and not fooled by a coarse gradient."""

import pytest
import torch

from nodekd.attacks.spec import PGD_20, run
from nodekd.attacks.threat import Threat
from nodekd.data.dataset import DataConfig, load
from nodekd.models.student import StudentConfig, build_student
from nodekd.ode.integrator import Integrator
from nodekd.scoring import correct
from nodekd.search_proxy import ATTACKS, proxy_survival
from nodekd.train import TrainConfig, train

THREAT = Threat("linf", 1 / 16)


@pytest.fixture(scope="module")
def trained():
    """Return a briefly trained student and 60 images of val_search."""
    digits = load(DataConfig(), splits=("train", "val_search"))
    student = build_student(
        StudentConfig(channels=8),
        Integrator("euler", 1.0, 4),
        shape=digits.shape,
        classes=10,
        mean=digits.mean,
        std=digits.std,
        seed=0,
    )
    config = TrainConfig(epochs=16, batch_size=64, learning_rate=0.02)
    train(student, digits.splits["train"], config, augmentation=digits.augmentation, seed=0)
    split = digits.splits["val_search"]
    return student.eval(), split.images(slice(0, 60)), split.labels[:60]


def test_it_is_the_worst_case_over_every_part(trained):
    student, images, labels = trained
    found = proxy_survival(student, images, labels, THREAT, {}, seed=0)
    assert found.columns[1:] == tuple(attack.name for attack in ATTACKS)
    clean = correct(student, images, labels).float().mean()
    assert clean > 0.5
    assert 0 < found.survivors.float().mean() < clean
    assert found.invalid == (0,) * len(found.columns)


def test_stored_images_count(trained):
    student, images, labels = trained
    pool = run(PGD_20, student, images, labels, THREAT, seed=3)
    with_pool = proxy_survival(student, images, labels, THREAT, {"transfer-teacher": pool}, seed=0)
    without = proxy_survival(student, images, labels, THREAT, {}, seed=0)
    broken_by_pool = without.clean_correct & ~correct(student, pool, labels)
    assert broken_by_pool.any()
    assert not (with_pool.survivors & broken_by_pool).any()


def test_equal_seeds_give_equal_bits(trained):
    student, images, labels = trained
    first, second = (proxy_survival(student, images, labels, THREAT, {}, seed=7) for _ in range(2))
    assert torch.equal(first.broken, second.broken)


def test_gradients_through_a_finer_solver_break_what_the_own_gradient_cannot(trained):
    """A student that cuts its own solver's gradient off looks robust to it; the finer solve breaks it all the same."""
    student, images, labels = trained

    class CutOff(type(student)):
        """Forward as deployed; without gradient unless another solver is asked for."""

        def flow(self, state):
            end = super().flow(state)
            return end.detach() if self.integrator == student.integrator else end

    masked = student.with_integrator(student.integrator)
    masked.__class__ = CutOff
    found = proxy_survival(masked, images, labels, THREAT, {}, seed=0)
    by = {name: int(found.broken[index].sum()) for index, name in enumerate(found.columns)}
    assert by["pgd-10-ce"] == by["pgd-10-margin"] == 0
    assert by["pgd-10-finer"] > 5
