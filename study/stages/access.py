"""Write down that test is read, before it is read: in the study's events, and beside all studies (S29)."""

from pathlib import Path
from typing import Any

from study.access_log import append_access, log_path, reads_of_test
from study.stages.context import Context


def write_access(context: Context, access: dict[str, Any]) -> None:
    """Log an access to test, once however often it is resumed, and announce it where it is new.

    Args:
        context: The study.
        access: `specification`, `split_hash`, and all that makes this access another than an earlier one.

    Raises:
        EnvironmentFault: If it cannot be logged; then nothing is read.
    """
    folder = context.ledger.root.resolve()
    study = context.ledger.document("study.json") or {}
    known = [event for event in context.ledger.events() if event.get("type") == "test_access"]
    is_noted = any(all(event.get(name) == value for name, value in access.items()) for event in known)
    is_new = append_access(folder.parent, str(study.get("id", folder)), context.space.study.name, access)
    if not is_noted:
        context.ledger.event("test_access", **access)
    if is_new and not is_noted:
        context.observer.note(_announcement(context, folder, study))


def _announcement(context: Context, folder: Path, study: dict[str, Any]) -> str:
    reads = reads_of_test(folder, study, context.ledger.events())
    split = context.facts.split_hash
    log = log_path(folder.parent, split).relative_to(folder.parent)
    return (
        f"test is read: access {reads.own} of this study; with it, {_count(reads.studies, 'study', 'studies')} "
        f"{'has' if reads.studies == 1 else 'have'} read this test set (split {split[:12]}) in "
        f"{_count(reads.total, 'access', 'accesses')}, see {log} in the results folder"
    )


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
