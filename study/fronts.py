"""Domination and hypervolume, every objective to be maximised.

Answers which points no other point beats, how much they beat together, and which are so near to the front that noise
may hide their place on it. Where the numbers come from is left to the stages and to `study.results`.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Objectives = tuple[float, float]
"""Accuracy and adversarial accuracy."""


def non_dominated(points: ArrayLike, feasible: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    A point dominates another if it is at least as good in every objective and better in one. Equal points do not
    dominate each other, so ties stay on the front together.

    Args:
        points: Objectives to maximise, shape (n, m), m >= 1.
        feasible: Bits, shape (n,); infeasible points are never on the front and dominate nothing.

    Returns:
        Bits, shape (n,). A point with NaN or an infinity is treated as infeasible.

    Raises:
        ValueError: If the shapes do not fit.
    """
    values, usable = _table(points, feasible)
    on_front = np.zeros(len(values), bool)
    kept = np.empty((0, values.shape[1]))
    # Best first by the first objective, then the second: whatever dominates a point comes before it.
    order = [i for i in np.lexsort(-values.T[::-1]) if usable[i]]
    for i in order:
        if not _dominated(values[i], kept):
            on_front[i] = True
            kept = np.vstack([kept, values[i]])
    return on_front


def front_with(front: Mapping[str, Objectives], name: str, point: Objectives) -> dict[str, Objectives]:
    """Return a front, by names, after one more point: whoever it beats is on no later front either."""
    near = {**front, name: point}
    return {name: near[name] for name, member in zip(near, non_dominated(list(near.values())), strict=True) if member}


def layers(points: ArrayLike) -> list[NDArray[np.intp]]:
    """Peel front after front: the points that no other dominates, those that only the first front dominates, and so on.

    Args:
        points: Objectives to maximise, shape (n, m), m >= 1.

    Returns:
        Indices of each front, ascending; points with NaN or an infinity are in none.
    """
    values, usable = _table(points, None)
    left, found = np.flatnonzero(usable), list[NDArray[np.intp]]()
    while len(left):
        on_front = non_dominated(values[left])
        found.append(left[on_front])
        left = left[~on_front]
    return found


def hypervolume(points: ArrayLike, reference: ArrayLike, feasible: ArrayLike | None = None) -> float:
    """Give the area that the points dominate above the reference point, exactly, in two objectives.

    Args:
        points: Objectives to maximise, shape (n, 2).
        reference: The worst corner, shape (2,). Store it with the study: areas compare only at one reference.
        feasible: Bits, shape (n,); infeasible points add nothing.

    Returns:
        Area >= 0, in the product of the objectives' units; points not above the reference in both add nothing.

    Raises:
        ValueError: If there are not exactly two objectives.
    """
    values, _ = _table(points, feasible)
    corner = np.asarray(reference, float)
    if values.shape[1] != 2 or corner.shape != (2,):
        raise ValueError(f"Two objectives are needed, but got points {values.shape} and reference {corner.shape}.")
    front = values[non_dominated(values, feasible)]
    front = front[(front > corner).all(1)]
    area, covered = 0.0, float(corner[1])
    for x, y in front[np.argsort(-front[:, 0], kind="stable")]:
        area += max(0.0, y - covered) * (x - corner[0])
        covered = max(covered, float(y))
    return float(area)


