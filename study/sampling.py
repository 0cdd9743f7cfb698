"""Which point to try next: a view of the ledger's trials through Optuna, the only file that knows Optuna.

Optuna's database is a convenience: it can be deleted, and is rebuilt from the ledger. A suggestion depends on the
study's seed, the trial's number, the parameter, and on which trials had been told, never on the history of the
process: every trial is sampled by a sampler made for it alone. Where a point is run is not known here.
"""

import contextlib
import math
import sqlite3
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from study.database import set_damaged_aside
from study.errors import SpaceError
from study.points import Parameter, Point, SearchSpace, grid_points, identity_of, walk

OBJECTIVES = ("accuracy", "adversarial_accuracy")
INFEASIBLE_REASONS = frozenset({"diverged", "capped", "infeasible"})
NSGA2_POPULATION = 20
_CONSTRAINT = "infeasible"

Record = tuple[int, Mapping[str, Any], Mapping[str, Any] | None]
"""A trial as the ledger knows it: number, params, outcome (None while it has none)."""


def distribution_of(parameter: Parameter) -> BaseDistribution:
    """Translate a searched parameter; both ends of a range belong to it."""
    if parameter.kind == "choice":
        return CategoricalDistribution(tuple(parameter.choices))
    low, high = parameter.low, parameter.high
    assert low is not None, f"the range of {parameter.name} has no lower end"
    assert high is not None, f"the range of {parameter.name} has no upper end"
    if parameter.kind == "int":
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(float(low), float(high), log=parameter.log, step=parameter.step)


