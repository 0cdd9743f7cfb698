"""Which stages a launch walks through, in order."""

from collections.abc import Iterator

from study.order import Part
from study.stages import front, probes, robustness, search, teachers
from study.stages.context import Context
from study.stages.pipeline import Stage


def plan(context: Context, part: Part) -> Iterator[Stage]:
    """Yield the stages of a study; each is planned from the files when the one before has finished.

    Args:
        context: The study.
        part: `all`; `search` up to the last trial; `robustness` without asking for new trials.
    """
    _note(context, "teachers")
    yield from teachers.stages(context)
    if part != "robustness":
        _note(context, "search")
        yield from search.stages(context)
    if part == "search":
        return
    _note(context, "front")
    yield from front.stages(context)
    _note(context, "robustness")
    yield from robustness.stages(context)
    _note(context, "probes")
    yield from probes.stages(context)


def _note(context: Context, stage: str) -> None:
    context.ledger.event("stage", stage=stage)
