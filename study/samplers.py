"""Optuna's samplers, made for one trial at a time, so that a suggestion never depends on the history of a process.

A suggestion depends on the study's seed, the trial's number, the parameter, and on which trials had been told.
"""

import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from study.errors import SpaceError
from study.points import Parameter, SearchSpace

NSGA2_POPULATION = 20


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
