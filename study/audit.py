"""What early stopping cost: how well rungs told the end, and how much of the front it may have lost.

The condemned that were spared show what the stopped would have become; without them nobody could tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from study.attacked import keys_under, outcomes_under, tolerant
from study.documents import read_document
from study.feasibility import objections
from study.fronts import non_dominated
from study.ledger import Ledger, by_number
from study.rungs import FILES, OBJECTIVES, SPARED, Finished, correlation, is_drawn, stands_for, values_of
from study.statistics import wilson


@dataclass(frozen=True)
class RungAudit:
    """One rung, over all trials that reached it."""

    epoch: int
    reached: int
    condemned: int
    stopped: int
    finished: int
    """Went through it and to the end."""
    tau: Mapping[str, float]
    """Rank correlation of rung and end by objective; NaN where the order cannot be told."""


@dataclass(frozen=True)
class Audit:
    """Early stopping as a whole."""

    rungs: tuple[RungAudit, ...]
    """Ascending."""
    epochs: int
    """That all trials trained for."""
    epochs_unstopped: int
    """That they would have trained for."""
    spared: int
    """Condemned trials that lived on by their draw alone, and ended."""
    spared_on_front: int
    front: int
    """Finished trials that none other dominates."""
    stopped: int
    switched_off: Mapping[int, str]
    """By epoch, what a rung said last when it stopped nobody for want of correlation."""

    @property
    def lost(self) -> tuple[float, float, float] | None:
        """Share of the true front that was stopped: estimate and 95 % interval; None without a spared trial."""
        if not self.spared or not self.front:
            return None
        low, high = wilson(self.spared_on_front, self.spared)
        lost = [rate * self.stopped for rate in (self.spared_on_front / self.spared, low, high)]
        estimate, least, most = (each / (each + self.front) for each in lost)
        return estimate, least, most


def share_of(study: Mapping[str, Any]) -> float:
    """Return the share of the condemned that a study spares, by its `study.json`; an older one may not name it."""
    return (study.get("space") or {}).get("early_stopping", {}).get("spared", SPARED)


def read_audit(ledger: Ledger, problems: list[str], folder: str = "trials", *, share: float = SPARED) -> Audit | None:
    """Read the rungs of a search; None where no trial has reached one.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each file that cannot be read.
        folder: Of the trials.
        share: Of the condemned that the study spares, for records that do not name it.
    """
    records = {key: _records(ledger, key, problems) for key in by_number(keys_under(ledger, folder), folder).values()}
    if not any(records.values()):
        return None
    outcomes = {key: each for key, each in outcomes_under(ledger, folder, problems) if key in records}
    values = {key: _values(outcome) for key, outcome in outcomes.items()}
    ended = {key: each for key, each in values.items() if each is not None and not objections(outcomes[key])}
    on_front = set(np.array(list(ended))[non_dominated(list(ended.values()))].tolist()) if ended else set()
    drawn = {key for key, own in records.items() if any(map(is_drawn, own))}
    epochs = [_epochs(ledger, key, own, outcomes.get(key), problems) for key, own in records.items()]
    everything = [each for own in records.values() for each in own]
    return Audit(
        rungs=tuple(_rung(epoch, records, values, share) for epoch in sorted({each["epoch"] for each in everything})),
        epochs=sum(trained for trained, _ in epochs),
        epochs_unstopped=sum(whole for _, whole in epochs),
        spared=len(drawn & {key for key, each in values.items() if each is not None}),
        spared_on_front=len(drawn & on_front),
        front=len(on_front),
        stopped=sum(each["stop"] for each in everything),
        switched_off={each["epoch"]: each["distrusted"] for each in everything if each["distrusted"]},
    )


def _records(ledger: Ledger, key: str, problems: list[str]) -> list[dict[str, Any]]:
    paths = sorted(ledger.folder(key).glob(FILES))
    read = (tolerant(lambda path=path: read_document(path), problems) for path in paths)
    return [each for each in read if each is not None and each.get("fault") is None]


def _values(outcome: Mapping[str, Any]) -> tuple[float, float] | None:
    values = outcome.get("values") or {}
    if outcome.get("state") != "COMPLETE" or any(values.get(name) is None for name in OBJECTIVES):
        return None
    return values_of(values)


def _rung(
    epoch: int,
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    values: Mapping[str, tuple[float, float] | None],
    share: float,
) -> RungAudit:
    own = {key: each for key, several in records.items() for each in several if each["epoch"] == epoch}
    finished = [
        Finished(values_of(each["values"]), end, stands_for(records[key], share))
        for key, each in own.items()
        if (end := values.get(key)) is not None
    ]
    return RungAudit(
        epoch=epoch,
        reached=len(own),
        condemned=sum(each["condemned"] for each in own.values()),
        stopped=sum(each["stop"] for each in own.values()),
        finished=len(finished),
        tau={name: correlation(finished, name) for name in OBJECTIVES},
    )


def _epochs(
    ledger: Ledger, key: str, own: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any] | None, problems: list[str]
) -> tuple[int, int]:
    """Return the epochs a trial trained for, and would have without rungs; one that failed counts as it is."""
    config = tolerant(lambda: ledger.config(key), problems) or {}
    whole = int(config.get("settings", {}).get("train", {}).get("epochs", 0))
    if outcome is None or outcome.get("state") == "FAIL":
        return 0, 0
    stopped = [each["epoch"] for each in own if each["stop"]]
    return (stopped[0] if stopped else whole), whole
