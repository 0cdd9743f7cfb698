"""The front on test: who stands on it, how surely, and how large it is.

A configuration is a chosen student's settings. The seed that won the search is lucky, so where a configuration was
trained again under new seeds, only those speak for it (S28). What the checks call unreliable is an upper bound and
stands on no front (S25).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from study.effects import Mean, mean_interval
from study.fronts import hypervolume, non_dominated
from study.results import Results
from study.statistics import Interval
from study.survivors import Survivors
from study.uncertain_fronts import (
    DRAWS,
    AreaGain,
    Replicates,
    UncertainFront,
    area_gain,
    attainment,
    uncertain_front,
)
from study.undistilled import KIND

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Configuration:
    """One chosen student's settings, at one epsilon."""

    trial: int
    winner: Survivors
    """The network whose seed won the search."""
    replicates: tuple[Survivors, ...]
    """Networks of new seeds."""
    is_upper_bound: bool
    """Whether the checks call one of its networks unreliable."""

    @property
    def speaking(self) -> tuple[Survivors, ...]:
        """The networks that stand for it: the replicates, or without any the winner."""
        return self.replicates or (self.winner,)


@dataclass(frozen=True)
class Member:
    """Where a configuration stands, on the images that all of the front were measured on."""

    configuration: Configuration
    clean: Mean
    """Over the speaking networks, with a t interval where there are several."""
    robust: Mean
    on_front: bool
    """Whether no other configuration's means dominate its own."""
    membership: float
    """Share of resamples in which none does."""


@dataclass(frozen=True)
class FrontOnTest:
    """The configurations at one epsilon, those left out aside."""

    epsilon: float
    members: tuple[Member, ...]
    """By trial; every configuration whose number may be believed, on the front or not."""
    left_out: tuple[int, ...]
    """Trials that are left out as unreliable."""
    n: int
    """Images that all members were measured on."""
    reference: tuple[float, float]
    """The worst corner, as the study stored it."""
    area: float
    """Hypervolume of the members' means."""
    resampled: UncertainFront | None
    """None without members or images."""
    attained: Floats
    """(k 2) corners of the surface that half of the new seeds attain; empty with fewer than two seeds."""

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the area."""
        return self.resampled.hypervolume if self.resampled is not None else None

    def member(self, trial: int | None) -> Member | None:
        """Return the member of a trial; None where it is left out or was not attacked."""
        return next((each for each in self.members if each.configuration.trial == trial), None)

    @property
    def replicated(self) -> int:
        """Members for which new seeds speak."""
        return sum(bool(each.configuration.replicates) for each in self.members)


def configurations(results: Results, epsilon: float) -> list[Configuration]:
    """Return the chosen students that were attacked at an epsilon, with their replicates, by trial."""
    found = []
    for winner in results.survivors.values():
        if winner.kind == "student" and winner.trial is not None and winner.attacked_at(epsilon):
            again = [m for m in results.beside.values() if (m.kind, m.trial) == ("replicate", winner.trial)]
            replicates = tuple(sorted((m for m in again if m.attacked_at(epsilon)), key=lambda m: m.model))
            doubted = any(results.attacked.is_upper_bound(m.model, epsilon) for m in (winner, *replicates))
            found.append(Configuration(winner.trial, winner, replicates, doubted))
    return sorted(found, key=lambda configuration: configuration.trial)


def front_on_test(results: Results, epsilon: float, draws: int = DRAWS) -> FrontOnTest:
    """Place every chosen configuration on test, and resample seeds and images.

    Args:
        results: The study.
        epsilon: Where robust accuracy is taken; one that was attacked at.
        draws: Resamples.

    Returns:
        The front; without a believable student it has no members.
    """
    every = configurations(results, epsilon)
    kept = [each for each in every if not each.is_upper_bound]
    images = _common([network for each in kept for network in each.speaking])
    bits = [_bits(each.speaking, images, epsilon) for each in kept] if len(images) else []
    stored = results.study.get("reference_point") or (0.0, 0.0)
    reference = float(stored[0]), float(stored[1])
    resampled = uncertain_front(bits, reference, draws) if bits else None
    members = _members(kept, bits, resampled)
    points = [(member.clean.value, member.robust.value) for member in members]
    return FrontOnTest(
        epsilon=epsilon,
        members=members,
        left_out=tuple(each.trial for each in every if each.is_upper_bound),
        n=len(images),
        reference=reference,
        area=hypervolume(points, reference),
        resampled=resampled,
        attained=_attained(kept, bits),
    )


@dataclass(frozen=True)
class AgainstUndistilled:
    """The students' front beside that of an equally long search without distillation, at one epsilon (S8)."""

    epsilon: float
    students: tuple[Survivors, ...]
    """Chosen and believed, by name."""
    others: tuple[Survivors, ...]
    """Of the search without distillation, chosen and believed, by name."""
    left_out: tuple[int, int]
    """Networks of either that are left out as unreliable."""
    n: int
    """Images that all of them were measured on."""
    gain: AreaGain | None
    """Area of the students' front less the other's; None where one of them is empty or no image is common."""


