"""Limits that a space sets to students: what a trial that breaks one is told."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "nfe": "evaluations of the field per image",
    "parameter_count": "weights",
    "training_seconds": "s of training",
}


def broken(limits: Mapping[str, float | None], metrics: Mapping[str, Any]) -> list[str]:
    """Return a sentence per limit that a student breaks.

    Args:
        limits: The section `constraints`: at most so much; null is no limit.
        metrics: What is known of the student so far.
    """
    return [
        f"{metrics[name]:.6g} {_WORDS[name]}, above constraints.{name} = {limit:g}"
        for name, limit in limits.items()
        if limit is not None and metrics.get(name) is not None and metrics[name] > limit
    ]
