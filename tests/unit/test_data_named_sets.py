"""torchvision's sets, read from small files in their published formats; only their checksums are replaced."""

import hashlib
import json
import pickle
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from nodekd.data.dataset import DataConfig, load
from nodekd.data.download import TIMEOUT_S
from nodekd.errors import DataError

SETS = ("cifar10", "cifar100", "svhn", "food101")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every attempt to reach a server fails as on a machine without one, and is counted."""
    calls = []

    def refuse(request, *_args, **_options):
        calls.append(request)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return calls


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def store(path: Path, content: object) -> list[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return [path.name, md5(path)]


def write_cifar(root: Path, monkeypatch, kind: type[CIFAR10], classes: int, key: str) -> np.ndarray:
    """Write the pickles of CIFAR: rows of 3072 bytes, all red first; six training and two test images a class."""
    folder, generator = root / kind.base_folder, np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8 * classes, 3072), dtype=np.uint8)
    labels = np.tile(np.arange(classes), 8).tolist()
    batches = np.array_split(np.arange(6 * classes), len(kind.train_list))
    train = [
        store(folder / name, {"data": pixels[ids], key: [labels[i] for i in ids]})
        for (name, _), ids in zip(kind.train_list, batches, strict=True)
    ]
    held_out = {"data": pixels[6 * classes :], key: labels[6 * classes :]}
    test = [store(folder / kind.test_list[0][0], held_out)]
    meta = store(folder / kind.meta["filename"], {kind.meta["key"]: [f"class{i}" for i in range(classes)]})
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", test)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta[1]})
    return pixels


@pytest.mark.parametrize(
    ("name", "kind", "classes", "key"),
    [("cifar10", CIFAR10, 10, "labels"), ("cifar100", CIFAR100, 100, "fine_labels")],
)
def test_cifar(tmp_path, monkeypatch, no_network, name, kind, classes, key):
    stored = write_cifar(tmp_path, monkeypatch, kind, classes, key)
    data = load(DataConfig(name=name, root=str(tmp_path)))
    assert (data.classes, data.shape, data.class_names[7]) == (classes, (3, 32, 32), "class7")
    assert (data.augmentation.padding, data.augmentation.flip) == (4, True)
    assert [len(split) for split in data.splits.values()] == [4 * classes, classes, classes, 2 * classes]
    seen = []
    for split in data.splits.values():
        assert np.array_equal(split.pixels.numpy().reshape(len(split), -1), stored[split.ids])
        assert torch.equal(split.labels, split.ids % classes)
        seen += split.ids.tolist()
    assert sorted(seen) == list(range(8 * classes))
    assert data.splits["test"].ids.min() == 6 * classes
    train = data.splits["train"].images().double()
    assert data.mean == pytest.approx(train.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.std == pytest.approx(train.std((0, 2, 3), correction=0).tolist(), abs=1e-6)
    assert no_network == []


def test_cifar_resized(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, CIFAR10, 10, "labels")
    full = load(DataConfig(name="cifar10", root=str(tmp_path)), splits=("val_search",))
    half = load(DataConfig(name="cifar10", root=str(tmp_path), image_size=16), splits=("val_search",))
    assert half.shape == (3, 16, 16)
    assert half.augmentation.padding == 2
    assert half.split_hash == full.split_hash
    # A bilinear kernel widened to the new pixel: weights 1/8, 3/8, 3/8, 1/8 along each axis.
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])).expand(3, 1, 4, 4) / 64
    expected = torch.nn.functional.conv2d(full.splits["val_search"].images(), kernel, stride=2, padding=1, groups=3)
    got = half.splits["val_search"].images()
    assert (got - expected)[:, :, 1:-1, 1:-1].abs().max() < 0.51 / 255


def test_changed_pixel_changes_the_hash(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, CIFAR10, 10, "labels")
    config = DataConfig(name="cifar10", root=str(tmp_path))
    before = load(config, splits=()).split_hash
    assert load(config, splits=("test",)).split_hash == before
    path = tmp_path / CIFAR10.base_folder / "test_batch"
    content = pickle.loads(path.read_bytes())
    content["data"][0, 0] ^= 1
    monkeypatch.setattr(CIFAR10, "test_list", [store(path, content)])
    assert load(config, splits=()).split_hash != before


def test_damaged_cifar_is_refused(tmp_path, monkeypatch, no_network):
    write_cifar(tmp_path, monkeypatch, CIFAR10, 10, "labels")
    with (tmp_path / CIFAR10.base_folder / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"CIFAR-10 was not found whole below .*could not be downloaded"):
        load(DataConfig(name="cifar10", root=str(tmp_path)))
    assert no_network


def test_svhn(tmp_path, monkeypatch, no_network):
    generator = np.random.default_rng(0)
    entries, stored, digits = dict(SVHN.split_list), [], []
    for part, n in (("train", 60), ("test", 20)):
        pixels = generator.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        labels = np.tile(np.arange(1, 11, dtype=np.uint8), n // 10)[:, None]  # the file says 10 for the digit 0
        path = tmp_path / entries[part][1]
        scipy.io.savemat(path, {"X": pixels, "y": labels})
        entries[part] = [*entries[part][:2], md5(path)]
        stored.append(pixels.transpose(3, 2, 0, 1))
        digits += (labels.ravel() % 10).tolist()
    monkeypatch.setattr(SVHN, "split_list", entries)
    data = load(DataConfig(name="svhn", root=str(tmp_path)))
    assert [len(split) for split in data.splits.values()] == [40, 10, 10, 20]
    assert (data.shape, data.class_names[0], data.augmentation.flip) == ((3, 32, 32), "0", False)
    for split in data.splits.values():
        assert np.array_equal(split.pixels.numpy(), np.concatenate(stored)[split.ids])
        assert split.labels.tolist() == [digits[i] for i in split.ids]
    assert no_network == []


@pytest.fixture
def food(tmp_path):
    """Write Food-101's tree with three dishes, each in one colour, odd sizes: five to train and two to test a class."""
    colours = {"apple_pie": (200, 30, 30), "bibimbap": (30, 200, 30), "waffles": (30, 30, 200)}
    meta: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for dish, colour in colours.items():
        (tmp_path / "food-101" / "images" / dish).mkdir(parents=True)
        for i in range(7):
            path = f"{dish}/{1000 + i}"
            Image.new("RGB", (90 + 30 * i, 120 - 10 * i), colour).save(tmp_path / "food-101/images" / f"{path}.jpg")
            meta["train" if i < 5 else "test"].setdefault(dish, []).append(path)
    (tmp_path / "food-101" / "meta").mkdir()
    for part, listed in meta.items():
        (tmp_path / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(listed))
    return tmp_path


