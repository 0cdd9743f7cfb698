"""What test says about the choice, worked out once for a page: the fronts, and whether validation ordered alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from study.fronts_on_test import FrontOnTest, front_on_test
from study.proxy_against_truth import Agreement, agreements
from study.report.stats import epsilons, headline_epsilon
from study.results import Results


@dataclass(frozen=True)
class OnTest:
    """Resampled quantities, which take a moment to compute."""

    fronts: Mapping[float, FrontOnTest]
    """By attacked epsilon, ascending."""
    agreements: Sequence[Agreement]
    """At the headline epsilon."""


def on_test(results: Results) -> OnTest:
    """Resample everything that a page shows; empty where nothing was attacked."""
    epsilon = headline_epsilon(results)
    fronts = {each: front_on_test(results, each) for each in epsilons(results)}
    return OnTest(fronts, [] if epsilon is None else agreements(results, epsilon))
