"""Noise: its moments in closed form, its pairing by image, and the layout of the published files."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from nodekd.data.corruptions import (
    DETERMINISTIC,
    FOLDERS,
    LEVELS,
    NOISES,
    PUBLISHED,
    SEVERITIES,
    corrupted,
    open_corruptions,
    published_name,
)
from nodekd.errors import DataError

GREY = 0.5
DRAWN = tuple(noise for noise in NOISES if noise not in DETERMINISTIC)
CLASSES = np.array([3, 1, 4, 1, 5, 9], dtype=np.uint8)


def grey(n: int = 40, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((n, 3, side, side), GREY), torch.arange(n) + 1000


def expected_variance(noise: str, level: float) -> float:
    """Of one pixel at grey x = 1/2, before cutting to [0, 1], which the levels reach only far out."""
    return {
        "gaussian": level**2,
        "uniform": level**2,
        "shot": GREY / level,
        "impulse": level * GREY**2,
        "speckle": (level * GREY) ** 2,
    }[noise]


@pytest.mark.parametrize("noise", DRAWN)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_mean_and_variance_at_mid_grey_are_those_of_the_formula(noise: str, severity: int) -> None:
    images, ids = grey()
    change = (corrupted(images, ids, noise, severity, 7) - images).double().flatten()
    variance = expected_variance(noise, LEVELS[noise][severity - 1])
    assert abs(change.mean()) < 5 * (variance / len(change)) ** 0.5
    # The variance's own standard error: kurtosis is below 3 + 1/variance for all of them.
    slack = 5 * ((3 + GREY**2 / variance) / len(change)) ** 0.5
    assert change.var().item() == pytest.approx(variance, rel=slack)


def test_levels_are_those_of_the_published_code() -> None:
    assert dict(LEVELS) == {
        "gaussian": (0.04, 0.06, 0.08, 0.09, 0.1),
        "uniform": (0.04, 0.06, 0.08, 0.09, 0.1),
        "shot": (500, 250, 100, 75, 50),
        "impulse": (0.01, 0.02, 0.03, 0.05, 0.07),
        "speckle": (0.06, 0.1, 0.12, 0.16, 0.2),
        "blur": (0.4, 0.6, 0.7, 0.8, 1),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    }
    assert tuple(PUBLISHED.values()) == (
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "speckle_noise",
        "gaussian_blur",
        "contrast",
    )
    assert set(NOISES) - set(PUBLISHED) == {"uniform"}


@pytest.mark.parametrize("noise", NOISES)
def test_severity_rises_and_images_stay_images(noise: str) -> None:
    images = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(30)
    distances = []
    for severity in SEVERITIES:
        noisy = corrupted(images, ids, noise, severity, 0)
        assert noisy.dtype == torch.float32
        assert ((noisy >= 0) & (noisy <= 1)).all()
        distances.append((noisy - images).square().mean().item())
    assert distances == sorted(distances)
    assert len(set(distances)) == 5


def test_impulse_noise_is_salt_and_pepper_in_equal_parts_on_the_hit_pixels_only() -> None:
    images, ids = grey(60)
    noisy = corrupted(images, ids, "impulse", 5, 0)
    hit = noisy != images
    assert hit.double().mean().item() == pytest.approx(0.07, rel=0.05)
    assert set(noisy[hit].tolist()) == {0.0, 1.0}
    assert noisy[hit].mean().item() == pytest.approx(0.5, abs=0.05)
    mild = corrupted(images, ids, "impulse", 1, 0)
    assert torch.equal(mild[mild != images], noisy[mild != images])


def test_speckle_and_shot_leave_black_alone_and_gaussian_does_not() -> None:
    black, ids = torch.zeros(2, 1, 8, 8), torch.arange(2)
    assert torch.equal(corrupted(black, ids, "speckle", 5, 0), black)
    assert torch.equal(corrupted(black, ids, "shot", 5, 0), black)
    assert corrupted(black, ids, "gaussian", 1, 0).max() > 0


def test_uniform_noise_fills_its_range_evenly() -> None:
    images, ids = grey(60)
    change = (corrupted(images, ids, "uniform", 5, 0) - images).flatten() / (0.1 * 3**0.5)
    assert 0.999 < change.abs().max() <= 1.0 + 1e-6
    counts = torch.histc(change, bins=10, min=-1, max=1) / len(change)
    torch.testing.assert_close(counts, torch.full((10,), 0.1), rtol=0, atol=5 * (0.09 / len(change)) ** 0.5)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 12), (3, 2, 3)])
def test_blur_is_scipys_gaussian_filter_of_each_channel(severity: int, shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = corrupted(image[None], torch.tensor([3]), "blur", severity, 0)[0]
    sigma = LEVELS["blur"][severity - 1]
    for channel, own in zip(image, found, strict=True):
        np.testing.assert_allclose(
            own, gaussian_filter(channel.double().numpy(), sigma, mode="nearest", truncate=4.0), atol=1e-6
        )


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_keeps_the_mean_of_each_channel_and_shrinks_its_deviation(severity: int) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = corrupted(images, torch.arange(4), "contrast", severity, 0)
    torch.testing.assert_close(found.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    shrunk = images.std(dim=(2, 3)) * LEVELS["contrast"][severity - 1]
    torch.testing.assert_close(found.std(dim=(2, 3)), shrunk)


@pytest.mark.parametrize("noise", NOISES)
def test_draws_are_independent_and_what_draws_nothing_stays(noise: str) -> None:
    images, ids = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(40)
    first, second = (corrupted(images, ids, noise, 3, 11, draw) for draw in (0, 1))
    assert torch.equal(corrupted(images, ids, noise, 3, 11), first)
    if noise in DETERMINISTIC:
        assert torch.equal(first, second)
        assert torch.equal(corrupted(images, ids + 5, noise, 3, 12), first)
        return
    changes = [(found - images).flatten().numpy() for found in (first, second)]
    if noise == "impulse":
        changes = [(change != 0).astype(float) for change in changes]
    assert abs(np.corrcoef(*changes)[0, 1]) < 5 / len(changes[0]) ** 0.5


@pytest.mark.parametrize("noise", NOISES)
def test_noise_of_no_image_is_none(noise: str) -> None:
    assert corrupted(torch.zeros(0, 3, 8, 8), torch.arange(0), noise, 1, 0).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("noise", DRAWN)
def test_an_image_gets_the_same_noise_in_any_batch_and_order(noise: str) -> None:
    images, ids = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([9, 4, 7, 0, 2, 5])
    state = torch.get_rng_state()
    whole = corrupted(images, ids, noise, 3, 11)
    order = torch.tensor([5, 0, 3])
    assert torch.equal(corrupted(images[order], ids[order], noise, 3, 11), whole[order])
    assert not torch.equal(corrupted(images, ids + 1, noise, 3, 11), whole)
    assert not torch.equal(corrupted(images, ids, noise, 3, 12), whole)
    assert torch.equal(torch.get_rng_state(), state)


def test_different_images_and_noises_have_noise_of_their_own() -> None:
    images, ids = grey(2)
    changes = [corrupted(images, ids, noise, 1, 0) - images for noise in ("gaussian", "speckle")]
    assert not torch.equal(changes[0][0], changes[0][1])
    correlation = np.corrcoef(changes[0].flatten(), changes[1].flatten())[0, 1]
    assert abs(correlation) < 5 / len(changes[0].flatten()) ** 0.5


@pytest.mark.parametrize(("noise", "severity"), [("fog", 1), ("shot", 0), ("shot", 6), ("blur", 0)])
def test_unknown_noise_is_refused(noise: str, severity: int) -> None:
    with pytest.raises(DataError, match="must be one of"):
        corrupted(*grey(1), noise, severity, 0)


def stored(
    folder: Path, labels: np.ndarray = CLASSES, noises: tuple[str, ...] = tuple(PUBLISHED)
) -> dict[str, np.ndarray]:
    """Write files of the published layout: 5 severities, each with all images, one after another."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    arrays = {noise: generator.integers(0, 256, (5 * len(labels), 32, 32, 3), dtype=np.uint8) for noise in noises}
    for noise, array in arrays.items():
        np.save(folder / f"{published_name(noise)}.npy", array)
    np.save(folder / "labels.npy", np.tile(labels, 5))
    return arrays


