"""Random views are pure crops of the padded image: every pixel is found again at one offset."""

import pytest
import torch
import torch.nn.functional as F

from nodekd.data.views import Augmentation, count_views, draw_views, identity_view, take_views


def augment(images, augmentation, generator):
    return take_views(images, draw_views(len(images), augmentation, generator), augmentation)


def offsets(view: torch.Tensor, image: torch.Tensor, padding: int) -> list[tuple[int, int, bool]]:
    """Search all windows of the padded image, mirrored or not, for this view."""
    padded = F.pad(image, (padding,) * 4)
    h, w = image.shape[1:]
    return [
        (y, x, mirrored)
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
        for mirrored in (False, True)
        if torch.equal(view.flip(2) if mirrored else view, padded[:, y : y + h, x : x + w])
    ]


@pytest.mark.parametrize("flip", [False, True])
def test_each_view_is_one_window(flip):
    images = torch.rand(200, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    views = augment(images, Augmentation(1, flip), torch.Generator().manual_seed(1))
    found = [offsets(view, image, 1) for view, image in zip(views, images, strict=True)]
    assert all(len(windows) == 1 for windows in found)  # random pixels: exactly one window fits
    drawn = {windows[0] for windows in found}
    assert len(drawn) == (18 if flip else 9)  # each shift, and each side, occurs
    mirrored = sum(windows[0][2] for windows in found)
    assert (60 < mirrored < 140) if flip else mirrored == 0
    assert torch.equal(images, before)


def test_same_generator_same_views_whatever_the_images():
    ramp = torch.arange(64.0).view(1, 1, 8, 8).expand(16, 3, 8, 8)
    first = augment(ramp, Augmentation(1, True), torch.Generator().manual_seed(5))
    second = augment(ramp + 100, Augmentation(1, True), torch.Generator().manual_seed(5))
    inside = first != 0  # where the window shows image and not padding
    assert torch.equal(first[inside] + 100, second[inside])
    assert not torch.equal(first, augment(ramp, Augmentation(1, True), torch.Generator().manual_seed(6)))


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    augment(torch.rand(4, 1, 8, 8, generator=torch.Generator()), Augmentation(1, True), torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_to_draw_leaves_images_alone():
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator())
    generator = torch.Generator().manual_seed(3)
    assert augment(images, Augmentation(0, False), generator) is images
    flipped = augment(images, Augmentation(0, True), generator)
    assert all(torch.equal(v, i) or torch.equal(v, i.flip(2)) for v, i in zip(flipped, images, strict=True))


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match=r"`padding >= 0` must hold, but got padding=-1"):
        Augmentation(-1, False)


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (1, False), (2, True)])
def test_views_are_numbered_once_each_and_one_is_the_image(padding, flip):
    augmentation = Augmentation(padding, flip)
    image = torch.rand(1, 2, 6, 5, generator=torch.Generator().manual_seed(2))
    views = torch.arange(count_views(augmentation))
    shown = take_views(image.expand(len(views), 2, 6, 5), views, augmentation)
    assert len({tuple(view.flatten().tolist()) for view in shown}) == len(views)
    assert torch.equal(shown[identity_view(augmentation)], image[0])
