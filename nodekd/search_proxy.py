"""`adversarial_accuracy`, the search's cheap stand-in for robust accuracy (S16), built so that masking does not pay."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from nodekd.attacks.cascade import Survival, worst_case
from nodekd.attacks.spec import PGD_10_CE, PGD_10_MARGIN, SIGN_NOISE
from nodekd.attacks.threat import Threat
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import finer
from nodekd.shapes import Images, Labels

PGD_10_FINER = replace(PGD_10_CE, name="pgd-10-finer")
"""PGD whose gradients come from a finer fixed rk4 solve of the same field."""

ATTACKS = (SIGN_NOISE, PGD_10_CE, PGD_10_MARGIN, PGD_10_FINER)


def proxy_survival(
    student: nn.Module,
    images: Images,
    labels: Labels,
    threat: Threat,
    pool: Mapping[str, Images],
    *,
    seed: int,
    source: nn.Module | None = None,
) -> Survival:
    """Attack a student as the search does; `adversarial_accuracy` is the share of survivors.

    Args:
        student: The trained student, scored as it is.
        images: Fixed subset of val_search (n c h w).
        labels: (n,).
        threat: Headline epsilon.
        pool: Stored adversarial images of the same images: the teachers' and the undistilled anchor's.
        seed: Seed of the attacks, the same for every trial of a study.
        source: The student solved another way, whose gradients the attacks follow; default the student.

    Returns:
        Worst case per image over the pool, 20 sign-noise draws, PGD-10 on cross-entropy and on the margin, and, for an
        ODE, PGD-10 through a finer solver.
    """
    if not isinstance(student, OdeStudent):
        return worst_case(student, images, labels, threat, ATTACKS[:-1], seed=seed, pool=pool, source=source)
    fine = student.with_integrator(finer(student.integrator))
    exact = student.with_direct_gradient()
    sources = {PGD_10_FINER.name: fine}
    return worst_case(exact, images, labels, threat, ATTACKS, seed=seed, pool=pool, source=source, sources=sources)
