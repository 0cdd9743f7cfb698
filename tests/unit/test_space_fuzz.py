"""Whatever is in a file, reading it ends with a space that works, or with problems that each have a place."""

import pytest

from tests.space_property import judged, unlocated

CASES, BATCH = 300, 30


@pytest.mark.parametrize("first", range(0, CASES, BATCH))
def test_every_file_is_a_space_or_has_located_problems(first: int) -> None:
    verdicts = [judged(seed) for seed in range(first, first + BATCH)]
    assert [verdict for verdict in verdicts if verdict.fault] == []


def test_both_kinds_are_met_and_the_slowest_answers_in_time() -> None:
    verdicts = [judged(seed) for seed in range(CASES, CASES + 60)]
    kinds = [verdict.kind for verdict in verdicts]
    assert kinds.count("space") > 5
    assert kinds.count("refused") > 20


def test_a_message_without_a_place_is_a_fault() -> None:
    good = "/x/fuzz.yaml:1:2 `a` must be b.\n    a: c\n     ^\n\noverride #1 'a=b': must be.\n    a=b\n    ^"
    assert unlocated(good, "/x/fuzz.yaml") is None
    assert unlocated("something is wrong", "/x/fuzz.yaml") is not None
    assert unlocated(good + "\n\n/x/fuzz.yaml `a` is wrong.", "/x/fuzz.yaml") is not None
