"""Checkers: the values that a setting may have. Those of fastargs accept too much; these say what they expect."""

from __future__ import annotations

import contextlib
from typing import Any, Generic, TypeVar

from fastargs.validation import Checker as FastargsChecker

from debeton.system.errors import UsageError, nearest
from debeton.system.table_files import check_table_name

T = TypeVar("T")
W = TypeVar("W", bound=str)
_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NULLS = ("", "null")  # spellings of null on the command line, where every value is text


class Checker(FastargsChecker, Generic[T]):  # type: ignore[misc]
    """A checker whose values have the type T."""

    def check(self, value: Any) -> T:
        """Return the value as a T.

        Raises: ValueError, TypeError or KeyError where it is none, or UsageError with the end of a sentence.
        """
        raise NotImplementedError

    def help(self) -> str:
        """Return a phrase that says which values are accepted."""
        raise NotImplementedError


class Bool(Checker[bool]):
    """A checker of true/false, yes/no, on/off and 1/0; fastargs' own reads every non-empty string as true."""

    def check(self, value: Any) -> bool:
        return _BOOLS[str(value).lower()]

    def help(self) -> str:
        return "true or false"


class Int(Checker[int]):
    """A checker of whole numbers within bounds; 3.7 is an error, not 3."""

    def __init__(self, low: int | None = None, high: int | None = None):
        self.low, self.high = low, high

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(_within(int(value), self.low, self.high))

    def help(self) -> str:
        return "a whole number" + _bounds(self.low, self.high)


class Float(Checker[float]):
    """A checker of finite numbers within bounds; it takes YAML's '5e-5', which YAML itself reads as text."""

    def __init__(self, low: float | None = None, high: float | None = None):
        self.low, self.high = low, high

    def check(self, value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError
        return float(_within(number, self.low, self.high))

    def help(self) -> str:
        return "a number" + _bounds(self.low, self.high)


class Text(Checker[str]):
    """A checker of text; a YAML number is taken as it is written."""

    def check(self, value: Any) -> str:
        if value is None or isinstance(value, (dict, list)):
            raise ValueError
        return str(value)

    def help(self) -> str:
        return "text"


class TableName(Checker[str]):
    """A checker of the name of a table in the run folder, whose suffix decides the format."""

    def check(self, value: Any) -> str:
        name = Text().check(value)
        if "/" in name or "\\" in name:
            raise UsageError(f"'{name}' names a folder; the table lies in the run folder")
        check_table_name(name)
        return name

    def help(self) -> str:
        return "NAME.parquet or NAME.csv"


class OneOf(Checker[W]):
    """A checker of a few words, listed in the order given; W may be the Literal of these words."""

    def __init__(self, *values: W):
        self.values = values

    def check(self, value: Any) -> W:
        for known in self.values:
            if str(value) == known:
                return known
        raise UsageError(f"'{value}' is unknown{nearest(str(value), self.values)} known: {', '.join(self.values)}")

    def help(self) -> str:
        return " | ".join(self.values)


class IntList(Checker[tuple[int, ...]]):
    """A checker of whole numbers separated by commas, or of a YAML list; the value is a tuple."""

    def check(self, value: Any) -> tuple[int, ...]:
        if value is None:
            raise ValueError
        parts = value if isinstance(value, (list, tuple)) else [p for p in str(value).split(",") if p.strip()]
        return tuple(Int().check(part) for part in parts)

    def help(self) -> str:
        return "whole numbers separated by commas"


class FloatList(Checker[tuple[float, ...]]):
    """A checker of numbers separated by commas, or of a YAML list; the value is a tuple.

    low: the smallest number allowed.
    above: every number must be larger than this.
    at_least: how many numbers there must be.
    """

    def __init__(self, low: float | None = None, *, above: float | None = None, at_least: int = 0):
        self.low, self.above, self.at_least = low, above, at_least

    def check(self, value: Any) -> tuple[float, ...]:
        if value is None:
            raise ValueError
        given = [value] if isinstance(value, int | float) else value
        parts = given if isinstance(given, (list, tuple)) else [p for p in str(given).split(",") if p.strip()]
        numbers = tuple(Float(self.low).check(part) for part in parts)
        if len(numbers) < self.at_least or (self.above is not None and any(n <= self.above for n in numbers)):
            raise ValueError
        return numbers

    def help(self) -> str:
        bounds = [f"from {self.low}"] if self.low is not None else []
        bounds += [f"above {self.above}"] if self.above is not None else []
        return " ".join(["numbers", *bounds, "separated by commas"])


class WordOr(Checker[str | T]):
    """A checker of one word, or of what another checker accepts.

    word: the word.
    own: the other checker.
    """

    def __init__(self, word: str, own: Checker[T]):
        self.word, self.own = word, own

    def check(self, value: Any) -> str | T:
        return self.word if value == self.word else self.own.check(value)

    def help(self) -> str:
        return f"{self.word}, or {self.own.help()}"


class OrNull(Checker[T | None]):
    """A checker of null (None: not set), or of what another checker accepts.

    own: the other checker.
    old: spellings of "not set" that older configurations have, such as -1, 0 or 'auto'; each is read as None.
    """

    def __init__(self, own: Checker[T], *old: float | str | list[Any]):
        self.own, self.old = own, old

    def check(self, value: Any) -> T | None:
        is_null = value is None or (isinstance(value, str) and value.strip().lower() in _NULLS)
        return None if is_null or self._is_old(value) else self.own.check(value)

    def _is_old(self, value: Any) -> bool:
        """Return whether a value is an old spelling; '-1' and '-1.0' of the command line are -1."""
        if isinstance(value, bool):
            return False
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
        return any(value == spelling for spelling in self.old)

    def help(self) -> str:
        return f"{self.own.help()}; or null"


def _within(value: float, low: float | None, high: float | None) -> float:
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError
    return value


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return "" if high is None else f" of at most {high}"
