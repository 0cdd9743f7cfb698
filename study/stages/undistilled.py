"""The second baseline: the same search without distillation, as long as the students', and the front of that (S8)."""

from collections.abc import Iterator
from dataclasses import replace

from nodekd.streams import seed_of
from study.durable import replace_json
from study.errors import StudyFailed
from study.space.undistilled import without_distillation
from study.stages import front
from study.stages.context import Context
from study.stages.pipeline import Stage
from study.stages.search import Search, is_broken_off
from study.stages.searches import UNDISTILLED

_NOTHING = {"schema": 1, "rule": front.RULE, "candidates": [], "front": [], "attacked": []}


def is_wanted(context: Context) -> bool:
    """Tell whether the space asks for it."""
    return context.space.robustness.undistilled_search


def is_search_broken_off(context: Context) -> bool:
    """Tell whether this search is asked for and more of its trials crashed than may."""
    return is_wanted(context) and is_broken_off(context, UNDISTILLED)


def search_stages(context: Context) -> Iterator[Stage]:
    """Search as the students' search does; the sampler draws from a stream of its own, trainings keep their seeds."""
    if not is_wanted(context):
        return
    context.ledger.event("stage", stage=UNDISTILLED.stage("search"))
    own = replace(context, space=without_distillation(context.space))
    # 32 bits, as for a study's own seed: more are not taken by every sampler.
    yield Search(own, UNDISTILLED, seed_of(context.space.study.seed, UNDISTILLED.stage("search")) % 2**32)


def front_stages(context: Context) -> Iterator[Stage]:
    """Choose on val_front as among the students; without a network to choose the students' study goes on."""
    if not is_wanted(context):
        return
    try:
        yield from front.stages(context, UNDISTILLED)
    except StudyFailed as fault:
        replace_json(context.ledger.root / UNDISTILLED.selection, _NOTHING)
        context.observer.note(f"the search without distillation has no front: {fault}")
