"""Whether a network may be attacked as it stands: the checks P1, P3 to P7 and G1 to G3, judged for every trial (S16).

A student whose gradients mislead the attacks of the search looks better than it is, and a search that believed it would
look for more of its kind. What fails here keeps its record and its values, and is kept from the front.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from nodekd.attacks.threat import Threat
from nodekd.checks.gradients import Differences, Zeros, agreement, differences, zero_gradients
from nodekd.checks.preflight import Preflight, preflight
from nodekd.models.student import OdeStudent
from nodekd.shapes import Images, Labels
from study.checks.rules import RULES
from study.checks.verdicts import Judged, Measured, judge, reason, share

IMAGES = 64
"""Images whose gradients are checked, where there are so many."""
PREFLIGHT_IMAGES = 16
"""Images of the preflight, which asks for each alone."""
FEWEST_CLASSES = 2
"""Classes below which no loss of any attack is defined; the targeted ones choose among those there are."""


def measure(network: nn.Module, images: Images, labels: Labels, threat: Threat, seed: int) -> list[Measured]:
    """Measure the checks of a network whose gradients attacks follow.

    Args:
        network: In evaluation mode; logits out.
        images: (n c h w) in [0, 1], n >= 1; the first `PREFLIGHT_IMAGES` of them for the preflight.
        labels: (n,) true classes.
        threat: Ball of the attacks.
        seed: Seed of random starts and directions.

    Returns:
        A number per check. G3 compares a backward pass with the direct one, so a direct one has no G3.

    Raises:
        ValueError: If there are no images.
    """
    found = of_preflight(preflight(network, images[:PREFLIGHT_IMAGES]))
    found += of_zeros(zero_gradients(network, images, labels, threat, seed))
    found += of_differences(differences(network, images, labels, seed))
    if isinstance(network, OdeStudent) and network.integrator.gradient != "direct":
        found.append(Measured("G3", agreement(network, network.with_direct_gradient(), images, labels)))
    return found


def of_preflight(found: Preflight) -> list[Measured]:
    """Name the numbers of a preflight as the rules do."""
    company = (
        f"{found.batch_flips} of {found.n} predictions depend on the batch, logits by {found.batch:.1g} deviations"
    )
    return [
        Measured("P1", found.training_modules, said=f"{found.training_modules} modules are in training mode"),
        Measured("P3", found.repeat),
        share("P4", found.batch_flips, found.n, company),
        Measured("P5", float(found.is_softmax), said="the outputs are probabilities"),
        Measured("P5-saturated", float(found.is_saturated), said="most probabilities are 0 and 1"),
        Measured("P5-precision", found.precision, said=f"logits differ by {found.precision:.1g} of their mean"),
        Measured("P6", float(found.classes < FEWEST_CLASSES), said=f"{found.classes} classes"),
        Measured("P7", found.optimisations, said=f"{found.optimisations} gradients are computed in a forward pass"),
    ]


def of_zeros(found: Zeros) -> list[Measured]:
    """Name the shares of images without a gradient as the rules do."""
    return [share("G1", found.margin, found.n), share("G1-cross-entropy", found.cross_entropy, found.n)]


def of_differences(found: Differences) -> list[Measured]:
    """Name the comparison of gradients with differences as the rules do."""
    return [
        Measured("G2", found.correlation, said=f"correlation {found.correlation:.3f}"),
        Measured("G2-size", abs(found.ratio - 1), said=f"differences are {found.ratio:.2f} times the gradient"),
    ]


def verdicts(measured: Sequence[Measured]) -> dict[str, Any]:
    """Judge the checks of a trial.

    Returns:
        `checks`, a record per check, and `infeasible`, a sentence per check that fails; a warning is only recorded.
    """
    judged = judge(measured, {})
    failed = [each for each in judged if each.verdict == "fail"]
    return {"checks": [_record(each) for each in judged], "infeasible": [reason(each) for each in failed]}


def _record(judged: Judged) -> dict[str, Any]:
    measured = judged.measured
    return {
        "id": measured.id,
        "name": RULES[measured.id].name,
        "value": measured.value if math.isfinite(measured.value) else None,
        "count": measured.count,
        "n": measured.n,
        "said": measured.said,
        "verdict": judged.verdict,
    }
