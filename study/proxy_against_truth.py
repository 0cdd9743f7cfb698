"""Whether what the search and the front looked at orders networks as the final worst case does (S19)."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

import pandas as pd

from study.results import Results
from study.uncertain_fronts import DRAWS, RankAgreement, rank_agreement

Split = Literal["val_search", "val_front"]

LEAST_TAU = 0.4
"""Below, the search optimised the wrong thing."""
FEWEST = 6
"""Networks below which an order says nothing."""


@dataclass(frozen=True)
class Agreement:
    """Adversarial accuracy on one split of validation against robust accuracy on test, network by network."""

    split: Split
    """val_search is the search's proxy; on val_front the real attacks ran."""
    epsilon: float
    trials: tuple[int, ...]
    seen: tuple[float, ...]
    """What was measured on the split."""
    final: tuple[float, ...]
    """Robust accuracy on test."""
    at_random: tuple[bool, ...]
    """Which were drawn at random among the dismissed, and not chosen."""
    left_out: int
    """Networks whose final number is an upper bound, which has no place in an order."""
    ranks: RankAgreement

    @property
    def is_wrong(self) -> bool:
        """Whether the split led the study elsewhere than its result; False where too few networks were measured."""
        return self.ranks.n >= FEWEST and isfinite(self.ranks.tau) and self.ranks.tau < LEAST_TAU


def agreements(results: Results, epsilon: float, draws: int = DRAWS) -> list[Agreement]:
    """Compare both splits with test, over chosen students and those drawn at random.

    Args:
        results: The study.
        epsilon: Of robust accuracy; that of the search where it was attacked at.
        draws: Resamples of networks, for the interval.

    Returns:
        One per split on which any of these students was measured.
    """
    sources: tuple[tuple[Split, pd.DataFrame], ...] = (("val_search", results.trials), ("val_front", results.front))
    found = [_agreement(results, epsilon, split, frame, draws) for split, frame in sources]
    return [each for each in found if each.trials]


def _agreement(results: Results, epsilon: float, split: Split, frame: pd.DataFrame, draws: int) -> Agreement:
    known = frame.dropna(subset=["trial", "adversarial_accuracy"])
    seen = {int(t): float(v) for t, v in zip(known["trial"], known["adversarial_accuracy"], strict=True)}
    models = [*results.survivors.values(), *results.beside.values()]
    attacked = {
        m.trial: m
        for m in models
        if m.kind in ("student", "random") and m.trial in seen and m.attacked_at(epsilon) and m.n
    }
    kept = {t: m for t, m in sorted(attacked.items()) if not results.attacked.is_upper_bound(m.model, epsilon)}
    final = tuple(float(m.robust(epsilon).mean()) for m in kept.values())
    return Agreement(
        split=split,
        epsilon=epsilon,
        trials=tuple(kept),
        seen=tuple(seen[trial] for trial in kept),
        final=final,
        at_random=tuple(m.kind == "random" for m in kept.values()),
        left_out=len(attacked) - len(kept),
        ranks=rank_agreement([seen[trial] for trial in kept], final, draws),
    )
