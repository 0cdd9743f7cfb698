"""Memory between jobs: what a job leaves behind goes, and what lived before is not walked again."""

import contextlib
import gc
import weakref
from collections.abc import Iterator

import pytest

from study.jobs.memory import release_memory, sparing_what_lives


class Knot:
    """Holds itself, so that only a collection can free it."""

    def __init__(self) -> None:
        self.itself = self


def tied() -> "weakref.ref[Knot]":
    """Return a reference to a knot that nobody else holds."""
    return weakref.ref(Knot())


@pytest.fixture(autouse=True)
def only_our_collections() -> Iterator[None]:
    """Let nothing be collected or left aside but by the code under test."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def test_what_a_job_leaves_behind_goes() -> None:
    with sparing_what_lives():
        left = tied()
        release_memory()
        assert left() is None


def test_what_lived_before_is_not_walked() -> None:
    earlier = tied()
    with sparing_what_lives():
        release_memory()
        assert earlier() is not None
    release_memory()
    assert earlier() is None


def test_nothing_is_set_aside_for_ever() -> None:
    with contextlib.suppress(ValueError), sparing_what_lives():
        assert gc.get_freeze_count() > 0
        raise ValueError("a job that ends early")
    assert gc.get_freeze_count() == 0
