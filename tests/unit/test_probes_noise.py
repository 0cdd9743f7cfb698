"""Accuracy under noise of networks whose errors are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodekd.data.corruptions import NOISES, corrupted, open_corruptions
from nodekd.probes.noise import own_noise, stored_noise


class Unchanged(nn.Module):
    """Class 0 where the whole image is the grey it was, else class 1."""

    def forward(self, x: Tensor) -> Tensor:
        changed = (x.flatten(1) != 0.5).any(dim=1).float()
        return torch.stack([1 - changed, changed], dim=1)


def test_impulse_noise_leaves_an_image_alone_with_the_known_chance() -> None:
    images, labels = torch.full((400, 1, 4, 4), 0.5), torch.zeros(400, dtype=torch.long)
    rows = own_noise(Unchanged(), images, labels, torch.arange(400), ["impulse", "gaussian"], [1, 5], seed=0)
    assert [(row.noise, row.severity) for row in rows] == [
        ("impulse", 1),
        ("impulse", 5),
        ("gaussian", 1),
        ("gaussian", 5),
    ]
    assert rows[0].accuracy == pytest.approx(0.99**16, abs=0.08)
    assert rows[1].accuracy == pytest.approx(0.93**16, abs=0.1)
    assert rows[2].accuracy == rows[3].accuracy == 0.0
    assert rows[0].record() == {
        "noise": "impulse",
        "severity": 1,
        "accuracy": rows[0].accuracy,
        "worst_accuracy": rows[0].accuracy,
        "correct": [round(400 * rows[0].accuracy)],
        "always_correct": round(400 * rows[0].accuracy),
        "draws": 1,
        "n": 400,
        "source": "own",
    }


def test_mean_and_worst_of_k_draws_have_the_known_chance() -> None:
    """An image is untouched with chance p in one draw, hence p^k in all of k, and p on average."""
    images, labels = torch.full((600, 1, 2, 2), 0.5), torch.zeros(600, dtype=torch.long)
    (row,) = own_noise(Unchanged(), images, labels, torch.arange(600), ["impulse"], [5], seed=1, draws=3)
    chance = 0.93**4
    assert len(row.correct) == row.draws == 3
    assert row.accuracy == pytest.approx(chance, abs=5 * (chance * (1 - chance) / 1800) ** 0.5)
    worst = chance**3
    assert row.worst_accuracy == pytest.approx(worst, abs=5 * (worst * (1 - worst) / 600) ** 0.5)
    assert row.always_correct <= min(row.correct)
    assert row.record()["correct"] == list(row.correct)


def test_draws_are_the_images_that_corrupted_gives_and_the_worst_is_taken_image_by_image() -> None:
    generator = torch.Generator().manual_seed(0)
    images, ids = torch.rand(30, 1, 4, 4, generator=generator), torch.arange(30) + 7
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
        bits = [network(corrupted(images, ids, "speckle", 5, 9, k)).argmax(dim=1) == labels for k in range(4)]
    (row,) = own_noise(network, images, labels, ids, ["speckle"], [5], seed=9, draws=4, batch_size=7)
    assert row.correct == tuple(int(each.sum()) for each in bits)
    assert row.always_correct == int(torch.stack(bits).all(dim=0).sum())


def test_what_draws_nothing_is_measured_once() -> None:
    images, labels = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    noises = ["blur", "gaussian", "contrast"]
    rows = own_noise(Unchanged(), images, labels, torch.arange(3), noises, [1], seed=0, draws=4)
    assert [(row.noise, row.draws) for row in rows] == [("blur", 1), ("gaussian", 4), ("contrast", 1)]
    assert rows[2].accuracy == rows[2].worst_accuracy == 1.0


def test_two_networks_see_the_same_noise_and_nothing_is_left_behind() -> None:
    seen: list[list[Tensor]] = [[], []]

    class Looks(nn.Module):
        def __init__(self, place: int) -> None:
            super().__init__()
            self.place, self.drop = place, nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            assert not self.drop.training
            seen[self.place].append(x)
            torch.rand(3 + self.place)
            return x.flatten(1)[:, :2]

    images, labels = torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    networks = (Looks(0).train(), Looks(1))
    state = torch.get_rng_state()
    for network, size in zip(networks, (512, 2), strict=True):
        own_noise(network, images, labels, torch.arange(5), NOISES, [2, 4], seed=3, draws=2, batch_size=size)
    assert torch.equal(torch.get_rng_state(), state)
    assert networks[0].training
    assert torch.equal(*(torch.cat(batches) for batches in seen))


def test_a_failed_solve_is_wrong_and_none_is_hidden_by_its_batch() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.tensor([1.0, 0.0]).repeat(len(x), 1)
            return logits * torch.nan if bool((x[:, 0, 0, 0] > 0.9).any()) else logits

    images = torch.zeros(4, 1, 2, 2)
    images[1] = 1.0
    (row,) = own_noise(Fails(), images, torch.zeros(4, dtype=torch.long), torch.arange(4), ["contrast"], [1], seed=0)
    assert row.correct == (3,)


@pytest.mark.parametrize(("n", "draws"), [(0, 1), (2, 0)])
def test_no_image_and_no_draw_are_refused(n: int, draws: int) -> None:
    images, labels = torch.zeros(n, 1, 2, 2), torch.zeros(n, dtype=torch.long)
    with pytest.raises(ValueError, match=r"but got 0 images|but got draws=0"):
        own_noise(Unchanged(), images, labels, torch.arange(n), ["blur"], [1], seed=0, draws=draws)


def test_stored_noise_is_read_row_by_row(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1, 0], dtype=np.uint8)
    pixels = np.zeros((20, 32, 32, 3), dtype=np.uint8)
    pixels[np.arange(20), 0, 0, 0] = 255 * np.tile(labels, 5)
    pixels[16:, 0, 0, 0] = 0
    np.save(tmp_path / "shot_noise.npy", pixels)
    np.save(tmp_path / "labels.npy", np.tile(labels, 5))

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([1 - x[:, 0, 0, 0], x[:, 0, 0, 0]], dim=1)

    files = open_corruptions(tmp_path, "cifar10", ["shot"])
    rows = torch.tensor([3, 1, 2])
    found = stored_noise(Corner(), files, rows, torch.tensor([0, 1, 1]), ["shot"], [4, 5], size=32)
    assert [row.accuracy for row in found] == [1.0, pytest.approx(1 / 3)]
    assert {row.source for row in found} == {"file"}
