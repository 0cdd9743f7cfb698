"""What every job is given and what it gives back."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch

from nodekd.data.dataset import SPLITS, DataConfig, Dataset, load
from nodekd.errors import DataError
from nodekd.savepoint import Savepoint
from study.fingerprint import fingerprint
from study.ledger import Ledger

CHECKPOINT = "checkpoint"
"""Folder of a job that has not ended, with its savepoints."""


@final
@dataclass(frozen=True)
class Work:
    """One job as its runner sees it."""

    ledger: Ledger
    key: str
    payload: dict[str, Any]
    device: str

    @property
    def folder(self) -> Path:
        """Where the job's files go."""
        return self.ledger.folder(self.key)

    def savepoint(self, generation: int = 0) -> Savepoint:
        """Return where a training run of this job is kept, so that the next attempt goes on from there."""
        made_by = {name: self.payload.get(name) for name in ("settings", "teachers", "temperature", "split_hash")}
        return Savepoint(
            self.ledger.folder(f"{self.key}/{CHECKPOINT}") / f"generation-{generation}.pt",
            f"{fingerprint(made_by, 16)} generation-{generation} {self.device}",
            is_paused=lambda: self.ledger.is_pausing,
        )

    def dataset(self, *splits: str) -> Dataset:
        """Return the study's data on this worker's device, with at least the named splits in memory.

        Raises:
            DataError: If this machine's data is not what the study was begun on.
        """
        dataset = _dataset(DataConfig(**self.payload["data"]), "test" in splits, self.device)
        if dataset.split_hash != self.payload["split_hash"]:
            raise DataError(
                f"All machines of a study must see the same data, but this one's split hash is "
                f"{dataset.split_hash[:12]} and the study's {self.payload['split_hash'][:12]}; look at data.root here."
            )
        return dataset


@final
@dataclass(frozen=True)
class Result:
    """The end of a job, as it will stand in `outcome.json`."""

    metrics: dict[str, Any] = field(default_factory=dict)
    values: dict[str, float] | None = None
    state: str = "COMPLETE"
    reason: str | None = None


def failed(reason: str, metrics: dict[str, Any]) -> Result:
    """Return a result that is an outcome of the science, such as divergence, and not a crash."""
    return Result(metrics=metrics, state="FAIL", reason=reason)


@lru_cache(maxsize=2)
def _dataset(config: DataConfig, with_test: bool, device: str) -> Dataset:
    """Load once per worker; test is in memory only where a job asks for it."""
    return load(config, splits=SPLITS if with_test else [name for name in SPLITS if name != "test"], device=device)


def worker_device() -> str:
    """Return the device that the engine left visible to this worker."""
    return "cuda" if torch.cuda.is_available() else "cpu"
