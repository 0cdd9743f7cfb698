"""Image folders of any kind: layouts, picture modes, sizes, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nodekd.data.dataset import SPLITS, DataConfig, load
from nodekd.data.image_files import read_picture
from nodekd.errors import DataError


def config(root: Path, size: int | None = 8) -> DataConfig:
    return DataConfig(name="folder", root=str(root), image_size=size)


def paint(path: Path, value: int | tuple[int, ...], mode: str = "L", size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def fill(folder: Path, classes: str = "ab", n: int = 8) -> None:
    """Write grey pictures whose value tells class and number: 100 k + number."""
    for label, name in enumerate(classes):
        for i in range(n):
            paint(folder / name / f"{i:02}.png", 100 * label + i)


def test_class_folders_are_cut_into_four(tmp_path):
    fill(tmp_path)
    data = load(config(tmp_path))
    assert (data.class_names, data.shape, data.augmentation.flip) == (("a", "b"), (1, 8, 8), False)
    assert [len(data.splits[name]) for name in SPLITS] == [6, 2, 4, 4]
    for split in data.splits.values():
        values = split.pixels[:, 0, 0, 0].long()
        assert torch.equal(values // 100, split.labels)
        assert torch.equal(8 * split.labels + values % 100, split.ids)
    assert sorted(torch.cat([s.ids for s in data.splits.values()]).tolist()) == list(range(16))


def test_test_folder_is_the_official_test_set(tmp_path):
    fill(tmp_path / "train", n=10)
    fill(tmp_path / "test", n=3)
    fill(tmp_path / "val", "xy", n=1)  # other folders are not read
    data = load(config(tmp_path))
    assert [len(data.splits[name]) for name in SPLITS] == [16, 2, 2, 6]
    assert data.splits["test"].ids.tolist() == list(range(20, 26))
    assert data.splits["test"].pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]


def test_classes_may_be_called_train_and_test(tmp_path):
    for label, name in enumerate(("bus", "test", "train")):
        for i in range(4):
            paint(tmp_path / name / f"{i}.png", 50 * label)
            paint(tmp_path / name / "more" / f"{i}.png", 50 * label)
    assert load(config(tmp_path)).class_names == ("bus", "test", "train")


def test_default_size_is_64_and_pictures_are_squeezed_whole(tmp_path):
    fill(tmp_path)
    wide = Image.fromarray(np.repeat(np.linspace(0, 255, 200).astype(np.uint8)[None], 50, 0))
    wide.save(tmp_path / "a" / "00.png")
    data = load(config(tmp_path, None))
    assert (data.shape, data.augmentation.padding) == ((1, 64, 64), 4)
    row = read_picture(tmp_path / "a" / "00.png", 1, 64)[0, 0].astype(int)
    assert row[0] < 5  # both ends are still there
    assert row[-1] > 250
    assert (np.diff(row) >= 0).all()


def test_one_colour_picture_makes_all_colour(tmp_path):
    fill(tmp_path)
    paint(tmp_path / "a" / "08.png", (10, 20, 30), "RGB")
    data = load(config(tmp_path))
    assert data.shape == (3, 8, 8)
    split = next(s for s in data.splits.values() if (s.ids == 8).any())
    assert split.pixels[split.ids == 8][0, :, 0, 0].tolist() == [10, 20, 30]
    grey = split.pixels[split.ids != 8]
    assert torch.equal(grey[:, 0], grey[:, 2])


def palette(path: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    picture.save(path)


def see_through_palette(path: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 200, 30])
    picture.save(path, transparency=1)


WRITERS = {
    "palette": (palette, [10, 200, 30]),
    "transparent palette": (see_through_palette, [255, 255, 255]),
    "transparent": (lambda p: paint(p, (9, 9, 9, 0), "RGBA"), [255, 255, 255]),
    "half transparent": (lambda p: paint(p, (0, 100, 200, 51), "RGBA"), [204, 224, 244]),
    "grey with alpha": (lambda p: paint(p, (40, 255), "LA"), [40, 40, 40]),
    "16 bit": (lambda p: Image.fromarray(np.full((8, 8), 200 * 257, np.uint16)).save(p), [200, 200, 200]),
    "16 bit white": (lambda p: Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(p), [255, 255, 255]),
    "1 bit": (lambda p: paint(p, 1, "1"), [255, 255, 255]),
}


@pytest.mark.parametrize(("write", "colour"), WRITERS.values(), ids=WRITERS)
def test_picture_modes(tmp_path, write, colour):
    write(tmp_path / "x.png")
    pixels = read_picture(tmp_path / "x.png", 3, 8)
    assert pixels.dtype == np.uint8
    assert (colour == pixels.reshape(3, -1).T).all()
    assert read_picture(tmp_path / "x.png", 1, 8).shape == (1, 8, 8)


def test_other_formats(tmp_path):
    paint(tmp_path / "print.tif", (0, 255, 255, 0), "CMYK")
    assert read_picture(tmp_path / "print.tif", 3, 8)[:, 0, 0].tolist() == [255, 0, 0]
    Image.fromarray(np.full((8, 8), 300, np.int32)).save(tmp_path / "deep.tif")
    assert read_picture(tmp_path / "deep.tif", 1, 8).max() == 1
    turned = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 4, 0).repeat(8, 1))
    tag = Image.Exif()
    tag[274] = 3  # upside down
    turned.save(tmp_path / "turned.png", exif=tag)
    assert read_picture(tmp_path / "turned.png", 1, 8)[0, 0, 0] == 255


def test_shrinking_averages(tmp_path):
    board = np.indices((64, 64)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "board.png")
    assert np.abs(read_picture(tmp_path / "board.png", 1, 8).astype(int) - 127).max() <= 2


def test_a_large_photograph_keeps_its_look(tmp_path):
    blobs = torch.rand(1, 3, 60, 80, generator=torch.Generator().manual_seed(0))
    photo = torch.nn.functional.interpolate(blobs, (600, 800), mode="bicubic").clamp(0, 1)
    array = (photo[0].permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(array).save(tmp_path / "photo.jpg", quality=95)
    full = Image.fromarray(array).resize((64, 64), Image.Resampling.BILINEAR)
    difference = read_picture(tmp_path / "photo.jpg", 3, 64).transpose(1, 2, 0).astype(int) - np.asarray(full)
    assert np.abs(difference).mean() < 2


def test_hash_follows_content_and_nothing_else(tmp_path):
    fill(tmp_path / "x")
    before = load(config(tmp_path / "x")).split_hash
    (tmp_path / "x").rename(tmp_path / "y")
    (tmp_path / "y" / "a" / "03.png").touch()
    (tmp_path / "y" / "a" / "._03.png").write_bytes(b"left behind by a system")
    (tmp_path / "y" / ".cache").mkdir()
    assert load(config(tmp_path / "y", 16), splits=("test",)).split_hash == before
    paint(tmp_path / "y" / "a" / "03.png", 77)
    changed = load(config(tmp_path / "y")).split_hash
    (tmp_path / "y" / "b" / "07.png").rename(tmp_path / "y" / "b" / "08.png")  # order and labels stay
    assert len({before, changed, load(config(tmp_path / "y")).split_hash}) == 3


def test_missing_folder(tmp_path):
    with pytest.raises(
        DataError, match=r"There is no folder .*pictures; data\.root must name .*<root>/<class>/\*\.png"
    ):
        load(config(tmp_path / "pictures"))


def test_folder_without_classes(tmp_path):
    paint(tmp_path / "x.png", 1)
    with pytest.raises(
        DataError, match=r"is not an image folder \(it holds no class folders\); expected <root>/<class>"
    ):
        load(config(tmp_path))


def test_empty_class(tmp_path):
    fill(tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=r"is not an image folder \(Found no valid file for the classes c"):
        load(config(tmp_path))


def test_one_class(tmp_path):
    fill(tmp_path, "a")
    with pytest.raises(DataError, match=r"holds one class only \('a'\); two at least are needed"):
        load(config(tmp_path))


def test_small_class(tmp_path):
    fill(tmp_path)
    fill(tmp_path, "abc", n=3)
    with pytest.raises(DataError, match=r"class 'c' has 3 to share among train, val_search, val_front, test"):
        load(config(tmp_path))


def test_train_without_test(tmp_path):
    fill(tmp_path / "train")
    with pytest.raises(
        DataError, match=r"holds train/ with class folders but no such test/; .*point data\.root at train/"
    ):
        load(config(tmp_path))


def test_train_and_test_with_different_classes(tmp_path):
    fill(tmp_path / "train", "abc")
    fill(tmp_path / "test", "ab")
    with pytest.raises(DataError, match=r"must hold the same class folders, but only one of them has 'c'"):
        load(config(tmp_path))


def test_damaged_picture_is_named(tmp_path):
    fill(tmp_path)
    (tmp_path / "b" / "02.png").write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"b/02\.png cannot be read as a picture \(UnidentifiedImageError: .*replace it"
    ):
        load(config(tmp_path))
    whole = (tmp_path / "b" / "03.png").read_bytes()
    (tmp_path / "b" / "02.png").write_bytes(whole[: len(whole) - 25])  # the header is sound, the rest is torn off
    with pytest.raises(DataError, match=r"b/02\.png cannot be read as a picture"):
        load(config(tmp_path))


def test_pixels_without_an_agreed_range_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"pixels of kind F have no agreed range, save the picture with 8 or 16 bit"):
        read_picture(tmp_path / "x.tif", 1, 8)
