"""Stored adversarial images that do not belong to what is attacked: the job says so, and the stage goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nodekd.attacks.threat import Threat
from nodekd.checkpoint import save_weights
from nodekd.data.dataset import DataConfig, load
from study.engine.job import Job
from study.jobs.execute import execute
from study.jobs.networks import teacher_of
from study.jobs.stored_images import IMAGES, StoredImages
from study.jobs.survivors import read_pool, read_versions
from study.ledger import Ledger

IDS = torch.arange(5) + 100
CLEAN = torch.full((5, 1, 4, 4), 0.5)
SMALL, LARGE = Threat("linf", 0.1), Threat("linf", 0.2)


def stored(folder: Path, **changes) -> Path:
    images = np.stack([CLEAN.numpy() + 0.1, CLEAN.numpy() + 0.2]).astype(np.float32)
    arrays = {"image_id": IDS.numpy(), "images": images, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / IMAGES, **{name: array for name, array in arrays.items() if array is not None})
    return folder


def test_what_belongs_is_read_at_its_epsilon(tmp_path):
    pushed = np.stack([CLEAN.numpy() - 0.1, CLEAN.numpy() - 0.2]).astype(np.float32)
    folder = stored(tmp_path / "p", pushed=pushed)
    for index, threat in enumerate((SMALL, LARGE)):
        versions = read_versions(folder, IDS, index, CLEAN, threat)
        assert [version.mean().item() for version in versions] == pytest.approx(
            [0.5 + threat.epsilon, 0.5 - threat.epsilon]
        )
        assert torch.equal(read_pool({"a": folder}, IDS, index, CLEAN, threat)["a"], versions[0])


WRONG = {
    "ids": ({"image_id": IDS.numpy() + 1}, "are of other images: ids 101 to 105 .n = 5. instead of ids 100 to 104"),
    "order": ({"image_id": IDS.numpy()[::-1].copy()}, "are of other images"),
    "number": ({"image_id": IDS.numpy()[:3], "images": np.zeros((2, 3, 1, 4, 4), np.float32)}, "are of other images"),
    "no ids": ({"image_id": np.zeros(0, np.int64)}, "are of other images: no ids"),
    "channels": (
        {"images": np.zeros((2, 5, 3, 4, 4), np.float32)},
        r"have shape \(5, 3, 4, 4\) float32 instead of \(5, 1, 4, 4\) float32",
    ),
    "size": ({"images": np.zeros((2, 5, 1, 8, 8), np.float32)}, r"have shape \(5, 1, 8, 8\) float32"),
    "type": ({"images": np.zeros((2, 5, 1, 4, 4), np.uint8)}, r"have shape \(5, 1, 4, 4\) uint8"),
    "content": (
        {"images": np.zeros((2, 5, 1, 4, 4), np.float32)},
        r"were made from other images or at another epsilon: 5 of 5 lie outside the ball of epsilon 0.2 \(linf\)",
    ),
    "not finite": (
        {"images": np.full((2, 5, 1, 4, 4), np.nan, np.float32)},
        "were made from other images or at .*: 5 of 5 lie",
    ),
    "epsilons": ({"images": np.stack([CLEAN.numpy()])}, "stand for 1 epsilons, but number 2 is asked for"),
    "no images": ({"images": None}, "hold none"),
    "objects": ({"image_id": np.array([{}, None], object)}, "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_belong_is_refused(tmp_path, name):
    changes, message = WRONG[name]
    folder = stored(tmp_path / "pools" / "teacher", **changes)
    with pytest.raises(ValueError, match=f"^Stored adversarial .* those of pools/teacher {message}") as refused:
        read_pool({"transfer-teacher": folder}, IDS, 1, CLEAN, LARGE)
    assert str(tmp_path) not in str(refused.value)
    assert "Delete that folder and give the same command again." in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_missing_or_torn_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / IMAGES).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        StoredImages(tmp_path)


def test_images_of_a_larger_ball_do_not_pass_for_those_of_a_smaller(tmp_path):
    folder = stored(tmp_path / "p")
    with pytest.raises(ValueError, match=r"5 of 5 lie outside the ball of epsilon 0.1 \(linf\)"):
        StoredImages(folder).at(1, IDS, CLEAN, SMALL)


def test_a_job_with_such_a_pool_ends_with_the_reason_and_no_shard(tmp_path):
    digits, ledger = load(DataConfig()), Ledger(tmp_path)
    settings = {"arch": "resnet20", "seed": 0}
    ledger.write_config("teachers/t", {"settings": settings})
    ledger.folder("teachers/t").mkdir(parents=True, exist_ok=True)
    save_weights(teacher_of(settings, digits, "cpu"), ledger.folder("teachers/t") / "weights.pt")
    stored(ledger.folder("pools/foreign"))
    data = {"name": "digits", "root": "data", "image_size": None, "shuffle": False}
    payload = {
        **{"data": data, "split_hash": digits.split_hash, "network": "teachers/t", "split": "val_front", "images": 4},
        **{"shard": 0, "shards": 1, "norm": "linf", "epsilons": [0.1], "attacks": "screen", "seed": 0, "after": []},
        **{"pool": {"transfer-foreign": "pools/foreign"}, "keep_images": False, "identity": {"model": "m"}},
    }
    ledger.write_config("front/000000", {"settings": {}})
    execute(Job(str(tmp_path), "front/000000", "attack", payload))
    outcome = ledger.outcome("front/000000")
    assert outcome is not None
    assert outcome["state"] == "FAIL"
    assert outcome["reason"].startswith("error: ValueError: Stored adversarial images must be those of the attacked")
    assert "pools/foreign are of other images: ids 100 to 104 (n = 5)" in outcome["reason"]
    assert not (ledger.folder("front/000000") / "survivors.npz").exists()
