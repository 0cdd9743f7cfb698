"""A checked, frozen search space: what a study is, and what each of its points means.

Built by `reader.read_space`. Knows nothing of files, samplers or engines.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

from study.fingerprint import fingerprint
from study.space.anchors import Anchor
from study.space.contrast import Contrast
from study.space.measure_sections import AUTO, Objectives, Probes, Robustness, Search
from study.space.network_sections import AttackSolve, Distill, Solve, Student, Teacher, Train
from study.space.parameters import Parameter, active_values
from study.space.pruning import pruned, reads_one_teacher, solves
from study.space.quantities import RefusedError
from study.space.schema import (
    HOME,
    RULES,
    SAMPLED_SECTIONS,
    Budget,
    Constraints,
    Data,
    EarlyStopping,
    Progress,
    Resources,
    Sampler,
    Study,
    WarmStart,
)
from study.space.section import dump
from study.space.solving import CHANGES

SCHEMA = 1
"""Version of `Space.document`."""

FREE = ("study.name", "budget", "resources", "robustness", "probes", "progress", "data.root", "warm_start.study")
"""What may differ when a study is resumed; everything else makes it another study."""

WHOLE_SECTIONS = (
    *("objectives", "search", "sampler", "early_stopping", "constraints", "warm_start", "budget"),
    *("resources", "robustness", "probes", "progress"),
)
"""Sections that stand in the document as they are."""

SMOKE_IMAGES = 16
"""Images that a smoke study attacks and probes."""

SMOKE_GENERATIONS = 2
"""Most networks that a smoke study trains one after another in a trial."""


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
    evaluate: Solve
    attack: AttackSolve
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
    constraints: Constraints
    warm_start: WarmStart
    budget: Budget
    resources: Resources
    robustness: Robustness
    probes: Probes
    progress: Progress
    contrast: Contrast | None = None
    """The one question named before the first trial."""
    epoch_limit: int | None = None
    """Cap on the epochs of every training; only a smoke study has one."""
    asked_at: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where the file, or an override, asks for files: place by dotted key, for whoever finds that one is missing."""

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
            `student`, `distill`, `train`; `evaluate` and `attack`, which hold only what they change; `seed`, and
            `teacher`, the position of the one teacher that is read.

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
        kept = pruned(sections)
        self._shorten(kept)
        student = kept["student"]
        changes = solves(student, {name: getattr(self, name) for name in CHANGES})
        settings = {**kept, **changes, "seed": checked.get("seed", self.study.seed)}
        if reads_one_teacher(kept["distill"]):
            settings["teacher"] = checked.get("teacher", 0)
        return settings

    def _is_fixed(self, name: str) -> bool:
        return all(parameter.name != name for parameter in self.parameters)

    def _shorten(self, sections: dict[str, dict[str, Any]]) -> None:
        """Limit what a smoke study trains."""
        if self.epoch_limit is None:
            return
        sections["train"]["epochs"] = min(sections["train"]["epochs"], self.epoch_limit)
        if "generations" in sections["distill"]:
            sections["distill"]["generations"] = min(sections["distill"]["generations"], SMOKE_GENERATIONS)

    def document(self) -> dict[str, Any]:
        """Return the space as one JSON-able mapping in canonical form, defaults filled in."""
        varied = {parameter.name for parameter in self.parameters if not parameter.conditions}
        document: dict[str, Any] = {"schema": SCHEMA, "study": dump(self.study), "data": dump(self.data)}
        document["teachers"] = [dump(teacher) for teacher in self.teachers]
        for name in SAMPLED_SECTIONS:
            document[name] = {key: value for key, value in dump(getattr(self, name)).items() if key not in varied}
        document |= {name: dump(getattr(self, name)) for name in CHANGES}
        document["space"] = {parameter.name: parameter.record() for parameter in self.parameters}
        document["anchors"] = [dict(sorted(anchor.items())) for anchor in self.anchors]
        document["contrast"] = self.contrast.record() if self.contrast is not None else None
        document |= {name: dump(getattr(self, name)) for name in WHOLE_SECTIONS}
        document["epoch_limit"] = self.epoch_limit
        return document

    def identity(self) -> str:
        """Return a hash (64 hex digits) over everything that may not change when the study is resumed."""
        kept = dict(_leaves(self.document()))
        return fingerprint(kept, 64)

    def smoke(self) -> "Space":
        """Return the space shrunk for a trial run: 2 trials, 1 epoch, few images, no controls, its own name."""
        short = [teacher.train.model_copy(update={"epochs": 1}) for teacher in self.teachers]
        teachers = (each.model_copy(update={"train": train}) for each, train in zip(self.teachers, short, strict=True))
        robustness = {
            "images": SMOKE_IMAGES,
            "check_images": SMOKE_IMAGES,
            "controls": False,  # networks of one epoch are neither healthy nor masked
            "epsilons": _few(self.robustness.epsilons),
            "replicates": min(1, self.robustness.replicates),
            "random_students": min(1, self.robustness.random_students),
        }
        return replace(
            self,
            study=self.study.model_copy(update={"name": f"{self.study.name}-smoke"}),
            teachers=tuple(teachers),
            train=self.train.model_copy(update={"epochs": 1}),
            search=self.search.model_copy(update={"images": SMOKE_IMAGES}),
            budget=self.budget.model_copy(update={"trials": 2}),
            robustness=self.robustness.model_copy(update=robustness),
            probes=self.probes.model_copy(update={"images": SMOKE_IMAGES}),
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


def _few(epsilons: tuple[float | Literal["auto"], ...]) -> tuple[float | Literal["auto"], ...]:
    """Keep at most two radii; `auto` stands for two."""
    return (AUTO,) if AUTO in epsilons else epsilons[:2]


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
