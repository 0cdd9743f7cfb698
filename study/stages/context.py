"""What every stage shares: the space, the ledger, facts about the data, and who is told of progress."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, final

from study.engine.job import Job
from study.epsilons import FROZEN, attacked_epsilons, headline, judged_epsilon
from study.errors import StudyFailed
from study.ledger import Ledger
from study.space.settings import Space

_Found = TypeVar("_Found")


class Observer(Protocol):
    """Is told what happens; see `study.progress`."""

    def stage(self, name: str, total: int, done: int) -> None:
        """Note that a stage begins, with its number of jobs and how many an earlier launch settled."""
        ...

    def started(self, job: Job) -> None:
        """Note that a job was handed out."""
        ...

    def settled(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """Note that a job has an outcome."""
        ...

    def note(self, text: str) -> None:
        """Pass on a sentence."""
        ...


@final
@dataclass(frozen=True)
class Facts:
    """What the stages need to know of the data; found out once, at launch."""

    classes: int
    split_hash: str
    sizes: Mapping[str, int]
    """Images in each split."""
    views: int
    """Different views that augmentation can draw."""


@final
@dataclass(frozen=True)
class Context:
    """One study on its way."""

    space: Space
    ledger: Ledger
    facts: Facts
    observer: Observer
    smoke: bool = False
    generation: int | None = None
    """Trials that are asked for at a time, once all before are over (`--deterministic`); None asks for each as a worker
    falls idle."""

    def job(self, key: str, kind: str, **payload: Any) -> Job:
        """Build a job; every payload names the data, its split and the threads a worker may use."""
        data = self.space.data
        common = {
            "data": {
                "name": data.name,
                "root": str(Path(data.root).expanduser().resolve()),
                "image_size": data.image_size,
                "shuffle": data.shuffle,
            },
            "split_hash": self.facts.split_hash,
            "threads": self.space.resources.cpus,
        }
        study = str(self.ledger.root.resolve())
        return Job(study, key, kind, {**payload, **common}, keeps_state=kind in ("teacher", "student"))

    @property
    def epsilon(self) -> float:
        """Radius of the search's attacks and of the front's, under `search.norm`; `auto` once it is settled.

        Raises:
            StudyFailed: If the pilot has not settled it yet.
        """
        return self._in_force(headline(self.space, self.ledger.root))

    @property
    def epsilons(self) -> tuple[float, ...]:
        """Radii of the robustness stage, ascending, under `robustness.norm`; `auto` once it is settled.

        Raises:
            StudyFailed: If the pilot has not settled it yet.
        """
        return self._in_force(attacked_epsilons(self.space, self.ledger.root))

    @property
    def headline(self) -> float:
        """Of `epsilons` the one that is shown first: the search's where it is attacked, otherwise the smallest.

        Raises:
            StudyFailed: If the pilot has not settled it yet.
        """
        return self._in_force(judged_epsilon(self.space, self.ledger.root))

    def _in_force(self, found: _Found | None) -> _Found:
        if found is None:
            raise StudyFailed(
                f"epsilon auto is settled by a pilot after the teachers, but {self.ledger.root / FROZEN} does not say "
                "it. Give the same command again."
            )
        return found

    def metrics(self, key: str) -> dict[str, Any]:
        """Return the metrics of a job that must be complete.

        Raises:
            StudyFailed: If the study cannot go on without this job and it failed.
        """
        outcome = self.ledger.outcome(key) or {"reason": "it has no outcome"}
        if outcome.get("state") == "COMPLETE" and outcome.get("metrics") is not None:
            return outcome["metrics"]
        raise StudyFailed(
            f"{key} must succeed before the study can go on, but {outcome.get('reason') or 'it left no metrics'}. "
            f"See {self.ledger.folder(key) / 'log.txt'}, mend the cause and give the same command again."
        )

    def is_complete(self, key: str) -> bool:
        """Tell whether a job ended well."""
        outcome = self.ledger.outcome(key)
        return outcome is not None and outcome["state"] == "COMPLETE"
