"""JSON has no NaN and no infinity: such a number is named, and nothing is written."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from debeton.system.errors import DataError
from debeton.system.json_text import json_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [one for inner in (value.values() if isinstance(value, dict) else value) for one in numbers_in(inner)]
    return [value] if isinstance(value, float) else []


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_number_that_json_does_not_have_is_named_and_all_others_are_written(content: dict[str, Any]) -> None:
    if all(map(math.isfinite, numbers_in(content))):
        assert json.loads(json_text(content, "file.json")) == content
        return
    with pytest.raises(DataError) as error:
        json_text(content, "file.json")
    assert re.search(r"^file\.json is not written: (?s:.*) is (nan|inf|-inf), and JSON has no such", str(error.value))


def test_the_number_that_json_does_not_have_is_named_by_its_key() -> None:
    with pytest.raises(DataError, match=r"^runs/results\.json is not written: notes\.dfr\.c\[1\] is nan, and JSON has"):
        json_text({"loss": 0.5, "notes": {"dfr": {"c": [1.0, math.nan]}}}, Path("runs/results.json"))
