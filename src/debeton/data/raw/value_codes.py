"""Single values of rows, numbers or text, turned into codes with names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from debeton.data.spec import NO_VALUE, UNKNOWN, Ints
from debeton.system.errors import DataError, nearest

Names = Sequence[str] | Mapping[Any, str]  # the names by code, or the name of each value


def is_missing(value: Any) -> bool:
    """Return whether a value says that there is none: None, NaN, pandas' NA or an empty text."""
    return value is None or value == "" or str(value).casefold() in NO_VALUE


def text_of(value: Any) -> str:
    """Return a value as text. Whole numbers have no decimals, and truth values are 0 and 1."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def code_values(
    values: Sequence[Any],
    names: Names | None,
    kind: str,
    where: str,
    row_name: Any,
    *,
    may_be_missing: bool = False,
) -> tuple[Ints, tuple[str, ...]]:
    """Return the code of each value, int64 [N], and the names by code.

    values: [N] numbers or text.
    names: the names by code: a value is a name or a code. A mapping gives the name of each value, and codes are in the
        sequence of the mapping. Without names text is numbered in sorted order, and whole numbers are codes.
    kind: the word for a value in messages, 'label' or 'attribute'.
    where: the data set.
    row_name: row number -> its name in messages.
    may_be_missing: a missing value gets the code -1; else it is an error.
    DataError for a missing or unknown value, and for whole numbers with a gap that nobody named.
    """
    texts = ["" if is_missing(value) else text_of(value) for value in values]
    if not may_be_missing and "" in texts:
        row = texts.index("")
        raise DataError(
            f"{where}: {row_name(row)} has no {kind} ({values[row]!r}), one of {texts.count('')} such rows; every row "
            "needs one"
        )
    if isinstance(names, Mapping):
        codes = {text_of(value): code for code, value in enumerate(names)}
        by_code = tuple(map(str, names.values()))
    else:
        by_code = tuple(map(str, names)) if names is not None else names_of_values(set(texts) - {""}, kind, where)
        codes = {**{str(code): code for code in range(len(by_code))}, **{name: k for k, name in enumerate(by_code)}}
    if len(set(by_code)) != len(by_code):
        twice = next(name for name in by_code if by_code.count(name) > 1)
        raise DataError(f"{where}: two {kind}s are called '{twice}'; give every {kind} a name of its own")
    for row, text in enumerate(texts):
        if text and text not in codes:
            raise DataError(
                f"{where}: the {kind} of {row_name(row)} is '{text}'{nearest(text, codes)} known: "
                f"{_shown(by_code)}, or the codes 0 to {len(by_code) - 1}"
            )
    return np.array([codes[text] if text else UNKNOWN for text in texts], np.int64), by_code


def names_of_values(texts: set[str], kind: str, where: str) -> tuple[str, ...]:
    """Return the names by code of values that nobody named: text in sorted order, whole numbers from 0.

    DataError for whole numbers that do not count from 0 without a gap: another split may have the lacking ones.
    """
    if not texts:
        return ("any",)
    if not all(text.removeprefix("-").isdecimal() for text in texts):
        fractions = [text for text in sorted(texts) if not text.lstrip("-").isdecimal() and _is_fraction(text)]
        if fractions:
            raise DataError(
                f"{where}: the {kind} is a number with decimals, such as {fractions[0]}; a {kind} is one of a few "
                "values: give whole numbers from 0 or text"
            )
        return tuple(sorted(texts))
    numbers = sorted(map(int, texts))
    lacking = first_gap(numbers)
    if numbers[0] < 0 or lacking is not None:
        gap = "" if lacking is None else f", and none is {lacking}"
        flag = "classes" if kind == "label" else "attributes"
        raise DataError(
            f"{where}: the {kind}s are whole numbers from {numbers[0]} to {numbers[-1]}{gap}; expected codes from 0 "
            f"without a gap. Name every value with {flag}"
        )
    return tuple(map(str, numbers))


def first_gap(numbers: Iterable[int]) -> int | None:
    """Return the lowest number from 0 to the largest of `numbers` that is not among them; None without a gap.

    The largest may be any number, such as a time in nanoseconds.
    """
    present = {number for number in numbers if number >= 0}
    lowest = next((number for number in range(len(present) + 1) if number not in present), 0)
    return lowest if lowest < max(present, default=0) else None


def _is_fraction(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
