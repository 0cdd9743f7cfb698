"""Ranges say what a set says, in whatever order it came about."""

import time

from hypothesis import given
from hypothesis import strategies as st

from study.number_ranges import NumberSet, numbers_in


@given(st.lists(st.integers(0, 60)))
def test_ranges_are_the_set(numbers):
    kept = NumberSet()
    for number in numbers:
        kept.add(number)
    assert list(kept) == sorted(set(numbers))
    assert numbers_in(kept.ranges) == sorted(set(numbers))
    assert all(number in kept for number in numbers)
    assert not any(number in kept for number in set(range(-1, 62)) - set(numbers))
    assert all(last + 1 < first for (_, last), (first, _) in zip(kept.ranges, kept.ranges[1:], strict=False))
    assert NumberSet(numbers).ranges == kept.ranges


def test_numbers_of_an_older_record_stand_for_themselves():
    assert numbers_in([0, 1, 4]) == [0, 1, 4]
    assert numbers_in([[0, 2], [4, 4]]) == [0, 1, 2, 4]
    assert numbers_in([]) == []


def test_what_is_written_does_not_grow_with_the_trials():
    kept, began = NumberSet(), time.process_time()
    for number in range(100_000):
        if number % 7:  # 0, 7, ... are still running when the others end
            kept.add(number)
        if number >= 700 and number % 7 == 0:
            kept.add(number - 700)
    assert len(kept.ranges) <= 102
    assert time.process_time() - began < 5
