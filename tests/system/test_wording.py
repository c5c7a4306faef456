"""Durations and counted things in words."""

import pytest

from debeton.system.wording import count, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0251, "25 ms"),
        (0.4, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (36 * 3600, "1.5 days"),
        (30 * 86400, "30 days"),
    ],
)
def test_durations_have_two_digits_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_one_thing_has_no_plural() -> None:
    assert [count(n, "row") for n in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
