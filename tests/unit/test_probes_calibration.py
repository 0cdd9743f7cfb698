"""ECE and NLL against a plain re-statement and closed forms; likeness of two networks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodekd.probes.calibration import calibration
from nodekd.probes.teacher_likeness import likeness, transfer


def restated(logits: np.ndarray, labels: np.ndarray, bins: int) -> tuple[float, float]:
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = chances.max(1), chances.argmax(1) == labels
    error = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            error += inside.sum() / len(labels) * abs(right[inside].mean() - confidence[inside].mean())
    return error, float(-np.log(chances[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_ece_and_nll_are_their_plain_restatement(bins: int) -> None:
    generator = np.random.default_rng(bins)
    logits, labels = 2 * generator.normal(size=(300, 5)), generator.integers(0, 5, 300)
    found = calibration(torch.tensor(logits), torch.tensor(labels), bins)
    ece, nll = restated(logits, labels, bins)
    assert found.ece == pytest.approx(ece, rel=1e-12)
    assert found.nll == pytest.approx(nll, rel=1e-12)
    assert found.accuracy == pytest.approx((logits.argmax(1) == labels).mean())


@pytest.mark.parametrize("confidence", [0.6, 0.8, 0.97])
def test_one_confidence_for_all_is_off_by_its_distance_from_the_accuracy(confidence: float) -> None:
    lead = math.log(confidence / (1 - confidence))
    logits = torch.tensor([[lead, 0.0]]).repeat(10, 1)
    labels = torch.tensor([0] * 7 + [1] * 3)
    found = calibration(logits, labels)
    assert found.accuracy == pytest.approx(0.7)
    assert found.ece == pytest.approx(abs(confidence - 0.7), abs=1e-6)
    assert found.nll == pytest.approx(-0.7 * math.log(confidence) - 0.3 * math.log(1 - confidence), abs=1e-6)


def test_uniform_scores_have_the_entropy_of_a_fair_die_and_certain_ones_no_error() -> None:
    labels = torch.arange(10)
    flat = calibration(torch.zeros(10, 10), labels)
    assert flat.nll == pytest.approx(math.log(10))
    assert flat.ece == pytest.approx(0.0, abs=1e-12)
    sure = calibration(1000.0 * torch.eye(10), labels)
    assert (sure.ece, sure.nll, sure.accuracy) == (0.0, 0.0, 1.0)


def test_a_bin_holds_its_upper_end() -> None:
    lead = math.log(0.8 / 0.2)
    logits = torch.tensor([[0.0, 0.0], [lead, 0.0]], dtype=torch.float64)
    found = calibration(logits, torch.tensor([0, 1]), bins=2)
    assert found.ece == pytest.approx((0.5 + 0.8) / 2)


def test_a_failed_solve_is_wrong_and_has_no_probability() -> None:
    logits, labels = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(20, dtype=torch.long)
    failed = logits.clone()
    failed[:5] = torch.nan
    found, rest = calibration(failed, labels), calibration(logits[5:], labels[5:])
    assert (found.ece, found.nll) == (rest.ece, rest.nll)
    assert found.accuracy == pytest.approx(rest.accuracy * 15 / 20)
    assert found.failures == 5
    assert calibration(torch.full((2, 3), torch.nan), labels[:2]).record() == {
        "ece": None,
        "nll": None,
        "accuracy": 0.0,
        "failures": 2,
    }


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="bins >= 1"):
        calibration(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), bins=0)
    with pytest.raises(ValueError, match="0 images"):
        calibration(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="the same images"):
        likeness(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="attacked must be"):
        transfer(nn.Identity(), nn.Identity(), torch.zeros(1, 2), torch.zeros(2, 2), torch.zeros(1))


def test_likeness_is_zero_and_one_for_itself_and_the_plain_sum_otherwise() -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(50, 4)), generator.normal(size=(50, 4))
    same = likeness(torch.tensor(teacher), torch.tensor(teacher))
    assert (same.agreement, same.kl) == (1.0, pytest.approx(0.0, abs=1e-6))
    q = np.exp(teacher) / np.exp(teacher).sum(1, keepdims=True)
    p = np.exp(student) / np.exp(student).sum(1, keepdims=True)
    found = likeness(torch.tensor(student), torch.tensor(teacher))
    assert found.kl == pytest.approx((q * np.log(q / p)).sum(1).mean(), rel=1e-5)
    assert found.agreement == pytest.approx((student.argmax(1) == teacher.argmax(1)).mean())


def test_a_failed_student_agrees_with_nothing() -> None:
    teacher = torch.eye(4)
    student = teacher.clone()
    student[0] = torch.nan
    found = likeness(student, teacher)
    assert (found.agreement, found.kl) == (0.75, pytest.approx(0.0, abs=1e-7))
    assert math.isnan(likeness(torch.full((2, 2), torch.nan), torch.zeros(2, 2)).kl)


class Threshold(nn.Module):
    """Class 1 where the first number exceeds the bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        lead = x[:, 0] - self.bound
        return torch.stack([-lead, lead], dim=1)


def test_transfer_counts_what_fools_the_teacher_and_could_fool_the_student() -> None:
    teacher, student = Threshold(0.5), Threshold(0.3)
    #        both right, teacher fooled:      teacher not    student wrong     teacher wrong
    #        student too  student not         fooled         clean             clean
    clean = [0.9, 0.9, 0.9, 0.9, 0.9, 0.4, 0.1]
    moved = [0.1, 0.2, 0.4, 0.6, 0.9, 0.8, 0.9]
    label = [1, 1, 1, 1, 1, 0, 1]
    x, y, z = (torch.tensor(values)[:, None] for values in (clean, moved, label))
    found = transfer(student, teacher, x, y, z[:, 0])
    assert (found.share, found.n) == (pytest.approx(2 / 3), 3)
    assert transfer(student, teacher, x, x, z[:, 0]).record() == {"transfer": None, "n_transfer": 0}
