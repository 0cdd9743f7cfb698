"""The diagnostic subset: every attack alone on every image that is classified correctly, at every epsilon (S20).

No cascade, no pool, nothing carried from a smaller epsilon: only so can attacks be compared. What follows from the bits
alone (A5 to A7, A9 to A13) is left to whoever reads them; what needs the attacks' traces is counted here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.frozen import frozen
from nodekd.attacks.gradient import Trace
from nodekd.attacks.sources import StraightThrough, with_unit_margin
from nodekd.attacks.spec import (
    APGD_CE,
    APGD_T,
    FGSM,
    PGD_20,
    PGD_20_MARGIN,
    SIGN_NOISE,
    SQUARE,
    Attack,
    check_images,
    correct,
    craft,
)
from nodekd.attacks.threat import Threat
from nodekd.checks.effort import Effort, watched
from nodekd.checks.optimisation import (
    BATCH,
    DOUBLED,
    LONG_IMAGES,
    LONG_STEPS,
    UNBOUNDED_IMAGES,
    Climber,
    still_rising,
)
from nodekd.checks.protocol import Subject, changed_by_company
from nodekd.checks.solver_matrix import SolverMatrix
from nodekd.checks.solver_work import SolverWork, solver_work
from nodekd.gradient_sources import looks_through, under_solver
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import Integrator, finer
from nodekd.scoring import logits_of
from nodekd.shapes import Images, Labels

SIGNS = replace(SIGN_NOISE, draws=1000)
"""A9."""
STRAIGHT_THROUGH = replace(PGD_20_MARGIN, name="straight-through")
"""A13: forwards as deployed, backwards through a fine fixed solve."""
RESCALED = replace(PGD_20, name="rescaled-pgd-20")
"""S11: the logits scaled to unit median margin."""
OWN = (FGSM, PGD_20, PGD_20_MARGIN, APGD_CE, APGD_T)
"""Attacks that follow the network's own gradient as it is deployed."""
RANDOMISED_STEPS = 20
"""Steps of APGD on a randomised network, each of which asks for several draws."""


@final
@dataclass(frozen=True)
class Share:
    """How many of how many images."""

    count: int
    n: int


@final
@dataclass(frozen=True)
class Level:
    """One epsilon."""

    threat: Threat
    broken: Mapping[str, Tensor]
    """(n,) bool per attack: right, and made wrong by this attack alone inside the ball."""
    strayed: Share
    """P2: images that left the ball or the box, of all that were made."""
    lost: Share | None
    """A1: images that an attack has seen broken and gives back unbroken; None where it saw them otherwise than they
    are scored: in other company, or in other draws."""
    rising: Share
    """A2: survivors on which twice as many steps have not come to their end."""
    doubled: Share
    """A3: images that twice the steps break, and no attack on the network's own gradient."""
    longer: Share | None
    """A3: survivors of all these attacks that a thousand steps (a randomised network: a thousand forwards) break, of
    those asked; None but at the headline."""
    restarted: Share
    """A4: images that more starts break, and none of these attacks."""
    further: Tensor
    """(n,) bool: broken by what A3 and A4 ran beyond the attacks."""
    work: SolverWork | None
    """A15."""
    solvers: Tensor | None
    """A12: (s s n) bool, see `SolverMatrix`; None without an ODE."""


@final
@dataclass(frozen=True)
class Diagnosed:
    """One network, every epsilon."""

    clean_correct: Tensor
    """(n,) bool, under the protocol."""
    attacks: tuple[dict[str, Any], ...]
    """Records of the attacks, in the order of the columns."""
    levels: tuple[Level, ...]
    unbounded: Share
    """A8: images right in a ball that reaches everywhere."""
    company: Share | None
    """P4: attacked images, at the headline, that are another class in a batch than alone; None in draws."""
    solvers: tuple[str, ...]
    """The deployed one first; empty without an ODE."""
    solver_converged: tuple[bool, ...]
    solver_correct: Tensor | None
    """(s n) bool."""
    effort: dict[str, Any]
    """Forwards and backwards per image of the subset, over all epsilons, and seconds, by attack and check."""


@torch.no_grad()
def diagnose(
    subject: Subject,
    images: Images,
    labels: Labels,
    threats: tuple[Threat, ...],
    headline: Threat,
    *,
    seed: int,
    solvers: Mapping[str, Integrator] = {},
    brief: bool = False,
) -> Diagnosed:
    """Run every attack alone at every epsilon, and the checks that watch attacks at work.

    Args:
        subject: The network and its roles; left exactly as it was, like the global random state.
        images: (n c h w) float32 in [0, 1], n >= 1.
        labels: (n,) true classes.
        threats: Balls of one norm.
        headline: The one of them at which some survivors are attacked for long.
        seed: Root seed, by which all epsilons start alike.
        solvers: Ways to solve an ODE student, the deployed one first, for the matrix; see `named_solvers`.
        brief: Leave out the long attacks, from APGD-T on: what is broken on purpose shows before them.

    Raises:
        AttackError: If images or labels are not as above.
    """
    check_images(images, labels, BATCH)
    with frozen(subject.network, subject.source), watched(subject.network) as effort:
        torch.manual_seed(streams.seed_of(seed, "draws"))
        bench = _Bench(subject, images, labels, seed, effort, brief=brief)
        matrix = _matrix(subject, images, labels, solvers, seed)
        levels = tuple(_level(bench, threat, matrix, is_headline=threat == headline) for threat in threats)
        unbounded = bench.unbounded(headline)
    columns = matrix.columns if matrix is not None else []
    return Diagnosed(
        clean_correct=bench.right.cpu(),
        attacks=tuple(_record(bench, attack) for attack in bench.attacks),
        levels=levels,
        unbounded=unbounded,
        company=bench.company,
        solvers=tuple(column.name for column in columns),
        solver_converged=tuple(column.converged for column in columns),
        solver_correct=torch.stack([column.right for column in columns]).cpu() if columns else None,
        effort=effort.record(len(images)),
    )


