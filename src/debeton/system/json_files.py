"""JSON files that this project wrote, and that people edit: read with checks, so that each fault is one sentence.

A fault names the file, the line of a file of lines, the key, what was found, what was expected, and what to do.
A content that carries the digest of its own values (`digests.with_digests`) is compared with it.
`json_shapes.py` says how the expected content is described.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from debeton.system.digests import KEY, digest_of, take_digest
from debeton.system.errors import DamagedFile, DataError
from debeton.system.json_shapes import Shape, fault_in, key_in
from debeton.system.regular_files import MAX_TABLE_BYTES, open_regular, read_regular

WHOLE_NUMBERS = 1 << 64  # beyond them no value of ours lies, and numbers with a point cannot hold them
EDITED = "it is cut short or was edited by hand"


def _keep_none(key: str) -> bool:
    """Return False: no number may be NaN."""
    return False


def read_json(path: Path, shape: Shape = dict, *, remedy: str, nan_as_null: Callable[[str], bool] = _keep_none) -> Any:
    """Return the content of a JSON file, in UTF-8.

    path: an existing file.
    shape: the expected content (`json_shapes.Shape`).
    remedy: what to do about a fault, the end of its sentence.
    nan_as_null: key -> whether NaN and infinity under it are read as null. Older versions wrote them for a loss.

    DataError: the file is no regular file, is no JSON, gives a key twice, or holds anything else. DamagedFile: its
    values do not have the digest that it carries. The digest itself is left out of the result.
    """
    return parse_json(read_regular(path, MAX_TABLE_BYTES), str(path), shape, remedy=remedy, nan_as_null=nan_as_null)


def parse_json(
    text: bytes, where: str, shape: Shape = dict, *, remedy: str, nan_as_null: Callable[[str], bool] = _keep_none
) -> Any:
    """Return the content of a JSON text in UTF-8.

    where: the name of the text in errors.
    The other arguments are those of `read_json`.
    """
    if not text.strip():
        raise DataError(f"{where} is empty ({len(text)} bytes); {EDITED}: {remedy}")
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_table)
        digest = take_digest(value)
        fault = _unusable(value, "", nan_as_null) or fault_in(value, shape)
        is_altered = not fault and digest is not None and digest_of(value) != digest
    except UnicodeDecodeError as error:
        raise _NotJsonError(f"{where} is not UTF-8 text (at byte {error.start}); {EDITED}: {remedy}") from None
    except _TwiceError as error:
        raise DataError(f"{where} gives the key {str(error)[:60]!r} twice; {EDITED}: {remedy}") from None
    except RecursionError:
        raise DataError(f"{where} nests lists or tables too deeply to be read; {EDITED}: {remedy}") from None
    except ValueError as error:
        raise _NotJsonError(f"{where} is not JSON: {error}; {EDITED}: {remedy}") from None
    if fault:
        raise DataError(f"{where}{fault}; {EDITED}: {remedy}")
    if is_altered:
        raise DamagedFile(
            f"{where} is not what was written: its values do not have the {KEY} that it gives. It is damaged, or was "
            f"edited by hand (if you changed it on purpose, remove '{KEY}' from it): {remedy}"
        )
    return value


def read_json_lines(
    path: Path,
    shape: Shape = dict,
    *,
    remedy: str,
    nan_as_null: Callable[[str], bool] = _keep_none,
    cut: Callable[[int], None] = lambda number: None,
) -> Iterator[tuple[int, Any]]:
    """Yield the number, from 1, and the content of each line of a file. Empty lines are left out.

    A last line without an end that cannot be read is what a kill leaves, or another process is writing it. It is left
    out, and `cut` is called with its number.

    Arguments and errors are those of `read_json`; an error names the line.
    """
    with open_regular(path) as file:
        for number, text in enumerate(iter(lambda: file.readline(MAX_TABLE_BYTES), b""), start=1):
            if not text.strip():
                continue
            try:
                value = parse_json(text, f"{path}, line {number}", shape, remedy=remedy, nan_as_null=nan_as_null)
            except _NotJsonError:
                if text.endswith(b"\n"):
                    raise
                cut(number)
                return
            yield number, value


def damage_of(path: Path, shape: Shape = dict, *, nan_as_null: Callable[[str], bool] = _keep_none) -> str:
    """Return the sentence about a damaged JSON file; '' for a sound one. The answer is kept until the file changes.

    Arguments are those of `read_json`; the shape and the function are the same objects at each call. FileNotFoundError
    if there is no file.
    """
    found = path.stat()
    return _damage(path, shape, nan_as_null, (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=1 << 16)
def _damage(path: Path, shape: Shape, nan_as_null: Callable[[str], bool], version: tuple[int, ...]) -> str:
    try:
        read_json(path, shape, remedy="it is left out", nan_as_null=nan_as_null)
    except DataError as error:
        return str(error).removesuffix(": it is left out")
    return ""


class _NotJsonError(DataError):
    """A text that is no JSON at all, as half a line is."""


class _TwiceError(Exception):
    """A key that stands twice in one table."""


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a table. Python's reader would keep the last of two equal keys without a word."""
    table = dict(pairs)
    if len(table) < len(pairs):
        seen: set[str] = set()
        raise _TwiceError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return table


def _unusable(value: Any, place: str, nan_as_null: Callable[[str], bool], key: str = "") -> str:
    """Return the end of a sentence about a value that JSON's grammar takes and this program cannot use; '' if none.

    NaN and infinity under the keys of `nan_as_null` are replaced by None, in place.
    """
    if isinstance(value, dict | list):
        if isinstance(value, list) and set(map(type, value)) == {int}:
            return _unusable(max(value, key=abs), place, nan_as_null, key)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, one in items:
            if _is_usual(one) and _is_usual(name):
                continue  # before places are named, which takes most of the time
            if isinstance(name, str) and (fault := _unusable_text(name, place)):
                return fault
            inner = name if isinstance(name, str) else key
            if isinstance(one, float) and not _is_finite(one) and nan_as_null(inner):
                value[name] = None
            elif fault := _unusable(one, key_in(place, name), nan_as_null, inner):
                return fault
        return ""
    if isinstance(value, float) and not _is_finite(value):
        return f": {place or 'the value'} is {value}; expected a finite number or null"
    if isinstance(value, int) and abs(value) >= WHOLE_NUMBERS:
        return f": {place or 'the value'} is a whole number of more than 64 bits"
    return _unusable_text(value, place) if isinstance(value, str) else ""


def _is_usual(value: Any) -> bool:
    """Return whether a single value is plainly usable: of plain text, null, true or false, or an ordinary number."""
    kind = type(value)
    if kind is str:
        return value.isascii() and "\0" not in value
    if kind is int:
        return -WHOLE_NUMBERS < value < WHOLE_NUMBERS
    return value is None or kind is bool or (kind is float and _is_finite(value))


def _is_finite(value: float) -> bool:
    return value - value == 0


def _unusable_text(text: str, place: str) -> str:
    """Return the end of a sentence about text that no file can hold; '' for other text."""
    if text.isascii() and "\0" not in text:
        return ""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return f": the text {text[:40]!a} {f'at {place} ' if place else ''}holds a letter that no file can hold"
    return ""
