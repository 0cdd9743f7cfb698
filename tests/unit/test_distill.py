"""The distillation loss against an independent re-statement in numpy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from nodekd.distill.logits import PLAIN, Distillation, agreement, distillation_loss, entropy, kl_divergence


def restated(student, teacher, labels, alpha, temperature, scale):
    """Write L = (1 - alpha) CE + alpha * scale * KL(p_T || p_S) out in float64, image by image."""
    total = 0.0
    for z_s, z_t, y in zip(student, teacher, labels, strict=True):
        cross_entropy = -log_softmax(z_s)[y]
        p_t = np.exp(log_softmax(z_t / temperature))
        kl = sum(p * (np.log(p) - q) for p, q in zip(p_t, log_softmax(z_s / temperature), strict=True))
        factor = temperature**2 if scale == "temperature_squared" else 1.0
        total += (1 - alpha) * cross_entropy + alpha * factor * kl
    return total / len(labels)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("scale", ["temperature_squared", "none"])
@pytest.mark.parametrize(("batch", "classes"), [(7, 10), (1, 2)])
def test_loss_equals_the_formula(alpha, temperature, scale, batch, classes):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, batch, classes))
    labels = rng.integers(classes, size=batch)
    loss = distillation_loss(
        torch.tensor(student), torch.tensor(teacher), torch.tensor(labels), Distillation(alpha, temperature, scale)
    )
    assert float(loss) == pytest.approx(
        restated(student, teacher, labels, alpha, temperature, scale), rel=2e-4, abs=1e-6
    )


def test_gradient_of_the_scaled_term_keeps_its_size():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 64, 10, generator=generator) * 0.1
    sizes = []
    for temperature in (10.0, 40.0):
        leaf = student.clone().requires_grad_()
        distillation_loss(leaf, teacher, torch.zeros(64, dtype=torch.int64), Distillation(1.0, temperature)).backward()
        sizes.append(float(leaf.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


def test_equal_logits_have_no_divergence_and_the_teacher_gets_no_gradient():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    teacher = logits.clone().requires_grad_()
    divergence = kl_divergence(logits.clone().requires_grad_(), teacher, 3.0)
    assert float(divergence.detach()) == pytest.approx(0, abs=1e-7)
    divergence.backward()
    assert teacher.grad is None


def test_huge_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = distillation_loss(student, -student.detach(), torch.tensor([0]), Distillation(0.9, 1.0))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_without_alpha_no_teacher_is_needed():
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(
        distillation_loss(logits, None, labels, PLAIN), torch.nn.functional.cross_entropy(logits, labels)
    )
    with pytest.raises(ValueError, match=r"alpha=0\.5 needs teacher logits"):
        distillation_loss(logits, None, labels, Distillation(0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.2}, "`0 <= alpha <= 1` must hold, but got alpha=1.2"),
        ({"alpha": -0.1}, "`0 <= alpha <= 1`"),
        ({"temperature": 0.0}, "`temperature > 0`"),
        ({"kl_scale": "mean"}, "`kl_scale` must be"),
    ],
)
def test_impossible_losses_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**arguments)


def test_logits_of_other_images_are_refused():
    with pytest.raises(ValueError, match="must come from the same images"):
        kl_divergence(torch.zeros(3, 10), torch.zeros(2, 10), 1.0)


def test_entropy_and_agreement():
    assert entropy(torch.zeros(4, 10), 1.0) == pytest.approx(np.log(10))
    sharp = torch.eye(3) * 8
    assert entropy(sharp, 1.0) < entropy(sharp, 4.0) < entropy(sharp, 1000.0) == pytest.approx(np.log(3), rel=1e-3)
    assert agreement(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]) == 0.5
