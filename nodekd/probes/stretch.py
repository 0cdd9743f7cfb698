"""How far a flow can stretch a small perturbation of its first state: the largest singular value of its Jacobian."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any, final

import torch
from torch import Tensor, nn

from nodekd import streams
from nodekd.attacks.frozen import frozen
from nodekd.models.student import OdeStudent
from nodekd.probes.numbers import plain
from nodekd.probes.trajectory import followed
from nodekd.shapes import Images, State

ITERATIONS = 8
"""Power iterations; the value found is a lower bound that grows with them."""

Map = Callable[[State], State]
"""From states (b ...) to states, each row by itself."""


@final
@dataclass(frozen=True)
class Stretch:
    """Largest singular values over images: quantiles. No certificate, but a probe at given images."""

    sigma_low: float
    """10 % quantile of |dh(T)| / |dh(0)| along the worst direction."""
    sigma: float
    """Its median."""
    sigma_high: float
    """Its 90 % quantile."""
    relative_low: float
    """The same over |h(T)| / |h(0)|: scale that a norm layer would take out again is taken out (S15)."""
    relative: float
    relative_high: float
    exponent: float
    """log(sigma) / T, per unit of the ODE's own time: the finite-time Lyapunov exponent of the median."""
    n: int
    """Images whose flow and its derivative are finite."""

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {name: plain(value) for name, value in vars(self).items()} | {"n": self.n}


@torch.no_grad()
def stretch(
    student: OdeStudent, images: Images, *, seed: int, iterations: int = ITERATIONS, batch_size: int = 64
) -> Stretch:
    """Measure the largest singular value of the flow's Jacobian at every image, from the stem to the horizon.

    Args:
        student: Solved as it is measured; an adaptive solver is followed on a fine fixed grid, as derivatives are.
            Left exactly as it was, like the global random state.
        images: (n c h w) in [0, 1].
        seed: Of the first directions.
        iterations: Power iterations on J^T J.
        batch_size: Images whose solves are held in memory at once, with the derivatives of their derivatives.

    Returns:
        Quantiles over images whose flow is finite; NaN where there are none.
    """
    view = student.with_integrator(followed(student.integrator, 1))
    with frozen(student, view):
        batches = enumerate(images.split(batch_size))
        found = [_ratios(view, batch, streams.seed_of(seed, place), iterations) for place, batch in batches]
    sigma, relative = (torch.cat(part) for part in zip(*found, strict=True))
    usable = torch.isfinite(sigma) & torch.isfinite(relative)
    sigma, relative = sigma[usable].double(), relative[usable].double()
    median, horizon = _quantile(sigma, 0.5), student.integrator.horizon * len(student.blocks)
    return Stretch(
        sigma_low=_quantile(sigma, 0.1),
        sigma=median,
        sigma_high=_quantile(sigma, 0.9),
        relative_low=_quantile(relative, 0.1),
        relative=_quantile(relative, 0.5),
        relative_high=_quantile(relative, 0.9),
        exponent=log(median) / horizon if median > 0 else float("nan"),
        n=int(usable.sum()),
    )


def largest_singular_values(flow: Map | nn.Module, state: State, *, seed: int, iterations: int = ITERATIONS) -> Tensor:
    """Return the largest singular value (b,) of a map's Jacobian at every state of a batch, each image by itself.

    v <- J^T J v / |J^T J v|, sigma = |J v|.

    Args:
        flow: Maps states (b ...) to states, no row depending on another.
        state: Where.
        seed: Of the first directions.
        iterations: Of the power method, >= 1.

    Source:
        The power method; [yoshida2017spectral] uses it for the weights of a layer, we for the flow at an image.
    """
    direction = _unit(torch.randn(state.shape, generator=streams.generator(seed, "stretch")).to(state))
    push, pull = _derivatives(flow, state)
    for _ in range(iterations):
        direction = _unit(pull(push(direction)))
    return _rows(push(direction))


def _derivatives(flow: Map | nn.Module, state: State) -> tuple[Map, Map]:
    """Return v -> J v and u -> J^T u at a state.

    Both walk back through one recorded solve: J^T u is linear in u, so its own derivative along v is J v. Forward mode
    would solve again for every v, and takes several times as long where a rule is written in Python.
    """
    with torch.enable_grad():
        start = state.detach().requires_grad_(True)
        end = flow(start)
        cotangent = torch.zeros_like(end).requires_grad_(True)
        (pulled,) = torch.autograd.grad(end, start, cotangent, create_graph=True)

    def push(direction: State) -> State:
        return torch.autograd.grad(pulled, cotangent, direction, retain_graph=True)[0]

    def pull(direction: State) -> State:
        return torch.autograd.grad(end, start, direction, retain_graph=True)[0]

    return push, pull


def _ratios(view: OdeStudent, images: Images, seed: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Return sigma (b,), and sigma relative to how much the state itself grows (b,)."""
    start = view.stem(view.normalise(images))
    sigma = largest_singular_values(view.flow, start, seed=seed, iterations=iterations)
    return sigma, sigma * _rows(start) / _rows(view.flow(start))


def _unit(direction: State) -> State:
    return direction / _rows(direction).clamp_min(1e-30).view(-1, *[1] * (direction.dim() - 1))


def _rows(state: State) -> Tensor:
    return state.flatten(1).norm(dim=1)


def _quantile(values: Tensor, share: float) -> float:
    return float(values.quantile(share)) if len(values) else float("nan")
