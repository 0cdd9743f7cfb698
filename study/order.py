"""What a command line asks of the driver."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from study.space.settings import Space

Part = Literal["all", "search", "robustness", "report"]
PARTS: tuple[Part, ...] = ("all", "search", "robustness", "report")
Resume = Literal["auto", "must", "never"]
RESUMES: tuple[Resume, ...] = ("auto", "must", "never")


@final
@dataclass(frozen=True)
class Order:
    """One launch."""

    space: Space
    source: Path
    """The file the space was read from; copied into the study's folder."""
    command: str
    """The command that continues this study."""
    part: Part = "all"
    resume: Resume = "auto"
    output: Path | None = None
    """The study's own folder; None = results/<name>."""
    address: str | None = None
    """Ray cluster; None = a private local one."""
    validate: bool = False
    dry_run: bool = False
    smoke: bool = False

    @property
    def folder(self) -> Path:
        """The study's folder as asked for, before `resume: never` looks for a free one."""
        return self.output if self.output is not None else Path("results") / self.space.study.name
