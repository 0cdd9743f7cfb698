"""What a solve is asked to do: solver, horizon, discretisation, gradient.

Loads no torch, so that a search space can check it.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, final

FIXED: dict[str, int] = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "rk4_classic": 4}
"""Fixed-step solvers and their stages, the evaluations of f per step."""

ADAPTIVE: tuple[str, ...] = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""Adaptive solvers, by their torchdiffeq names."""

Gradient = Literal["direct", "adjoint"]
ErrorControl = Literal["batch", "image"]


@final
@dataclass(frozen=True)
class Integrator:
    """One way to solve dy/dt = f(t, y) over [0, horizon]."""

    solver: str = "rk4"
    """A name of `FIXED` or `ADAPTIVE`: `rk4` is the 3/8 rule, `rk4_classic` the classic, `heun` torchdiffeq's heun2."""
    horizon: float = 1.0
    """T > 0, in units of the ODE's own time."""
    steps: int | None = 2
    """Number of equal steps; None for adaptive solvers."""
    rtol: float | None = None
    """Relative tolerance in (0, 1]; None for fixed solvers."""
    atol: float | None = None
    """Absolute tolerance > 0; None for fixed solvers."""
    gradient: Gradient = "direct"
    """`direct` backpropagates through the steps, `adjoint` solves the adjoint equation backwards."""
    adjoint_steps: int | None = None
    """Euler steps of the adjoint's way back; None goes back as the solve went forth. Few make the gradient wrong."""
    max_evaluations: int = 200
    """Cap on the evaluations of one adaptive solve; a solve that needs more ends with a status (S14)."""
    error_control: ErrorControl = "batch"
    """What an adaptive solver chooses its steps for: `batch` takes all images as one system, so that an answer depends
    on batch mates; `image` solves every image as if alone, with a cap of its own (S23). Fixed steps depend on neither
    and say `batch`; an adjoint cannot be solved per image."""

    def __post_init__(self) -> None:
        if self.solver not in FIXED and self.solver not in ADAPTIVE:
            raise ValueError(f"`solver` must be one of {[*FIXED, *ADAPTIVE]}, but got {self.solver!r}.")
        if not (math.isfinite(self.horizon) and self.horizon > 0):
            raise ValueError(f"`horizon > 0` must hold, but got {self.horizon}.")
        if self.gradient not in ("direct", "adjoint"):
            raise ValueError(f"`gradient` must be direct or adjoint, but got {self.gradient!r}.")
        if self.adjoint_steps is not None and (self.adjoint_steps < 1 or self.gradient != "adjoint"):
            raise ValueError(
                "`adjoint_steps >= 1` with gradient adjoint must hold, "
                f"but got adjoint_steps={self.adjoint_steps} with gradient {self.gradient}."
            )
        if self.max_evaluations < 1:
            raise ValueError(f"`max_evaluations >= 1` must hold, but got {self.max_evaluations}.")
        if self.error_control not in ("batch", "image"):
            raise ValueError(f"`error_control` must be batch or image, but got {self.error_control!r}.")
        if self.error_control == "image" and (self.fixed or self.gradient != "direct"):
            raise ValueError(
                "`error_control: image` needs an adaptive solver with gradient direct, "
                f"but got {self.solver} with gradient {self.gradient}; choose batch."
            )
        self._check_discretisation()

    def _check_discretisation(self) -> None:
        if self.fixed:
            if self.steps is None or self.steps < 1:
                raise ValueError(f"`steps >= 1` must hold for the fixed solver {self.solver}, but got {self.steps}.")
            if self.rtol is not None or self.atol is not None:
                raise ValueError(f"{self.solver} has fixed steps and takes no rtol or atol; remove them.")
            if self.gradient == "adjoint" and self.solver == "rk4_classic":
                raise ValueError("rk4_classic has no adjoint; choose rk4 (the 3/8 rule) or gradient direct.")
        elif self.steps is not None:
            raise ValueError(f"{self.solver} chooses its own steps; give rtol and atol instead of steps={self.steps}.")
        elif not (self.rtol and 0 < self.rtol <= 1 and self.atol and self.atol > 0):
            raise ValueError(
                f"`0 < rtol <= 1` and `atol > 0` must hold for {self.solver}, "
                f"but got rtol={self.rtol}, atol={self.atol}."
            )

    @property
    def fixed(self) -> bool:
        """Whether the steps are fixed beforehand."""
        return self.solver in FIXED

    @property
    def evaluations(self) -> int | None:
        """Evaluations of f in one solve: stages times steps; None where the solver decides."""
        return None if self.steps is None else self.steps * FIXED[self.solver]

    @property
    def step_size(self) -> float | None:
        """Length of one step; None where the solver decides."""
        return None if self.steps is None else self.horizon / self.steps


def steps_for(
    solver: str,
    horizon: float,
    *,
    steps: int | None = None,
    step_size: float | None = None,
    evaluations: int | None = None,
) -> int:
    """Return the number of steps of a fixed solver from exactly one of three descriptions (S12).

    Args:
        solver: A name of `FIXED`.
        horizon: T > 0.
        steps: The number itself.
        step_size: Then steps = ceil(horizon / step_size), forgiving rounding of 1e-9.
        evaluations: Then steps = evaluations / stages, which must be whole.

    Raises:
        ValueError: If not exactly one is given, or evaluations are no multiple of the solver's stages.
    """
    given = {"steps": steps, "step_size": step_size, "evaluations": evaluations}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"exactly one of steps, step_size, evaluations must be given for {solver}, but got {named}.")
    if steps is not None:
        return steps
    if step_size is not None:
        if step_size <= 0:
            raise ValueError(f"`step_size > 0` must hold, but got {step_size}.")
        return max(1, math.ceil(horizon / step_size - 1e-9))
    assert evaluations is not None, "one description was given"
    stages = FIXED[solver]
    if evaluations < stages or evaluations % stages:
        raise ValueError(f"`evaluations` must be a multiple of {solver}'s {stages} stages, but got {evaluations}.")
    return evaluations // stages


def finer(integrator: Integrator) -> Integrator:
    """Return a fixed rk4 solve of the same field that is clearly more exact than `integrator` (S16).

    Twice the evaluations of the given solve, at least 4 steps, and no step longer than a quarter.
    """
    evaluations = integrator.evaluations or 32
    steps = max(4, -(-evaluations // 2), math.ceil(4 * integrator.horizon))
    return Integrator(solver="rk4_classic", horizon=integrator.horizon, steps=steps)


def per_image(integrator: Integrator) -> Integrator:
    """Return the same solve with steps chosen for every image by itself, where it can be: see `error_control`.

    Fixed steps are the same for every image anyway, and an adjoint stays as it is.
    """
    if integrator.fixed or integrator.gradient != "direct":
        return integrator
    return replace(integrator, error_control="image")
