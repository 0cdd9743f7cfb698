"""What every node of a joined cluster must have, found out before the first job: the folder, the packages, the data.

`look_around` runs on a node and says what it finds there; `faults` compares that with what the driver has; `table` says
it to a person. How a node is reached is known to `ray_cluster.py`.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, final

from study.disk_space import free_bytes
from study.errors import EnvironmentFault

PACKAGES = ("nodekd", "torch", "torchvision", "torchdiffeq", "optuna", "ray", "numpy")
"""What must be of the same version everywhere, or numbers of one study are not of one kind."""
PATIENCE_S = 60.0
"""Seconds in which every node must have answered."""
LEAST_FREE_GB = 1.0
"""Space that a study's folder must have left."""

OWN_FILES = "nodekd's files"

Check = Literal["folder", "python", "packages", "data", "gpu", "disk"]
CHECKS: tuple[Check, ...] = ("folder", "python", "packages", "data", "gpu", "disk")
_WHAT_TO_DO: Mapping[Check, str] = {
    "folder": "choose with --output a folder that every node mounts at this path, on a file system with hard links.",
    "python": "run the same minor version of Python everywhere.",
    "packages": "install the driver's versions there (the same commit, pip install -e . with its constraints.txt).",
    "data": "give every node the same images at data.root.",
    "gpu": "mend the node's driver, or start its Ray with the --num-gpus that it has.",
    "disk": f"free at least {LEAST_FREE_GB:g} GB where the results go.",
}
_FOLDER = ".probe-"
_NONCE = "from-the-driver"


# ---------------------------------------------------------------- on a node


@final
@dataclass(frozen=True)
class Question:
    """What a node is asked; travels to it."""

    folder: str
    """Where the study's files go."""
    nonce: str
    """Text that the driver left there."""
    packages: tuple[str, ...] = PACKAGES
    split_hash: Callable[[], str] | None = None
    """Reads the data and names its division into splits; importable on the node."""


@final
@dataclass(frozen=True)
class Answer:
    """What a node has."""

    folder: str
    """Empty where the folder is shared and can be used, otherwise what went wrong."""
    python: str
    packages: Mapping[str, str | None]
    """Version by name; None where it is not installed."""
    data: str
    """Hash of the splits, or what went wrong."""
    gpus: tuple[str, ...]
    """Names of the graphics cards that the machine has, whoever they are given to."""
    free_gb: float


def look_around(question: Question) -> Answer:
    """Say what the machine has that runs this; what goes wrong is said too, and never raised."""
    return Answer(
        folder=_folder_fault(Path(question.folder), question.nonce),
        python=platform.python_version(),
        packages={**{name: _version(name) for name in question.packages}, OWN_FILES: _own_files()},
        data=_data(question.split_hash),
        gpus=_gpu_names(),
        free_gb=_free_gb(Path(question.folder)),
    )


def _folder_fault(folder: Path, nonce: str) -> str:
    """Do what a worker does with results: read what the driver wrote, write, read back, rename, link."""
    shared = folder / f"{_FOLDER}{nonce}"
    try:
        if (shared / _NONCE).read_text(encoding="utf-8") != nonce:
            return "another folder than the driver's"
    except FileNotFoundError:
        return "not shared: the driver's file is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    own = shared / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        own.write_text(nonce, encoding="utf-8")
        if own.read_text(encoding="utf-8") != nonce:
            return "what is written is not read back"
        renamed = own.replace(own.with_suffix(".renamed"))
        own.hardlink_to(renamed)
    except OSError as error:
        return f"cannot be written, renamed and linked in ({error.strerror})"
    return ""


def _version(package: str) -> str | None:
    """Return a version without what is built in: torch 2.10.0+cpu and 2.10.0+cu128 go together."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def _own_files() -> str:
    """Name what stands in this project's files: two checkouts have one version and may give two results."""
    found = hashlib.sha256()
    for package in ("nodekd", "study"):
        spec = find_spec(package)
        home = Path(spec.origin).parent if spec is not None and spec.origin else Path()
        for path in sorted(home.rglob("*.py")) if spec is not None else []:
            found.update(f"{package}/{path.relative_to(home).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def _data(split_hash: Callable[[], str] | None) -> str:
    if split_hash is None:
        return ""
    try:
        return split_hash()
    except Exception as error:  # noqa: BLE001  whatever is wrong with the data there is the answer
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:160]


def _gpu_names() -> tuple[str, ...]:
    """Ask the driver of the cards, not torch: a task that asks for no card is shown none."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
    return ()


def _free_gb(folder: Path) -> float:
    try:
        return free_bytes(folder) / 1e9
    except OSError:
        return 0.0


# ---------------------------------------------------------------- in the driver


@final
@dataclass(frozen=True)
class Needs:
    """What a study needs of every node, besides the driver's packages."""

    folder: Path
    """Of the study; exists."""
    split_hash: Callable[[], str]
    """Reads the data and names its division into splits; importable on a node."""


@final
@dataclass(frozen=True)
class Node:
    """A node as Ray describes it."""

    name: str
    """Address, and something that tells several on one machine apart."""
    cpus: float
    gpus: float

    def takes(self, cpus: float, gpus: float) -> bool:
        """Tell whether a job fits on it; the head of a cluster often does no work."""
        return self.cpus >= cpus and self.gpus >= gpus and self.cpus + self.gpus > 0


