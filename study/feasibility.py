"""Whether a trial may be on a front: what its checks say against it (S16). Reads an outcome, whoever asks."""

from collections.abc import Mapping
from typing import Any


def objections(outcome: Mapping[str, Any]) -> list[str]:
    """Return what speaks against a trial, a sentence per check that failed; nothing where none did or none was made.

    Args:
        outcome: As the ledger holds it, in whatever state.
    """
    return [str(reason) for reason in (outcome.get("metrics") or {}).get("infeasible") or ()]
