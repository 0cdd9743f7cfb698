"""Which study a folder holds, and whether this launch may go on with it."""

import itertools
import shlex
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nodekd.attacks.catalog import EPSILONS
from study.access_log import prepare_log
from study.documents import read_document
from study.durable import replace_bytes, replace_json
from study.epsilons import headline
from study.errors import EnvironmentFault, ResumeConflict
from study.lease import utc_now
from study.ledger import Ledger, last_mark
from study.order import Order
from study.provenance import provenance
from study.space.settings import differences
from study.stages.context import Facts
from study.stages.fork import RECORD, Fork, fork_of, is_torn, source_study


def study_folder(order: Order) -> Path:
    """Return the folder this launch works in.

    Raises:
        ResumeConflict: If the study there is another one, or there is none and there must be one.
        EnvironmentFault: If the folder holds something else.
    """
    if order.resume == "never":
        return _free_name(order.folder)
    folder = order.folder if order.fork is None else _folder_of_fork(order, order.fork)
    stored = read_document(folder / "study.json")
    if stored is None:
        if order.resume == "must":
            raise ResumeConflict(
                f"--resume must needs an earlier study, but {folder} holds none. Drop --resume to begin."
            )
        if folder.exists() and not folder.is_dir():
            raise EnvironmentFault(f"A study needs a folder, but {folder} is a file. Choose another --output.")
        if not _is_unused(folder):
            raise EnvironmentFault(
                f"A study needs a folder of its own, but {folder} holds other files. Choose another --output."
            )
        return folder
    if stored.get("generation") != order.generation:
        raise ResumeConflict(
            f"{folder} was begun with {_generations(stored.get('generation'))}, but is to go on with "
            f"{_generations(order.generation)}, which would be another study. Give the same option, or begin a new "
            "study with --resume never."
        )
    changed = differences(stored.get("space") or {}, order.space.document())
    if changed:
        raise ResumeConflict(
            f"{folder} holds a study of another space; what may not change on resume did:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nUndo the change, give the study another study.name, or begin a new one with --resume never. A new one "
            + f"that takes over the trials it would have measured alike: {_forking(order, folder)}"
        )
    _check_fork(order, folder, stored)
    return folder


def check_still_ours(order: Order, folder: Path) -> None:
    """Ask again, now under its lock, whether this launch may work in a folder: another one may have been quicker.

    Args:
        order: Of this launch.
        folder: What `study_folder` chose.

    Raises:
        ResumeConflict: If the study that has been begun there since is another one.
        EnvironmentFault: If the folder holds something else by now.
    """
    is_ours = not (folder / "study.json").exists() if order.resume == "never" else study_folder(order) == folder
    if not is_ours:
        raise ResumeConflict(
            f"{folder} was free when this launch chose it, but another launch has begun a study there since. Give the "
            "same command again."
        )


