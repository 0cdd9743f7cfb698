"""A teacher's last feature map for a batch of views: computed live, and remembered where the set is small."""

from collections.abc import Callable
from typing import Protocol, final

import torch
from torch import Tensor, nn

from nodekd.attacks.frozen import frozen
from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, count_views
from nodekd.distill.teacher_signal import small_enough
from nodekd.models.features import forward_with_features
from nodekd.shapes import Images

MEMORY_LIMIT = 2**28
"""Bytes up to which a teacher's maps of all views are remembered."""


class FeatureSignal(Protocol):
    """Where a student's batch gets its teacher's map from."""

    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Tensor:
        """Return maps (b c h w) of training images `rows` (b,) seen as `views` (b,), which are `images` (b c h w)."""
        ...

    def channels(self, image: Images) -> tuple[int, int]:
        """Return the channels of the network's own map and of the maps given here, by the example of (1 c h w)."""
        ...


@final
class FeatureMemory:
    """Maps of every image in every view, filled as they are asked for.

    Unlike a table made beforehand it never costs more forwards than computing live.
    """

    def __init__(self, images: int, views: int) -> None:
        self.known = torch.zeros(images, views, dtype=torch.bool)
        self.maps: Tensor | None = None

    def recall(self, rows: Tensor, views: Tensor, images: Images, compute: Callable[[Images], Tensor]) -> Tensor:
        """Return maps (b c h w); those that are not known yet are computed from `images` and kept."""
        self.known = self.known.to(images.device)
        missing = ~self.known[rows, views]
        if bool(missing.any()):
            fresh = compute(images[missing])
            if self.maps is None:
                self.maps = fresh.new_empty(*self.known.shape, *fresh.shape[1:])
            self.maps[rows[missing], views[missing]] = fresh
            self.known[rows[missing], views[missing]] = True
        assert self.maps is not None, "a first batch has no known maps"
        return self.maps[rows, views]


@final
class FeatureTeacher:
    """Run the teacher in eval mode on the very views that the student sees, without its attacks."""

    def __init__(self, network: nn.Module, memory: FeatureMemory | None = None) -> None:
        self.network = network.eval()
        self.memory = memory

    @torch.no_grad()
    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Tensor:
        """Return the teacher's last maps (b c h w), before pooling."""
        if self.memory is None:
            return self._last_map(images)
        return self.memory.recall(rows, views, images, self._last_map)

    def channels(self, image: Images) -> tuple[int, int]:
        """Return the channels of the last map, twice."""
        channels = map_of(self.network, image).shape[1]
        return channels, channels

    def _last_map(self, images: Images) -> Tensor:
        return forward_with_features(self.network, images)[1][-1]


def feature_teacher(network: nn.Module, split: Split, augmentation: Augmentation) -> FeatureTeacher:
    """Make a trained network a teacher of features, which remembers its maps if that takes little memory.

    Args:
        network: Any network that students and teachers are built as, e.g. the generation before.
        split: The training images.
        augmentation: What views there are.
    """
    views = count_views(augmentation)
    needed = map_of(network, split.images(slice(0, 1))).numel() * 4 * len(split) * views
    small = small_enough(augmentation) and needed <= MEMORY_LIMIT
    return FeatureTeacher(network, FeatureMemory(len(split), views) if small else None)


@torch.no_grad()
def map_of(network: nn.Module, images: Images) -> Tensor:
    """Return a network's last maps (b c h w) in eval mode, whatever mode it is in and without changing it."""
    with frozen(network):
        return forward_with_features(network, images)[1][-1]
