"""Early stopping as pure rules: who is condemned at a rung, and whether rungs can be trusted at all.

A trial that reaches a rung is compared with those that have reached it before, by what both were worth there, never by
their losses. A condemned trial ends, but for a fixed share of them that live on: they show what the others would have
become, and switch the rule off where its rungs say little about the end. Files and workers are left to others.

Source:
    [schmucker2021moasha], asynchronous successive halving on several objectives with the epsilon-net. We differ: nobody
    on the first front or best in an objective is condemned, nor who could catch up within one standard error.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from study.fronts import layers, non_dominated
from study.statistics import standard_error

Values = tuple[float, float]
"""Accuracy and adversarial accuracy, fractions."""
OBJECTIVES = ("accuracy", "adversarial_accuracy")
FILES = "rung-*.json"
"""Records of a trial's rungs, in its folder."""
RuleName = Literal["mo-asha", "asha", "median"]

LEAST_PEERS = 6
"""Trials at a rung, its own included, below which nobody is condemned."""
SPARED = 0.08
"""Share of the condemned that live on."""
LEAST_FINISHED = 10
"""Trials that went through a rung and to the end, below which their order says nothing."""
LEAST_TAU = 0.4
"""Rank correlation between a rung and the end below which the rung stops nobody."""


@final
@dataclass(frozen=True)
class Rule:
    """How trials are compared."""

    name: RuleName
    eta: float = 3.0
    """One in `eta` goes on; not used by `median`."""
    objective: str = "accuracy"
    """What `asha` and `median` look at."""

    @property
    def objectives(self) -> tuple[int, ...]:
        """Columns of the values that count."""
        return (0, 1) if self.name == "mo-asha" else (OBJECTIVES.index(self.objective),)


@final
@dataclass(frozen=True)
class Judgement:
    """What a rule says of a trial at a rung."""

    condemned: bool
    reason: str
    """For people."""
    rank: int
    """1 for the best."""
    of: int
    """Trials compared, its own included."""


def judge(own: Values, peers: Sequence[Values], rule: Rule, images: tuple[int, int]) -> Judgement:
    """Compare a trial with those that have reached its rung before.

    Args:
        own: Its values at the rung.
        peers: Theirs.
        rule: How they are compared.
        images: How many images each value was measured on.
    """
    points = np.array([own, *peers], float)[:, rule.objectives]
    rank, count = int(np.flatnonzero(order(points) == 0)[0]) + 1, len(points)
    goes_on = max(1, math.floor(count / 2 if rule.name == "median" else count / rule.eta))
    said = f"rank {rank} of {count}, of which {goes_on} go on"
    if count < LEAST_PEERS:
        return Judgement(False, f"{count} trials are too few to compare", rank, count)
    if rank <= goes_on:
        return Judgement(False, said, rank, count)
    if non_dominated(points)[0] or (points[0] >= points.max(0)).any():
        return Judgement(False, f"{said}, but no other is better in everything", rank, count)
    if not _is_surely_behind(points, [images[column] for column in rule.objectives]):
        return Judgement(False, f"{said}, but within one standard error of them", rank, count)
    return Judgement(True, said, rank, count)


def order(points: ArrayLike) -> NDArray[np.intp]:
    """Sort trials, best first: front by front, and within a front by the epsilon-net, which spreads over it.

    Args:
        points: (n, m) objectives to maximise.

    Returns:
        (n,) indices; ties go to the smaller index, what is not finite comes last.
    """
    values = np.asarray(points, float)
    placed = [int(front[place]) for front in layers(values) for place in epsilon_net(values[front])]
    not_finite = np.setdiff1d(np.arange(len(values)), placed)
    return np.array([*placed, *not_finite], np.intp)


def epsilon_net(points: ArrayLike) -> list[int]:
    """Order points so that each next one is as far as can be from those before it.

    Args:
        points: (n, m); distances are Euclidean after each column is scaled to its range. The best in the first column
            comes first.
    """
    values = np.asarray(points, float)
    spread = np.ptp(values, axis=0)
    scaled = values / np.where(spread > 0, spread, 1.0)
    chosen = [int(np.argmax(values[:, 0]))]
    nearest = np.linalg.norm(scaled - scaled[chosen[0]], axis=1)
    while len(chosen) < len(values):
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1))
    return chosen


