"""Checks that take seconds: which attacks there are, and what follows from them, stays the same."""

from dataclasses import replace

import pytest

from nodekd.attacks.spec import Attack
from nodekd.checks import diagnosis

STEPS, QUERIES, DRAWS, LONG_STEPS = 20, 200, 100, 100


def shorter(attack: Attack) -> Attack:
    """Leave an attack what it is, and give it less time."""
    return replace(
        attack,
        steps=attack.steps and min(attack.steps, STEPS),
        queries=attack.queries and min(attack.queries, QUERIES),
        draws=attack.draws and min(attack.draws, DRAWS),
    )


def shorten_checks(patch: pytest.MonkeyPatch) -> None:
    """Shorten what every check job runs, in this process."""
    for name in ("APGD_CE", "APGD_T", "SQUARE", "SIGNS"):
        patch.setattr(diagnosis, name, shorter(getattr(diagnosis, name)))
    patch.setattr(diagnosis, "LONG_STEPS", LONG_STEPS)
