"""Which keys matter only for some values of others; what has no effect is refused as a range and left out of settings.

The few keys that may be given and still count for nothing everywhere are those whose value is harmless to keep while
another is tried out, such as a temperature beside `method: none`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from nodekd.distill.catalog import ENSEMBLE_METHODS, FEATURE_METHODS, FEED_METHODS, GENERATION_METHODS, LOGIT_METHODS
from nodekd.models.catalog import is_ode, is_stepped, takes_dynamics
from nodekd.ode.integrator import ADAPTIVE, FIXED
from study.space.network_sections import DISCRETISATIONS, LEARNED, TOLERANCES
from study.space.parameters import Parameter
from study.space.quantities import Name
from study.space.ranges import Drafts, forget
from study.space.reading import Reading
from study.space.schema import HOME, RULES, SECTIONS
from study.space.sections import Sections

MOST_NAMES = 6
"""Most names that an advice lists."""


@final
@dataclass(frozen=True)
class Need:
    """A key that only matters for some values of another key."""

    key: str
    parent: str
    met: Callable[[Any], bool]
    """Whether the key matters at this value of the parent."""
    strict: bool = True
    """Whether it is a mistake to give the key where it matters nowhere."""


def _is_learned(damping: object) -> bool:
    return damping == LEARNED


def _is_several(ensemble: float) -> bool:
    return ensemble > 1


def _chooses(key: str) -> Callable[[str | None], bool]:
    return lambda chosen: chosen in (None, key)


_DIRECT: tuple[Need, ...] = (
    *(Need(key, "arch", is_stepped) for key in ("channels", "norm", "time", "solver", "horizon")),
    *(Need(key, "arch", is_ode) for key in ("blocks", "gain", "gradient")),
    Need("adjoint_steps", "gradient", "adjoint".__eq__),
    Need("dynamics", "arch", takes_dynamics),
    Need("damping", "dynamics", "plain".__ne__),
    Need("damping_decay", "damping", _is_learned),
    *(Need(key, "solver", FIXED.__contains__) for key in ("discretisation", *DISCRETISATIONS)),
    *(Need(key, "discretisation", _chooses(key), strict=False) for key in DISCRETISATIONS),
    *(Need(key, "solver", ADAPTIVE.__contains__) for key in TOLERANCES),
    *(Need(key, "optimizer", "sgd".__eq__, strict=False) for key in ("momentum", "nesterov")),
    *(Need(key, "method", LOGIT_METHODS.__contains__, strict=False) for key in ("temperature", "alpha", "kl_scale")),
    *(Need(key, "alpha", lambda alpha: alpha != 0, strict=False) for key in ("temperature", "kl_scale")),
    Need("generations", "method", GENERATION_METHODS.__contains__),
    Need("ensemble", "method", ENSEMBLE_METHODS.__contains__),
    Need("repeat_teacher", "ensemble", _is_several),
    *(Need(key, "method", FEATURE_METHODS.__contains__) for key in ("beta", "beta_reduction", "beta_divided")),
    Need("beta_divided", "ensemble", _is_several),
    *(
        Need(key, "method", FEED_METHODS.__contains__)
        for key in ("feature_distance", "feature_normalise", "translator", "translator_shared", "feature_times")
    ),
    Need("translator_shared", "ensemble", _is_several),
    Need("feature_times", "arch", is_ode),
)


def _closed(direct: tuple[Need, ...]) -> tuple[Need, ...]:
    """Add what follows: a key that hangs on an idle key is idle, too. Parents must stand before their children."""
    closed: list[Need] = []
    for need in direct:
        inherited = [
            Need(need.key, up.parent, up.met, need.strict and up.strict) for up in closed if up.key == need.parent
        ]
        known = {(each.key, each.parent, each.met) for each in closed}
        closed += [each for each in (*inherited, need) if (each.key, each.parent, each.met) not in known]
    return tuple(closed)


NEEDS: tuple[Need, ...] = _closed(_DIRECT)
"""What `Space.settings` leaves out, and what a range must not be wasted on."""


def idle_keys(values: Mapping[str, Any]) -> set[str]:
    """Return the keys that have no effect at a point.

    Args:
        values: Value of every key of the student, its distillation and its training.
    """
    idle = {need.key for need in NEEDS if not need.met(values[need.parent])}
    if values["alpha"] == 0 and values["method"] in LOGIT_METHODS - FEATURE_METHODS:
        idle |= {"ensemble", "repeat_teacher"}  # nobody is listened to
    return idle


def check_effect(reading: Reading, need: Need) -> None:
    """Note a range that is wasted somewhere, or a key that is wasted everywhere."""
    parameter = reading.parameter(need.key)
    given = parameter is not None or need.key in reading.sections.given[HOME[need.key]]
    if not given or not reading.known(need.key, need.parent):
        return
    values: list[Any] = []
    for branch in reading.branches((need.key, need.parent)):
        if parameter is None or need.key in branch:
            values.append(reading.effective(need.parent, branch))
    idle = [value for value in values if not isinstance(value, Parameter) and not need.met(value)]
    sampled = parameter is not None and parameter.sampled
    wholly = len(idle) == len(values)
    # A single value may stand beside choices that ignore it.
    if idle and (sampled or (wholly and need.strict and not _is_harmless(reading, need, parameter))):
        _note_idle(reading, need, idle[0], wholly=wholly)


def _is_harmless(reading: Reading, need: Need, parameter: Parameter | None) -> bool:
    """Tell whether a key only says what holds anyway; a solver's keys never do."""
    home = HOME[need.key]
    value = parameter.value if parameter is not None else getattr(reading.sections.values[home], need.key)
    return need.parent != "solver" and value == SECTIONS[home].model_fields[need.key].default


