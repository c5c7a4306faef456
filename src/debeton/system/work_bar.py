"""The progress of work that takes minutes: a bar on a terminal, and in a log a line a minute."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm

from debeton.system.log import logger
from debeton.system.wording import duration

EVERY = 60.0  # seconds between two lines


def work_bar(
    what: str,
    total: int | None = None,
    items: Iterable[Any] | None = None,
    *,
    unit: str,
    shown: bool,
    leave: bool = True,
) -> tqdm[Any] | WorkLines:
    """Return the bar, or the lines, of a work: a context with `update(n)`, or an iterator over `items`.

    what: name of the work, such as 'images'.
    total: number of units; None where it is the length of `items`, or not known.
    unit: word for one unit, such as 'image'.
    shown: draw a bar. False: log a line a minute, and none where the work ends before.
    leave: the bar stays on the terminal at the end.
    """
    if shown:
        return tqdm(items, what, total, leave=leave, unit=unit)
    return WorkLines(what, len(items) if total is None and isinstance(items, Sized) else total, items, unit)


class WorkLines:
    """The lines of a work in a log; `work_bar` has the meaning of its values."""

    def __init__(self, what: str, total: int | None, items: Iterable[Any] | None, unit: str):
        self.what, self.total, self.items, self.unit = what, total, items, unit
        self.done = 0
        self._began = self._said = time.monotonic()

    def update(self, n: int = 1) -> None:
        """Count n more units, and log a line if the last one is a minute old."""
        self.done += n
        now = time.monotonic()
        if now - self._said >= EVERY:
            self._said = now
            logger.info("%s", self.text(now - self._began))

    def text(self, seconds: float) -> str:
        """Return the line after `seconds` of work: 'images: 120 of 6,000, 2.1 image/s, left 47 min'."""
        rate = self.done / seconds
        known = f" of {self.total:,}" if self.total else f" {self.unit}s"
        left = f", left {duration((self.total - self.done) / rate)}" if self.total and rate else ""
        return f"{self.what}: {self.done:,}{known}, {rate:.3g} {self.unit}/s{left}"

    def __iter__(self) -> Iterator[Any]:
        for item in self.items or ():
            yield item
            self.update()

    def __enter__(self) -> WorkLines:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the lines as they are."""
