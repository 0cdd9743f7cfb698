"""The teacher's logits for a batch of views: looked up in a table, or computed live (S10)."""

from typing import Protocol, final

import torch
from torch import Tensor, nn

from nodekd.data.dataset import Split
from nodekd.data.views import Augmentation, count_views, take_views
from nodekd.shapes import Images, Logits

LARGEST_TABLE = 32
"""Views per image up to which the teacher's logits are tabulated instead of computed live."""


class TeacherSignal(Protocol):
    """Where a student's batch gets its teacher's logits from."""

    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Logits:
        """Return logits (b k) of training images `rows` (b,) seen as `views` (b,), which are `images` (b c h w)."""
        ...


@final
class LiveTeacher:
    """Run the teacher on the very views that the student sees."""

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher.eval()

    @torch.no_grad()
    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Logits:
        """Return the teacher's logits of `images`; rows and views are not needed."""
        del rows, views
        return self.teacher(images)


@final
class CachedTeacher:
    """Look the logits up in a table over every image and every view that augmentation can draw.

    The table holds all views, so what a student sees has the same distribution as with fresh views, and its alpha-0
    twin draws from the same ones.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, rows: Tensor, views: Tensor, images: Images) -> Logits:
        """Return table entries (b k); the images are not needed."""
        del images
        return self.table[rows.to(self.table.device), views.to(self.table.device)]


@torch.no_grad()
def logit_table(teacher: nn.Module, split: Split, augmentation: Augmentation, batch_size: int = 512) -> Tensor:
    """Return the teacher's logits (n views k) in eval mode, float32, for every image in every view.

    Args:
        teacher: Network in eval mode.
        split: The training images.
        augmentation: What views there are.
        batch_size: Images in one forward.
    """
    rows = torch.arange(len(split), device=split.labels.device)
    columns: list[Tensor] = []
    for view in range(count_views(augmentation)):
        logits = [
            teacher(take_views(split.images(batch), torch.full_like(batch, view), augmentation))
            for batch in rows.split(batch_size)
        ]
        columns.append(torch.cat(logits))
    return torch.stack(columns, dim=1).float()


def small_enough(augmentation: Augmentation) -> bool:
    """Tell whether a table of all views costs little: its teacher forwards are those of `LARGEST_TABLE` epochs."""
    return count_views(augmentation) <= LARGEST_TABLE