def _matrix(
    subject: Subject, images: Images, labels: Labels, solvers: Mapping[str, Integrator], seed: int
) -> SolverMatrix | None:
    if subject.draws > 1 or len(solvers) < 2 or not isinstance(subject.network, OdeStudent):
        return None
    return SolverMatrix(subject, dict(solvers), images, labels, seed)


@final
class _Bench:
    """A subject, the images it gets right, and what is done with all of them alike."""

    def __init__(
        self, subject: Subject, images: Images, labels: Labels, seed: int, effort: Effort, *, brief: bool
    ) -> None:
        self.subject, self.seed, self.effort, self.brief = subject, seed, effort, brief
        self.right = correct(subject.target, images, labels, BATCH)
        self.positions = self.right.nonzero().flatten()
        self.images, self.labels = images[self.right], labels[self.right]
        self.climber = Climber(subject.source, subject.judge, seed)
        rescaled = with_unit_margin(subject.source, logits_of(subject.target, images, BATCH), labels)
        self.sources: dict[str, nn.Module] = {RESCALED.name: rescaled}
        if isinstance(subject.network, OdeStudent) and subject.draws == 1:
            fine = under_solver(subject.network, finer(subject.network.integrator))
            self.sources[STRAIGHT_THROUGH.name] = StraightThrough(subject.network, fine)
        self.attacks = tuple(self._attacks())
        self.company = Share(0, 0) if subject.draws == 1 else None

    @property
    def scores_otherwise(self) -> bool:
        """Whether what an attack sees broken on its way may not be what is scored: other company, or other draws."""
        return self.subject.target is not self.subject.judge or self.subject.draws > 1

    def _attacks(self) -> Iterator[Attack]:
        draws = self.subject.draws
        fewer = {} if draws == 1 else {"steps": RANDOMISED_STEPS}
        yield from (FGSM, PGD_20, PGD_20_MARGIN, replace(APGD_CE, **fewer))
        if self.brief:
            return
        yield replace(APGD_T, **fewer)
        # Those that ask for nothing but answers cost as many forwards on a randomised network as on any other.
        yield replace(SQUARE, queries=(SQUARE.queries or 1) // draws)
        yield replace(SIGNS, draws=(SIGNS.draws or 1) // draws)
        yield RESCALED
        if STRAIGHT_THROUGH.name in self.sources:
            yield STRAIGHT_THROUGH

    def made_by(self, attack: Attack, threat: Threat) -> Images:
        """Attack the images that are right."""
        source = self.sources.get(attack.name, self.subject.source)
        return craft(attack, source, self.subject.judge, self.images, self.labels, threat, self.seed, BATCH)

    def is_wrong(self, made: Images, threat: Threat, rows: Tensor | None = None) -> Tensor:
        """Score images made of those that are right, or of some of their rows (m,): inside the ball and wrong."""
        clean, labels = (self.images, self.labels) if rows is None else (self.images[rows], self.labels[rows])
        return threat.contains(made, clean) & ~correct(self.subject.target, made, labels, BATCH)

    def keep_company(self, made: Images) -> None:
        """Count the attacked images whose class depends on their batch."""
        if self.company is not None:
            with self.effort.on("P4"):
                self.company = Share(changed_by_company(self.subject.network, made), len(made))

    def everywhere(self, bits: Tensor) -> Tensor:
        """Lay the bits of the right images among those of all, on the CPU."""
        found = torch.zeros_like(self.right)
        found[self.positions] = bits
        return found.cpu()

    def unbounded(self, threat: Threat) -> Share:
        """Count the images that stay right though they may be moved anywhere (A8)."""
        few = slice(0, UNBOUNDED_IMAGES)
        with self.effort.on("A8"):
            made = self.climber.broken_without_bounds(self.images[few], self.labels[few], threat)
            return Share(int(correct(self.subject.target, made, self.labels[few], BATCH).sum()), len(made))


def _record(bench: _Bench, attack: Attack) -> dict[str, Any]:
    record = attack.record() | ({"draws_per_answer": bench.subject.draws} if bench.subject.draws > 1 else {})
    return record | looks_through(attack, bench.sources.get(attack.name))


def _level(bench: _Bench, threat: Threat, matrix: SolverMatrix | None, *, is_headline: bool) -> Level:
    n = len(bench.images)
    if n == 0:
        return _nothing_right(bench, threat, matrix, is_headline=is_headline)
    effort = bench.effort
    with effort.on(PGD_20.name):
        plain = bench.climber.climb(PGD_20, bench.images, bench.labels, threat, keep_going=matrix is not None)
    with effort.on(PGD_20_MARGIN.name):
        twice = bench.climber.climb(DOUBLED, bench.images, bench.labels, threat)
    made = {PGD_20.name: plain.images, PGD_20_MARGIN.name: twice.images}
    if is_headline:
        bench.keep_company(plain.images)
    for attack in bench.attacks:
        if attack.name not in made:
            with effort.on(attack.name):
                made[attack.name] = bench.made_by(attack, threat)
    wrong = {attack.name: bench.is_wrong(made[attack.name], threat) for attack in bench.attacks}
    by_two = wrong[PGD_20_MARGIN.name]
    wrong[PGD_20_MARGIN.name] = by_two & (twice.made_at <= (PGD_20_MARGIN.steps or 0))
    own = torch.stack([wrong[attack.name] for attack in OWN if attack.name in wrong]).any(dim=0)
    nobody = torch.zeros_like(own)
    patient, asked = _by_patience(bench, threat, own) if is_headline and not bench.brief else (nobody, None)
    again = nobody if bench.brief else _by_restarts(bench, threat, own)
    with effort.on("A12"):
        solvers = None if matrix is None else matrix.broken(threat, (bench.positions, plain))
    return Level(
        threat=threat,
        broken={name: bench.everywhere(bits) for name, bits in wrong.items()},
        strayed=_strayed(bench, made, threat),
        lost=_lost(bench, {PGD_20.name: plain, PGD_20_MARGIN.name: twice}, threat),
        rising=Share(int(still_rising(twice.loss[:, ~own]).sum()), int((~own).sum())),
        doubled=Share(int((by_two & ~own).sum()), n),
        longer=None if asked is None else Share(int(patient.sum()), asked),
        restarted=Share(0, 0) if bench.brief else Share(int(again.sum()), n),
        further=bench.everywhere(by_two | patient | again),
        work=_work(bench, plain.images),
        solvers=solvers,
    )


def _strayed(bench: _Bench, made: Mapping[str, Images], threat: Threat) -> Share:
    outside = [int((~threat.contains(images, bench.images)).sum()) for images in made.values()]
    return Share(sum(outside), len(bench.images) * len(made))


def _lost(bench: _Bench, traces: Mapping[str, Trace], threat: Threat) -> Share | None:
    if bench.scores_otherwise:
        return None
    lost = [(trace.broken_at >= 0) & ~bench.is_wrong(trace.images, threat) for trace in traces.values()]
    return Share(int(torch.stack(lost).any(dim=0).sum()), len(bench.images))


def _by_patience(bench: _Bench, threat: Threat, own: Tensor) -> tuple[Tensor, int]:
    """Attack survivors, evenly spaced among all, for long: return whom that breaks (n,), and how many were asked."""
    found = torch.zeros_like(own)
    alive = (~own).nonzero().flatten()
    wanted = min(len(alive), LONG_IMAGES, max(8, len(bench.right) // 8))
    rows = alive[torch.linspace(0, max(len(alive) - 1, 0), wanted).round().long().to(alive.device)]
    with bench.effort.on("A3"):
        steps = LONG_STEPS // bench.subject.draws
        made = bench.climber.broken_by_patience(bench.images[rows], bench.labels[rows], threat, steps)
        if len(rows):
            found[rows] = bench.is_wrong(made, threat, rows)
    return found, len(rows)


def _by_restarts(bench: _Bench, threat: Threat, own: Tensor) -> Tensor:
    """Return the survivors (n,) that more starts break."""
    found, rows = torch.zeros_like(own), (~own).nonzero().flatten()
    if len(rows):
        with bench.effort.on("A4"):
            made = bench.climber.broken_by_restarts(bench.images[rows], bench.labels[rows], threat)
            found[rows] = bench.is_wrong(made, threat, rows)
    return found


def _work(bench: _Bench, attacked: Images) -> SolverWork | None:
    network = bench.subject.network
    if not isinstance(network, OdeStudent):
        return None
    with bench.effort.on("A15"):
        return solver_work(network, bench.images, attacked)


def _nothing_right(bench: _Bench, threat: Threat, matrix: SolverMatrix | None, *, is_headline: bool) -> Level:
    """Return the level of a network that gets no image right: no attack has anything to break."""
    none, empty = torch.zeros(len(bench.right), dtype=torch.bool), Share(0, 0)
    return Level(
        threat=threat,
        broken={attack.name: none for attack in bench.attacks},
        strayed=empty,
        lost=None if bench.scores_otherwise else empty,
        rising=empty,
        doubled=empty,
        longer=empty if is_headline and not bench.brief else None,
        restarted=empty,
        further=none,
        work=None,
        solvers=matrix.broken(threat) if matrix is not None else None,
    )
