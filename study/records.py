"""The records of one attacked network, as they are shown: read from `record.npz` and checked on the way.

What could not be measured is None; a file that does not hold what it should is left out, with a sentence that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.attacked import RECORD, SPECIFICATION, outcomes_under, tolerant
from study.durable import DAMAGED, open_own
from study.ledger import Ledger

FILE = "record.npz"
FAILED = -1
"""Stands for the class of an image whose solve failed."""
Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Pairs:
    """Clean images beside their attacked versions; p of them, the same ids for every network of a study."""

    image_id: Counts
    """(p,)."""
    label: Counts
    """(p,) true classes."""
    clean: NDArray[np.float32]
    """(p c h w) in [0, 1]."""
    adversarial: NDArray[np.float32]
    """(p c h w) in [0, 1]."""
    predicted: Counts
    """(2 p) clean, then attacked; FAILED where there is no answer."""
    margin: Numbers
    """(2 p) lead of the true class in standard deviations of the clean logits; NaN where there is no answer."""


@dataclass(frozen=True)
class Confusions:
    """How often each class is taken for each, clean and attacked."""

    counts: Counts
    """(2 k k): true class by row, predicted one by column."""
    failed: Counts
    """(2 k) images by true class whose solve failed."""


@dataclass(frozen=True)
class Margins:
    """Histogram of the margins, clean and attacked."""

    edges: Numbers
    """(b + 1,) the same for every network of a study; the outermost bins hold what lies beyond, too."""
    counts: Counts
    """(2 b)."""


@dataclass(frozen=True)
class Landscape:
    """Loss and margin along two directions and over the plane between them; NaN where every solve failed."""

    distance: Numbers
    """(d,); 0 is the clean image; 1 is the attacked one, or random signs of length epsilon."""
    loss: Numbers
    """(2 3 d): attack and random direction; lower quartile, median, upper quartile of the cross-entropy in nats."""
    margin: Numbers
    """(2 3 d), as `Pairs.margin`."""
    attack_axis: Numbers
    """(s,)."""
    random_axis: Numbers
    """(r,)."""
    plane_loss: Numbers
    """(s r) median over the images of the pairs."""
    plane_margin: Numbers
    """(s r)."""


@dataclass(frozen=True)
class Trajectories:
    """Sizes on the way through an ODE, clean and attacked: lower quartile, median, upper quartile over images."""

    time: Numbers
    """(m,) block after block; the end of one and the start of the next are both there."""
    state_norm: Numbers
    """(2 3 m) ||h(t)|| / ||h(0)||."""
    speed: Numbers
    """(2 3 m) ||f(t, h(t))|| / ||h(0)||."""
    start_norm: Numbers
    """(2 3) ||h(0)||."""


@dataclass(frozen=True)
class Record:
    """One attacked network at one epsilon."""

    model: str
    kind: str
    """student, twin, replicate, random or teacher."""
    trial: int | None
    norm: str
    epsilon: float
    split: str
    n: int
    """Images behind confusions and margins."""
    classes: tuple[str, ...]
    """(k,) names."""
    pairs: Pairs
    confusions: Confusions
    margins: Margins
    landscape: Landscape
    trajectories: Trajectories | None
    """None without an ODE."""
    nfe: Numbers | None
    """(2 g) evaluations of f for each of g images, clean and attacked; None without an ODE."""
    accepted_steps: Numbers | None
    """(2 g); None where the solver does not tell."""
    sources: Mapping[str, int] = field(default_factory=dict)
    """Attacked images by where they come from: `stored`, or the attack that crafted them for the record."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The job's metrics, as stored."""


_SHAPES = {
    "image_id": "p",
    "label": "p",
    "clean": "pchw",
    "adversarial": "pchw",
    "predicted": "2p",
    "pair_margin": "2p",
    "levels": "",
    "classes": "k",
    "confusion": "2kk",
    "failed": "2k",
    "margin_edge": "e",
    "margin_count": "2b",
    "distance": "d",
    "loss": "23d",
    "margin": "23d",
    "attack_axis": "s",
    "random_axis": "r",
    "plane_loss": "sr",
    "plane_margin": "sr",
}
"""A letter stands for one size throughout the file, a digit for itself."""
_OF_AN_ODE = {"time": "m", "state_norm": "23m", "speed": "23m", "start_norm": "23", "nfe": "2g"}
_OPTIONAL = _OF_AN_ODE | {"accepted_steps": "2g"}
_TEXT = ("classes",)


def read_record(folder: Path, metrics: Mapping[str, Any]) -> tuple[Record | None, list[str]]:
    """Read the records of one attacked network.

    Args:
        folder: The job's folder, which holds `record.npz`.
        metrics: The metrics of its outcome.

    Returns:
        The record, or None where it cannot be read, and one sentence for each problem.
    """
    try:
        return _record(_arrays(folder / FILE), metrics), []
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        return None, [f"{folder.parent.name}/{folder.name} has no records to show: {reason}"]


