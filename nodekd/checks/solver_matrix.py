"""The same weights under several solvers: images made through one, judged under each other one (A12)."""

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from nodekd.attacks.gradient import Trace
from nodekd.attacks.spec import PGD_20, correct
from nodekd.attacks.threat import Threat
from nodekd.checks.optimisation import BATCH, Climber
from nodekd.checks.protocol import Alone, Subject
from nodekd.gradient_sources import euler_of, under_solver
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import Integrator, finer, per_image
from nodekd.ode.solver_text import CAP, solver_text
from nodekd.scoring import logits_of
from nodekd.shapes import Images, Labels

CONVERGED = 0.05
"""Mean change of the logits from the fine solve, in their deviations, below which a solver follows the same flow."""


def named_solvers(deployed: Integrator, training: Integrator | None) -> dict[str, Integrator]:
    """Choose the solvers of the matrix, the deployed one first, by names such as `rk4:16` and `dopri5:0.001`.

    The others, where they differ: a fine fixed rk4, Euler with as many evaluations, the solver of the training, and
    twice the steps or a tenth of the tolerance.

    Args:
        deployed: As the network is measured.
        training: As it was trained; None where that is unknown.
    """
    tighter = (
        replace(deployed, steps=2 * (deployed.steps or 1))
        if deployed.fixed
        else replace(deployed, rtol=_tenth(deployed.rtol), atol=_tenth(deployed.atol), max_evaluations=CAP)
    )
    others = [finer(deployed), euler_of(deployed), *([training] if training is not None else []), tighter]
    found: dict[str, Integrator] = {}
    for each in (deployed, *others):
        found.setdefault(solver_text(each), each)
    return found


def _tenth(tolerance: float | None) -> float | None:
    return None if tolerance is None else tolerance / 10


@final
@dataclass(frozen=True)
class _Column:
    """One way to solve, as an attacker and as a judge."""

    name: str
    source: OdeStudent
    judge: OdeStudent
    target: OdeStudent | Alone
    right: Tensor
    """(n,) right without any change."""
    converged: bool


@final
class SolverMatrix:
    """Attacks and judges under every solver of a list.

    Args:
        subject: An ODE student, not randomised.
        solvers: The deployed one first; see `named_solvers`.
        images: (n c h w) in [0, 1], n >= 1.
        labels: (n,) true classes.
        seed: Seed of the starts.
    """

    def __init__(
        self, subject: Subject, solvers: dict[str, Integrator], images: Images, labels: Labels, seed: int
    ) -> None:
        self.images, self.labels, self.seed = images, labels, seed
        assert isinstance(subject.network, OdeStudent), "only an ODE has solvers"
        student = subject.network
        fine = logits_of(under_solver(student, finer(student.integrator)), images, BATCH)
        self.columns = [
            self._column(name, student if place == 0 else _solved(student, each), subject, fine)
            for place, (name, each) in enumerate(solvers.items())
        ]

    def _column(self, name: str, judge: OdeStudent, subject: Subject, fine: Tensor) -> _Column:
        is_coupled = subject.protocol == "alone" and not judge.integrator.fixed
        target = Alone(judge) if is_coupled else judge
        logits = logits_of(target, self.images, BATCH)
        moved = torch.nan_to_num((logits - fine).abs(), nan=torch.inf).mean() / torch.nan_to_num(fine).std()
        right = correct(target, self.images, self.labels, BATCH)
        source = subject.source if judge is subject.network and isinstance(subject.source, OdeStudent) else judge
        return _Column(name, source, judge, target, right, bool(moved <= CONVERGED))

    def broken(self, threat: Threat, own: tuple[Tensor, Trace] | None = None) -> Tensor:
        """Attack through every solver and judge under every one.

        Args:
            threat: Ball around the images.
            own: Positions (m,) of the images that the deployed network gets right, and what `PGD_20` made of them
                through it, with `keep_going`; otherwise it is run.

        Returns:
            (s s n) bool: right under solver j, and wrong on the image that was made through solver i, either where it
            first broke solver i or at the last step.
        """
        bits = torch.zeros(len(self.columns), len(self.columns), len(self.images), dtype=torch.bool)
        for place, row in enumerate(self.columns):
            positions, trace = own if place == 0 and own is not None else self._attacked(row, threat)
            if len(positions) == 0 or trace is None:
                continue
            for other, column in enumerate(self.columns):
                wrong = ~(
                    self._is_right(column, positions, trace.images, threat)
                    & self._is_right(column, positions, trace.last, threat)
                )
                bits[place, other, positions.cpu()] = (wrong & column.right[positions]).cpu()
        return bits

    def _attacked(self, row: _Column, threat: Threat) -> tuple[Tensor, Trace | None]:
        positions = row.right.nonzero().flatten()
        if len(positions) == 0:
            return positions, None
        climber = Climber(row.source, row.judge, self.seed)
        clean, labels = self.images[positions], self.labels[positions]
        return positions, climber.climb(PGD_20, clean, labels, threat, keep_going=True)

    def _is_right(self, column: _Column, positions: Tensor, made: Images, threat: Threat) -> Tensor:
        inside = threat.contains(made, self.images[positions])
        return correct(column.target, made, self.labels[positions], BATCH) | ~inside


def _solved(student: OdeStudent, integrator: Integrator) -> OdeStudent:
    direct = replace(integrator, gradient="direct", adjoint_steps=None)
    return student.with_integrator(per_image(direct))
