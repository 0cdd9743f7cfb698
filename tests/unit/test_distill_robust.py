"""ARD and RSLAD against re-statements of their equations and attacks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from torch import nn

from nodekd.distill.attacked import AdversarialTraining
from nodekd.distill.logits import Distillation
from nodekd.distill.objective import Batch
from nodekd.distill.robust import RobustObjective, ard_loss, away_from, rslad_loss
from nodekd.distill.teacher_signal import LiveTeacher
from nodekd.streams import generator

ATTACK = AdversarialTraining(0.1, 4)


def kl(ours, theirs, temperature):
    q, p = log_softmax(ours / temperature, axis=1), log_softmax(theirs / temperature, axis=1)
    return (np.exp(p) * (p - q)).sum(axis=1)


@pytest.mark.parametrize("alpha", [0.0, 5 / 6, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 30.0])
@pytest.mark.parametrize("scale", ["temperature_squared", "none"])
def test_losses_equal_their_equations(alpha, temperature, scale):
    rng = np.random.default_rng(0)
    attacked, clean, theirs = rng.normal(0, 3, (3, 6, 5))
    labels = rng.integers(5, size=6)
    tensors = [torch.tensor(z) for z in (attacked, clean, theirs)]
    factor = temperature**2 if scale == "temperature_squared" else 1
    distillation = Distillation(alpha, temperature, scale)
    hard, easy = kl(attacked, theirs, temperature).mean(), kl(clean, theirs, temperature).mean()
    cross_entropy = -log_softmax(clean, axis=1)[np.arange(6), labels].mean()
    ard = ard_loss(*tensors, torch.tensor(labels), distillation)
    assert float(ard) == pytest.approx(alpha * factor * hard + (1 - alpha) * cross_entropy, rel=2e-4)
    rslad = rslad_loss(*tensors, distillation)
    assert float(rslad) == pytest.approx(factor * (alpha * hard + (1 - alpha) * easy), rel=2e-4)


def test_the_inner_loss_is_the_divergence_of_each_image():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(0, 2, (2, 6, 5))
    values = away_from(torch.tensor(theirs), 2.0)(torch.tensor(ours), torch.zeros(6), torch.ones(6))
    assert np.allclose(values, kl(ours, theirs, 2.0), rtol=1e-4)


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def a_batch(update=5):
    clean = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return Batch(torch.arange(8), torch.zeros(8), clean, clean, torch.arange(8) % 3, seed=2, update=update)


def climbed(model, batch, inner):
    """PGD written out: uniform start, sign steps of 2.5 eps / steps, box and ball."""
    x = batch.clean + (2 * torch.rand(batch.clean.shape, generator=generator(2, "attacks", batch.update)) - 1) * 0.1
    x = x.clamp(0, 1)
    for _ in range(4):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(inner(model(x)), x)
        x = (x + 2.5 * 0.1 / 4 * gradient.sign()).clamp(batch.clean - 0.1, batch.clean + 0.1).clamp(0, 1)
    return x.detach()


@pytest.mark.parametrize("kind", ["ard", "rslad"])
def test_the_student_is_attacked_as_the_equation_says(kind):
    model, teacher, batch = network(0), network(1), a_batch()
    distillation = Distillation(0.7, 2.0)
    theirs = teacher(batch.clean).detach()

    def inner(logits):
        if kind == "ard":
            return F.cross_entropy(logits, batch.labels, reduction="sum")
        soft = F.softmax(theirs / 2, dim=1)
        return (soft * (soft.log() - F.log_softmax(logits / 2, dim=1))).sum()

    logits, loss = RobustObjective(kind, distillation, LiveTeacher(teacher), ATTACK).loss(model, batch)
    attacked = model(climbed(model, batch, inner))
    assert torch.allclose(logits, attacked, atol=1e-4)
    wanted = (
        ard_loss(attacked, model(batch.clean), theirs, batch.labels, distillation)
        if kind == "ard"
        else rslad_loss(attacked, model(batch.clean), theirs, distillation)
    )
    assert torch.allclose(loss, wanted, rtol=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_every_update_starts_its_attack_elsewhere():
    model, teacher = network(0), network(1)
    objective = RobustObjective("ard", Distillation(), LiveTeacher(teacher), ATTACK)
    first, again, other = (objective.loss(model, a_batch(update))[0] for update in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_robust_objective_attacks_by_itself_and_knows_its_kinds():
    assert RobustObjective("rslad", Distillation(), LiveTeacher(network(1)), ATTACK).attacks
    with pytest.raises(ValueError, match="`kind` must be ard or rslad"):
        RobustObjective("trades", Distillation(), LiveTeacher(network(1)), ATTACK)
