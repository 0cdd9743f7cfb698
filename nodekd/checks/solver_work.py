"""What a solver has to do for an image, clean and attacked (A15)."""

from dataclasses import dataclass
from typing import final

import torch

from nodekd.attacks.frozen import frozen
from nodekd.models.student import OdeStudent, forward_evaluations
from nodekd.shapes import Images

IMAGES = 64


@final
@dataclass(frozen=True)
class SolverWork:
    """Mean evaluations of f per image of an adaptive solve."""

    clean: float
    attacked: float
    n: int

    @property
    def change(self) -> float:
        """Relative change under attack, its size alone."""
        return abs(self.attacked / self.clean - 1)


@torch.no_grad()
def solver_work(student: OdeStudent, clean: Images, attacked: Images) -> SolverWork | None:
    """Compare the evaluations that images (n c h w) need before and after an attack.

    Every image is solved by itself, so that the hardest of a batch does not speak for all.

    Returns:
        Means over the first `IMAGES`; None for fixed steps, whose work never changes, and without images.
    """
    if student.integrator.fixed or len(clean) == 0:
        return None
    with frozen(student):
        first, second = (
            torch.tensor([forward_evaluations(student, image) for image in images[:IMAGES].split(1)]).mean().item()
            for images in (clean, attacked)
        )
    return SolverWork(first, second, min(len(clean), IMAGES))