@pytest.mark.parametrize("place", [".", "CIFAR-10-C"])
def test_stored_images_are_found_by_severity_and_row(tmp_path: Path, place: str) -> None:
    arrays = stored(tmp_path / place)
    files = open_corruptions(tmp_path, "cifar10", ("shot", "blur", "contrast"))
    rows = torch.tensor([4, 0])
    labels = torch.tensor([5, 3])
    for noise in ("shot", "blur", "contrast"):
        for severity in SEVERITIES:
            read = files.read(noise, severity, rows, labels)
            assert read.dtype == torch.float32
            for image, row in zip(read, rows.tolist(), strict=True):
                expected = arrays[noise][6 * (severity - 1) + row].transpose(2, 0, 1) / 255
                np.testing.assert_allclose(image, expected, atol=1e-7)


def test_stored_images_are_brought_to_the_size_of_the_data(tmp_path: Path) -> None:
    stored(tmp_path)
    files = open_corruptions(tmp_path, "cifar10", ("shot",))
    small = files.read("shot", 1, torch.tensor([0]), torch.tensor([3]), size=16)
    assert small.shape == (1, 3, 16, 16)
    whole = files.read("shot", 1, torch.tensor([0]), torch.tensor([3]))
    assert small.mean().item() == pytest.approx(whole.mean().item(), abs=0.02)


