"""What every section of a file is: a frozen pydantic model whose keys carry their rules."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic import PlainValidator as Rule

from study.space.quantities import Quantity


class Section(BaseModel):
    """A mapping of the file: unknown keys are refused, values never change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def quantities(model: type[Section]) -> dict[str, Quantity]:
    """Return the rule of every plain key of a section."""
    rules: dict[str, Quantity] = {}
    for name, field in model.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Rule) and isinstance(mark.func, Quantity):
                rules[name] = mark.func
    return rules


def dump(section: Section) -> dict[str, Any]:
    """Return a section as plain JSON-able values, lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in section.model_dump().items()}
