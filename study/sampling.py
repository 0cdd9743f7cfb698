"""Which point to try next: a view of the ledger's trials through Optuna.

Optuna's database is a convenience: it can be deleted, and is rebuilt from the ledger. Where a point is run is not known
here.
"""

import contextlib
import math
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from study.database import check_own, set_damaged_aside
from study.feasibility import objections
from study.number_ranges import NumberSet, Ranges
from study.points import Parameter, Point, SearchSpace, grid_points, identity_of, walk
from study.samplers import SamplerPerTrial, distribution_of

OBJECTIVES = ("accuracy", "adversarial_accuracy")
INFEASIBLE_REASONS = frozenset({"diverged", "capped", "infeasible"})
_CONSTRAINT = "infeasible"

Record = tuple[int, Mapping[str, Any], Mapping[str, Any] | None]
"""A trial as the ledger knows it: number, params, outcome (None while it has none)."""


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


def _open_storage(path: Path | None) -> optuna.storages.BaseStorage:
    if path is None:
        return optuna.storages.InMemoryStorage()
    path.parent.mkdir(parents=True, exist_ok=True)
    check_own(path)
    set_damaged_aside(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
    return optuna.storages.RDBStorage(
        f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": 60, "factory": _Rebuildable}}
    )


@final
class _Rebuildable(sqlite3.Connection):
    """Waits for the disk when the log is folded in, not at each of a trial's dozen commits: a power cut may cost the
    last of them, which the ledger has.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("PRAGMA synchronous = NORMAL").close()


def _verdict(outcome: Mapping[str, Any], chance: float) -> tuple[TrialState, list[float] | None, float]:
    """Say what Optuna is told of an outcome: state, values, and the constraint (positive = infeasible).

    A trial that fails a check keeps its values, which it may owe to what failed, and is infeasible.
    """
    values = outcome.get("values") or {}
    numbers = [values.get(name) for name in OBJECTIVES]
    finite = [float(value) for value in numbers if value is not None and math.isfinite(value)]
    match outcome["state"]:
        case "COMPLETE" if len(finite) == len(OBJECTIVES):
            return TrialState.COMPLETE, finite, 1.0 if objections(outcome) else -1.0
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

    def __init__(self, space: SearchSpace, classes: int, path: Path | None, begun: int = 0) -> None:
        """Open the database, or make it.

        Args:
            space: What is searched; read only.
            classes: Number of classes, at least 2; a diverged trial counts as guessing, 1/classes.
            path: SQLite file on a local disk, or None to keep the view in memory.
            begun: First trials that were taken over from another study; the anchors come after them.

        Raises:
            SpaceError: If the sampler cannot search this space.
        """
        self.space = space
        self._chance = 1.0 / classes
        self._begun = begun
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
        self._told = NumberSet(row.number for row in study.get_trials(deepcopy=False) if row.state.is_finished())
        self._known: tuple[int, bool] | None = None
        return study

    def close(self) -> None:
        """Close the database."""
        if isinstance(self._storage, optuna.storages.RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    @property
    def told(self) -> list[int]:
        """Numbers of the trials that have been told, ascending; what the next suggestion knows."""
        return list(self._told)

    @property
    def seen(self) -> Ranges:
        """The same as ranges, for a record that every trial keeps."""
        return self._told.ranges

    def ask(self) -> tuple[int, Point] | None:
        """Choose the next point.

        Returns:
            Its trial number and values of the active searched parameters; None once a grid is used up.
        """
        number, is_one_waiting = self._known or self._counted()
        self._known = None  # until this one is through: after an exception the rows are counted again
        if not is_one_waiting:  # a kill can leave an anchor waiting: it is taken then
            anchors = self._anchors() if number < self._begun + len(self.space.anchors) else []
            if number < self._begun + len(anchors):
                self._study.enqueue_trial(anchors[number - self._begun])
            elif self._is_used_up():
                return None
        trial = self._study.ask()
        point = self._suggest(trial)
        self._known = trial.number + 1, False
        return trial.number, point

    def _counted(self) -> tuple[int, bool]:
        """Count the trials, and tell whether one of them waits to be taken."""
        rows = self._rows()
        return len(rows), any(row.state == TrialState.WAITING for row in rows)

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

    def _anchors(self) -> list[Point]:
        """Return the anchors that no trial of another study has tried."""
        tried = {identity_of(row.params) for row in self._rows()[: self._begun]}
        anchors = map(self._anchor, self.space.anchors)
        return [anchor for anchor in anchors if identity_of(anchor) not in tried]

    def _anchor(self, anchor: Mapping[str, Any]) -> Point:
        """Return an anchor's values in the types of the search, without what is fixed or unknown."""
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

    def _is_used_up(self) -> bool:
        if self.space.sampler.name != "grid":
            return False
        tried = {identity_of(row.params) for row in self._rows()}
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
        count, is_one_waiting = self._counted()
        known = count - is_one_waiting
        self._known = None
        for number in range(max(ledger, default=-1) + 1):
            if number >= known:
                self._add(number, ledger.get(number), is_one_waiting and number == known)
            if number in ledger and (outcome := ledger[number][1]) is not None:
                self.tell(number, outcome)

    def _add(self, number: int, record: tuple[Point, Mapping[str, Any] | None] | None, is_waiting: bool) -> None:
        """Ask for a trial whose point is given beforehand; without a record, one that failed before it had a point."""
        if not is_waiting and record is not None:
            self._study.enqueue_trial(record[0])
        trial = self._study.ask()
        assert trial.number == number, f"trial {number} was added as {trial.number}"
        if record is None:
            self._study.tell(trial, state=TrialState.FAIL)
            self._told.add(number)
        else:
            self._suggest(trial)
