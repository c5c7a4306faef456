"""Constructors of this project for the values that a pickle describes, in place of those that it names.

A pickle names the functions that make its values, and gives each value a state. Both are in the hands of whoever wrote
the file. So a name stands for a constructor of this project, which looks at what it gets. Most constructors return a
`Part`, which keeps the description of a value. The value itself is made from the description when all is read.
"""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

# A value that holds itself many times over is short in the file and endless in memory. A value may have this number of
# items, and this number more for each byte of the file.
FREE_ITEMS, ITEMS_PER_BYTE = 1_000_000, 16
# Keys of equal hashes are compared one by one, so that a megabyte of them takes hours. Real keys hardly ever have them.
EQUAL_HASHES = 256
_SIMPLE: frozenset[type] = frozenset({str, bytes, int, float, complex, bool, type(None)})


class Part:
    """The description of a value, from which `finish` makes it."""

    word: ClassVar[str] = "a value"  # what it is, in messages
    __hash__ = None  # type: ignore[assignment]

    def build(self, state: Any) -> None:
        """Take the state of the value. UnpicklingError if such a value has none, or another one."""
        raise pickle.UnpicklingError(f"it gives a state to {self.word}, which has none")

    def finish(self, finished: Callable[[Any], Any]) -> Any:
        """Return the value. finished: returns the value of what this part holds."""
        raise NotImplementedError


@dataclass(eq=False)
class Name(Part):
    """A name that a pickle may use.

    make: makes a value, or its part, from the arguments in the file. None: the name is only an argument.
    value: what the name itself stands for as a value. None: it is no value.
    """

    make: Callable[..., Any] | None = None
    value: Any = None

    word = "the name of a class or a function"
    __hash__ = None  # type: ignore[assignment]

    def finish(self, finished: Callable[[Any], Any]) -> Any:
        if self.value is None:
            raise pickle.UnpicklingError("it holds the name of a class where a value is expected")
        return self.value


def encoded(text: str, encoding: str = "latin1") -> bytes:
    """Return text as bytes, as Python 3 writes bytes in protocol 2. UnpicklingError for other codecs."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it wants the codec {encoding}")
    return text.encode("latin1")


def _bytearray(content: Any = b"", *encoding: Any) -> bytearray:
    """Return bytes that can be changed from bytes, or from text as `encoded` takes it; never from their number."""
    return bytearray(content if type(content) is bytes and not encoding else encoded(content, *encoding))


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _table(kind: type) -> Callable[..., Any]:
    """Return a constructor of a dictionary from nothing, a dictionary or a list of pairs."""

    def make(pairs: Any = ()) -> Any:
        made = kind()
        for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
            put(made, key, value)
        return made

    return make


def _members(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Return a constructor of a set of simple values."""
    return lambda items=(): kind(add_all(set(), items))


def simple_key(key: Any) -> Any:
    """Return the key of a dictionary or the member of a set.

    UnpicklingError unless it is simple, or a tuple of simple values. The hash of nested tuples can take for ever.
    """
    if not all(
        type(part) in _SIMPLE or isinstance(part, np.generic) for part in (key if type(key) is tuple else [key])
    ):
        raise pickle.UnpicklingError(f"it has a {type(key).__name__} of other things as a key")
    return key


def put(table: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an item of a dictionary. UnpicklingError as in `simple_key`, and for keys that were made to collide."""
    before = len(table)
    table[simple_key(key)] = value
    _check_hashes(table, before)


def add_all(members: set[Any], items: Iterable[Any]) -> set[Any]:
    """Add items to a set, and return the set. Errors as in `put`."""
    for item in items:
        before = len(members)
        members.add(simple_key(item))
        _check_hashes(members, before)
    return members


def _check_hashes(keys: Collection[Any], before: int) -> None:
    """Look at the hashes of all keys whenever their number has doubled. before: the number before the last one."""
    count = len(keys)
    has_doubled = count > max(before, EQUAL_HASHES) and not count & (count - 1)
    if has_doubled and max(Counter(map(hash, keys)).values()) > EQUAL_HASHES:
        raise pickle.UnpicklingError("it has keys that were made to have equal hashes, which take endless time")


ORDERED, COUNTER = Name(_table(OrderedDict)), Name(_table(Counter))
# Names of Python itself, which writes __builtin__ up to protocol 2.
PYTHON_NAMES: dict[tuple[str, str], Name] = {
    ("_codecs", "encode"): Name(encoded),
    **{
        (module, name): Name(make)
        for module in ("builtins", "__builtin__")
        for name, make in (
            ("set", _members(set)),
            ("frozenset", _members(frozenset)),
            ("bytes", lambda: b""),  # bytes that are not empty are encoded text
            ("bytearray", _bytearray),
            ("complex", _complex),
        )
    },
}


class Parts:
    """The content of a pickle. Values are made of its parts in place, where they lie in lists and dictionaries.

    limit: the number of items that the whole may have, where it holds one of them several times, too.
    """

    def __init__(self, content: Any, limit: int):
        self.content, self.limit = content, limit
        self._done: dict[int, tuple[Any, Any, int] | None] = {}  # what was read, its value and its items, by identity

    def value(self) -> Any:
        """Return the value. UnpicklingError if it holds itself or is too large."""
        return self._finish(self.content)[0]

    def _finish(self, read: Any) -> tuple[Any, int]:
        """Return the value and the number of its items."""
        if type(read) in _SIMPLE:
            return read, 1
        if id(read) not in self._done:
            self._done[id(read)] = None
            self._done[id(read)] = (read, *self._make(read))
        entry = self._done[id(read)]
        if entry is None:
            raise pickle.UnpicklingError("it holds a value that holds itself")
        return entry[1:]

    def _make(self, read: Any) -> tuple[Any, int]:
        items = 1

        def finished(item: Any) -> Any:
            nonlocal items
            if type(item) in _SIMPLE:
                items += 1
                return item
            value, count = self._finish(item)
            items += count
            if items > self.limit:
                raise pickle.UnpicklingError(f"it is a small file of more than {self.limit} items")
            return value

        if isinstance(read, Part):
            value = read.finish(finished)
        elif type(read) is list:
            value = read
            value[:] = [finished(item) for item in read]
        elif type(read) in (dict, OrderedDict, Counter):
            value = read
            for key in read:
                value[key] = finished(read[key])
        else:
            value = tuple(finished(item) for item in read) if type(read) is tuple else read
        return value, items
