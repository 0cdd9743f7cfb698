"""The race on val_front: candidates are attacked part by part, and those surely dominated are not attacked further."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from study.durable import DAMAGED
from study.errors import EnvironmentFault
from study.jobs.race import read_robust
from study.racing import LEVEL, Beaten, beaten, joined, parts
from study.stages.batch import Batch, Planned
from study.stages.context import Context
from study.stages.pipeline import Stage
from study.stages.searches import front_key, identity, trial_number
from study.stages.teachers import FRONT_SPLIT, attack_settings, front_images, front_pool_key, teacher_names


@final
@dataclass(frozen=True)
class Standing:
    """Who races how far, as the files say."""

    trials: tuple[str, ...]
    """Candidates, in the order of the numbers in `left`."""
    racing: tuple[str, ...]
    left: tuple[Beaten, ...]
    """Who was beaten, in the order in which they left."""

    def record(self, context: Context) -> dict[str, Any]:
        """Say for `selection.json` who left when, and what that saved."""
        ends = _ends(context)
        attacked = sum(part["n"] for trial in self.trials for part in _finished(context, trial))
        return {
            "level": LEVEL,
            "looks": list(ends[:-1]),
            "images": ends[-1],
            "attacked": attacked,
            "of": len(self.trials) * ends[-1],
            "left": [self._said(each) for each in self.left],
        }

    def _said(self, each: Beaten) -> dict[str, Any]:
        trial, by = (trial_number(self.trials[place]) for place in (each.candidate, each.by))
        said = f"raced out at n = {each.images}, beaten by {by}"
        return {"trial": trial, "beaten_by": by, "n": each.images, "p_value": each.p_value, "said": said}


def stages(context: Context, trials: Sequence[str], name: str = "front") -> Iterator[Stage]:
    """Attack the candidates on one part of the images after the other; `name` is what a person sees."""
    ends = _ends(context)
    for shard, end in enumerate(ends):
        racing = standing(context, trials, shard).racing
        part = f"{name}, images to {end} of {ends[-1]}"
        yield Batch(context, part, [_job(context, trial, shard) for trial in racing])


def standing(context: Context, trials: Sequence[str], shards: int | None = None) -> Standing:
    """Replay the race from the files, so that a resumed study decides what an uninterrupted one does.

    Args:
        context: The study.
        trials: All candidates.
        shards: Parts that are settled; all by default.

    Returns:
        Candidates of which a part failed are neither racing nor beaten.
    """
    ends = _ends(context)
    settled = len(ends) if shards is None else shards
    racing, left = np.ones(len(trials), bool), list[Beaten]()
    for shard in range(settled):
        racing &= [context.is_complete(part_key(trial, shard)) for trial in trials]
        if shard < len(ends) - 1 and racing.any():
            gone = _look(context, trials, racing, shard, len(ends) - 1)
            racing[[each.candidate for each in gone]] = False
            left += gone
    return Standing(
        tuple(trials), tuple(trial for trial, races in zip(trials, racing, strict=True) if races), tuple(left)
    )


def part_key(trial: str, shard: int) -> str:
    """Return the job that attacks a trial on one part of val_front."""
    return f"{front_key(trial)}/part-{shard}"


def measured(context: Context, at_end: Standing) -> dict[str, dict[str, Any]]:
    """Return `accuracy, n, nfe, robust` over all images of every candidate that raced to the end."""
    found = {trial: joined(_finished(context, trial)) for trial in at_end.racing}
    return {trial: metrics for trial, metrics in found.items() if metrics is not None}


def _look(context: Context, trials: Sequence[str], racing: NDArray[np.bool_], shard: int, looks: int) -> list[Beaten]:
    bits = {place: _robust(context, trials[place], shard) for place in np.flatnonzero(racing).tolist()}
    nothing = np.zeros(len(next(iter(bits.values()))), bool)
    robust = np.stack([bits.get(place, nothing) for place in range(len(trials))])
    return beaten([_clean(context, trial) for trial in trials], robust, racing, looks)


def _clean(context: Context, trial: str) -> float:
    key = part_key(trial, 0)
    return float(context.metrics(key)["clean"]["correct"]) if context.is_complete(key) else float("nan")


def _robust(context: Context, trial: str, shard: int) -> NDArray[np.bool_]:
    """Read who survived up to a part; all candidates meet the images in the same order."""
    folders = [context.ledger.folder(part_key(trial, each)) for each in range(shard + 1)]
    return np.concatenate([_robust_of(folder) for folder in folders])


def _robust_of(folder: Path) -> NDArray[np.bool_]:
    try:
        return read_robust(folder)
    except DAMAGED as error:
        name = f"{folder.parent.parent.name}/{folder.parent.name}/{folder.name}"
        raise EnvironmentFault(
            f"The race on val_front needs the bits of every candidate, but {name} cannot be read: {error}. Delete that "
            "folder; the same command measures it again."
        ) from error


def _finished(context: Context, trial: str) -> list[Mapping[str, Any]]:
    keys = [part_key(trial, shard) for shard in range(len(_ends(context)))]
    return [context.metrics(key) for key in keys if context.is_complete(key)]


def _ends(context: Context) -> tuple[int, ...]:
    available, wanted = context.facts.sizes[FRONT_SPLIT], front_images(context)
    return parts(available if wanted == "all" else min(int(wanted), available))


def _job(context: Context, trial: str, shard: int) -> Planned:
    ends = _ends(context)
    settings = attack_settings(
        context,
        network=trial,
        split=FRONT_SPLIT,
        images=front_images(context),
        ends=list(ends),
        shard=shard,
        shards=len(ends),
        norm=context.space.search.norm,
        epsilon=context.epsilon,
        attacks="front",
        pool={f"transfer-{name}": front_pool_key(name) for name in teacher_names(context)},
        identity=identity(trial),
    )
    return Planned(context.job(part_key(trial, shard), "race", **settings), {"settings": settings})