def read_records(ledger: Ledger, problems: list[str]) -> list[Record]:
    """Read the records of every attacked network under the specification in force.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each record that cannot be shown.
    """
    in_force = (tolerant(lambda: ledger.document(SPECIFICATION), problems) or {}).get("specification")
    found: list[Record] = []
    for key, outcome in outcomes_under(ledger, "robustness", problems):
        metrics = outcome.get("metrics") or {}
        if not key.endswith(RECORD) or metrics.get("specification", in_force) != in_force:
            continue
        if outcome.get("state") != "COMPLETE":
            problems.append(f"{key} has no records to show: {outcome.get('reason')}")
            continue
        record, faults = read_record(ledger.folder(key), metrics)
        problems += faults
        found += [record] if record is not None else []
    return found


def _arrays(path: Path) -> Arrays:
    with open_own(path) as file, np.load(file, allow_pickle=False) as stored:
        missing = sorted(set(_SHAPES) - set(stored.files))
        if missing:
            raise ValueError(f"{path.name} should hold {', '.join(missing)}, but does not")
        arrays = {name: stored[name] for name in (*_SHAPES, *_OPTIONAL) if name in stored.files}
    _check_shapes(arrays)
    _check_values(arrays)
    return arrays


def _check_shapes(arrays: Arrays) -> None:
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        letters = (_SHAPES | _OPTIONAL)[name]
        if array.ndim != len(letters):
            raise ValueError(f"{name} should have {len(letters)} axes, but has shape {array.shape}")
        for letter, size in zip(letters, array.shape, strict=True):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != expected:
                raise ValueError(f"{name} has shape {array.shape}, but an axis should have size {expected}")
    if sizes["e"] != sizes["b"] + 1:
        raise ValueError(f"{sizes['b']} bins should have {sizes['b'] + 1} edges, but have {sizes['e']}")


def _check_values(arrays: Arrays) -> None:
    numbers = {name: array for name, array in arrays.items() if name not in _TEXT}
    odd = [name for name, array in numbers.items() if array.dtype.kind not in "iuf"]
    if odd:
        raise ValueError(f"{', '.join(odd)} should hold numbers")
    if int(arrays["levels"]) < 1:
        raise ValueError(f"levels should be at least 1, but is {arrays['levels']}")
    k = len(arrays["classes"])
    for name, lowest in (("label", 0), ("predicted", FAILED)):
        if not ((arrays[name] >= lowest) & (arrays[name] < k)).all():
            raise ValueError(f"{name} should lie from {lowest} to {k - 1}")
    for name in ("adversarial", "margin_edge", "distance", "attack_axis", "random_axis"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} should hold finite numbers")


def _record(arrays: Arrays, metrics: Mapping[str, Any]) -> Record:
    trial = metrics.get("trial")
    return Record(
        model=str(metrics["model"]),
        kind=str(metrics["kind"]),
        trial=None if trial is None else int(trial),
        norm=str(metrics["norm"]),
        epsilon=float(metrics["epsilon"]),
        split=str(metrics["split"]),
        n=int(metrics["n"]),
        classes=tuple(str(name) for name in arrays["classes"]),
        pairs=_pairs(arrays),
        confusions=Confusions(_whole(arrays["confusion"]), _whole(arrays["failed"])),
        margins=Margins(_real(arrays["margin_edge"]), _whole(arrays["margin_count"])),
        landscape=Landscape(**{name: _real(arrays[name]) for name in Landscape.__dataclass_fields__}),
        trajectories=_trajectories(arrays),
        nfe=_real(arrays["nfe"]) if "nfe" in arrays else None,
        accepted_steps=_real(arrays["accepted_steps"]) if "accepted_steps" in arrays else None,
        sources={str(name): int(count) for name, count in (metrics.get("sources") or {}).items()},
        metrics=dict(metrics),
    )


def _pairs(arrays: Arrays) -> Pairs:
    return Pairs(
        image_id=_whole(arrays["image_id"]),
        label=_whole(arrays["label"]),
        clean=(arrays["clean"] / int(arrays["levels"])).astype(np.float32),
        adversarial=arrays["adversarial"].astype(np.float32),
        predicted=_whole(arrays["predicted"]),
        margin=_real(arrays["pair_margin"]),
    )


def _trajectories(arrays: Arrays) -> Trajectories | None:
    names = tuple(Trajectories.__dataclass_fields__)
    return Trajectories(**{name: _real(arrays[name]) for name in names}) if set(names) <= set(arrays) else None


def _real(values: NDArray[Any]) -> Numbers:
    return values.astype(np.float64)


def _whole(values: NDArray[Any]) -> Counts:
    return values.astype(np.int64)
