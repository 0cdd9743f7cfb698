"""Which attacks belong together: the tiers of the robustness stage, cheap to dear.

Attacks named in `THROUGH` follow another network's gradients; `nodekd.gradient_sources` builds them. Where a network
has none to offer (only an ODE has solvers), such an attack is left out.
"""

from collections.abc import Mapping
from dataclasses import replace

from nodekd.attacks.spec import (
    APGD_CE,
    APGD_T,
    APGD_T_9,
    FAB_T,
    FGSM,
    PGD_10_CE,
    PGD_10_MARGIN,
    PGD_20,
    PGD_20_MARGIN,
    SIGN_NOISE,
    SQUARE_5000,
    Attack,
)

PGD_20_FINE = replace(PGD_20_MARGIN, name="pgd-20-fine")
"""Through a finer fixed solve of the same field."""
PGD_20_EULER = replace(PGD_20_MARGIN, name="pgd-20-euler")
"""Through Euler steps with as many evaluations."""
APGD_FINE = replace(APGD_CE, name="apgd-ce-fine")
STRAIGHT_THROUGH = Attack(
    "straight-through-pgd-100", "pgd", loss="margin", steps=100, step_size=0.05, random_start=True, restarts=1
)
"""Forwards as deployed, backwards through the finer solve (A13)."""
RESCALED_APGD_CE = replace(APGD_CE, name="rescaled-apgd-ce")
"""Logits scaled to unit median margin (S11)."""
FEATURES_L1 = Attack("feature-l1", "feature-distance", loss="l1", steps=100, step_size=0.05)
FEATURES_L2 = Attack("feature-l2", "feature-distance", loss="l2", steps=100, step_size=0.05)
"""Features in front of the flow, pushed away from where they were (A14)."""
APGD_CE_1000 = Attack("apgd-ce-1000", "apgd", steps=1000, restarts=1)
SQUARE_20000 = Attack("square-20000", "square", queries=20000, restarts=1, rescaled=False)

THROUGH: Mapping[str, str] = {
    PGD_20_FINE.name: "fine",
    PGD_20_EULER.name: "euler",
    APGD_FINE.name: "fine",
    STRAIGHT_THROUGH.name: "straight-through",
    RESCALED_APGD_CE.name: "rescaled",
    FEATURES_L1.name: "features",
    FEATURES_L2.name: "features",
}
"""Whose gradients an attack follows, where they are not the network's own."""

OTHER_SOLVERS = (PGD_20_FINE, PGD_20_EULER)
"""Transfer from the same weights under other solvers; part of the worst case (S21)."""

AUTOATTACK = (APGD_CE, APGD_T_9, FAB_T, SQUARE_5000)
"""The standard set of AutoAttack, in its order."""

SCREEN = (FGSM, PGD_10_CE, PGD_10_MARGIN, SIGN_NOISE)
STANDARD = (FGSM, PGD_20, *OTHER_SOLVERS, APGD_CE, APGD_T)
FULL = (FGSM, PGD_20, *OTHER_SOLVERS, *AUTOATTACK)
LONGER = (RESCALED_APGD_CE, APGD_FINE, STRAIGHT_THROUGH, FEATURES_L1, FEATURES_L2, APGD_CE_1000, SQUARE_20000)
"""What a network is given that a check calls unreliable."""

SETS: Mapping[str, tuple[Attack, ...]] = {
    "screen": SCREEN,
    "standard": STANDARD,
    "full": FULL,
    "adaptive": (*FULL, *LONGER),
}
"""Attacks by tier, every name of `nodekd.attacks.catalog.TIERS`."""
