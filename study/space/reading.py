"""A space as read but not yet checked: what the rules between keys look at."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

from study.space.conditions import branches
from study.space.parameters import Parameter
from study.space.problems import Place, Problems
from study.space.ranges import Drafts
from study.space.schema import HOME
from study.space.sections import Sections

Branch = dict[str, Any]
"""One combination of choices: a value per active choice or fixed parameter, the `Parameter` itself for a range."""


@final
@dataclass(frozen=True)
class Reading:
    """Parameters, sections, and where each key stands."""

    parameters: tuple[Parameter, ...]
    drafts: Drafts
    sections: Sections
    root: Place
    """Of `space`; where problems go that have no key of their own in the file."""
    problems: Problems

    def known(self, *names: str) -> bool:
        """Tell whether keys that may stand under `space` could all be read."""
        broken = {f"{HOME[name]}.{name}" for name in names} & self.sections.broken
        return not broken and not set(names) & self.drafts.broken

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of this name, sampled or fixed; None where it does not stand under `space`."""
        return next((each for each in self.parameters if each.name == name), None)

    def place(self, name: str) -> Place:
        """Return where a key is given: under `space`, in its section, or else the top of the file."""
        if name in self.drafts.by_name:
            return self.drafts.by_name[name].place
        return self.place_in(HOME[name], name)

    def place_in(self, section: str, key: str) -> Place:
        """Return where a key of a section is given, or else the top of the file."""
        return self.sections.given.get(section, {}).get(key, self.root)

    def effective(self, name: str, branch: Branch) -> Any:
        """Return a key's value in a branch: of the space, else of its section (a `Parameter` where it is a range)."""
        return branch[name] if name in branch else getattr(self.sections.values[HOME[name]], name)

    def branches(self, names: Iterable[str]) -> Iterator[Branch]:
        """Play through every combination of choices that keys depend on.

        Raises:
            OverflowError: If there are too many.
        """
        return branches(self.parameters, names)


def highest(value: Any) -> Any:
    """Return the largest value that a key may take in a branch."""
    return value.high if isinstance(value, Parameter) else value


def after(place: Place) -> tuple[bool, int, int]:
    """Return a sort key of places: the file's before the overrides'."""
    return (place.source.override, place.line, place.column)
