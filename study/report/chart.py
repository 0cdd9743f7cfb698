"""A chart on the page: one figure, or several that the reader chooses from."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chart:
    """A place for a figure, with the variants a reader may choose from."""

    name: str
    choice: str
    """What is chosen, e.g. epsilon; empty with one variant."""
    variants: tuple[tuple[str, dict[str, Any]], ...]
    """Label and figure of each."""
    alt: str
    """One sentence for those who do not see it."""
