"""Files and rows that a data set leaves out of its folder: how many, which, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MAX_EXAMPLES = 5  # files that are named for each reason


@dataclass(frozen=True)
class LeftOut:
    """Files or rows that are left out for one reason.

    reason: what they are, in the plural, e.g. 'hidden files'. One reason has one entry.
    count: the number of them.
    examples: the first of their names.
    fault: whether this may be a mistake in the folder. Else it is the rule of the data set, or nothing to do with it.
    """

    reason: str
    count: int
    examples: tuple[str, ...]
    fault: bool = True

    def __str__(self) -> str:
        """Return one line: the reason, the count and the first names."""
        more = f" and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        return f"{self.reason}: {self.count} ({', '.join(self.examples)}{more})"

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain values, as the sidecar stores it."""
        return {"reason": self.reason, "count": self.count, "examples": list(self.examples)}


def left_out(reason: str, names: Sequence[str], *, fault: bool = True) -> tuple[LeftOut, ...]:
    """Return the entry for these names, or () if there is none."""
    return (LeftOut(reason, len(names), tuple(names[:MAX_EXAMPLES]), fault),) if len(names) else ()


def describe_left_out(entries: Iterable[LeftOut]) -> Iterator[str]:
    """Yield the lines of a report on everything that is left out, the possible mistakes first."""
    listed = list(entries)
    for fault, title in ((True, "left out, which may be a mistake:"), (False, "left out:")):
        lines = [f"  {entry}" for entry in listed if entry.fault is fault]
        if lines:
            yield from (title, *lines)
