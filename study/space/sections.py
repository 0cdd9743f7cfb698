"""The plain sections of a file, checked and filled with defaults; what each key means is in `schema`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, final

from pydantic import ValidationError

from nodekd.attacks.catalog import EPSILONS
from study.space.measure_sections import AUTO
from study.space.network_sections import Teacher
from study.space.problems import Place, Problems, closest
from study.space.quantities import NOT_AVAILABLE, RefusedError, got
from study.space.schema import LATER_KEYS, NAME_PATTERN, SECTIONS, TOP_KEYS
from study.space.section import Section
from study.space.tree import Mapping, Node, Sequence, value_of

SectionT = TypeVar("SectionT", bound=Section)


@final
@dataclass
class Sections:
    """The sections as read, and what later checks need to know about the reading."""

    values: dict[str, Any] = field(default_factory=dict)
    """Section by name; keys that broke a rule hold their default."""
    given: dict[str, dict[str, Place]] = field(default_factory=dict)
    """Where each key stands, per section, if it stands in the file or an override with a value other than null."""
    broken: set[str] = field(default_factory=set)
    """Keys that broke a rule, as `section.key`; checks that need them are skipped."""


def read_sections(root: Mapping, path: Path, problems: Problems) -> Sections:
    """Check every section except `space`, `anchors` and `contrast`.

    Args:
        root: The whole file.
        path: Its path; the stem is the default name of the study.
        problems: Receives every broken rule.
    """
    for key, entry in root.entries.items():
        if key not in TOP_KEYS:
            note_unknown(key, "", TOP_KEYS, entry.place, problems)
    sections = Sections()
    for name, model in SECTIONS.items():
        entry = root.entries.get(name)
        mapping = as_mapping(entry.node, f"`{name}`", problems) if entry is not None else Mapping(root.place)
        sections.values[name], broken = validated(model, mapping, name, problems)
        sections.broken |= {f"{name}.{key}" for key in broken}
        stated = {key: each for key, each in mapping.entries.items() if value_of(each.node) is not None}
        sections.given[name] = {key: each.place for key, each in stated.items()}
    entry = root.entries.get("teachers")
    sections.values["teachers"] = (Teacher(),) if entry is None else _read_teachers(entry.node, problems)
    sections.given["teachers"] = {} if entry is None else {"teacher": entry.place}
    _fill_defaults(sections, path)
    _check_epsilons(sections, root.place, problems)
    return sections


def note_unknown(key: str, section: str, known: Iterable[str], place: Place, problems: Problems) -> None:
    """Note a key that does not exist, or not yet, with the key that was probably meant."""
    known = tuple(known)
    where = f"`{section}`" if section else "a search space"
    if key in LATER_KEYS.get(section, ()):
        problems.add(place, f"`{key}` in {where} {NOT_AVAILABLE}; remove it.")
        return
    homes = [f"{name}.{key}" for name, model in SECTIONS.items() if key in model.model_fields]
    suggestion = closest(key, known) or (homes[0] if homes else None)
    listed = f", which knows {', '.join(known)}" if suggestion is None else ""
    problems.add(place, f"{key[:60]!r} is not a key of {where}{listed}.", suggestion)


def as_mapping(node: Node, what: str, problems: Problems) -> Mapping:
    """Return a mapping node; nothing is an empty mapping, anything else is a problem."""
    if isinstance(node, Mapping):
        return node
    value = value_of(node)
    if value is not None:
        problems.add(node.place, f"{what} must be a mapping of keys to values, but got {got(value)}.")
    return Mapping(node.place)


def validated(model: type[SectionT], mapping: Mapping, where: str, problems: Problems) -> tuple[SectionT, set[str]]:
    """Build a section from its node and note every key that breaks a rule.

    Returns:
        The section with defaults in place of broken keys, and the broken keys.
    """
    values = value_of(mapping)
    assert isinstance(values, dict), "a mapping has a mapping's value"
    try:
        return model.model_validate(values), set()
    except ValidationError as error:
        faults = error.errors()
    for fault in faults:
        _note_fault(fault["type"], fault["loc"], fault.get("ctx", {}).get("error"), mapping, where, problems, model)
    broken = {str(fault["loc"][0]) for fault in faults}
    return model.model_validate({key: value for key, value in values.items() if key not in broken}), broken


def _note_fault(
    kind: str,
    loc: tuple[int | str, ...],
    refused: object,
    mapping: Mapping,
    where: str,
    problems: Problems,
    model: type[Section],
) -> None:
    parts = [str(part) for part in loc]
    dotted = ".".join([where, *parts])
    place, value = _find(mapping, parts, key=kind == "extra_forbidden")
    if kind == "extra_forbidden":
        note_unknown(parts[-1], ".".join([where, *parts[:-1]]), _known(model, parts[:-1]), place, problems)
    elif isinstance(refused, RefusedError):
        problems.add(place, f"`{dotted}` {refused}", refused.suggestion)
    elif kind == "missing":
        problems.add(place, f"`{dotted}` is missing; give it.")
    elif kind == "literal_error":
        problems.add(place, f"`{dotted}` must be maximize, but got {got(value)}.", "maximize")
    else:
        problems.add(place, f"`{dotted}` must be a mapping of keys to values, but got {got(value)}.")


def _find(mapping: Mapping, parts: list[str], *, key: bool) -> tuple[Place, object]:
    """Return the place of the key or the value that pydantic complains about, and the value."""
    node: Node = mapping
    place = mapping.place
    for part in parts:
        entry = node.entries.get(part) if isinstance(node, Mapping) else None
        if entry is None:
            return place, None
        node = entry.node
        place = entry.place
    return (place if key else node.place), value_of(node)


def _known(model: type[Section], parts: list[str]) -> list[str]:
    for part in parts:
        inner = model.model_fields[part].annotation
        members = [inner, *getattr(inner, "__args__", ())]
        model = next(each for each in members if isinstance(each, type) and issubclass(each, Section))
    return list(model.model_fields)


def _read_teachers(node: Node, problems: Problems) -> tuple[Teacher, ...]:
    if not isinstance(node, Sequence) or not node.items:
        what = "[]" if isinstance(node, Sequence) else got(value_of(node))
        problems.add(node.place, f"`teachers` must be a list such as [{{arch: resnet20}}], but got {what}.")
        return (Teacher(),)
    return tuple(_read_teacher(item, f"teachers.{index}", problems) for index, item in enumerate(node.items))


def _read_teacher(node: Node, where: str, problems: Problems) -> Teacher:
    if value_of(node) is None:
        problems.add(node.place, f"`{where}` must be a mapping such as {{arch: resnet20}}, but got nothing.")
    mapping = as_mapping(node, f"`{where}`", problems)
    teacher, _ = validated(Teacher, mapping, where, problems)
    loaded = "checkpoint" in mapping.entries and value_of(mapping.entries["checkpoint"].node) is not None
    train, trained_on = mapping.entries.get("train"), mapping.entries.get("trained_on")
    if loaded and train is not None:
        problems.add(train.place, f"`{where}.train` has no effect on a loaded checkpoint; remove one of the two.")
    if not loaded and trained_on is not None and value_of(trained_on.node) is not None:
        problems.add(
            trained_on.place, f"`{where}.trained_on` describes a checkpoint, and none is given; remove it or add one."
        )
    return teacher


def _fill_defaults(sections: Sections, path: Path) -> None:
    values = sections.values
    if "name" not in sections.given["study"]:
        values["study"] = values["study"].model_copy(update={"name": _name_from(path)})
    values["teachers"] = tuple(_filled(teacher, values["study"].seed) for teacher in values["teachers"])
    grids = EPSILONS[values["data"].name]
    if values["search"].epsilon is None:
        headline = grids[values["search"].norm].headline
        values["search"] = values["search"].model_copy(update={"epsilon": float(headline)})
    if not values["robustness"].epsilons:
        stage = tuple(float(epsilon) for epsilon in grids[values["robustness"].norm].stage)
        values["robustness"] = values["robustness"].model_copy(update={"epsilons": stage})


def _name_from(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100]
    return name if re.fullmatch(NAME_PATTERN, name) else "study"


def _filled(teacher: Teacher, seed: int) -> Teacher:
    trained_on = teacher.trained_on or ("unknown" if teacher.checkpoint is not None else None)
    own_seed = seed if teacher.seed is None else teacher.seed
    return teacher.model_copy(update={"seed": own_seed, "trained_on": trained_on})


def _check_epsilons(sections: Sections, fallback: Place, problems: Problems) -> None:
    search, robustness = sections.values["search"], sections.values["robustness"]
    for section, key, radii, norm in (
        ("search", "epsilon", (search.epsilon,), search.norm),
        ("robustness", "epsilons", robustness.epsilons, robustness.norm),
    ):
        epsilon = max((radius for radius in radii if radius != AUTO), default=0.0)
        if norm == "linf" and epsilon > 1:
            place = sections.given[section].get(key, fallback)
            problems.add(
                place, f"`{section}.{key}` must be <= 1 under linf (images are in [0, 1]), but got {epsilon:g}."
            )
