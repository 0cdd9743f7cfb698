"""From a student's settings to the ways its ODE is solved: in training, when it is measured, and by its attackers."""

from typing import Any

from nodekd.ode.integrator import FIXED, Integrator, steps_for
from study.space.network_sections import DISCRETISATIONS, TOLERANCES, Student
from study.space.solving import laid_over

Settings = dict[str, Any]

INTEGRATOR_KEYS = ("solver", "horizon", *DISCRETISATIONS, *TOLERANCES, "gradient", "adjoint_steps", "discretisation")
"""Keys of a student's settings that describe its solves, not its network."""


def training_integrator(student: Settings) -> Integrator | None:
    """Build the integrator that a student is trained with; None for networks without steps."""
    return integrator_of(student) if "solver" in student else None


def measuring_integrator(settings: Settings) -> Integrator | None:
    """Build the integrator that a trained student is measured with: as trained, but for what `evaluate` says.

    Its gradient is direct: no number depends on which gradient a student was trained with.
    """
    return _solved(settings, "evaluate", direct=True)


def attacking_integrator(settings: Settings) -> Integrator | None:
    """Build the integrator whose gradients attacks follow: as measured, but for what `attack` says."""
    asked = (settings.get("attack") or {}).get("gradient", "direct")
    return _solved(settings, "evaluate", "attack", direct=asked == "direct")


def integrator_of(student: Settings) -> Integrator:
    """Build the integrator that a student's settings describe."""
    solver, horizon = student["solver"], float(student["horizon"])
    common = {name: student[name] for name in ("gradient", "adjoint_steps") if name in student}
    common |= {"solver": solver, "horizon": horizon}
    if solver in FIXED:
        given = {name: student.get(name) for name in DISCRETISATIONS}
        return Integrator(**common, steps=steps_for(solver, horizon, **given))
    rtol = float(student["rtol"])
    return Integrator(
        **common,
        steps=None,
        rtol=rtol,
        atol=float(student["atol"]) if student.get("atol") is not None else rtol,
        max_evaluations=int(student["max_evaluations"]),
    )


def _solved(settings: Settings, *changes: str, direct: bool) -> Integrator | None:
    """Lay the changes of these sections over a student's solve, one after the other, as the space checked them."""
    solve = settings["student"]
    if "solver" not in solve:
        return None
    for name in changes:
        change = settings.get(name) or {}
        if change:
            solve = laid_over(solve, change | _tolerances(solve | change, change))
    return integrator_of(solve | {"gradient": "direct", "adjoint_steps": None} if direct else solve)


def _tolerances(solve: Settings, change: Settings) -> Settings:
    """Complete an adaptive solve: a new rtol is the atol, too, unless that is given; what nobody says is as usual."""
    if solve["solver"] in FIXED:
        return {}
    usual = Student()
    rtol = solve.get("rtol", usual.rtol)
    atol = change.get("atol", change.get("rtol", solve.get("atol", rtol)))
    return {"rtol": rtol, "atol": atol, "max_evaluations": solve.get("max_evaluations", usual.max_evaluations)}
