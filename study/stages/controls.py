"""The checks on trial: networks broken on purpose must be noticed, healthy ones must not (S24)."""

from collections.abc import Callable
from typing import Any

from nodekd.models.catalog import is_ode
from study.checks.expected import NEGATIVE, POSITIVE
from study.controls import FOLDER, SPECIFICATION, read_controls
from study.durable import replace_json
from study.epsilons import grid_of
from study.fingerprint import fingerprint
from study.jobs.integrators import INTEGRATOR_KEYS
from study.stages import teachers
from study.stages.batch import Planned
from study.stages.context import Context

EVALUATIONS = 16
RTOL = 1e-3
LEAST_EPOCHS = 40
"""A training no longer than this is not shortened."""
STEPS = 3
"""PGD steps per update of the control that is trained on attacked images."""
TEMPERATURE = 20.0
"""Of the cross-entropy that the masked teacher is trained with: defensive distillation's first half."""
_MASKED = "temperature-20"
_BASE = "rk4"
"""The healthy network that the others are broken twins of."""


def are_wanted(context: Context) -> bool:
    """Tell whether the space asks for controls; where nothing is checked there are none."""
    return context.space.robustness.controls and context.space.robustness.tier != "screen"


def trainings(context: Context) -> list[Planned]:
    """Plan the networks that the controls are made of."""
    if not are_wanted(context):
        return []
    students = [
        Planned(context.job(_key(name, each), "student", settings=each, teachers=[], search=None), {"settings": each})
        for name, each in _students(context).items()
    ]
    return [*students, _masked_teacher(context)]


def _key(name: str, settings: dict[str, Any]) -> str:
    """Name a training by its settings, so that another radius is another network."""
    return f"controls/{name}-{fingerprint(settings)}"


def _students(context: Context) -> dict[str, dict[str, Any]]:
    plain = _shortened(_reference(context))
    attacked = {"epsilon": _radius(context), "steps": STEPS}
    return {
        "rk4": _solved(plain, solver="rk4", evaluations=EVALUATIONS),
        "dopri5": _solved(plain, solver="dopri5", rtol=RTOL, atol=RTOL, max_evaluations=200),
        "adversarial": _solved(
            {**plain, "train": {**plain["train"], "adversarial": attacked}}, solver="rk4", evaluations=EVALUATIONS
        ),
    }


def _radius(context: Context) -> float:
    """Return the radius of the adversarial training, which is under linf whatever norm the stage attacks in."""
    if context.space.robustness.norm == "linf":
        return context.headline
    return grid_of(context.space, "linf").headline


def _masked_settings(context: Context) -> dict[str, Any]:
    return {**teachers.teacher_settings(context)[0], "checkpoint": None}


def _masked_teacher(context: Context) -> Planned:
    settings = _masked_settings(context)
    particulars = {"settings": settings, "checkpoint": None, "temperature": TEMPERATURE}
    job = context.job(_key(_MASKED, settings), "teacher", **particulars)
    return Planned(job, {"settings": settings, "temperature": TEMPERATURE})


def _reference(context: Context) -> dict[str, Any]:
    """Return the undistilled settings of the space's reference point, of an ODE student whatever the space trains."""
    settings = teachers.undistilled(context.space.settings(teachers.reference_point(context.space)))
    student = settings["student"]
    if not is_ode(student["arch"]):
        student = {"arch": "odenet-stem", "channels": student.get("channels", 16), "norm": student.get("norm", "group")}
    settings = {name: value for name, value in settings.items() if name not in ("evaluate", "attack")}
    return {**settings, "student": student}


def _shortened(settings: dict[str, Any]) -> dict[str, Any]:
    """Halve a long training: a control has to be healthy, not good."""
    epochs = settings["train"]["epochs"]
    return {**settings, "train": {**settings["train"], "epochs": max(epochs // 2, min(epochs, LEAST_EPOCHS))}}


def _solved(settings: dict[str, Any], **solve: Any) -> dict[str, Any]:
    dropped = (*INTEGRATOR_KEYS, "adjoint_steps")
    student = {name: value for name, value in settings["student"].items() if name not in dropped}
    horizon = settings["student"].get("horizon", 1.0)
    return {**settings, "student": {**student, "horizon": horizon, **solve}}


def checks(context: Context, specification: str, settings: Callable[..., dict[str, Any]]) -> list[Planned]:
    """Plan the diagnosis of every control at the headline epsilon; of those that are broken, without the long attacks.

    Args:
        context: The study.
        specification: Of the checks in force.
        settings: (network, identity, particulars) -> payload of a check.
    """
    if not are_wanted(context):
        return []
    replace_json(context.ledger.root / SPECIFICATION, {"schema": 1, "specification": specification})
    planned = []
    trained = {name: _key(name, settings_of) for name, settings_of in _students(context).items()}
    trained[_MASKED] = _key(_MASKED, _masked_settings(context))
    for name in (*POSITIVE, *NEGATIVE):
        network = trained.get(name, trained[_BASE])
        if not context.is_complete(network):
            continue
        identity = {"model": name, "kind": "control", "trial": None, "specification": specification}
        broken = name if name not in trained else None
        payload = settings(network, identity, epsilons=[context.headline], control=broken, brief=name in POSITIVE)
        job = context.job(f"{FOLDER}/{name}-{specification}", "check", **payload)
        planned.append(Planned(job, {"settings": payload}))
    return planned


def report(context: Context) -> None:
    """Say when a check failed its own test: then no verdict of this stage is worth much."""
    if not are_wanted(context):
        return
    problems: list[str] = []
    controls = read_controls(context.ledger, problems)
    faults = [*controls.faults, *problems]
    context.ledger.event("controls", controls=len(controls.found), faults=faults)
    if faults:
        context.observer.note(f"the robustness stage's own checks failed: {'; '.join(faults)}")
