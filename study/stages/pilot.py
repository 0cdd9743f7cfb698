"""After the teachers: where a space says `auto`, a pilot on the first teacher settles the epsilon, once for all."""

from collections.abc import Iterator

from nodekd.streams import seed_of
from study.epsilons import freeze, grid_of, norms_to_settle, settle, settled, tell_readers
from study.stages.batch import Batch, Planned
from study.stages.context import Context
from study.stages.pipeline import Stage
from study.stages.teachers import FRONT_SPLIT, teacher_keys

IMAGES = 200
"""Images of val_front that the pilot attacks; all where there are fewer."""
ROUNDS = 8
"""Halvings of the radii: over a grid of ratio 32 the radius is known to 1 %."""
BEYOND = 2.0
"""How far beyond both ends of the grid the radius is looked for, so that a teacher outside it is noticed."""


def stages(context: Context) -> Iterator[Stage]:
    """Attack the first teacher under every norm that has an `auto` and nothing settled yet, and keep what is found."""
    root = context.ledger.root
    waiting = [norm for norm in norms_to_settle(context.space) if settled(root, norm) is None]
    if waiting:
        context.ledger.event("stage", stage="pilot")
        yield Batch(context, "pilot", [_pilot_job(context, norm) for norm in waiting])
    for norm in waiting:
        _freeze(context, norm)


def pilot_key(norm: str) -> str:
    """Return the job that looks for the radius under a norm."""
    return f"pilot/{norm}"


def _pilot_job(context: Context, norm: str) -> Planned:
    grid = grid_of(context.space, norm).grid
    high = grid[-1] * BEYOND
    settings = {
        "network": teacher_keys(context)[0],
        "split": FRONT_SPLIT,
        "images": _images(context),
        "norm": norm,
        "low": grid[0] / BEYOND,
        "high": min(high, 1.0) if norm == "linf" else high,
        "rounds": ROUNDS,
        "seed": seed_of(context.space.study.seed, "pilot"),
    }
    return Planned(context.job(pilot_key(norm), "pilot", **settings), {"settings": settings})


def _images(context: Context) -> int:
    asked = context.space.search.images
    return min(IMAGES, asked) if context.smoke and isinstance(asked, int) else IMAGES


def _freeze(context: Context, norm: str) -> None:
    """Snap the pilot's radius to the grid and freeze it."""
    found, grid = context.metrics(pilot_key(norm)), grid_of(context.space, norm).grid
    verdict = settle(found["radius"], found["clean_correct"], found["n"], grid)
    record = {name: found[name] for name in ("radius", "n", "clean_correct", "network", "split")}
    freeze(context.ledger.root, norm, verdict.epsilon, {**record, "grid": list(grid), "said": verdict.said})
    tell_readers(context.space, context.ledger.root)
    context.observer.note(f"epsilon auto ({norm}): {verdict.said}")
