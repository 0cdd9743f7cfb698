"""Accuracy under noise of networks whose errors are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nodekd.data.corruptions import open_corruptions
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
        "n": 400,
        "source": "own",
    }


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