def near_front(
    points: ArrayLike, standard_errors: ArrayLike, k: float, feasible: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Mark the points that a shift of at most k standard errors would bring out of the front's shadow.

    The length of a shift is Euclidean, each objective measured in the point's own standard errors of it. The other
    points stay where they are; at k = 0 this is the front itself.

    Args:
        points: Objectives to maximise, shape (n, 2).
        standard_errors: Of each objective of each point, >= 0, shape (n, 2).
        k: Number of standard errors, >= 0.
        feasible: Bits, shape (n,); infeasible points are never near and dominate nothing.

    Returns:
        Bits, shape (n,); every point of the front is marked.

    Raises:
        ValueError: If the shapes do not fit, there are not two objectives, or k is negative.
    """
    if not k >= 0:
        raise ValueError(f"`k >= 0` must hold, but got {k=}.")
    if k == 0:
        return non_dominated(points, feasible)
    return distance_to_front(points, standard_errors, feasible) <= k


def next_after_front(
    points: ArrayLike, standard_errors: ArrayLike, wanted: int, k: float, feasible: ArrayLike | None = None
) -> NDArray[np.intp]:
    """Name the dominated points that fill a short front up, nearest first.

    Args:
        points: Objectives to maximise, shape (n, 2).
        standard_errors: Of each objective of each point, >= 0, shape (n, 2).
        wanted: How many points front and fill-up should have together.
        k: Only points within k standard errors of the front (see `near_front`).
        feasible: Bits, shape (n,).

    Returns:
        Indices into points, at most `wanted` less the size of the front, ordered by their distance to the front; equal
        ones by their index.
    """
    on_front = non_dominated(points, feasible)
    distance = distance_to_front(points, standard_errors, feasible)
    candidates = np.flatnonzero((distance <= k) & ~on_front)
    missing = max(0, wanted - int(on_front.sum()))
    return candidates[np.argsort(distance[candidates], kind="stable")][:missing]


def distance_to_front(
    points: ArrayLike, standard_errors: ArrayLike, feasible: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Give the shortest shift, in standard errors, after which no point of the front dominates a point any more.

    Args:
        points: Objectives to maximise, shape (n, 2).
        standard_errors: Of each objective of each point, >= 0, shape (n, 2).
        feasible: Bits, shape (n,).

    Returns:
        Shape (n,): 0 on the front, infinite for points that are infeasible or not finite, or cannot be moved.
    """
    values, usable = _table(points, feasible)
    errors = _errors(standard_errors, values)
    if values.shape[1] != 2:
        raise ValueError(f"Two objectives are needed, but got points {values.shape}.")
    on_front = non_dominated(values, feasible)
    distance = np.full(len(values), np.inf)
    distance[on_front] = 0.0
    # Against the front only: whatever a dominated point dominates, a point of the front dominates too.
    for i in np.flatnonzero(usable & ~on_front):
        distance[i] = _shortest_shift(values[i], errors[i], values[on_front])
    return distance


def _shortest_shift(point: NDArray[np.float64], error: NDArray[np.float64], front: NDArray[np.float64]) -> float:
    """Overtake each dominating point in one objective: those up to some place in the first, the rest in the second."""
    above = front[_dominating(point, front)]
    gaps = above[np.argsort(above[:, 0], kind="stable")] - point
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.where(gaps <= 0, 0.0, gaps / error)
    first = np.concatenate([[0.0], needed[:, 0]])
    second = np.concatenate([np.maximum.accumulate(needed[::-1, 1])[::-1], [0.0]])
    return float(np.hypot(first, second).min())


def _dominating(point: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.logical_and((others >= point).all(1), (others > point).any(1))


def _dominated(point: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    return bool(_dominating(point, others).any())


def _errors(standard_errors: ArrayLike, values: NDArray[np.float64]) -> NDArray[np.float64]:
    errors = np.asarray(standard_errors, float).reshape(-1, values.shape[1])
    if errors.shape != values.shape:
        raise ValueError(f"Points and standard errors must have one shape, but got {values.shape} and {errors.shape}.")
    return np.nan_to_num(errors, nan=0.0)


def _table(points: ArrayLike, feasible: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values = np.asarray(points, float)
    if values.size == 0:
        values = values.reshape(0, values.shape[1] if values.ndim == 2 else 2)
    if values.ndim != 2:
        raise ValueError(f"Points must be a table (points x objectives), but got shape {values.shape}.")
    usable = np.asarray(np.isfinite(values).all(1))
    if feasible is not None:
        bits = np.asarray(feasible, bool)
        if bits.shape != usable.shape:
            raise ValueError(f"One feasible bit per point is needed, but got {bits.shape} for {values.shape}.")
        usable = np.logical_and(usable, bits)
    return values, usable
