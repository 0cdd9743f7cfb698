"""The searches of a study, the students' and the undistilled baseline's, and the names of what belongs to each."""

from dataclasses import dataclass
from typing import Any, final

from study import undistilled


@final
@dataclass(frozen=True)
class Searched:
    """One search. Its networks go by the key of the job that trained them, such as `trials/000012`."""

    name: str
    """What a person sees of it; begins the names of its stages."""
    folder: str
    """Of its trials."""
    database: str
    """Of the sampler."""
    kind: str
    """Of its networks, where they are measured and attacked."""
    selection: str
    """File that says who goes to test."""

    def key(self, number: int) -> str:
        """Return the job key of a trial."""
        return f"{self.folder}/{number:06d}"

    def stage(self, name: str) -> str:
        """Name one of its stages."""
        return f"{self.name} {name}".strip()


STUDENTS = Searched("", "trials", "optuna.db", "student", "front/selection.json")
UNDISTILLED = Searched(
    "undistilled", undistilled.FOLDER, "optuna-undistilled.db", undistilled.KIND, undistilled.SELECTION
)


def trial_number(key: str) -> int:
    """Return the number in a trial's job key."""
    return int(key.rpartition("/")[2])


def front_key(trial: str) -> str:
    """Return the job that measures a network on val_front, by the key that trained it."""
    number = trial.rpartition("/")[2]
    return f"front/{number}" if _is_student(trial) else f"front/{UNDISTILLED.kind}-{number}"


def identity(trial: str) -> dict[str, Any]:
    """Return model, kind and trial of a network; only students have a trial, as trials are the students' search."""
    number = trial_number(trial)
    kind = STUDENTS.kind if _is_student(trial) else UNDISTILLED.kind
    return {"model": f"{kind}-{number:06d}", "kind": kind, "trial": number if _is_student(trial) else None}


def _is_student(trial: str) -> bool:
    return not trial.startswith(f"{UNDISTILLED.folder}/")
