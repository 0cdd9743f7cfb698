"""Is a student still a flow: does it classify alike when its ODE is solved in another way?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from nodekd.attacks.frozen import frozen
from nodekd.models.student import OdeStudent, forward_evaluations
from nodekd.ode.integrator import Integrator
from nodekd.scoring import correct_rows, logits_of
from nodekd.shapes import Images, Labels, Logits

FAILED = -1
"""Stands for the class of an image whose solve failed."""


@final
@dataclass(frozen=True)
class SolverRow:
    """A student, solved by one solver."""

    solver: str
    """Name of the solver."""
    evaluations: int | None
    """Evaluations of f per block that were asked for; None where the solver decides."""
    rtol: float | None
    """Relative tolerance; None for fixed steps."""
    accuracy: float
    """Share of all images classified correctly; failed solves are wrong (S14)."""
    disagreement: float
    """Share of all images whose class differs from that under the student's own integrator."""
    nfe: float
    """Evaluations of f in the forward solve of an image, mean over the first batch, over all blocks."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def solver_table(
    student: OdeStudent,
    images: Images,
    labels: Labels,
    integrators: Sequence[Integrator],
    batch_size: int = 512,
) -> tuple[SolverRow, ...]:
    """Classify the same images with every integrator.

    Args:
        student: Trained student, whose own integrator is what the others are compared with; left exactly as it was.
        images: (n c h w) in [0, 1], at least one.
        labels: (n,).
        integrators: The other ways to solve it; see `nodekd.ode.solver_text.parse_solver`.
        batch_size: Images in one forward.

    Returns:
        One row per integrator, in their order.

    Source:
        [ott2021resnet] (a network trained on a coarse solve is an ODE only if a finer one gives the same accuracy).
    """
    with frozen(student):
        own = _classes(logits_of(student, images, batch_size))
        return tuple(_row(student.with_integrator(each), images, labels, own, batch_size) for each in integrators)


def _row(student: OdeStudent, images: Images, labels: Labels, own: Tensor, batch_size: int) -> SolverRow:
    logits = logits_of(student, images, batch_size)
    return SolverRow(
        solver=student.integrator.solver,
        evaluations=student.integrator.evaluations,
        rtol=student.integrator.rtol,
        accuracy=float(correct_rows(logits, labels).double().mean()),
        disagreement=float((_classes(logits) != own).double().mean()),
        nfe=forward_evaluations(student, images[:batch_size]),
    )


def _classes(logits: Logits) -> Tensor:
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), FAILED)
