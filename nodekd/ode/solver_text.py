"""A solver in one word, as lists of solvers name it: `rk4:16`, `dopri5:1e-5`. Loads no torch."""

from nodekd.ode.integrator import ADAPTIVE, FIXED, Integrator, steps_for

CAP = 2000
"""Cap on the evaluations of an adaptive solve that is to be exact, not cheap."""


def parse_solver(text: str, horizon: float) -> Integrator:
    """Read `solver:evaluations` (fixed steps) or `solver:rtol` (adaptive, atol = rtol).

    Args:
        text: e.g. `rk4:16`, 16 evaluations of f in 4 steps, or `dopri5:1e-5`.
        horizon: T > 0.

    Returns:
        The integrator, with direct gradients; an adaptive one chooses its steps per image, up to `CAP` evaluations.

    Raises:
        ValueError: If the text has another form, the solver is unknown, or the number does not fit it.
    """
    solver, _, number = text.partition(":")
    if solver not in FIXED and solver not in ADAPTIVE:
        raise ValueError(f"the solver must be one of {', '.join([*FIXED, *ADAPTIVE])}, but got {text!r}.")
    if solver in ADAPTIVE:
        rtol = _number(number, solver, text)
        return Integrator(solver, horizon, None, rtol, rtol, max_evaluations=CAP, error_control="image")
    evaluations = _number(number, solver, text)
    if not evaluations.is_integer():
        raise ValueError(f"{_form(solver)}, but got {text!r}.")
    return Integrator(solver, horizon, steps_for(solver, horizon, evaluations=int(evaluations)))


def solver_text(integrator: Integrator) -> str:
    """Write a solver as `parse_solver` reads it; the horizon, where it is not 1, behind an @."""
    number = integrator.evaluations if integrator.fixed else f"{integrator.rtol:g}"
    horizon = "" if integrator.horizon == 1 else f"@{integrator.horizon:g}"
    return f"{integrator.solver}:{number}{horizon}"


def _number(number: str, solver: str, text: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"{_form(solver)}, but got {text!r}.") from None


def _form(solver: str) -> str:
    if solver in FIXED:
        return f"{solver} has fixed steps and is written {solver}:evaluations, e.g. {solver}:{4 * FIXED[solver]}"
    return f"{solver} is adaptive and is written {solver}:rtol, e.g. {solver}:1e-5"
