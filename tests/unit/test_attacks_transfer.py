"""Images handed on: pushed to the far side of the ball, and counted only where they lie in it and break something."""

import pytest
import torch
from torch import Tensor, nn

from nodekd.attacks.spec import PGD_20, run
from nodekd.attacks.threat import Threat
from nodekd.attacks.transfer import Transfers, pushed
from nodekd.errors import AttackError

THREAT = Threat("linf", 0.1)


class Plane(nn.Module):
    """Class 1 exactly where the weighted mean of the image exceeds a level."""

    def __init__(self, level: float = 0.5, sign: float = 1.0) -> None:
        super().__init__()
        self.level, self.sign = level, sign

    def forward(self, x: Tensor) -> Tensor:
        lead = self.sign * (x.flatten(1).mean(dim=1) - self.level)
        return torch.stack([-lead, lead], dim=1)


def flat(*levels: float) -> Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


IMAGES, LABELS = flat(0.2, 0.45, 0.55, 0.95), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pushed_images_go_to_the_edge_of_the_ball_where_an_attack_stops_at_the_boundary(norm: str):
    threat = Threat("linf", 0.1) if norm == "linf" else Threat("l2", 0.4)
    far, near = pushed(Plane(), IMAGES, LABELS, threat), run(PGD_20, Plane(), IMAGES, LABELS, threat, seed=0)
    assert threat.contains(far, IMAGES).all()
    torch.testing.assert_close(
        threat.distance(far, IMAGES)[1:3].float(), torch.full((2,), threat.epsilon), rtol=1e-4, atol=0
    )
    assert 0.5 < near[1].mean() < far[1].mean() - 0.01
    torch.testing.assert_close(far, IMAGES + torch.tensor([0.1, 0.1, -0.1, -0.1]).view(-1, 1, 1, 1))


def test_a_stronger_push_breaks_a_neighbour_that_the_boundary_image_does_not():
    neighbour = Plane(0.53)
    near = run(PGD_20, Plane(), IMAGES, LABELS, Threat("linf", 0.1), seed=0)
    far = pushed(Plane(), IMAGES, LABELS, THREAT)
    transfers = Transfers(neighbour, IMAGES, LABELS)
    bits = transfers.broken(THREAT, {"near": (near,), "far": (far,), "both": (near, far)})
    assert bits[1].tolist() == [False, True, True, False]
    assert not bits[0, 1]
    assert torch.equal(bits[2], bits[0] | bits[1])


def test_what_is_outside_the_ball_or_wrong_anyway_breaks_nothing():
    outside = flat(0.9, 0.9, 0.1, 0.1)
    torn = IMAGES.clone()
    torn[1] = torch.nan
    labels = torch.tensor([1, 0, 1, 1])
    transfers = Transfers(Plane(), IMAGES, labels)
    assert transfers.clean_correct.tolist() == [False, True, True, True]
    bits = transfers.broken(THREAT, {"outside": (outside,), "torn": (torn,), "wrong": (flat(0.2, 0.54, 0.56, 0.95),)})
    assert not bits[:2].any()
    assert bits[2].tolist() == [False, True, False, False]
    assert transfers.broken(THREAT, {}).shape == (0, 4)


def test_the_order_of_sources_changes_no_bit():
    stored = {"a": (flat(0.3, 0.52, 0.46, 0.9),), "b": (flat(0.1, 0.4, 0.6, 0.9),)}
    transfers = Transfers(Plane(), IMAGES, LABELS)
    there, back = transfers.broken(THREAT, stored), transfers.broken(THREAT, dict(reversed(stored.items())))
    assert torch.equal(there, back.flip(0))


def test_bad_images_are_refused():
    with pytest.raises(AttackError, match=r"images must be in \[0, 1\]"):
        pushed(Plane(), IMAGES + 1, LABELS, THREAT)
    assert len(pushed(Plane(), IMAGES[:0], LABELS[:0], THREAT)) == 0
