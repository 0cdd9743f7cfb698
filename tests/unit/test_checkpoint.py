"""Weights on disk: round trip, and every way in which a file can be wrong."""

import pickle

import pytest
import torch
from torch import nn

from nodekd.checkpoint import load_weights, save_weights
from nodekd.errors import CheckpointError


def test_weights_survive_the_round_trip(tmp_path):
    model, other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_weights(model, tmp_path / "deep" / "w.pt")
    load_weights(other, tmp_path / "deep" / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w.pt"]


def test_wrapped_state_dicts_of_other_tools_are_understood(tmp_path):
    model = nn.Linear(3, 2)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")


def test_mismatching_keys_and_shapes_are_listed(tmp_path):
    torch.save({"weight": torch.zeros(5, 3), "scale": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError,
        match=r"missing: bias; unexpected: scale; of another shape: weight \(stored \(5, 3\), expected \(2, 3\)\)",
    ):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")


def test_long_lists_are_cut(tmp_path):
    torch.save({f"k{i}": torch.zeros(1) for i in range(20)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="and 14 more"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")


class Malicious:
    ran = False

    def __reduce__(self):
        return (exec, ("import tests_were_owned",))


@pytest.mark.parametrize("content", [pickle.dumps(Malicious()), b"", b"PK\x03\x04 torn", b"text"])
def test_foreign_files_are_refused_without_running_them(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="must be a state dict of tensors alone"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="must hold a dictionary of tensors, but it holds list"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="there is no file at"):
        load_weights(nn.Linear(3, 2), tmp_path / "none.pt")