@final
@dataclass(frozen=True)
class Row:
    """A node, what it answered (or why it did not), and what is wrong with it."""

    node: Node
    works: bool
    """Whether jobs can run there; where none can, nothing is asked of it."""
    answer: Answer | str
    faults: Mapping[Check, str] = field(default_factory=dict)


@contextlib.contextmanager
def left_in(folder: Path) -> Iterator[str]:
    """Leave a file in the study's folder for the nodes to find; yield its text; clear up what they leave."""
    for old in folder.glob(f"{_FOLDER}*"):  # of a driver that was killed meanwhile
        shutil.rmtree(old, ignore_errors=True)
    nonce = uuid.uuid4().hex[:16]
    shared = folder / f"{_FOLDER}{nonce}"
    shared.mkdir(parents=True)
    try:
        (shared / _NONCE).write_text(nonce, encoding="utf-8")
        yield nonce
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def row_of(node: Node, answer: Answer | str, own: Answer, asked: tuple[float, float]) -> Row:
    """Compare a node with the driver.

    Args:
        node: As Ray describes it.
        answer: What it said; a sentence where it did not answer.
        own: What the driver's own machine says of itself.
        asked: CPUs and GPUs of a job.
    """
    works = node.takes(*asked)
    return Row(node, works, answer, {} if isinstance(answer, str) else _faults(node, answer, own, asked[1] > 0))


def _faults(node: Node, answer: Answer, own: Answer, needs_gpu: bool) -> dict[Check, str]:
    found: dict[Check, str] = {}
    if answer.folder:
        found["folder"] = answer.folder
    if _minor(answer.python) != _minor(own.python):
        found["python"] = f"{answer.python}, the driver has {own.python}"
    other = {
        name: answer.packages.get(name) for name, mine in own.packages.items() if answer.packages.get(name) != mine
    }
    if other:
        said = (f"{name} {theirs or 'missing'}, the driver has {own.packages[name]}" for name, theirs in other.items())
        found["packages"] = "; ".join(said)
    if answer.data != own.data:
        is_hash = len(answer.data) == len(own.data) and " " not in answer.data
        found["data"] = f"other images: {answer.data[:12]} instead of {own.data[:12]}" if is_hash else answer.data
    if needs_gpu and node.gpus > len(answer.gpus):
        found["gpu"] = f"Ray counts {node.gpus:g}, the machine has {len(answer.gpus)}"
    if answer.free_gb < LEAST_FREE_GB and "folder" not in found:
        found["disk"] = f"{answer.free_gb:.2f} GB free"
    return found


def _minor(python: str) -> list[str]:
    return python.split(".")[:2]


def judge(rows: Sequence[Row], asked: tuple[float, float]) -> str:
    """Say in one line that all is well.

    Args:
        rows: Every node that is alive.
        asked: CPUs and GPUs of a job.

    Raises:
        EnvironmentFault: With a table, if a node where jobs can run lacks something, or there is no such node.
    """
    working = [row for row in rows if row.works]
    if not working:
        raise EnvironmentFault(
            f"A job runs on one node and asks for resources.cpus={asked[0]:g} and resources.gpus={asked[1]:g}, but no "
            f"node has that:\n{table(rows)}\nAsk for less, or add a node."
        )
    bad = [row for row in working if row.faults or isinstance(row.answer, str)]
    if bad:
        raise EnvironmentFault(
            f"Every node must be able to do a job as the driver would, but {len(bad)} of {len(working)} cannot:\n"
            f"{table(rows)}\n{advice(bad)}"
        )
    idle = len(rows) - len(working)
    return (
        f"{len(working)} node{'s' * (len(working) != 1)} can write, rename and link in the study's folder and have the "
        f"driver's packages and data" + (f"; {idle} more take{'s' * (idle == 1)} no jobs" if idle else "")
    )


def table(rows: Sequence[Row]) -> str:
    """Lay the nodes out, a line each and a column per check."""
    lines = [("node", *CHECKS), *([row.node.name, *_cells(row)] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cells(row: Row) -> list[str]:
    if isinstance(row.answer, str):
        return [row.answer if row.works else f"takes no jobs ({row.answer})", *[""] * (len(CHECKS) - 1)]
    fine: dict[Check, str] = {
        "folder": "ok",
        "python": row.answer.python,
        "packages": "ok",
        "data": "ok" if row.answer.data else "-",
        "gpu": _counted(row.answer.gpus),
        "disk": f"{row.answer.free_gb:.0f} GB",
    }
    cells = [row.faults.get(check, fine[check]) for check in CHECKS]
    return cells if row.works else ["takes no jobs", *cells[1:]]


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or "-"


def advice(rows: Sequence[Row]) -> str:
    """Say what to do about each kind of fault, and about nodes that did not answer."""
    kinds: list[Check] = [check for check in CHECKS if any(check in row.faults for row in rows)]
    lines = [f"{check}: {_WHAT_TO_DO[check]}" for check in kinds]
    if any(isinstance(row.answer, str) for row in rows):
        lines.append("a node that does not answer: see that it is up and has this project installed, or take it out.")
    return "\n".join(lines)
