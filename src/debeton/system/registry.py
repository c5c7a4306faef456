"""Registries: names to values such as data sets, models, methods and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from debeton.system.errors import UsageError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered value, its name, and the line that `--list` prints for it."""

    name: str
    value: T
    summary: str


class Registry(Generic[T]):
    """A mapping from names to values of one kind; registering a name twice is a programming error.

    kind: name of that kind in messages, e.g. 'model'.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def add(self, name: str, value: T, summary: str) -> T:
        """Register `value`. Raise ValueError if the name is taken."""
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered twice")
        self._entries[name] = Entry(name, value, summary)
        return value

    def register(self, name: str, summary: str) -> Callable[[T], T]:
        """Return a decorator that registers what it decorates."""
        return lambda value: self.add(name, value, summary)

    def get(self, name: str) -> T:
        """Return the value called `name`. UsageError names the nearest known name."""
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