def _is_unused(folder: Path) -> bool:
    """Tell whether nothing is there, or only what a launch leaves that was killed before it had an identity."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name == "driver.lock" or path.match("study.json.*.tmp") for path in folder.iterdir())


def _forking(order: Order, folder: Path) -> str:
    """Return the command that begins the changed study from the one in a folder."""
    return shlex.join([*order.command_without("--resume", "--output", "--fork"), "--fork", str(folder)])


def _folder_of_fork(order: Order, source: Path) -> Path:
    """Return where a fork goes: where an earlier launch of it began, else a free folder beside that of its name.

    Raises:
        EnvironmentFault: If there is nothing to fork.
        ResumeConflict: If the folder asked for is the other study's.
    """
    theirs = source_study(source)
    if order.output is not None:
        if order.output.resolve() == source.resolve():
            raise ResumeConflict(
                f"A fork is a study of its own, but --output is {order.output}, which --fork names. Choose another."
            )
        return order.output
    names = (order.folder if n == 1 else _numbered(order.folder, n) for n in itertools.count(1))
    return next(path for path in names if _is_unused(path) or _is_begun_fork(order, path, theirs))


def _is_begun_fork(order: Order, folder: Path, theirs: Mapping[str, Any]) -> bool:
    stored = read_document(folder / "study.json") or {}
    if not stored.get(RECORD) or stored[RECORD].get("study") != theirs.get("id"):
        return False
    return stored.get("generation") == order.generation and stored.get("identity") == order.space.identity()


def _check_fork(order: Order, folder: Path, stored: Mapping[str, Any]) -> None:
    """Refuse to go on with a fork that is not whole, or to call a study one that is not.

    Raises:
        ResumeConflict: In both cases.
    """
    record = stored.get(RECORD)
    if order.fork is not None:
        theirs = source_study(order.fork)
        if record is None or record["study"] != theirs.get("id"):
            raise ResumeConflict(
                f"{folder} holds a study that was not forked from {order.fork}. Choose another --output, or leave "
                "--fork out to go on with it."
            )
    elif (fork := fork_of(Ledger(folder))) is not None and is_torn(Ledger(folder), fork):
        raise ResumeConflict(
            f"{folder} was being forked from {fork.name} when it was stopped. Complete it with --fork and that "
            "study's folder, or delete it."
        )


def study_id(folder: Path) -> str | None:
    """Return what tells the study in a folder from all others; None where none has been begun."""
    return (read_document(folder / "study.json") or {}).get("id")


def _generations(size: int | None) -> str:
    return "trials one by one" if size is None else f"--deterministic, {size} trials at a time"


def _free_name(folder: Path) -> Path:
    if not folder.exists():
        return folder
    return next(path for n in itertools.count(2) if not (path := _numbered(folder, n)).exists())


def _numbered(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}-{number}")


def write_identity(
    ledger: Ledger, order: Order, facts: Facts, teachers: Sequence[str], engine: str, fork: Fork | None = None
) -> None:
    """Write `study.json` and the byte copy `space.yaml`; a resumed study keeps its creation and records the launch."""
    space = order.space
    prepare_log(ledger.root.resolve().parent)
    stored = ledger.document("study.json") or {}
    replace_json(
        ledger.root / "study.json",
        {
            "schema": 1,
            "id": stored.get("id", uuid.uuid4().hex[:16]),
            "name": space.study.name,
            "created": stored.get("created", utc_now()),
            "space": space.document(),
            "identity": space.identity(),
            "split_hash": facts.split_hash,
            "split_sizes": dict(facts.sizes),
            "teachers": list(teachers),
            "classes": facts.classes,
            "data": space.data.name,
            "seed": space.study.seed,
            "command": order.command,
            "provenance": provenance(),
            "objectives": ["accuracy", "adversarial_accuracy"],
            "reference_point": [1 / facts.classes, 0.0],
            "epsilon": headline(space, ledger.root),
            "epsilon_grids": {norm: list(each.grid) for norm, each in EPSILONS[space.data.name].items()},
            "norm": space.search.norm,
            "engine": engine,
            "smoke": order.smoke,
            "generation": order.generation,
            **({} if fork is None else {RECORD: fork.record()}),
        },
    )
    if not (ledger.root / "space.yaml").exists():
        replace_bytes(ledger.root / "space.yaml", order.source.read_bytes())


def check_same_data(ledger: Ledger, facts: Facts) -> None:
    """Refuse to go on with other images than the study began with.

    Raises:
        ResumeConflict: If the split hash differs.
    """
    stored = ledger.document("study.json")
    if stored is not None and stored.get("split_hash") != facts.split_hash:
        raise ResumeConflict(
            f"{ledger.root} was begun on other images: its split hash is {str(stored.get('split_hash'))[:12]}, but the "
            f"data now gives {facts.split_hash[:12]}. Restore the data or begin a new study with --resume never."
        )


def check_same_teachers(ledger: Ledger, teachers: Sequence[str]) -> None:
    """Refuse to go on with other teachers than the study began with; their keys hash all that makes them.

    Raises:
        ResumeConflict: If a checkpoint's content or PyTorch's version changed since.
    """
    stored = (ledger.document("study.json") or {}).get("teachers")
    if stored is not None and stored != list(teachers):
        raise ResumeConflict(
            f"{ledger.root} was begun with the teachers {', '.join(stored)}, but they would now be "
            f"{', '.join(teachers)}: a checkpoint or the version of PyTorch changed. Restore it, or begin a new study "
            "with --resume never."
        )


def is_complete(ledger: Ledger) -> bool:
    """Tell whether the last launch of a study finished it."""
    return last_mark(ledger.events()).get("type") == "finished"


def is_done(ledger: Ledger, order: Order) -> bool:
    """Tell whether an earlier launch finished just this: the same space in all its settings."""
    end = last_mark(ledger.events())
    return end.get("type") == "finished" and _same(end.get("space"), order.space.document())


def _same(stored: Any, present: Mapping[str, Any]) -> bool:
    return isinstance(stored, dict) and not {
        key for key in {*stored, *present} if key != "progress" and stored.get(key) != present.get(key)
    }
