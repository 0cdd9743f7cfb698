"""The learning curve of one training run, a line of JSON per epoch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import final

from nodekd.evaluate import Evaluation
from nodekd.train import Epoch


@final
class History:
    """Appends to `history.jsonl`; a new attempt starts it afresh."""

    def __init__(self, folder: Path, measure: Callable[[], Evaluation], every: int = 1) -> None:
        self._path = folder / "history.jsonl"
        self._measure = measure
        self._every = every
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("", encoding="utf-8")

    def note(self, epoch: Epoch) -> None:
        """Measure the network on val_search and write one line."""
        if epoch.epoch % self._every:
            return
        measured = self._measure()
        line = {
            "epoch": epoch.epoch,
            "step": epoch.step,
            "loss": epoch.loss,
            "train_accuracy": epoch.train_accuracy,
            "accuracy": measured.accuracy,
            "nfe": measured.nfe,
            "seconds": epoch.seconds,
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
