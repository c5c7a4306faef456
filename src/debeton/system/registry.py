"""Registries: names to values such as data sets, models, methods and optimizers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from debeton.system.errors import UsageError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered value: its name, the line that `debeton list` prints, and the place of its registration."""

    name: str
    value: T
    summary: str
    place: str = ""


class Registry(Generic[T]):
    """A mapping from a name to a value. No name is registered twice."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def add(self, name: str, value: T, summary: str) -> T:
        """Register `value` and return it; UsageError with both places where the name is taken."""
        place = _caller()
        if name in self._entries:
            raise UsageError(
                f"{self.kind} '{name}' is registered twice: in {self._entries[name].place} and in {place}; choose "
                "another name for one of them"
            )
        self._entries[name] = Entry(name, value, summary, place)
        return value

    def register(self, name: str, summary: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates."""
        return lambda value: self.add(name, value, summary)

    def get(self, name: str) -> T:
        """Return the thing called `name`; UsageError with the nearest known name where there is none."""
        if name not in self._entries:
            raise UsageError(
                f"unknown {self.kind} '{name}'{nearest(name, self._entries)} known: {', '.join(self.names())}"
            )
        return self._entries[name].value

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._entries)

    def __iter__(self) -> Iterator[Entry[T]]:
        return (self._entries[name] for name in self.names())

    def __contains__(self, name: str) -> bool:
        return name in self._entries


def _caller() -> str:
    """Return 'FILE, line N' of the registration that runs now: in code outside the package, or in a module's body."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("debeton."):
        if frame.f_code.co_name == "<module>":
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"