def against_undistilled(results: Results, epsilon: float, draws: int = DRAWS) -> AgainstUndistilled:
    """Compare the two searches of a study by the hypervolume of what each brought to test.

    On both sides the network that the search trained stands for its configuration: new seeds speak elsewhere, as the
    other side has none (S28).

    Args:
        results: The study.
        epsilon: Where robust accuracy is taken; one that was attacked at.
        draws: Resamples of the images.
    """
    every = sorted({**results.survivors, **results.beside}.values(), key=lambda model: model.model)
    sides = [[m for m in every if m.kind == kind and m.attacked_at(epsilon)] for kind in ("student", KIND)]
    believed = [[m for m in side if not results.attacked.is_upper_bound(m.model, epsilon)] for side in sides]
    images = _common([model for side in believed for model in side])
    bits = [[_bits([model], images, epsilon) for model in side] if len(images) else [] for side in believed]
    stored = results.study.get("reference_point") or (0.0, 0.0)
    return AgainstUndistilled(
        epsilon=epsilon,
        students=tuple(believed[0]),
        others=tuple(believed[1]),
        left_out=(len(sides[0]) - len(believed[0]), len(sides[1]) - len(believed[1])),
        n=len(images),
        gain=area_gain(bits[0], bits[1], stored, draws) if all(bits) else None,
    )


def _common(networks: Sequence[Survivors]) -> NDArray[np.int64]:
    nothing = np.zeros(0, np.int64)
    return reduce(np.intersect1d, (network.image_id for network in networks)) if networks else nothing


def _bits(networks: Sequence[Survivors], images: NDArray[np.int64], epsilon: float) -> Replicates:
    places = [np.searchsorted(network.image_id, images) for network in networks]
    clean = [network.clean_correct[at] for network, at in zip(networks, places, strict=True)]
    robust = [network.robust(epsilon)[at] for network, at in zip(networks, places, strict=True)]
    return Replicates(np.stack(clean), np.stack(robust))


def _members(
    kept: Sequence[Configuration], bits: Sequence[Replicates], resampled: UncertainFront | None
) -> tuple[Member, ...]:
    if resampled is None:
        return ()
    clean = [mean_interval(each.clean.mean(axis=1)) for each in bits]
    robust = [mean_interval(each.robust.mean(axis=1)) for each in bits]
    on_front = non_dominated([(c.value, r.value) for c, r in zip(clean, robust, strict=True)])
    return tuple(
        Member(configuration, c, r, bool(front), share)
        for configuration, c, r, front, share in zip(kept, clean, robust, on_front, resampled.membership, strict=True)
    )


def _attained(kept: Sequence[Configuration], bits: Sequence[Replicates]) -> Floats:
    """Return the median front over the new seeds; a run is one seed in every configuration that has it."""
    runs: dict[str, list[tuple[float, float]]] = {}
    for configuration, found in zip(kept, bits, strict=True):
        for place, network in enumerate(configuration.replicates):
            point = float(found.clean[place].mean()), float(found.robust[place].mean())
            runs.setdefault(network.model.rpartition("-")[2], []).append(point)
    return attainment(list(runs.values())) if len(runs) > 1 else np.zeros((0, 2))
