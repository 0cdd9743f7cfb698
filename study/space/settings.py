"""A checked, frozen search space: what a study is, and what each of its points means.

Built by `reader.read_space`. Knows nothing of files, samplers or engines.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from study.space.anchors import Anchor
from study.space.parameters import Parameter, active_values
from study.space.quantities import RefusedError
from study.space.rules import NEEDS, discretisation_fault
from study.space.schema import (
    DISCRETISATIONS,
    HOME,
    RULES,
    SAMPLED_SECTIONS,
    Budget,
    Data,
    Distill,
    EarlyStopping,
    Objectives,
    Progress,
    Resources,
    Robustness,
    Sampler,
    Search,
    Student,
    Study,
    Teacher,
    Train,
    dump,
)

SCHEMA = 1
"""Version of `Space.document`."""

FREE = ("study.name", "budget", "resources", "robustness", "progress", "data.root")
"""What may differ when a study is resumed; everything else makes it another study."""

SMOKE_IMAGES = 16
"""Images that a smoke study attacks."""


@final
@dataclass(frozen=True, kw_only=True)
class Space:
    """One search space; equal files and overrides give equal spaces."""

    path: Path
    """File it was read from."""
    study: Study
    data: Data
    teachers: tuple[Teacher, ...]
    student: Student
    distill: Distill
    train: Train
    parameters: tuple[Parameter, ...]
    """In topological order, ties in the schema's order."""
    points: tuple[Anchor, ...] = ()
    """The anchors as pairs."""
    objectives: Objectives
    search: Search
    sampler: Sampler
    early_stopping: EarlyStopping
    budget: Budget
    resources: Resources
    robustness: Robustness
    progress: Progress
    epoch_limit: int | None = None
    """Cap on the epochs of every training; only a smoke study has one."""

    @property
    def anchors(self) -> tuple[dict[str, Any], ...]:
        """Points that are tried first: values of the sampled parameters that are active there."""
        return tuple(dict(point) for point in self.points)

    def settings(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything one training needs at a point, JSON-able; keys without effect there are absent.

        Args:
            point: A value per active sampled parameter. Other keys that may stand under `space` may be given, too, and
                replace the section's value (a twin is the point with alpha 0); inactive parameters are ignored.

        Returns:
            `student`, `distill`, `train` as mappings, `seed`, and `teacher` as an index.

        Raises:
            ValueError: If a name is unknown, a value breaks its key's rule, or an active parameter is missing.
        """
        unknown = [name for name in point if name not in RULES]
        if unknown:
            raise ValueError(f"a point may only have keys that may stand under `space`, but got {unknown}.")
        values = {name: value for name in point if self._is_fixed(name) for value in [point[name]]}
        values |= active_values(self.parameters, point)
        checked = {name: _checked(name, value) for name, value in values.items()}
        sections = {section: dump(getattr(self, section)) for section in SAMPLED_SECTIONS}
        for name, value in checked.items():
            if HOME[name] in sections:
                sections[HOME[name]][name] = value
        self._prune(sections)
        return {**sections, "seed": checked.get("seed", self.study.seed), "teacher": checked.get("teacher", 0)}

    def _is_fixed(self, name: str) -> bool:
        return all(parameter.name != name for parameter in self.parameters)

    def _prune(self, sections: dict[str, dict[str, Any]]) -> None:
        """Leave out what has no effect, fill atol, and limit the epochs."""
        merged = {key: value for section in sections.values() for key, value in section.items()}
        for need in NEEDS:
            if not need.met(merged[need.parent]):
                sections[HOME[need.key]].pop(need.key, None)
        student, train = sections["student"], sections["train"]
        for key in DISCRETISATIONS:
            if student.get(key, 0) is None:
                del student[key]
            elif key in student and (
                fault := discretisation_fault(student["solver"], student["horizon"], key, student[key])
            ):
                raise ValueError(f"`{key}` does not fit: {fault}.")
        if "atol" in student and student["atol"] is None:
            student["atol"] = student["rtol"]
        if self.epoch_limit is not None:
            train["epochs"] = min(train["epochs"], self.epoch_limit)

    def document(self) -> dict[str, Any]:
        """Return the space as one JSON-able mapping in canonical form, defaults filled in."""
        varied = {parameter.name for parameter in self.parameters}
        document: dict[str, Any] = {"schema": SCHEMA, "study": dump(self.study), "data": dump(self.data)}
        document["teachers"] = [dump(teacher) for teacher in self.teachers]
        for name in SAMPLED_SECTIONS:
            document[name] = {key: value for key, value in dump(getattr(self, name)).items() if key not in varied}
        document["space"] = {parameter.name: parameter.record() for parameter in self.parameters}
        document["anchors"] = [dict(sorted(anchor.items())) for anchor in self.anchors]
        for name in (
            "objectives",
            "search",
            "sampler",
            "early_stopping",
            "budget",
            "resources",
            "robustness",
            "progress",
        ):
            document[name] = dump(getattr(self, name))
        document["epoch_limit"] = self.epoch_limit
        return document

    def identity(self) -> str:
        """Return a hash (64 hex digits) over everything that may not change when the study is resumed."""
        kept = dict(_leaves(self.document()))
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()

    def smoke(self) -> "Space":
        """Return the space shrunk for a trial run: 2 trials, 1 epoch, few images, at most 2 epsilons, its own name."""
        short = [teacher.train.model_copy(update={"epochs": 1}) for teacher in self.teachers]
        teachers = (each.model_copy(update={"train": train}) for each, train in zip(self.teachers, short, strict=True))
        robustness = {"images": SMOKE_IMAGES, "epsilons": self.robustness.epsilons[:2]}
        return replace(
            self,
            study=self.study.model_copy(update={"name": f"{self.study.name}-smoke"}),
            teachers=tuple(teachers),
            train=self.train.model_copy(update={"epochs": 1}),
            search=self.search.model_copy(update={"images": SMOKE_IMAGES}),
            budget=self.budget.model_copy(update={"trials": 2}),
            robustness=self.robustness.model_copy(update=robustness),
            epoch_limit=1,
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in words what differs between two documents and may not change when a study is resumed.

    Args:
        old: `Space.document()` of the study on disk, read back from JSON.
        new: `Space.document()` of the study asked for.

    Returns:
        Sentences, sorted by key; empty exactly where the identities are equal.
    """
    before, after = dict(_leaves(json.loads(json.dumps(old)))), dict(_leaves(json.loads(json.dumps(new))))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            lines.append(f"{key} is new: {json.dumps(after[key])}")
        elif key not in after:
            lines.append(f"{key} is gone; it was {json.dumps(before[key])}")
        elif before[key] != after[key]:
            lines.append(f"{key} was {json.dumps(before[key])} and is now {json.dumps(after[key])}")
    return lines


def _checked(name: str, value: Any) -> Any:
    try:
        return RULES[name](value)
    except RefusedError as refused:
        raise ValueError(f"`{name}` {refused}") from refused


def _leaves(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return dotted keys and values of everything that identifies a study."""
    return [
        (key, value)
        for key, value in _flat("", document)
        if not any(key == free or key.startswith(f"{free}.") for free in FREE)
    ]


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        return [(prefix, value)]
    return [pair for key, inner in items for pair in _flat(f"{prefix}.{key}" if prefix else key, inner)]
