"""What is checked before a robustness number is believed, and when a check speaks up.

A rule has limits on one number. Where the number is a share of images, a limit is not enough: a single image never
decides (S22), see `study.checks.verdicts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isnan
from typing import Literal, final

Verdict = Literal["pass", "warn", "fail", "absent"]
"""What a check says; absent where it does not apply, or was not measured."""

LEAST_IMAGES = 3
"""Images that a share must hold before it can raise anything (S22)."""


@final
@dataclass(frozen=True)
class Rule:
    """When one check warns and when it fails."""

    name: str
    """In a few words, as tables show it."""

    warn: float | None = None
    """The number beyond which it warns; None never warns."""

    fail: float | None = None
    """The number beyond which it fails; None never fails."""

    below: bool = False
    """Whether small numbers are the bad ones."""

    counted: bool = False
    """Whether the number is a share of images, so that a count and a test decide beside the limit."""

    def limit(self, value: float) -> Verdict:
        """Compare a number with the limits; NaN is absent."""
        if isnan(value):
            return "absent"
        beyond = (lambda limit: value < limit) if self.below else (lambda limit: value > limit)
        if self.fail is not None and beyond(self.fail):
            return "fail"
        return "warn" if self.warn is not None and beyond(self.warn) else "pass"


def rules_for(classes: int) -> Mapping[str, Rule]:
    """Return the rules for networks with that many classes, >= 2.

    Who is right as often as by chance, wherever images may be moved, has not been attacked (A8).
    """
    return {**RULES, "A8": replace(RULES["A8"], fail=1 / classes)}


RULES: Mapping[str, Rule] = {
    "P1": Rule("evaluation mode", fail=0),
    "P2": Rule("attacks stay in the ball", fail=0),
    "P3": Rule("same answer twice", warn=1e-4),
    "P4": Rule("independent of batch mates", warn=0.002, fail=0.01, counted=True),
    "P5": Rule("logits, not probabilities", fail=0),
    "P5-saturated": Rule("probabilities not saturated", warn=0),
    "P5-precision": Rule("logits keep their digits", warn=1e-5, below=True),
    "P6": Rule("enough classes for every loss", warn=0),
    "P7": Rule("no optimisation in the forward pass", fail=0),
    "G1": Rule("margin has a gradient", fail=0.01, counted=True),
    "G1-cross-entropy": Rule("cross-entropy has a gradient", warn=0.01, counted=True),
    "G2": Rule("gradient agrees with differences", warn=0.98, fail=0.9, below=True),
    "G2-size": Rule("gradient has the right size", warn=0.1),
    "G3": Rule("backward pass agrees with the flow's", warn=0.95, fail=0.9, below=True),
    "G4": Rule("loss is smooth around images", warn=0.1),
    "A1": Rule("no success is lost", fail=0, counted=True),
    "A2": Rule("attack has converged", warn=0.05, counted=True),
    "A3": Rule("more steps break no more", warn=0.005, fail=0.02, counted=True),
    "A3-long": Rule("a thousand steps break no survivor", warn=0.02, fail=0.05, counted=True),
    "A4": Rule("more restarts break no more", warn=0.005, counted=True),
    "A5": Rule("one step is no stronger than many", warn=0.002, fail=0.002, counted=True),
    "A6": Rule("no loss is blind", warn=0.1, counted=True),
    "A7": Rule("larger balls break more", fail=0.002, counted=True),
    "A8": Rule("an unbounded attack breaks everything", warn=0.01, fail=0.1, counted=True),
    "A9": Rule("random noise breaks no more", warn=0.0, fail=0.002, counted=True),
    "A10": Rule("no gradient is needed", fail=0.002, counted=True),
    "A11": Rule("others' images break no more", warn=0.002, fail=0.01, counted=True),
    "A12": Rule("own solver's attack is the strongest", fail=0.005, counted=True),
    "A12-spread": Rule("the same under every converged solver", warn=0.02, counted=True),
    "A13": Rule("another backward pass breaks no more", fail=0.01, counted=True),
    "A14": Rule("features in front of the flow break no more", fail=0.01, counted=True),
    "A15": Rule("attacks do not change the solver's work", warn=0.2),
    "S11": Rule("rescaled logits break no more", fail=0.01, counted=True),
}
"""Rules by the check's id; limits from measured healthy and masked networks, see docs/warnings.md."""