def test_food101(food, no_network):
    data = load(DataConfig(name="food101", root=str(food)))
    assert (data.shape, data.class_names) == ((3, 64, 64), ("apple_pie", "bibimbap", "waffles"))
    assert [len(split) for split in data.splits.values()] == [9, 3, 3, 6]
    for split in data.splits.values():
        assert torch.equal(split.images().mean((2, 3)).argmax(1), split.labels)  # apple pie is red, and so on
    assert load(DataConfig(name="food101", root=str(food), image_size=32), splits=()).shape == (3, 32, 32)
    assert no_network == []


def test_food101_incomplete(food):
    (food / "food-101/images/waffles/1003.jpg").unlink()
    with pytest.raises(DataError, match=r"Food-101 is incomplete: .*1003\.jpg is named in meta/ but missing .* remove"):
        load(DataConfig(name="food101", root=str(food)))


def test_food101_with_other_classes_in_test(food):
    meta = food / "food-101/meta/test.json"
    meta.write_text(json.dumps({"soup": json.loads(meta.read_text())["waffles"]}))
    with pytest.raises(DataError, match=r"names other classes for test than for train; fetch Food-101 anew"):
        load(DataConfig(name="food101", root=str(food)))


@pytest.mark.parametrize("name", SETS)
def test_missing_set_without_network_is_one_sentence(tmp_path, monkeypatch, name, no_network, capfd):
    root, restored = tmp_path / "deep" / "data", []
    monkeypatch.setattr(socket, "setdefaulttimeout", restored.append)
    with pytest.raises(DataError) as caught:
        load(DataConfig(name=name, root=str(root)))
    message = str(caught.value)
    for part in (str(root), "is expected", "Name or service not known", "fetch it from http", "data.root"):
        assert part in message
    assert "\n" not in message
    assert no_network
    assert not root.exists()  # nothing is left behind
    assert restored == [TIMEOUT_S, socket.getdefaulttimeout()]
    assert capfd.readouterr().out == ""


def test_failed_download_keeps_a_folder_that_was_there(tmp_path):
    with pytest.raises(DataError):
        load(DataConfig(name="svhn", root=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_root_that_is_a_file(tmp_path):
    root = tmp_path / "data"
    root.write_text("")
    with pytest.raises(DataError, match="CIFAR-100 was not found whole"):
        load(DataConfig(name="cifar100", root=str(root)))


def test_download_runs_once_and_stays_off_stdout(tmp_path, monkeypatch, capfd):
    limits = []

    def fetch(self):
        limits.append(socket.getdefaulttimeout())
        sys.stdout.write("100% of everything\n")
        write_cifar(tmp_path, monkeypatch, CIFAR10, 10, "labels")

    monkeypatch.setattr(CIFAR10, "download", fetch)
    config = DataConfig(name="cifar10", root=str(tmp_path))
    first, second = load(config), load(config)
    assert first.split_hash == second.split_hash
    assert len(limits) == 1
    assert limits[0] is not None
    assert capfd.readouterr().out == ""
    assert not (tmp_path / ".download.lock").exists()


def test_parallel_workers_download_once(tmp_path, monkeypatch):
    write_cifar(tmp_path / "server", monkeypatch, CIFAR10, 10, "labels")
    fetched = []

    def copy_slowly(_url, root, **_options):
        fetched.append(root)
        time.sleep(0.2)
        shutil.copytree(tmp_path / "server", root, dirs_exist_ok=True)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", copy_slowly)
    config = DataConfig(name="cifar10", root=str(tmp_path / "data"))
    with ThreadPoolExecutor(4) as workers:
        hashes = {data.split_hash for data in workers.map(lambda _: load(config), range(4))}
    assert len(hashes) == 1
    assert len(fetched) == 1