def message(action: object) -> str:
    with pytest.raises(DataError) as caught:
        action()  # pyright: ignore
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_files_name_path_layout_and_remedy(tmp_path: Path) -> None:
    for target, at in ((tmp_path / "nowhere", "nowhere"), (tmp_path, "labels.npy")):
        text = message(lambda target=target: open_corruptions(target, "cifar10", ("gaussian",)))
        assert str(tmp_path) in text
        assert at in text
        assert "gaussian_noise.npy, each (50000, 32, 32, 3) uint8" in text
        assert "point probes.corruption_root at the unpacked CIFAR-10-C" in text
    stored(tmp_path / FOLDERS["cifar100"], noises=("shot",))
    text = message(lambda: open_corruptions(tmp_path, "cifar100", ("shot", "speckle")))
    assert f"{tmp_path / 'CIFAR-100-C' / 'speckle_noise.npy'} is missing" in text


def test_a_noise_of_our_own_has_no_files(tmp_path: Path) -> None:
    stored(tmp_path)
    text = message(lambda: open_corruptions(tmp_path, "cifar10", ("gaussian", "uniform")))
    assert "no corruption of images was published as 'uniform'" in text
    assert "take it out of probes.noise" in text


def test_damaged_files_are_told_from_missing_ones(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "shot_noise.npy").write_bytes(b"not an array")
    assert "shot_noise.npy cannot be read" in message(lambda: open_corruptions(tmp_path, "cifar10", ("shot",)))
    np.save(tmp_path / "shot_noise.npy", np.zeros((30, 3, 32, 32), dtype=np.uint8))
    assert "holds (30, 3, 32, 32) uint8 beside 30 labels" in message(
        lambda: open_corruptions(tmp_path, "cifar10", ("shot",))
    )
    np.save(tmp_path / "labels.npy", np.arange(30))
    assert "different classes" in message(lambda: open_corruptions(tmp_path, "cifar10", ("gaussian",)))
    np.save(tmp_path / "labels.npy", np.arange(7))
    assert "labels.npy holds (7,)" in message(lambda: open_corruptions(tmp_path, "cifar10", ("gaussian",)))


def test_files_of_another_data_set_are_noticed_by_their_classes(tmp_path: Path) -> None:
    stored(tmp_path)
    files = open_corruptions(tmp_path, "cifar10", ("shot",))
    rows = torch.tensor([0, 1])
    assert "gives test image 1 the class 1, but the data set 2" in message(
        lambda: files.read("shot", 1, rows, torch.tensor([3, 2]))
    )
    assert "holds 6 test images" in message(lambda: files.read("shot", 1, torch.tensor([6]), torch.tensor([0])))
    assert "which were opened" in message(lambda: files.read("speckle", 1, rows, torch.tensor([3, 1])))


def test_a_data_set_without_files_says_so() -> None:
    text = message(lambda: open_corruptions("anywhere", "digits"))
    assert re.search("cifar10, cifar100, but data.name is digits; leave probes.corruption_root out", text)
