"""Numbers as a person says them: durations, and things that are counted."""

from __future__ import annotations

MINUTE, HOUR, DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """Return a duration with two digits that matter: '25 ms', '0.4 s', '12 s', '3.5 min', '14 h', '2.5 days'."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    for unit, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min"), (1, "s")):
        number = seconds / unit
        if number >= 1.5 or unit == 1:
            return f"{number:.0f} {name}" if number >= 9.95 else f"{number:.1f} {name}"
    raise AssertionError("the last unit returns")


def count(number: int, noun: str) -> str:
    """Return a number of things, such as '1 job' or '2,000 jobs'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
