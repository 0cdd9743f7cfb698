"""The same space without distillation: what the second baseline searches (S8)."""

from dataclasses import replace
from typing import final

from study.space.network_sections import Distill, Train
from study.space.parameters import Parameter
from study.space.settings import Space

METHOD = "none"
_OF_DISTILLATION = ("distill", "teachers")
"""Sections whose parameters say what is taken from whom."""
_WITHOUT = {"method": METHOD, "alpha": 0}
"""What these parameters are without distillation."""


def without_distillation(space: Space) -> Space:
    """Remove all that belongs to distillation; networks, training, sampler and budget stay as they are.

    A parameter that hangs on a choice of distillation stays where that choice offers its undistilled value and the
    parameter is active there, or where it offers none: the baseline may do whatever any method may. Anchors lose the
    values of what is gone; those that then say the same are one. A space of which no parameter is left is a grid of
    one point.

    Args:
        space: Any space.
    """
    parameters = _Remaining(space).parameters()
    names = {parameter.name for parameter in parameters}
    points = (tuple(pair for pair in point if pair[0] in names) for point in space.points)
    is_searched = any(parameter.sampled for parameter in parameters)
    return replace(
        space,
        parameters=parameters,
        points=tuple(dict.fromkeys(points)),
        distill=Distill(method=METHOD),
        train=_train(space),
        sampler=space.sampler if is_searched else space.sampler.model_copy(update={"name": "grid"}),
        contrast=None,
    )


def distilling_methods(space: Space) -> set[str]:
    """Return the methods that students of a space are trained by, other than none."""
    parameter = next((each for each in space.parameters if each.name == "method"), None)
    methods = (space.distill.method,) if parameter is None else parameter.choices
    return {str(method) for method in methods} - {METHOD}


def _train(space: Space) -> Train:
    """Train on attacked images where every method does: undistilled, these are still trained so."""
    adversarial = space.train.adversarial
    if adversarial is None or not all(adversarial.applies(method) for method in distilling_methods(space)):
        return space.train
    return space.train.model_copy(update={"adversarial": adversarial.model_copy(update={"methods": None})})


@final
class _Remaining:
    """Goes through the parameters, parents first."""

    def __init__(self, space: Space) -> None:
        self._removed = {each.name: each for each in space.parameters if each.section in _OF_DISTILLATION}
        self._others = [each for each in space.parameters if each.name not in self._removed]

    def parameters(self) -> tuple[Parameter, ...]:
        """Return what is left, on the conditions that are left."""
        kept: dict[str, Parameter] = {}
        for each in self._others:
            conditions = tuple(pair for pair in each.conditions if pair[0] not in self._removed)
            can_be_active = all(name in kept for name, _ in conditions)
            if can_be_active and not any(self._excludes(*pair) for pair in each.conditions):
                kept[each.name] = replace(each, conditions=conditions)
        return tuple(kept.values())

    def _excludes(self, name: str, allowed: tuple[object, ...]) -> bool:
        """Tell whether a condition on distillation is met by other students than the space's undistilled ones."""
        removed = self._removed.get(name)
        return (
            removed is not None
            and name in _WITHOUT
            and removed.contains(_WITHOUT[name])
            and _WITHOUT[name] not in allowed
        )
