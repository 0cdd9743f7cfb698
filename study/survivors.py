"""The survivor bits of attacked models: which image each attack broke, at which epsilon.

Reads what the robustness stage stored and counts from it; every robust rate shown anywhere is derived here. How sure a
rate is belongs to `study.statistics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]
CARRIED = "carried"
"""Name of the column for images that a smaller epsilon had broken already; not an attack."""
_ARRAYS = ("image_id", "clean_correct", "columns", "broken", "attempted")


@dataclass(frozen=True)
class Survivors:
    """One attacked model: its bits over the images of all shards read so far."""

    model: str
    kind: str
    """student, twin or teacher."""
    trial: int | None
    norm: str
    split: str
    epsilons: tuple[float, ...]
    """Ascending."""
    columns: tuple[str, ...]
    image_id: NDArray[np.int64]
    """Shape (n,), ascending."""
    clean_correct: Bits
    """Shape (n,)."""
    broken: Bits
    """Shape (epsilons, columns, n)."""
    attempted: Bits
    """Shape (epsilons, columns, n)."""
    shards: int
    """Shards read."""
    shards_expected: int
    nfe: float
    attacks: tuple[dict[str, Any], ...] = field(default=())
    """Every hyper-parameter of each attack, as recorded."""
    pool: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Images read."""
        return len(self.image_id)

    def robust(self, epsilon: float) -> Bits:
        """Give the images that are right clean and that no column broke at epsilon, shape (n,).

        Raises:
            ValueError: If the model was not attacked at that epsilon.
        """
        return self.clean_correct & ~self.broken[self._level(epsilon)].any(0)

    def counts(self, epsilon: float) -> list[tuple[str, int, int]]:
        """Give (column, images attempted, images broken) at epsilon, in the order of the cascade."""
        level = self._level(epsilon)
        attempted, broken = self.attempted[level].sum(1), self.broken[level].sum(1)
        return [(name, int(attempted[i]), int(broken[i])) for i, name in enumerate(self.columns)]

    def attacked_at(self, epsilon: float) -> bool:
        """Tell whether bits for that epsilon exist."""
        return any(_same(epsilon, own) for own in self.epsilons)

    def _level(self, epsilon: float) -> int:
        for level, own in enumerate(self.epsilons):
            if _same(epsilon, own):
                return level
        raise ValueError(f"{self.model} was attacked at epsilon {self.epsilons}, but got {epsilon=}.")


def paired(first: Survivors, second: Survivors, epsilon: float) -> tuple[Bits, Bits, Bits, Bits]:
    """Line two models up on the images that both were scored on.

    Returns:
        Robust bits of both at epsilon, then clean bits of both; each of shape (common images,).
    """
    _, a, b = np.intersect1d(first.image_id, second.image_id, assume_unique=True, return_indices=True)
    robust = first.robust(epsilon)[a], second.robust(epsilon)[b]
    return robust[0], robust[1], first.clean_correct[a], second.clean_correct[b]


def read_survivors(shards: Sequence[tuple[Path, dict[str, Any]]]) -> tuple[Survivors | None, list[str]]:
    """Read the shards of one model.

    Args:
        shards: Of each committed shard its folder and its outcome's metrics.

    Returns:
        The model, or None where no shard could be read, and one sentence per shard that was left out.
    """
    parts: list[tuple[dict[str, Any], dict[str, NDArray[Any]]]] = []
    problems: list[str] = []
    for folder, metrics in shards:
        try:
            arrays = _read_arrays(folder / "survivors.npz")
            _check(arrays, metrics, parts[0] if parts else None)
            parts.append((metrics, arrays))
        except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
            problems.append(f"{folder.parent.name}/{folder.name} was left out: {error}")
    return (_merge(parts) if parts else None), problems


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in _ARRAYS}


def _check(
    arrays: dict[str, NDArray[Any]],
    metrics: dict[str, Any],
    first: tuple[dict[str, Any], dict[str, NDArray[Any]]] | None,
) -> None:
    n, shape = len(arrays["image_id"]), arrays["broken"].shape
    expected = (len(metrics["epsilons"]), len(arrays["columns"]), n)
    if shape != expected or arrays["attempted"].shape != expected or arrays["clean_correct"].shape != (n,):
        raise ValueError(f"its bits should have shape {expected} (epsilons, columns, images), but have {shape}")
    if first is not None and (
        list(first[0]["epsilons"]) != list(metrics["epsilons"]) or list(first[1]["columns"]) != list(arrays["columns"])
    ):
        raise ValueError("its epsilons or columns differ from those of the first shard")


def _merge(parts: list[tuple[dict[str, Any], dict[str, NDArray[Any]]]]) -> Survivors:
    metrics, first = parts[0]
    joined = {name: np.concatenate([arrays[name] for _, arrays in parts], axis=-1) for name in _ARRAYS[:2]}
    joined |= {name: np.concatenate([arrays[name] for _, arrays in parts], axis=-1) for name in _ARRAYS[3:]}
    image_id, keep = np.unique(joined["image_id"].astype(np.int64), return_index=True)
    images = [len(arrays["image_id"]) for _, arrays in parts]
    nfe = [float(m["nfe"]) if m.get("nfe") is not None else np.nan for m, _ in parts]
    levels = np.argsort(np.asarray(metrics["epsilons"], float))
    return Survivors(
        model=str(metrics["model"]),
        kind=str(metrics["kind"]),
        trial=None if metrics.get("trial") is None else int(metrics["trial"]),
        norm=str(metrics.get("norm", "")),
        split=str(metrics.get("split", "")),
        epsilons=tuple(float(metrics["epsilons"][i]) for i in levels),
        columns=tuple(str(name) for name in first["columns"]),
        image_id=image_id,
        clean_correct=joined["clean_correct"][keep].astype(bool),
        broken=joined["broken"][levels][..., keep].astype(bool),
        attempted=joined["attempted"][levels][..., keep].astype(bool),
        shards=len(parts),
        shards_expected=max(int(m.get("shards") or 0) for m, _ in parts) or len(parts),
        nfe=float(np.average(nfe, weights=images)) if sum(images) else float("nan"),
        attacks=tuple(dict(record) for record in metrics.get("attacks") or ()),
        pool=dict(metrics.get("pool") or {}),
    )


def _same(first: float, second: float) -> bool:
    return abs(first - second) <= 1e-9 * max(1.0, abs(second))
