"""How far a flow can stretch a small perturbation of its first state: the largest singular value of its Jacobian."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp

from nodekd import streams
from nodekd.attacks.frozen import frozen
from nodekd.models.student import OdeStudent
from nodekd.probes.numbers import plain
from nodekd.probes.trajectory import followed
from nodekd.shapes import Images, State

ITERATIONS = 8
"""Power iterations; the value found is a lower bound that grows with them."""

Flow = Callable[[State], State]


@final
@dataclass(frozen=True)
class Stretch:
    """Largest singular values over images; medians and 90 % quantiles. No certificate: a probe at given images."""

    sigma: float
    """Median of |dh(T)| / |dh(0)| along the worst direction."""
    sigma_high: float
    relative: float
    """Median of the same over |h(T)| / |h(0)|: scale that a norm layer would take out again is taken out (S15)."""
    relative_high: float
    exponent: float
    """log(sigma) / T, per unit of the ODE's own time: the finite-time Lyapunov exponent."""
    n: int

    def record(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {name: plain(value) for name, value in vars(self).items()}


def stretch(student: OdeStudent, images: Images, *, seed: int, iterations: int = ITERATIONS) -> Stretch:
    """Measure the largest singular value of the flow's Jacobian at every image, from the stem to the horizon.

    Args:
        student: Solved as it is measured; an adaptive solver is followed on a fine fixed grid, as derivatives are.
        images: (n c h w) in [0, 1].
        seed: Of the first directions.
        iterations: Power iterations on J^T J.

    Returns:
        Medians and 90 % quantiles over images whose flow is finite.
    """
    view = student.with_integrator(followed(student.integrator, 1))
    with frozen(view), torch.no_grad():
        start = view.stem(view.normalise(images))
        sigma = largest_singular_values(view.flow, start, seed=seed, iterations=iterations)
        scale = _rows(view.flow(start)) / _rows(start)
    usable = torch.isfinite(sigma) & torch.isfinite(scale) & (scale > 0)
    sigma, relative = sigma[usable], (sigma / scale)[usable]
    median, horizon = _quantile(sigma, 0.5), student.integrator.horizon * len(student.blocks)
    return Stretch(
        sigma=median,
        sigma_high=_quantile(sigma, 0.9),
        relative=_quantile(relative, 0.5),
        relative_high=_quantile(relative, 0.9),
        exponent=log(median) / horizon if median > 0 else float("nan"),
        n=int(usable.sum()),
    )


def largest_singular_values(flow: Flow | nn.Module, state: State, *, seed: int, iterations: int = ITERATIONS) -> Tensor:
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
    drawn = torch.randn(state.shape, generator=streams.generator(seed, "stretch")).to(state)
    direction = _unit(drawn)
    for _ in range(iterations):
        pushed = jvp(flow, (state,), (direction,))[1]
        pull = vjp(flow, state)[1]
        direction = _unit(pull(pushed)[0])
    return _rows(jvp(flow, (state,), (direction,))[1])


def _unit(direction: State) -> State:
    return direction / _rows(direction).clamp_min(1e-30).view(-1, *[1] * (direction.dim() - 1))


def _rows(state: State) -> Tensor:
    return state.flatten(1).norm(dim=1)


def _quantile(values: Tensor, share: float) -> float:
    return float(values.quantile(share)) if len(values) else float("nan")
