"""Which network an attack's gradients come from, where they are not the target's own."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from nodekd.attacks.frozen import frozen
from nodekd.attacks.sources import Expectation, Features, Rescaled, StraightThrough, with_unit_margin
from nodekd.attacks.spec import Attack
from nodekd.attacks.tiers import THROUGH
from nodekd.models.student import OdeStudent
from nodekd.ode.integrator import Integrator, finer
from nodekd.ode.solver_text import parse_solver, solver_text
from nodekd.scoring import logits_of
from nodekd.shapes import Images, Labels

DRAWS = 10
"""Draws over which a randomised network's gradient is averaged."""
RANDOMISED = 1e-4
"""Relative change between two forwards of the same images beyond which a network is called randomised."""


@final
@dataclass(frozen=True)
class Through:
    """The attacks that can be run on a network, and the networks that single ones look through."""

    attacks: tuple[Attack, ...]
    sources: Mapping[str, nn.Module]
    """By the attack's name; those not named follow the usual network."""

    def records(self) -> list[dict[str, Any]]:
        """Return every hyper-parameter of each attack, and of the network that it looks through, as plain values."""
        return [attack.record() | looks_through(attack, self.sources.get(attack.name)) for attack in self.attacks]


def through(attacks: Iterable[Attack], target: nn.Module, usual: nn.Module, images: Images, labels: Labels) -> Through:
    """Find the gradient sources of a set of attacks; those whose source the network cannot offer are left out.

    Args:
        attacks: Cheap to dear.
        target: Network under attack, as it is scored.
        usual: Whose gradients attacks follow otherwise; mostly the target.
        images: Clean images (n c h w), by which logits are rescaled.
        labels: (n,) true classes.

    Returns:
        The attacks in their order. A network that answers differently twice is looked at through the expectation over
        its draws, by every attack that has no other source.
    """
    attacks = tuple(attacks)
    wanted = {THROUGH[attack.name] for attack in attacks if attack.name in THROUGH}
    built = {name: _SOURCES[name](target, images, labels) for name in wanted}
    kept = tuple(attack for attack in attacks if built.get(THROUGH.get(attack.name, ""), usual) is not None)
    sources = {attack.name: built[THROUGH[attack.name]] for attack in kept if attack.name in THROUGH}
    found = {name: source for name, source in sources.items() if source is not None}
    if is_randomised(target, images):
        expected = Expectation(usual, DRAWS)
        found |= {attack.name: expected for attack in kept if attack.name not in found}
    return Through(kept, found)


@torch.no_grad()
def is_randomised(network: nn.Module, images: Images) -> bool:
    """Tell whether a network answers differently twice on the first images; its random state is left as it was."""
    if len(images) == 0:
        return False
    with frozen(network):
        first, second = (torch.nan_to_num(network(images[:16])) for _ in range(2))
    return bool((first - second).abs().max() > RANDOMISED * first.abs().max())


def under_solver(student: OdeStudent, integrator: Integrator) -> OdeStudent:
    """Return the same weights solved another way, with direct gradients."""
    return student.with_integrator(integrator).with_direct_gradient()


def looks_through(attack: Attack, source: nn.Module | None = None) -> dict[str, Any]:
    """Say which network an attack looks through, if not the usual one: by its name, and by its numbers where given."""
    named: dict[str, Any] = {"through": THROUGH[attack.name]} if attack.name in THROUGH else {}
    if isinstance(source, Expectation):
        return named | {"draws_per_answer": source.draws}
    if isinstance(source, Rescaled):
        return named | {"logits_times": source.factor}
    smooth = source.smooth if isinstance(source, StraightThrough) else source
    return named | ({"gradient_of": solver_text(smooth.integrator)} if isinstance(smooth, OdeStudent) else {})


def other_solves() -> dict[str, list[str]]:
    """Say by examples, `rk4:16` and `dopri5:0.001`, which other solves attacks look through: what the rules give."""
    examples = [parse_solver(text, 1.0) for text in ("rk4:16", "dopri5:0.001")]
    return {
        "fine": [solver_text(finer(each)) for each in examples],
        "euler": [solver_text(euler_of(each)) for each in examples],
    }


def euler_of(integrator: Integrator) -> Integrator:
    """Return Euler steps with as many evaluations as a fixed solve has, or with 32 in place of an adaptive one."""
    return Integrator(solver="euler", horizon=integrator.horizon, steps=integrator.evaluations or 32)


def _fine(target: nn.Module, images: Images, labels: Labels) -> nn.Module | None:
    del images, labels
    return under_solver(target, finer(target.integrator)) if isinstance(target, OdeStudent) else None


def _euler(target: nn.Module, images: Images, labels: Labels) -> nn.Module | None:
    del images, labels
    if not isinstance(target, OdeStudent) or target.integrator.solver == "euler":
        return None
    return under_solver(target, euler_of(target.integrator))


def _straight_through(target: nn.Module, images: Images, labels: Labels) -> nn.Module | None:
    fine = _fine(target, images, labels)
    return None if fine is None else StraightThrough(target, fine)


def _rescaled(target: nn.Module, images: Images, labels: Labels) -> nn.Module:
    with frozen(target):
        return with_unit_margin(target, logits_of(target, images), labels)


def _features(target: nn.Module, images: Images, labels: Labels) -> nn.Module | None:
    del images, labels
    return Features(nn.Sequential(target.normalise, target.stem)) if isinstance(target, OdeStudent) else None


_SOURCES: Mapping[str, Callable[[nn.Module, Images, Labels], nn.Module | None]] = {
    "fine": _fine,
    "euler": _euler,
    "straight-through": _straight_through,
    "rescaled": _rescaled,
    "features": _features,
}
