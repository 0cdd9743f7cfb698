"""A trial at its rungs: what it is worth there, compared with those that were there before, and whether it ends.

The worker decides, from files alone, so that it makes no difference who runs it, where, or how often: a rung is written
once, and a trial that reaches it again, after a kill, does as it says.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from torch import nn

from nodekd.data.dataset import Dataset
from nodekd.evaluate import evaluate
from study.documents import read_document
from study.durable import link_json_once
from study.errors import EnvironmentFault
from study.jobs.networks import as_measured
from study.jobs.proxy import SPLIT, quick
from study.jobs.work import Result, Work, failed
from study.ledger import is_number
from study.rungs import FILES, OBJECTIVES, Finished, Rule, Values, distrust, is_spared, judge, stands_for, values_of


@final
class Rungs:
    """The rungs of one trial; without early stopping in the payload there are none."""

    def __init__(self, work: Work, settings: dict[str, Any], dataset: Dataset) -> None:
        self._work, self._settings, self._dataset = work, settings, dataset
        self._given: dict[str, Any] = work.payload.get("early_stopping") or {"rungs": []}
        self._last: dict[str, Any] | None = None

    def stop(self, epoch: int, student: nn.Module) -> bool:
        """Tell whether the trial ends after this epoch.

        Args:
            epoch: That is over.
            student: In eval mode.
        """
        if epoch not in self._given["rungs"]:
            return False
        path = self._work.folder / rung_file(epoch)
        self._last = read_document(path)
        if self._last is None:
            link_json_once(path, self._judged(epoch, student))
            self._last = read_document(path)
        assert self._last is not None, f"{path} was written once"
        return bool(self._last["stop"])

    def result(self, metrics: dict[str, Any]) -> Result:
        """Return the outcome of a trial that ends at a rung."""
        assert self._last is not None, "a trial is stopped at a rung"
        if self._last["fault"]:
            return failed(self._last["fault"], metrics)
        reason = f"stopped after {self._last['epoch']} epochs: {self._last['reason']}"
        return Result(metrics=metrics, state="PRUNED", reason=reason)

    def metrics(self) -> dict[str, Any]:
        """Return for the outcome what the last rung said."""
        return {} if self._last is None else {"rung": self._last}

    def _judged(self, epoch: int, student: nn.Module) -> dict[str, Any]:
        given, search = self._given, self._work.payload["search"]
        measured = as_measured(student, self._settings)
        clean = evaluate(measured, self._dataset.splits[SPLIT])
        if clean.solve_failures == len(clean.correct):
            return _record(epoch, (0.0, 0.0), fault="capped", stop=True, reason="no solve ended within its evaluations")
        robust, images = quick(self._work, measured, self._dataset, search, given["images"])
        own, peers = (clean.accuracy, robust), self._peers(epoch)
        rule = Rule(given["rule"], given["eta"], given["objective"])
        said = judge(own, [at_rung for at_rung, _, _ in peers.values()], rule, (len(clean.correct), images))
        finished = [Finished(rung, end, weight) for rung, end, weight in peers.values() if end is not None]
        doubt = distrust(finished, rule, given["least_tau"]) if said.condemned else None
        spared = said.condemned and doubt is None and is_spared(given["draw"], given["spared"])
        return _record(
            epoch,
            own,
            images=images,
            rank=said.rank,
            of=said.of,
            condemned=said.condemned,
            spared=spared,
            share=given["spared"],
            distrusted=doubt,
            stop=said.condemned and not spared and doubt is None,
            reason=doubt or said.reason,
            peers=sorted(peers),
        )

    def _peers(self, epoch: int) -> dict[str, tuple[Values, Values | None, float]]:
        """Return what others were worth at a rung and at their end, and how many they stand for, by name.

        Only those of earlier generations where told so.
        """
        names = self._given["peers"]
        if names is None:
            folders = (path.name for path in self._work.folder.parent.iterdir())
            names = [name for name in folders if is_number(name) and name != self._work.folder.name]
        share = self._given["spared"]
        found = {name: _peer(self._work.folder.parent / name, epoch, share) for name in names}
        return {name: each for name, each in found.items() if each is not None}


def rung_file(epoch: int) -> str:
    """Name the record of a rung in a trial's folder."""
    return f"rung-{epoch:06d}.json"


def _record(epoch: int, values: Values, *, stop: bool, reason: str, fault: str | None = None, **more: Any) -> Any:
    measured = {"accuracy": values[0], "adversarial_accuracy": values[1]}
    quiet = {"condemned": False, "spared": False, "distrusted": None, "images": 0, "rank": 0, "of": 0, "peers": []}
    said = {"schema": 1, "epoch": epoch, "values": measured, "stop": stop, "reason": reason, "fault": fault}
    return said | quiet | more


def _peer(folder: Path, epoch: int, share: float) -> tuple[Values, Values | None, float] | None:
    """Return what a trial was worth at a rung and at its end, and how many it stands for.

    One whose record is missing or damaged is none: its own files are no reason for others to fail.
    """
    record = _settled(folder / rung_file(epoch))
    if record is None or record.get("fault"):
        return None
    at_rung, at_end = values_of(record["values"]), _at_end(_settled(folder / "outcome.json") or {})
    return (at_rung, None, 1.0) if at_end is None else (at_rung, at_end, _weight(folder, share))


def _at_end(outcome: Mapping[str, Any]) -> Values | None:
    values = outcome.get("values") or {}
    is_measured = all(values.get(name) is not None for name in OBJECTIVES)
    return values_of(values) if outcome.get("state") == "COMPLETE" and is_measured else None


@lru_cache(maxsize=100_000)
def _weight(folder: Path, share: float) -> float:
    """Say how many trials one stands for that has ended, so that no rung is added."""
    return stands_for([_settled(path) or {} for path in folder.glob(FILES)], share)


def _settled(path: Path) -> dict[str, Any] | None:
    """Read a file that is written once; what has been read is not read again by this worker.

    Returns:
        Its content; None where there is no such file, or a damaged one.
    """
    try:
        return _remembered(path)
    except (FileNotFoundError, EnvironmentFault):
        return None


@lru_cache(maxsize=100_000)
def _remembered(path: Path) -> dict[str, Any]:
    document = read_document(path)
    if document is None:
        raise FileNotFoundError(path)
    return document
