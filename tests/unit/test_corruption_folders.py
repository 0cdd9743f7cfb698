"""ImageNet-C's layout, in small files that are written here as the published ones are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nodekd.data.corruption_folders import CorruptionFolder, open_corruption_folder
from nodekd.data.dataset import DataConfig, Dataset, load
from nodekd.data.folders import find_folder
from nodekd.errors import DataError
from nodekd.probes.noise import stored_noise

CLASSES = ("n01440764", "n02102040", "n03000684")
CORRUPTIONS = ("gaussian_noise", "contrast")
SIDE = 12
PER_CLASS = 8


def grey_of(label: int, number: int) -> int:
    """Every picture has a grey value of its own: 8 for each picture, 64 for each class."""
    return 10 + 64 * label + 6 * number


def write_picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), grey, dtype=np.uint8)).save(path, quality=100)


def name_of(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """An image folder with train/ and test/."""
    for part, first in (("train", 100), ("test", 0)):
        for label, name in enumerate(CLASSES):
            for number in range(PER_CLASS):
                write_picture(tmp_path / "data" / part / name / name_of(first + number), grey_of(label, number))
    return tmp_path / "data"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Corruptions of the test pictures: each is darker by its severity, and contrast by 5 more."""
    for place, corruption in enumerate(CORRUPTIONS):
        for severity in range(1, 6):
            for label, name in enumerate(CLASSES):
                for number in range(PER_CLASS):
                    path = tmp_path / "c" / corruption / str(severity) / name / name_of(number)
                    write_picture(path, grey_of(label, number) - severity - 5 * place)
    return tmp_path / "c"


def loaded(clean: Path) -> Dataset:
    return load(DataConfig("folder", str(clean), SIDE), splits=("train", "test"))


def opened(root: Path, clean: Path) -> CorruptionFolder:
    return open_corruption_folder(root, find_folder(clean), ("gaussian", "contrast"))


def test_each_test_picture_is_found_by_class_name_and_severity(root: Path, clean: Path) -> None:
    dataset, files = loaded(clean), opened(root, clean)
    test = dataset.splits["test"]
    assert dataset.class_names == CLASSES
    pick = torch.tensor([20, 3, 8])
    for place, noise in enumerate(("gaussian", "contrast")):
        for severity in range(1, 6):
            found = files.read(noise, severity, test.ids[pick], test.labels[pick], SIDE)
            assert (found.shape, found.dtype) == ((3, 3, SIDE, SIDE), torch.float32)
            darker = torch.full_like(found, (severity + 5 * place) / 255)
            torch.testing.assert_close(test.images(pick) - found, darker, rtol=0, atol=1.5 / 255)


def test_pictures_are_brought_to_the_study_s_size_and_channels(root: Path, clean: Path) -> None:
    dataset = load(DataConfig("folder", str(clean), 8), splits=("test",))
    test, files = dataset.splits["test"], opened(root, clean)
    assert files.read("contrast", 1, test.ids[:2], test.labels[:2], 8).shape == (2, *dataset.shape)


def test_accuracy_is_counted_over_the_test_pictures(root: Path, clean: Path) -> None:
    class Bright(nn.Module):
        """The class by the grey value, as if each were 64 wide: low ones fall into the class below when darkened."""

        def forward(self, x: Tensor) -> Tensor:
            grey = x.mean(dim=(1, 2, 3)) * 255
            return -(grey[:, None] - torch.tensor([39.0, 103.0, 167.0])).abs()

    test = loaded(clean).splits["test"]
    files = opened(root, clean)
    noises = ("gaussian", "contrast")
    rows = stored_noise(Bright(), files, test.ids, test.labels, noises, [1, 5], size=SIDE)
    # darker by 1, 5, 6, 10; the lowest grey value of a class stands 3 above the border at 71 resp. 135
    assert [row.correct for row in rows] == [(24,), (22,), (22,), (20,)]
    assert {row.source for row in rows} == {"file"}
    assert [row.draws for row in rows] == [1] * 4


def test_extra_classes_and_another_ending_are_no_fault(root: Path, clean: Path) -> None:
    (root / "contrast" / "1" / "n99999999").mkdir()
    place = root / "gaussian_noise" / "3" / CLASSES[1]
    Image.open(place / name_of(2)).save(place / "ILSVRC2012_val_00000002.png")
    (place / name_of(2)).unlink()
    (place / "notes.txt").write_text("not a picture")
    test = loaded(clean).splits["test"]
    assert opened(root, clean).read("gaussian", 3, test.ids, test.labels, SIDE).shape[0] == 24


def test_a_picture_with_its_own_name_is_taken_before_one_with_another_ending(root: Path, clean: Path) -> None:
    place = root / "contrast" / "2" / CLASSES[0]
    write_picture(place / "ILSVRC2012_val_00000000.png", 255)
    test = loaded(clean).splits["test"]
    assert opened(root, clean).read("contrast", 2, test.ids[:1], test.labels[:1], SIDE).max() < 0.1


def message(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_folders_name_the_place_the_layout_and_the_remedy(root: Path, clean: Path) -> None:
    shutil.rmtree(root / "contrast" / "4" / CLASSES[2])
    text = message(lambda: opened(root, clean))
    assert f"{root / 'contrast' / '4'} has no folder 'n03000684' for that class of data.root" in text
    assert "<root>/<corruption>/<severity 1 to 5>/<class>/*.JPEG" in text
    assert "point probes.corruption_root at the folder that holds contrast/" in text
    shutil.rmtree(root / "contrast" / "2")
    assert f"{root / 'contrast' / '2'} is missing" in message(lambda: opened(root, clean))
    assert "is missing" in message(lambda: opened(root / "nowhere", clean))
    assert "no corruption of images was published as 'uniform'" in message(
        lambda: open_corruption_folder(root, find_folder(clean), ("uniform",))
    )


def test_classes_of_another_data_set_are_noticed(root: Path, clean: Path) -> None:
    for corruption in CORRUPTIONS:
        for severity in range(1, 6):
            place = root / corruption / str(severity)
            (place / CLASSES[0]).rename(place / "goldfish")
    assert "has no folder 'n01440764'" in message(lambda: opened(root, clean))


def test_a_missing_ambiguous_or_damaged_picture_is_named(root: Path, clean: Path) -> None:
    test, place = loaded(clean).splits["test"], root / "contrast" / "1" / CLASSES[0]

    def read() -> Tensor:
        return opened(root, clean).read("contrast", 1, test.ids, test.labels, SIDE)

    (place / name_of(5)).write_bytes(b"no picture")
    assert f"{place / name_of(5)} cannot be read as a picture" in message(read)
    (place / name_of(5)).unlink()
    assert f"{place} holds 0 versions of {name_of(5)}, but one is needed" in message(read)
    for ending in ("png", "bmp"):
        write_picture(place / f"{Path(name_of(5)).stem}.{ending}", 3)
    assert f"{place} holds 2 versions of {name_of(5)}" in message(read)


def test_what_was_not_opened_or_is_of_another_class_is_refused(root: Path, clean: Path) -> None:
    test, files = loaded(clean).splits["test"], opened(root, clean)
    assert "which were opened" in message(lambda: files.read("shot", 1, test.ids, test.labels, SIDE))
    assert "1 to 5, but got 6" in message(lambda: files.read("contrast", 6, test.ids, test.labels, SIDE))
    wrong = (test.labels + 1) % 3
    assert "data.root has changed" in message(lambda: files.read("contrast", 1, test.ids, wrong, SIDE))
