"""What early stopping saved and what it may have cost, for the section on the search."""

from math import isfinite

from study.audit import Audit, RungAudit
from study.report.markup import paragraphs, warning
from study.report.tables import Row, table
from study.report.wording import tau_text
from study.rungs import OBJECTIVES


def early_part(audit: Audit | None) -> str:
    """Give sentences and a row per rung; nothing where no trial reached one."""
    if audit is None:
        return ""
    off = "".join(warning(f"EARLY STOPPING after epoch {epoch} {said}.") for epoch, said in audit.switched_off.items())
    header = ["after epoch", "reached", "condemned", "stopped", "finished", *(f"tau, {name}" for name in OBJECTIVES)]
    rows: list[Row] = [(None, [(text, None) for text in _cells(rung)]) for rung in audit.rungs]
    caption = "Rungs: who was stopped, and how well they order finished trials as the end does (Kendall's tau)"
    return off + paragraphs([saved_text(audit), lost_text(audit)]) + table("rungs", caption, header, rows)


def saved_text(audit: Audit) -> str:
    """Say how much training was saved."""
    share = 1 - audit.epochs / audit.epochs_unstopped if audit.epochs_unstopped else 0.0
    return (
        f"Early stopping ended {audit.stopped} trials at a rung: {audit.epochs} student epochs instead of "
        f"{audit.epochs_unstopped} ({100 * share:.0f} % saved)."
    )


def lost_text(audit: Audit) -> str:
    """Say how much of the true front the stopped trials may have been."""
    if audit.lost is None:
        return (
            "No condemned trial was spared to its end, so nothing tells whether a stopped one would have been on the "
            "front."
        )
    estimate, low, high = (f"{100 * each:.0f}" for each in audit.lost)
    return (
        f"Of {audit.spared} condemned trials that were spared, {audit.spared_on_front} ended on the front; so an "
        f"estimated {estimate} % of the true front was stopped (95 % {low} to {high})."
    )


def _cells(rung: RungAudit) -> list[str]:
    counts = [rung.epoch, rung.reached, rung.condemned, rung.stopped, rung.finished]
    taus = [tau_text(rung.tau[name]) if isfinite(rung.tau[name]) else "" for name in OBJECTIVES]
    return [*map(str, counts), *taus]
