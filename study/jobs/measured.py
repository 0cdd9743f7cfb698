"""The numbers of a diagnosis, by the names of the rules, as they stand in a job's metrics."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from nodekd.attacks.threat import Threat
from nodekd.checks.diagnosis import Diagnosed, Level, Share
from nodekd.checks.gradients import agreement, differences, roughness, zero_gradients
from nodekd.checks.preflight import Preflight
from nodekd.checks.protocol import Subject, changed_by_company
from nodekd.gradient_sources import under_solver
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import finer
from nodekd.shapes import Images, Labels
from study.checks.rules import LEAST_IMAGES
from study.checks.verdicts import Measured, share
from study.jobs.soundness import of_differences, of_preflight, of_zeros

GRADIENT_IMAGES = 64
ROUGHNESS_IMAGES = 32
FEWEST_CLASSES = 2
"""Below, no loss of any attack is defined; the targeted ones choose among the classes there are."""


@final
@dataclass(frozen=True)
class Entry:
    """A number and the epsilon it belongs to; None for all."""

    measured: Measured
    epsilon: float | None = None

    def record(self) -> dict[str, Any]:
        """Return plain values; a number that is not finite is null."""
        value = self.measured.value
        return {
            "id": self.measured.id,
            "epsilon": self.epsilon,
            "value": value if math.isfinite(value) else None,
            "count": self.measured.count,
            "n": self.measured.n,
            "said": self.measured.said,
        }


def of_network(subject: Subject, found: Preflight, images: Images, attacked: Share | None) -> list[Entry]:
    """Name P1 and P3 to P7.

    Args:
        subject: The network and its roles.
        found: Its preflight.
        images: (n c h w) unchanged ones.
        attacked: How many attacked images are another class in a batch than alone.
    """
    other = [each for each in of_preflight(found) if each.id not in ("P4", "P6")]
    few = Measured("P6", float(found.classes < FEWEST_CLASSES), said=f"{found.classes} classes")
    return [Entry(each) for each in (*other, _company(subject, found, images, attacked), few)]


def _company(subject: Subject, found: Preflight, images: Images, attacked: Share | None) -> Measured:
    """Measure P4: the share of predictions that change with batch mates, of images as they are or attacked.

    The larger of the two, as an image that changes in both states is one image (S22).

    Logits that move only choose the protocol (S23). Images scored alone have no company, so what is left to change is
    what the network, as it is deployed in batches, would say instead: where those are other classes, the number that is
    reported is that of another network. The answers of a randomised network change by themselves, see P3.
    """
    if subject.draws > 1:
        return Measured("P4", math.nan, said="a randomised network answers otherwise every time")
    moved = f"logits move by {found.batch:.1g} of their deviation with their batch"
    if subject.protocol == "alone":
        unchanged = Share(changed_by_company(subject.network, images), len(images))
        moved += ", so images are scored alone"
    else:
        unchanged = Share(found.batch_flips, found.n)
    states = {"unchanged": unchanged} | ({} if attacked is None else {"attacked": attacked})
    state, worst = max(states.items(), key=lambda each: _speaks(each[1]))
    said = f"{moved}; {worst.count} of {worst.n} predictions of {state} images differ in the batch"
    return share("P4", worst.count, worst.n, said)


def _speaks(found: Share) -> tuple[bool, float]:
    """Order shares by whether they hold images enough to speak at all, then by their size."""
    return found.count >= LEAST_IMAGES, found.count / max(found.n, 1)


def of_gradients(subject: Subject, right: tuple[Images, Labels], threat: Threat, seed: int, fine: bool) -> list[Entry]:
    """Measure and name G1 to G4 of the gradients that attacks follow.

    Args:
        subject: The network and its roles.
        right: Images (n c h w) that are classified correctly, and their classes (n,).
        threat: Ball of the random starts.
        seed: Seed of starts, directions and steps.
        fine: Whether the network's solver follows the flow closely, so that a fine solve has the same gradient.
    """
    images, labels = right
    if len(images) == 0:
        return [Entry(share("G1", 0, 0)), Entry(share("G1-cross-entropy", 0, 0))]
    source = subject.source
    found = of_zeros(zero_gradients(source, images, labels, threat, seed))
    few = images[:GRADIENT_IMAGES], labels[:GRADIENT_IMAGES]
    found += of_differences(differences(source, *few, seed))
    agreements = {name: agreement(source, other, *few) for name, other in _references(source, fine).items()}
    if agreements:
        said = ", ".join(f"{value:.3f} with the {name} gradient" for name, value in agreements.items())
        found.append(Measured("G3", min(agreements.values()), said=f"cosine {said}"))
    found.append(Measured("G4", roughness(source, images[:ROUGHNESS_IMAGES], labels[:ROUGHNESS_IMAGES], seed)))
    return [Entry(each) for each in found]


def _references(source: nn.Module, fine: bool) -> dict[str, nn.Module]:
    """Return the backward passes that an ODE student's gradient must agree with (G3)."""
    if not isinstance(source, OdeStudent):
        return {}
    found: dict[str, nn.Module] = {}
    if source.integrator.gradient != "direct":
        found["direct"] = source.with_direct_gradient()
    if fine:
        found["fine"] = under_solver(source, finer(source.integrator))
    return found


def of_diagnosis(found: Diagnosed) -> list[Entry]:
    """Name P2, A1 to A4, A8 and A15."""
    stayed = f"{found.unbounded.count} of {found.unbounded.n} images stay right though they may be moved anywhere"
    return [
        *(Entry(each, level.threat.epsilon) for level in found.levels for each in _of_level(level)),
        Entry(_share("A8", found.unbounded, stayed)),
    ]


def _of_level(level: Level) -> Iterator[Measured]:
    strayed = level.strayed
    yield Measured("P2", float(strayed.count), strayed.count, strayed.n, f"{strayed.count} images left the ball")
    if level.lost is not None:
        yield _share("A1", level.lost, f"{level.lost.count} images were broken on the way and not at the end")
    yield _share("A2", level.rising, f"the loss of {level.rising.count} survivors still rises at the end")
    yield _share("A3", level.doubled, f"twice the steps break {level.doubled.count} images that no attack breaks")
    if level.longer is not None:
        asked = f"of {level.longer.n} survivors of every attack"
        yield _share("A3-long", level.longer, f"a thousand steps break {level.longer.count} {asked}")
    yield _share("A4", level.restarted, f"more starts break {level.restarted.count} images that no attack breaks")
    if level.work is not None:
        words = f"{level.work.clean:.1f} evaluations per image become {level.work.attacked:.1f} under attack"
        yield Measured("A15", level.work.change, n=level.work.n, said=words)


def _share(identifier: str, found: Share, said: str) -> Measured:
    return share(identifier, found.count, found.n, said)
