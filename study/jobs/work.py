"""What every job is given and what it gives back."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import torch

from nodekd.data.dataset import DataConfig, Dataset, load
from study.ledger import Ledger


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

    def dataset(self, *splits: str) -> Dataset:
        """Return the study's data on this worker's device, with the named splits in memory."""
        return _dataset(DataConfig(**self.payload["data"]), splits, self.device)


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


@lru_cache(maxsize=4)
def _dataset(config: DataConfig, splits: tuple[str, ...], device: str) -> Dataset:
    return load(config, splits=splits, device=device)


def worker_device() -> str:
    """Return the device that the engine left visible to this worker."""
    return "cuda" if torch.cuda.is_available() else "cpu"
