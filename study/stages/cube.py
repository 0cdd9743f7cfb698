"""The cube of pinned models: trained under each solver of a list, attacked through each, judged under each (S21)."""

from typing import Any

from nodekd.models.catalog import is_ode
from nodekd.ode.integrator import Integrator
from nodekd.ode.solver_text import parse_solver
from study.cube import FOLDER, identifier
from study.jobs.integrators import INTEGRATOR_KEYS
from study.stages.batch import Planned
from study.stages.context import Context
from study.stages.teachers import attack_settings, reference_point, teacher_keys


def trainings(context: Context) -> list[Planned]:
    """Plan the space's reference point under every solver of `robustness.cube`, all else equal, the seed included."""
    settings = context.space.settings(reference_point(context.space))
    if not is_ode(settings["student"]["arch"]):
        return []
    teachers = [] if settings["distill"]["method"] == "none" else teacher_keys(context)[:1]
    planned = []
    for text in context.space.robustness.cube:
        solved = {**settings, "student": under(settings["student"], text)}
        job = context.job(_network_key(text), "student", settings=solved, teachers=teachers, search=None)
        planned.append(Planned(job, {"settings": solved, "teachers": teachers}))
    return planned


def slices(context: Context, specification: str) -> list[Planned]:
    """Plan one slice per network that was trained.

    Args:
        context: The study.
        specification: Of the checks in force.
    """
    texts = [text for text in context.space.robustness.cube if context.is_complete(_network_key(text))]
    return [_slice(context, text, specification) for text in texts]


def under(student: dict[str, Any], text: str) -> dict[str, Any]:
    """Return the settings of a student that is solved as a text such as `rk4:16` says."""
    horizon = float(student.get("horizon", 1.0))
    kept = {name: value for name, value in student.items() if name not in INTEGRATOR_KEYS}
    return {**kept, "horizon": horizon, **_keys(parse_solver(text, horizon))}


def _keys(solved: Integrator) -> dict[str, Any]:
    if solved.fixed:
        return {"solver": solved.solver, "steps": solved.steps}
    tolerances = {"rtol": solved.rtol, "atol": solved.atol, "max_evaluations": solved.max_evaluations}
    return {"solver": solved.solver, **tolerances}


def _network_key(text: str) -> str:
    return f"cube/{text.replace(':', '-')}"


def _slice(context: Context, text: str, specification: str) -> Planned:
    robustness = context.space.robustness
    of = identifier(specification, robustness.cube)
    settings = attack_settings(
        context,
        network=_network_key(text),
        split="test",
        images=robustness.check_images,
        of_images=robustness.images,
        epsilon=context.headline,
        solvers=list(robustness.cube),
        trained=text,
        identity={"model": f"cube-{text}", "kind": "cube", "trial": None, "specification": of},
    )
    job = context.job(f"{FOLDER}/{text.replace(':', '-')}-{of}", "cube", **settings)
    return Planned(job, {"settings": settings})