def _draw(trial: optuna.Trial, parameter: Parameter) -> Any:
    """Ask a trial for one parameter; what it has already is returned as it is."""
    match distribution_of(parameter):
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(parameter.name, choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(parameter.name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(parameter.name, low, high, step=step, log=log)
        case other:
            raise AssertionError(f"no way to draw {parameter.name} from {other}")


def seed_for(study_seed: int, number: int, parameter: str = "") -> int:
    """Derive a 32-bit seed from the study's seed, the trial's number and what is drawn."""
    key = (study_seed, number, zlib.crc32(parameter.encode()))
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@final
class WholeSpaceQMC(optuna.samplers.QMCSampler):
    """Scrambled Sobol sequence over all parameters at once, the conditional ones too; trial n takes its n-th point.

    Optuna's own takes the dimensions of the first finished trial and counts its draws in the database, so that a
    point would depend on which worker was faster.
    """

    def __init__(self, seed: int, distributions: Mapping[str, BaseDistribution]) -> None:
        super().__init__(
            scramble=True, seed=seed, warn_independent_sampling=False, independent_sampler=_quiet_random(seed)
        )
        self._whole = {name: value for name, value in sorted(distributions.items()) if not value.single()}
        self._number = 0

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Remember which point of the sequence is wanted."""
        self._number = trial.number

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all parameters; values of inactive ones are drawn and not used."""
        return self._whole

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number


@final
class OtherTrials:
    """A study as one of its trials sees it: everything but the trial itself."""

    def __init__(self, study: optuna.Study, number: int) -> None:
        self._study = study
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *args: Any, **options: Any) -> list[FrozenTrial]:
        return [row for row in self._study._get_trials(*args, **options) if row.number != self._number]


@final
class OthersGP(optuna.samplers.GPSampler):
    """Gaussian process over the other trials.

    Optuna's own notes a draw in the trial's row before its parameters are written. A trial torn apart in between would
    find itself among the running trials it has to keep away from, and would be completed with other values.
    """

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the parameters that are drawn together."""
        return super().sample_relative(cast("optuna.Study", OtherTrials(study, trial.number)), trial, search_space)


def _quiet_random(seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def make_sampler(space: SearchSpace, seed: int) -> BaseSampler:
    """Build the sampler a space names.

    Args:
        space: Its `sampler` section names one of tpe, nsga2, gp, qmc, random, grid.
        seed: Seed of everything this object draws.
    """
    name, startup = space.sampler.name, space.sampler.startup_trials
    samplers = optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match name:
            case "tpe":
                return samplers.TPESampler(
                    seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
                )
            case "nsga2":
                return samplers.NSGAIISampler(seed=seed, population_size=NSGA2_POPULATION)
            case "gp":
                return OthersGP(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
            case "qmc":
                distributions = {p.name: distribution_of(p) for p in space.parameters if p.kind != "fixed"}
                return WholeSpaceQMC(space.study.seed, distributions)
            case "random":
                return _quiet_random(seed)
            case "grid":
                return samplers.BruteForceSampler(seed=seed)
    raise SpaceError(f"sampler.name must be one of tpe, nsga2, gp, qmc, random, grid, but got {name!r}.")


@final
class SamplerPerTrial(BaseSampler):
    """Makes a fresh sampler for each trial, and for each parameter drawn alone, so that none has a past.

    Optuna's samplers carry random states and fitted kernels from one trial to the next; after a restart these are
    lost and the suggestions change. Here they are seeded from (study seed, trial number, parameter).
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._of_trial: BaseSampler = self._make(0)

    def _make(self, number: int, parameter: str = "") -> BaseSampler:
        return make_sampler(self._space, seed_for(self._space.study.seed, number, parameter))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Start afresh."""
        self._of_trial = self._make(trial.number)
        self._of_trial.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Ask the trial's sampler which parameters it draws together."""
        return self._of_trial.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the parameters that are drawn together."""
        return self._of_trial.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter alone, from a seed of its own: a half-asked trial is completed as it would have been."""
        alone = self._make(trial.number, param_name)
        return alone.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Do nothing: what samplers do here serves `Study.optimize`, which we do not use."""


# ---------------------------------------------------------------- the database


def _open_storage(path: Path | None) -> optuna.storages.BaseStorage:
    if path is None:
        return optuna.storages.InMemoryStorage()
    path.parent.mkdir(parents=True, exist_ok=True)
    set_damaged_aside(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
    return optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}})


def _verdict(outcome: Mapping[str, Any], chance: float) -> tuple[TrialState, list[float] | None, float]:
    """Say what Optuna is told of an outcome: state, values, and the constraint (positive = infeasible)."""
    values = outcome.get("values") or {}
    numbers = [values.get(name) for name in OBJECTIVES]
    finite = [float(value) for value in numbers if value is not None and math.isfinite(value)]
    match outcome["state"]:
        case "COMPLETE" if len(finite) == len(OBJECTIVES):
            return TrialState.COMPLETE, finite, -1.0
        case "COMPLETE":
            return TrialState.COMPLETE, [chance, 0.0], 1.0
        case "FAIL" if outcome.get("reason") in INFEASIBLE_REASONS:
            return TrialState.COMPLETE, [chance, 0.0], 1.0
        case "PRUNED":
            return TrialState.PRUNED, None, 1.0
        case _:
            return TrialState.FAIL, None, 1.0


@final
class StudyView:
    """Ask for points and tell outcomes; numbers are dense and start at 0, anchors come first.

    Attributes:
        space: The search space.
    """

    def __init__(self, space: SearchSpace, classes: int, path: Path | None) -> None:
        """Open the database, or make it.

        Args:
            space: What is searched; read only.
            classes: Number of classes, at least 2; a diverged trial counts as guessing, 1/classes.
            path: SQLite file on a local disk, or None to keep the view in memory.

        Raises:
            SpaceError: If the sampler cannot search this space.
        """
        self.space = space
        self._chance = 1.0 / classes
        self._distributions = {p.name: distribution_of(p) for p in space.parameters if p.kind != "fixed"}
        if space.sampler.name == "grid":
            next(grid_points(space.parameters))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = _open_storage(path)
        self._study = self._open_study()
        for row in self._rows(TrialState.RUNNING):
            self._suggest(self._trial(row.number))

    def _open_study(self) -> optuna.Study:
        study = optuna.create_study(
            storage=self._storage,
            study_name="search",
            directions=["maximize" for _ in OBJECTIVES],
            sampler=SamplerPerTrial(self.space),
            load_if_exists=True,
        )
        self._told = {row.number for row in study.get_trials(deepcopy=False) if row.state.is_finished()}
        return study

    def close(self) -> None:
        """Close the database."""
        if isinstance(self._storage, optuna.storages.RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    @property
    def told(self) -> list[int]:
        """Numbers of the trials that have been told, ascending; what the next suggestion knows."""
        return sorted(self._told)

    def ask(self) -> tuple[int, Point] | None:
        """Choose the next point.

        Returns:
            Its trial number and values of the active searched parameters; None once a grid is used up.
        """
        rows = self._rows()
        number = len(rows)
        if not any(row.state == TrialState.WAITING for row in rows):  # a kill can leave an anchor waiting: take it
            if number < len(self.space.anchors):
                self._study.enqueue_trial(self._anchor(number))
            elif self._is_used_up(rows):
                return None
        trial = self._study.ask()
        return trial.number, self._suggest(trial)

    def tell(self, number: int, outcome: Mapping[str, Any]) -> None:
        """Tell how a trial ended; a second time changes nothing.

        Args:
            number: The trial.
            outcome: Its outcome as the ledger holds it.
        """
        if number in self._told:
            return
        state, values, constraint = _verdict(outcome, self._chance)
        trial = self._trial(number)
        if state == TrialState.COMPLETE and _CONSTRAINT not in trial.constraints:
            trial.set_constraint(_CONSTRAINT, constraint)
        self._study.tell(number, values, state=state, skip_if_finished=True)
        self._told.add(number)

    def reconcile(self, records: Iterable[Record]) -> list[tuple[int, Point]]:
        """Bring the view in line with the ledger, which is the truth; call it before the first ask.

        Trials the view lacks are added, outcomes it has not heard are told. If the two contradict each other (the
        view has a settled trial or other values where the ledger has not), the view is dropped and built again.

        Args:
            records: Every trial of the ledger.

        Returns:
            Trials the view had asked for and the ledger does not know, number and point: their config was not
            written before a kill, so it has to be written now.
        """
        ledger = {number: (dict(params), outcome) for number, params, outcome in records}
        if not all(self._agrees(row, ledger.get(row.number)) for row in self._rows()):
            self.rebuild((number, *record) for number, record in ledger.items())
        else:
            self._catch_up(ledger)
        return [
            (row.number, self._suggest(self._trial(row.number)))
            for row in self._rows(TrialState.RUNNING)
            if row.number not in ledger
        ]

    def rebuild(self, records: Iterable[Record]) -> None:
        """Forget everything and take over the ledger's trials; numbers it lacks become failed trials.

        Exact for one worker. With several, NSGA-II's generations are those of trials that finished in the order of
        their numbers; the other samplers look at settled trials only and suggest what they would have.
        """
        optuna.delete_study(study_name="search", storage=self._storage)
        self._study = self._open_study()
        self._catch_up({number: (dict(params), outcome) for number, params, outcome in records})

    # ------------------------------------------------------------ inside

    def _rows(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _anchor(self, number: int) -> Point:
        """Return an anchor's values in the types of the search, without what is fixed or unknown."""
        anchor = self.space.anchors[number]
        known = {name: value for name, value in anchor.items() if name in self._distributions}
        return {
            name: float(value) if isinstance(self._distributions[name], FloatDistribution) else value
            for name, value in known.items()
        }

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(
            self._study, self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        )

    def _suggest(self, trial: optuna.Trial) -> Point:
        """Return a trial's point, drawing what has not been drawn (all of it, or what a kill left open)."""
        if self.space.sampler.name == "nsga2":
            _ = trial.relative_params  # marks the generation, of anchors too
        return walk(self.space.parameters, lambda parameter: _draw(trial, parameter))

    def _is_used_up(self, rows: Sequence[FrozenTrial]) -> bool:
        if self.space.sampler.name != "grid":
            return False
        tried = {identity_of(row.params) for row in rows}
        return all(identity_of(point) in tried for point in grid_points(self.space.parameters))

    def _agrees(self, row: FrozenTrial, record: tuple[Point, Mapping[str, Any] | None] | None) -> bool:
        if record is None:
            is_hole = row.state == TrialState.FAIL and not row.params
            return is_hole or not row.state.is_finished()
        params, outcome = record
        if row.state == TrialState.WAITING:
            return False
        if row.state.is_finished() and (outcome is None or not self._was_told(row, outcome)):
            return False
        return identity_of(row.params) == identity_of(params)

    def _was_told(self, row: FrozenTrial, outcome: Mapping[str, Any]) -> bool:
        state, values, _ = _verdict(outcome, self._chance)
        return row.state == state and row.values == values

    def _catch_up(self, ledger: Mapping[int, tuple[Point, Mapping[str, Any] | None]]) -> None:
        """Add missing rows in the order of their numbers and tell what has not been told."""
        known = len([row for row in self._rows() if row.state != TrialState.WAITING])
        for number in range(max(ledger, default=-1) + 1):
            if number >= known:
                self._add(number, ledger.get(number))
            if number in ledger and (outcome := ledger[number][1]) is not None:
                self.tell(number, outcome)

    def _add(self, number: int, record: tuple[Point, Mapping[str, Any] | None] | None) -> None:
        """Ask for a trial whose point is given beforehand; without a record, one that failed before it had a point."""
        if not self._rows(TrialState.WAITING) and record is not None:
            self._study.enqueue_trial(record[0])
        trial = self._study.ask()
        assert trial.number == number, f"trial {number} was added as {trial.number}"
        if record is None:
            self._study.tell(trial, state=TrialState.FAIL)
            self._told.add(number)
        else:
            self._suggest(trial)
