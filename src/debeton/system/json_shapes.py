"""Shapes: the expected content of a JSON file, in words of the program and in words of a message."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from debeton.system.errors import nearest

# A type, None for null, a text that the value equals, a tuple of shapes of which one fits, `Within`, `ListOf` or
# `Table`. `float` takes every number, and `object` takes anything.
Shape = Any
WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table of keys and values",
    list: "a list",
    None: "null",
}
MAX_SHOWN = 60  # letters of a value in a message


@dataclass(frozen=True)
class Within:
    """A number of a range.

    kind: int or float.
    low, high: the smallest and the largest value; None: no bound.
    """

    kind: type
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ListOf:
    """A list of items of one shape. length: the number of items; None: any."""

    item: Shape
    length: int | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """A table of keys and values.

    keys: shapes of the keys that must be there.
    may: shapes of the keys that may be there.
    others: shape of every other key; None: there are no others.
    """

    keys: Mapping[str, Shape] = field(default_factory=dict)
    may: Mapping[str, Shape] = field(default_factory=dict)
    others: Shape = object

    @functools.cached_property
    def known(self) -> Mapping[str, Shape]:
        """The shapes of all keys that have a shape of their own."""
        return {**self.keys, **self.may}


def or_null(shape: Shape) -> tuple[Shape, None]:
    """Return the shape of a value that may be null."""
    return shape, None


def fault_in(value: Any, shape: Shape, place: str = "") -> str:
    """Return the end of a sentence that says what does not fit the shape; '' if all fits.

    It begins with ': ' or a space, and follows the name of the file.

    place: the keys above the value, as in `key_in`.
    """
    if isinstance(shape, Table) and isinstance(value, dict):
        return _fault_in_table(value, shape, place)
    if isinstance(shape, ListOf) and isinstance(value, list) and shape.length in (None, len(value)):
        if isinstance(shape.item, type) and set(map(type, value)) <= {shape.item}:
            return ""
        faults = (fault_in(item, shape.item, key_in(place, i)) for i, item in enumerate(value))
        return next(filter(None, faults), "")
    choices = shape if isinstance(shape, tuple) else (shape,)
    if any(_is_of(value, one) for one in choices if not isinstance(one, Table | ListOf)):
        return ""
    # Of several shapes, the one that is like the value says what is wrong within it.
    for one in choices if isinstance(shape, tuple) else ():
        if isinstance(value, dict if isinstance(one, Table) else list) and isinstance(one, Table | ListOf):
            return fault_in(value, one, place)
    found = f"{place} is {_shown(value)}" if place else f"holds {type(value).__name__}"
    return f"{':' if place else ''} {found}; expected {' or '.join(map(_words, choices))}"


def _fault_in_table(value: Mapping[str, Any], shape: Table, place: str) -> str:
    for key in shape.keys:
        if key not in value:
            return f"{f': {place}' if place else ''} lacks '{key}'"
    known = shape.known
    for key, one in value.items():
        wanted = known.get(key, shape.others)
        if wanted is object or type(one) is wanted:  # the usual case, before a place is named
            continue
        if key not in known and shape.others is None:
            shown, hint = repr(key[:MAX_SHOWN]), nearest(key[:MAX_SHOWN], known)
            return f"{f': {place}' if place else ''} has the unknown key {shown}{hint} known: {', '.join(known)}"
        if fault := fault_in(one, wanted, key_in(place, key)):
            return fault
    return ""


def _is_of(value: Any, shape: Shape) -> bool:
    """Return whether a value is of a type, null, or a number of a range."""
    if shape is None or shape is object:
        return shape is object or value is None
    if isinstance(shape, str):
        return bool(value == shape)
    kind = shape.kind if isinstance(shape, Within) else shape
    if isinstance(value, bool) and kind is not bool:
        return False
    if not isinstance(value, int | float if kind is float else kind):
        return False
    if not isinstance(shape, Within):
        return True
    assert isinstance(value, int | float)
    return (shape.low is None or value >= shape.low) and (shape.high is None or value <= shape.high)


def _words(shape: Shape) -> str:
    """Return a shape in words."""
    if isinstance(shape, Table):
        return WORDS[dict]
    if isinstance(shape, ListOf):
        return f"a list{'' if shape.length is None else f' of {shape.length}'}"
    if isinstance(shape, str):
        return f"'{shape}'"
    if not isinstance(shape, Within):
        return WORDS[shape]
    noun = "a fraction" if shape.kind is float and shape.low == 0 and shape.high is not None else WORDS[shape.kind]
    if shape.high is None:
        return f"{noun} of {shape.low} or more"
    return f"{noun} in [{shape.low}, {shape.high}]"


def _shown(value: Any) -> str:
    """Return a value as a message shows it; of a table or a list its kind, which may be large."""
    if isinstance(value, dict | list):
        return WORDS[type(value)]
    text = "null" if value is None else repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def key_in(place: str, key: str | int) -> str:
    """Return the name of a key below others: 'test.accuracy', "group_accuracy['left, dark']", 'jobs[3]'."""
    if isinstance(key, str) and key.isidentifier():
        return f"{place}.{key}" if place else key
    shown = repr(key) if isinstance(key, int) or len(key) <= MAX_SHOWN else repr(key[: MAX_SHOWN - 3] + "...")
    return f"{place}[{shown}]"
