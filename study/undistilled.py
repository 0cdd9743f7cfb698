"""The search without distillation as it stands on disk: how long it was, and who was chosen from it (S8).

Its networks are no trials: their numbers count a search of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from study.attacked import keys_under, tolerant
from study.ledger import Ledger, by_number
from study.survivors import Survivors

FOLDER = "undistilled"
KIND = "undistilled"
SELECTION = "front/undistilled.json"


@final
@dataclass(frozen=True)
class UndistilledSearch:
    """What a study has of it; nothing where it was not asked for."""

    trials: int = 0
    """Begun."""
    complete: int = 0
    """Ended well."""
    chosen: tuple[int, ...] = ()
    """Numbers of the networks that val_front chose."""

    def chooses(self, model: Survivors) -> bool:
        """Tell whether an attacked network is one of the chosen; earlier choices stay on disk and are not shown."""
        return model.kind == KIND and number_of(model.model) in self.chosen


def number_of(model: str) -> int:
    """Return the number in a network's name, such as `undistilled-000012`."""
    return int(model.rpartition("-")[2])


def read_undistilled(ledger: Ledger, problems: list[str]) -> UndistilledSearch:
    """Read what the search has left.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each thing that could not be read.
    """
    keys = by_number(keys_under(ledger, FOLDER), FOLDER).values()
    outcomes = [outcome for key in keys if (outcome := tolerant(lambda key=key: ledger.outcome(key), problems))]
    selection: Mapping[str, Any] = tolerant(lambda: ledger.document(SELECTION), problems) or {}
    complete = sum(outcome.get("state") == "COMPLETE" for outcome in outcomes)
    return UndistilledSearch(len(keys), complete, tuple(selection.get("attacked") or ()))
