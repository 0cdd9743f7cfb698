"""The learning curve of one training run, a line of JSON per epoch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, final

from nodekd.evaluate import Evaluation
from nodekd.train import Epoch
from study.durable import append_line, read_lines, replace_lines


@final
class History:
    """Appends to `history.jsonl`; an attempt that goes on from a savepoint keeps the lines of the epochs before it."""

    def __init__(self, folder: Path, measure: Callable[[], Evaluation], every: int = 1) -> None:
        self._path = folder / "history.jsonl"
        self._measure = measure
        self._every = every
        self._is_begun = False

    def note(self, epoch: Epoch) -> None:
        """Measure the network on val_search and write one line."""
        if epoch.epoch % self._every:
            return
        self._keep_earlier(epoch.epoch)
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
        append_line(self._path, line)

    def _keep_earlier(self, epoch: int) -> None:
        """Drop what an earlier attempt, or the generation before, wrote of this epoch and those after it."""
        if self._is_begun:
            return
        replace_lines(self._path, [line for line in read_lines(self._path) if _is_before(line, epoch)])
        self._is_begun = True


def _is_before(line: Mapping[str, Any], epoch: int) -> bool:
    noted = line.get("epoch")
    return isinstance(noted, int) and noted < epoch
