"""The checks that no network raises by itself alone, counted on healthy students; `false_alarms.py` asks for them.

A11 needs the images of other networks, A14 the attacks on the features that a study runs on doubted networks only, A15
a solver that chooses its steps.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nodekd.attacks.cascade import worst_case
from nodekd.attacks.frozen import frozen
from nodekd.attacks.spec import APGD_CE, APGD_T, FGSM, PGD_20, PGD_20_MARGIN, correct, craft
from nodekd.attacks.threat import Threat
from nodekd.attacks.tiers import FEATURES_L1, FEATURES_L2
from nodekd.attacks.transfer import pushed
from nodekd.checks.solver_work import solver_work
from nodekd.gradient_sources import through
from nodekd.models.student import OdeStudent
from study.checks.verdicts import Measured, share
from study.jobs.check import Sample

BATCH, SEED = 256, 0
OWN = (FGSM, PGD_20, PGD_20_MARGIN, APGD_CE, APGD_T)
"""What follows the network's own gradient, in the checks."""
FEATURES = (FEATURES_L1, FEATURES_L2)


def handed(network: nn.Module, sample: Sample, threats: tuple[Threat, ...]) -> list[NDArray[np.float32]]:
    """Make the images (n c h w) that a network hands on to all others, as a study does for its pool, by epsilon."""
    return [pushed(network, sample.images, sample.labels, threat).numpy() for threat in threats]


def of_others(
    student: OdeStudent, sample: Sample, threat: Threat, others: Mapping[str, NDArray[np.float32]]
) -> list[Measured]:
    """Count A11, what others' images break and no own attack does, then A14, what features break after all that."""
    images, labels = sample.images, sample.labels
    pool = {name: torch.from_numpy(made) for name, made in others.items()}
    looked = through(FEATURES, student, student, images, labels)
    own = worst_case(student, images, labels, threat, OWN, seed=SEED)
    broken = own.broken.any(dim=0)
    after = worst_case(
        student, images, labels, threat, looked.attacks, sources=looked.sources, seed=SEED, pool=pool, carried=broken
    )
    by_pool = [name in pool for name in after.columns]
    by_features = [name.startswith("feature-") for name in after.columns]
    right = int(own.clean_correct.sum())
    counts = {"A11": int(after.broken[by_pool].sum()), "A14": int(after.broken[by_features].sum())}
    return [share(name, count, right) for name, count in counts.items()]


def of_solver(student: OdeStudent, sample: Sample, threat: Threat) -> list[Measured]:
    """Measure A15 on the images that are right, attacked by PGD-20."""
    right = correct(student, sample.images, sample.labels, BATCH)
    images, labels = sample.images[right], sample.labels[right]
    with frozen(student):
        attacked = craft(PGD_20, student, student, images, labels, threat, SEED, BATCH)
    work = solver_work(student, images, attacked)
    return [] if work is None else [Measured("A15", work.change, n=work.n)]


def as_row(name: str, solver: str, part: str, checks: dict[str, list[Measured]]) -> dict[str, Any]:
    """Return a network as a row of the measurement, its verdicts still open."""
    said = {
        epsilon: {each.id: {"value": each.value, "count": each.count, "n": each.n, "verdict": ""} for each in measured}
        for epsilon, measured in checks.items()
    }
    return {"part": part, "student": name, "solver": solver, "dose": None, "amount": 0.0, "checks": said}
