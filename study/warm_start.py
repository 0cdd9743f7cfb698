"""A finished study seeds another: the best points of its search are tried first here, and measured anew.

Its search values alone are read, to choose the points; nothing of its test set, and nothing of another split (S29).
What was chosen is kept in the new study's folder, so that it goes on without the old one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.documents import read_document
from study.durable import replace_json
from study.errors import EnvironmentFault, ResumeConflict
from study.feasibility import objections
from study.fronts import layers
from study.ledger import Ledger, by_number
from study.points import Parameter, Point, point_in
from study.rungs import OBJECTIVES
from study.space.settings import Space

FILE = "warm_start.json"


def settle_warm_start(ledger: Ledger, space: Space, split_hash: str) -> None:
    """Choose the points once, at the first launch.

    Args:
        ledger: Of the new study.
        space: Of the new study; `warm_start.study` names the folder of the old one.
        split_hash: Of the new study's data.

    Raises:
        EnvironmentFault: If there is no study in that folder, or none of its trials has ended well.
        ResumeConflict: If it was measured on other images.
    """
    wanted = space.warm_start
    if wanted.study is None or (ledger.root / FILE).exists():
        return
    folder = Path(wanted.study).expanduser()
    old = read_document(folder / "study.json")
    if old is None:
        raise EnvironmentFault(
            f"warm_start.study must name a study's folder, but {folder} holds none. Correct the path."
        )
    if old.get("split_hash") != split_hash:
        raise ResumeConflict(
            f"warm_start.study must have been measured on the same split, but {folder} has the split hash "
            f"{str(old.get('split_hash'))[:12]} and this study {split_hash[:12]}. Give a study of the same data."
        )
    best = _best_first(Ledger(folder))
    if not best:
        raise EnvironmentFault(
            f"warm_start.study must have trials that ended well, but {folder} has none. Finish it, or leave it out."
        )
    fitting = [(trial, point) for trial, params in best if (point := fitted(space.parameters, params)) is not None]
    chosen = [{"trial": trial, "params": point} for trial, point in fitting[: wanted.points]]
    replace_json(
        ledger.root / FILE,
        {"schema": 1, "study": old.get("id"), "name": old.get("name"), "split_hash": split_hash, "points": chosen},
    )


def warm_points(ledger: Ledger) -> list[Point]:
    """Return the points that were chosen, best first; none without a warm start."""
    return [each["params"] for each in (ledger.document(FILE) or {"points": []})["points"]]


def fitted(parameters: Sequence[Parameter], params: Mapping[str, Any]) -> Point | None:
    """Return a point of another space in this one; None where a value is missing here or lies outside."""
    try:
        return point_in(parameters, params)
    except (KeyError, ValueError):
        return None


def _best_first(ledger: Ledger) -> list[tuple[int, dict[str, Any]]]:
    """Return number and point of the trials that ended well, front by front, in each by their numbers."""
    found: list[tuple[int, dict[str, Any]]] = []
    values: list[list[float]] = []
    for number, key in by_number(ledger.keys("trials"), "trials").items():
        config, outcome = ledger.config(key), ledger.outcome(key)
        given = (outcome or {}).get("values") or {}
        ended = outcome is not None and outcome["state"] == "COMPLETE" and not objections(outcome)
        if ended and config is not None and all(given.get(name) is not None for name in OBJECTIVES):
            found.append((number, config.get("params") or {}))
            values.append([given[name] for name in OBJECTIVES])
    return [found[place] for front in layers(values) for place in front] if found else []