def _note_idle(reading: Reading, need: Need, value: Any, *, wholly: bool) -> None:
    rule = RULES[need.parent]
    good = [name for name in rule.names if need.met(name)] if isinstance(rule, Name) else []
    parent = reading.parameter(need.parent)
    choices = parent.choices if parent is not None and parent.kind == "choice" else ()
    used = [each for each in choices if need.met(each)]
    reason = f"has no effect where {need.parent} is {value}"
    if need.key in DISCRETISATIONS and need.parent == "solver":
        reason = f"is given for {value}, an adaptive solver, which chooses its own steps"
    advice = f"add when: {{{need.parent}: [{', '.join(map(_written, used))}]}}" if used and not wholly else "remove it"
    if not used and good:
        more = ", ..." if len(good) > MOST_NAMES else ""
        advice = f"remove it, or choose {need.parent} from {', '.join(good[:MOST_NAMES])}{more}"
    reading.problems.add(reading.place(need.key), f"`{need.key}` {reason}; {advice}.")


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def drop_overridden(drafts: Drafts, sections: Sections) -> None:
    """Drop what an override leaves without effect, e.g. temperature after `space.alpha=0`."""
    for need in NEEDS:
        value = _overriding_value(need.parent, drafts, sections)
        if value is None or need.met(value[0]):
            continue
        draft = drafts.by_name.get(need.key)
        if draft is not None and not draft.place.source.override:
            drafts.drop(need.key)
        given = sections.given[HOME[need.key]]
        if need.strict and need.key in given and not given[need.key].source.override:
            forget(need.key, sections)


def _overriding_value(name: str, drafts: Drafts, sections: Sections) -> tuple[Any] | None:
    """Return the value to which an override fixes a key, in a tuple; None where none does."""
    if drafts.overridden(name):
        return (drafts.by_name[name].parameter.value,)
    place = sections.given[HOME[name]].get(name)
    if place is None or not place.source.override or name in drafts.by_name:
        return None
    return (getattr(sections.values[HOME[name]], name),)
