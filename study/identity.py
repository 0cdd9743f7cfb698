"""Which study a folder holds, and whether this launch may go on with it."""

import itertools
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nodekd.attacks.catalog import EPSILONS
from study.access_log import prepare_log
from study.durable import read_json, replace_json
from study.epsilons import headline
from study.errors import EnvironmentFault, ResumeConflict
from study.lease import utc_now
from study.ledger import Ledger
from study.order import Order
from study.provenance import provenance
from study.space.settings import differences
from study.stages.context import Facts


def study_folder(order: Order) -> Path:
    """Return the folder this launch works in.

    Raises:
        ResumeConflict: If the study there is another one, or there is none and there must be one.
        EnvironmentFault: If the folder holds something else.
    """
    folder = order.folder
    if order.resume == "never":
        return _free_name(folder)
    stored = read_json(folder / "study.json")
    if stored is None:
        if order.resume == "must":
            raise ResumeConflict(
                f"--resume must needs an earlier study, but {folder} holds none. Drop --resume to begin."
            )
        if folder.exists() and not folder.is_dir():
            raise EnvironmentFault(f"A study needs a folder, but {folder} is a file. Choose another --output.")
        if folder.exists() and any(path.name != "driver.lock" for path in folder.iterdir()):
            raise EnvironmentFault(
                f"A study needs a folder of its own, but {folder} holds other files. Choose another --output."
            )
        return folder
    changed = differences(stored["space"], order.space.document())
    if changed:
        raise ResumeConflict(
            f"{folder} holds a study of another space; what may not change on resume did:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nUndo the change, give the study another study.name, or begin a new one with --resume never."
        )
    return folder


def _free_name(folder: Path) -> Path:
    if not folder.exists():
        return folder
    return next(path for n in itertools.count(2) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())


def write_identity(ledger: Ledger, order: Order, facts: Facts, teachers: Sequence[str], engine: str) -> None:
    """Write `study.json` and the byte copy `space.yaml`; a resumed study keeps its creation and records the launch."""
    space = order.space
    prepare_log(ledger.root.resolve().parent)
    stored = read_json(ledger.root / "study.json") or {}
    if not (ledger.root / "space.yaml").exists():
        shutil.copyfile(order.source, ledger.root / "space.yaml")
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
        },
    )


def check_same_data(ledger: Ledger, facts: Facts) -> None:
    """Refuse to go on with other images than the study began with.

    Raises:
        ResumeConflict: If the split hash differs.
    """
    stored = read_json(ledger.root / "study.json")
    if stored is not None and stored["split_hash"] != facts.split_hash:
        raise ResumeConflict(
            f"{ledger.root} was begun on other images: its split hash is {stored['split_hash'][:12]}, but the data now "
            f"gives {facts.split_hash[:12]}. Restore the data or begin a new study with --resume never."
        )


def check_same_teachers(ledger: Ledger, teachers: Sequence[str]) -> None:
    """Refuse to go on with other teachers than the study began with; their keys hash all that makes them.

    Raises:
        ResumeConflict: If a checkpoint's content or PyTorch's version changed since.
    """
    stored = (read_json(ledger.root / "study.json") or {}).get("teachers")
    if stored is not None and stored != list(teachers):
        raise ResumeConflict(
            f"{ledger.root} was begun with the teachers {', '.join(stored)}, but they would now be "
            f"{', '.join(teachers)}: a checkpoint or the version of PyTorch changed. Restore it, or begin a new study "
            "with --resume never."
        )


def is_done(ledger: Ledger, order: Order) -> bool:
    """Tell whether an earlier launch finished just this: the same space in all its settings."""
    ends = [event for event in ledger.events() if event["type"] in ("launched", "interrupted", "finished")]
    return bool(ends) and ends[-1]["type"] == "finished" and _same(ends[-1].get("space"), order.space.document())


def _same(stored: Any, present: Mapping[str, Any]) -> bool:
    return isinstance(stored, dict) and not {
        key for key in {*stored, *present} if key != "progress" and stored.get(key) != present.get(key)
    }
