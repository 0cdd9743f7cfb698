"""From a student's settings to the ways its ODE is solved: in training, when it is measured, and by its attackers."""

from typing import Any

from nodekd.ode.integrator import FIXED, Integrator, steps_for
from study.space.network_sections import DEFAULT_EVALUATIONS, DISCRETISATIONS, TOLERANCES, Student

Settings = dict[str, Any]

INTEGRATOR_KEYS = ("solver", "horizon", *DISCRETISATIONS, *TOLERANCES, "gradient", "discretisation")
"""Keys of a student's settings that describe its solves, not its network."""


def training_integrator(student: Settings) -> Integrator | None:
    """Build the integrator that a student is trained with; None for networks without steps."""
    return integrator_of(student) if "solver" in student else None


def measuring_integrator(settings: Settings) -> Integrator | None:
    """Build the integrator that a trained student is measured with: as trained, but for what `evaluate` says."""
    return _changed(settings["student"], settings.get("evaluate") or {})


def attacking_integrator(settings: Settings) -> Integrator | None:
    """Build the integrator whose gradients attacks follow: as measured, but for what `attack` says."""
    evaluate, attack = settings.get("evaluate") or {}, settings.get("attack") or {}
    if set(attack) & set(DISCRETISATIONS):
        evaluate = {name: value for name, value in evaluate.items() if name not in DISCRETISATIONS}
    return _changed(settings["student"], {**evaluate, **attack})


def integrator_of(student: Settings) -> Integrator:
    """Build the integrator that a student's settings describe."""
    solver, horizon = student["solver"], float(student["horizon"])
    common = {"solver": solver, "horizon": horizon, "gradient": student.get("gradient", "direct")}
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


def _changed(student: Settings, change: Settings) -> Integrator | None:
    """Lay a change over a student's solve; a new discretisation replaces the old one, whatever it was given by."""
    if "solver" not in student:
        return None
    if not change:
        return integrator_of(student)
    merged = dict(student)
    if set(change) & set(DISCRETISATIONS):
        merged = {name: value for name, value in merged.items() if name not in DISCRETISATIONS}
    merged |= change
    if merged["solver"] in FIXED:
        if not set(merged) & set(DISCRETISATIONS):  # trained with an adaptive solver
            merged["evaluations"] = DEFAULT_EVALUATIONS
    else:
        usual = Student()
        merged = {"rtol": usual.rtol, "max_evaluations": usual.max_evaluations} | merged
        merged["atol"] = change.get("atol", change.get("rtol", merged.get("atol", merged["rtol"])))
    return integrator_of(merged)
