"""Codes of values that nobody named: the lowest number that lacks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from debeton.data.raw.value_codes import first_gap, names_of_values
from debeton.system.errors import DataError


@given(st.lists(st.integers(-5, 40)))
def test_the_first_gap_is_the_lowest_number_below_the_largest_that_lacks(numbers):
    lacking = sorted(set(range(max(numbers, default=0) + 1)) - set(numbers))
    below = [number for number in lacking if number < max(numbers, default=0)]
    assert first_gap(numbers) == (below[0] if below else None)


def test_a_time_in_nanoseconds_as_label_is_one_sentence_and_takes_no_memory():
    with pytest.raises(DataError, match="whole numbers from 0 to 1764500000000000000, and none is 1; expected codes"):
        names_of_values({"0", "1764500000000000000"}, "label", "mine.beton")
