"""The survivor bits of attacked models: which image each attack broke, at which epsilon.

Reads what the robustness stage stored and counts from it; every robust rate shown anywhere is derived here. How sure a
rate is belongs to `study.statistics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.durable import DAMAGED, open_own

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
        """Give the images that are right clean and that no column broke at epsilon or below, shape (n,).

        Raises:
            ValueError: If the model was not attacked at that epsilon.
        """
        return self.clean_correct & ~self.broken[: self._level(epsilon) + 1].any((0, 1))

    def counts(self, epsilon: float) -> list[tuple[str, int, int]]:
        """Give (column, images attempted, images broken) at epsilon, in the order of the cascade."""
        level = self._level(epsilon)
        attempted, broken = self.attempted[level].sum(1), self.broken[level].sum(1)
        return [(name, int(attempted[i]), int(broken[i])) for i, name in enumerate(self.columns)]

    def alone(self, epsilon: float, prefix: str) -> dict[str, Bits]:
        """Give what each column whose name begins so broke at epsilon, shape (n,) each."""
        level = self._level(epsilon)
        return {name: self.broken[level, i] for i, name in enumerate(self.columns) if name.startswith(prefix)}

    def attacked_at(self, epsilon: float) -> bool:
        """Tell whether bits for that epsilon exist."""
        return any(_same(epsilon, own) for own in self.epsilons)

    def _level(self, epsilon: float) -> int:
        for level, own in enumerate(self.epsilons):
            if _same(epsilon, own):
                return level
        raise ValueError(f"{self.model} was attacked at epsilon {self.epsilons}, but got {epsilon=}.")


def joined(first: Survivors, *others: Survivors) -> Survivors:
    """Add the columns of further attacks on the same model, such as the pool's, to its cascade.

    Images that another part does not have count as not attempted there.

    Raises:
        ValueError: If the epsilons differ.
    """
    for other in others:
        if other.epsilons != first.epsilons:
            raise ValueError(f"{first.model} was attacked at {first.epsilons}, but a part of it at {other.epsilons}.")
    kept = [[i for i, name in enumerate(other.columns) if name != CARRIED] for other in others]
    broken, attempted = (
        np.concatenate(
            [
                getattr(first, bits),
                *(_on_images(o, first.image_id, bits)[:, i] for o, i in zip(others, kept, strict=True)),
            ],
            axis=1,
        )
        for bits in ("broken", "attempted")
    )
    columns = [*first.columns, *(name for other in others for name in other.columns if name != CARRIED)]
    return replace(
        first,
        columns=tuple(columns),
        broken=broken,
        attempted=attempted,
        attacks=tuple(attack for part in (first, *others) for attack in part.attacks),
        pool=next((part.pool for part in (*others, first) if part.pool.get("columns")), first.pool),
    )


def _on_images(part: Survivors, image_id: NDArray[np.int64], bits: str) -> Bits:
    stored: Bits = getattr(part, bits)
    found = np.zeros((*stored.shape[:2], len(image_id)), dtype=bool)
    _, here, there = np.intersect1d(image_id, part.image_id, assume_unique=True, return_indices=True)
    found[..., here] = stored[..., there]
    return found


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
        except DAMAGED as error:
            problems.append(f"{folder.parent.name}/{folder.name} was left out: {error}")
    return (_merge(parts) if parts else None), problems


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with open_own(path) as file, np.load(file, allow_pickle=False) as stored:
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
