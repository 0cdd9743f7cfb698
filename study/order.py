"""What a command line asks of the driver."""

import shlex
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
    """The command that continues this study, as its files keep it: with the interpreter called `python`."""
    interpreter: str = "python"
    """The interpreter as the user called it, for commands that are printed; its path is this machine's business."""
    part: Part = "all"
    resume: Resume = "auto"
    output: Path | None = None
    """The study's own folder; None = results/<name>."""
    address: str | None = None
    """Ray cluster; None = a private local one."""
    insecure: bool = False
    """Join also a cluster that demands no token."""
    fork: Path | None = None
    """Study from which a new one is begun that takes over what it would have measured itself."""
    validate: bool = False
    dry_run: bool = False
    smoke: bool = False
    generation: int | None = None
    """Trials of a generation; None where trials are asked for one by one."""
    copy_to: str | None = None
    """Address of a folder to which the complete study is copied; None for no copy."""

    @property
    def folder(self) -> Path:
        """The study's folder as asked for, before `resume: never` looks for a free one."""
        return self.output if self.output is not None else Path("results") / self.space.study.name

    def command_without(self, *options: str) -> list[str]:
        """Return the words of the command, to be typed here, but for options that take a value, in either spelling."""
        words, kept = iter(shlex.split(self.command)[1:]), [self.interpreter]
        for word in words:
            if word in options:
                next(words, None)
            elif not word.startswith(tuple(f"{option}=" for option in options)):
                kept.append(word)
        return kept