def _is_surely_behind(points: NDArray[np.float64], images: Sequence[int]) -> bool:
    """Tell whether some other trial is better in everything even if each value of the first is one error too low."""
    return bool((points[1:] > points[0] + standard_error(points[0], images)).all(1).any())


def is_spared(draw: float, share: float = SPARED) -> bool:
    """Tell whether a trial lives on that is condemned at a trusted rung.

    Args:
        draw: Uniform in [0, 1), the trial's own, whatever it is worth.
        share: Of the condemned.
    """
    return draw < share


def is_drawn(record: Mapping[str, Any]) -> bool:
    """Tell whether a trial lives on by its draw alone: condemned at a rung that stopped others.

    Args:
        record: Of the rung. Older ones call spared also who lived on anyway, as the rung was switched off.
    """
    return bool(record.get("spared")) and not record.get("distrusted")


def stands_for(records: Iterable[Mapping[str, Any]], share: float) -> float:
    """Say how many trials a finished one stands for: the inverse of its chance to get to the end.

    Args:
        records: Of all its rungs; it has one draw for all.
        share: Of the condemned that live on, for older records, which do not name it.
    """
    chances = [float(each.get("share", share)) for each in records if is_drawn(each)]
    return max((1 / chance for chance in chances if chance > 0), default=1.0)


@final
@dataclass(frozen=True)
class Finished:
    """A trial that went through a rung and to the end."""

    at_rung: Values
    at_end: Values
    weight: float = 1.0
    """How many it stands for; see `stands_for`."""


def correlation(finished: Sequence[Finished], objective: str) -> float:
    """Say how well a rung orders trials as the end does: Kendall's tau-b, each pair weighed by whom it stands for.

    Without weights only those that were never condemned would be compared.

    Returns:
        -1 to 1; NaN where no two trials differ in both.
    """
    column = OBJECTIVES.index(objective)
    rung = np.array([each.at_rung[column] for each in finished], float)
    end = np.array([each.at_end[column] for each in finished], float)
    weight = np.array([each.weight for each in finished])
    first, second = np.triu_indices(len(finished), 1)
    pairs = weight[first] * weight[second]
    at_rung, at_end = np.sign(rung[first] - rung[second]), np.sign(end[first] - end[second])
    untied = math.sqrt(float(pairs[at_rung != 0].sum()) * float(pairs[at_end != 0].sum()))
    return float((pairs * at_rung * at_end).sum()) / untied if untied else math.nan


def distrust(finished: Sequence[Finished], rule: Rule, least_tau: float = LEAST_TAU) -> str | None:
    """Say why a rung stops nobody at present; None where it may.

    Args:
        finished: Who went through it and to the end.
        rule: Its objectives must all be ordered well enough.
        least_tau: How well; at -1 every rung is trusted.
    """
    if len(finished) < LEAST_FINISHED:
        return None
    for column in rule.objectives:
        tau = correlation(finished, OBJECTIVES[column])
        if tau < least_tau:
            return (
                f"SWITCHED OFF: over {len(finished)} finished trials the rung orders {OBJECTIVES[column]} as the end "
                f"does with tau {tau:.2f}, below {least_tau:g}"
            )
    return None


def rung_epochs(epochs: int, eta: float) -> tuple[int, ...]:
    """Place the rungs geometrically: 1 / eta and 1 / eta^2 of the epochs, as far as they are apart.

    Args:
        epochs: Of the longest training.
        eta: Factor between two rungs.
    """
    placed = (round(epochs / eta**power) for power in (2, 1))
    return tuple(sorted({epoch for epoch in placed if 1 <= epoch < epochs}))


def values_of(values: Mapping[str, float]) -> Values:
    """Return the values of a record in their order."""
    return (values["accuracy"], values["adversarial_accuracy"])
