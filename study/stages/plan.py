"""Which stages a launch walks through, in order."""

from collections.abc import Iterator

from study.order import Part
from study.stages import front, pilot, probes, robustness, search, teachers, undistilled
from study.stages.context import Context
from study.stages.pipeline import Stage


def plan(context: Context, part: Part) -> Iterator[Stage]:
    """Yield the stages of a study; each is planned from the files when the one before has finished.

    After a search that broke off, as too many trials crashed, nothing follows: it would spend an access to test.

    Args:
        context: The study.
        part: `all`; `search` up to the last trial; `robustness` without asking for new trials.
    """
    _note(context, "teachers")
    yield from teachers.stages(context)
    yield from pilot.stages(context)
    yield from teachers.anchor_and_pools(context)
    if part != "robustness":
        _note(context, "search")
        yield from _searches(context)
    if part == "search" or search.is_broken_off(context) or undistilled.is_search_broken_off(context):
        return
    _note(context, "front")
    yield from front.stages(context)
    yield from undistilled.front_stages(context)
    _note(context, "robustness")
    yield from robustness.stages(context)
    _note(context, "probes")
    yield from probes.stages(context)


def _searches(context: Context) -> Iterator[Stage]:
    yield from search.stages(context)
    if not search.is_broken_off(context):
        yield from undistilled.search_stages(context)


def _note(context: Context, stage: str) -> None:
    context.ledger.event("stage", stage=stage)
