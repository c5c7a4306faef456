"""Shared code for label files: rows of text with their line numbers, and names turned into codes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from debeton.data.raw.image_files import MissingDataError
from debeton.system.errors import DataError, nearest

Record = dict[str, str]
LINE = "line"  # the key under which a record keeps its line number, for messages


def read_csv(path: Path, required: Sequence[str], defaults: Mapping[str, str] | None = None) -> list[Record]:
    """Read the rows of a CSV file with a header, with their line number as 'line'. Values are stripped.

    path: the file. MissingDataError if there is none.
    required: columns that must be there.
    defaults: columns that may be missing, with the value that all rows then have.

    DataError for a missing column, an empty cell, a file without rows, or a file that is no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from None
    absent = [name for name in required if name not in columns]
    if absent:
        raise DataError(f"{path} lacks the column{'s' * (len(absent) > 1)} {' and '.join(absent)}; it has {columns}")
    wanted = [*required, *(name for name in defaults or {} if name in columns)]
    records = []
    for line, row in rows:
        record = {name: (row[name] or "").strip() for name in wanted}
        blank = [name for name in wanted if not record[name]]
        if blank:
            raise DataError(f"{path}, line {line}: no {blank[0]}; every row needs {', '.join(wanted)}")
        records.append({**(defaults or {}), **record, LINE: str(line)})
    if not records:
        raise DataError(f"{path} has no row below its header")
    return records


def read_header(path: Path) -> list[str]:
    """Return the column names of a CSV file. MissingDataError if there is none, DataError if it is no CSV."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [name.strip() for name in next(csv.reader(file, skipinitialspace=True), [])]
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error})") from None


def read_fields(path: Path, width: int | None = None, skip: int = 0) -> list[list[str]]:
    """Return the blank-separated fields of every non-empty line after the first `skip` lines.

    path: the file. MissingDataError if there is none.
    width: the number of fields that each line must have. DataError for a line with another number.
    skip: lines at the beginning to leave out.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error})") from None
    rows = []
    for number, line in enumerate(lines[skip:], start=skip + 1):
        fields = line.split()
        if width is not None and fields and len(fields) != width:
            raise DataError(f"{path}, line {number}: {len(fields)} fields, expected {width}: '{line[:80]}'")
        if fields:
            rows.append(fields)
    return rows


def parse_codes(values: Sequence[str], names: Sequence[str], kind: str, where: str, rows: Sequence[str]) -> list[int]:
    """Return the code of each value, which is a name or a number.

    DataError gives the first value that is neither, and its row.

    values: [N].
    names: the names by code.
    kind: the word for a value in messages, 'class' or 'attribute'.
    where: the file.
    rows: the name of each row in messages, [N].
    """
    code_of = {**{str(code): code for code in range(len(names))}, **{name: code for code, name in enumerate(names)}}
    for value, row in zip(values, rows, strict=True):
        if value not in code_of:
            raise DataError(
                f"{where}: {kind} '{value}' of {row} is unknown or out of range{nearest(value, names)} "
                f"known: {', '.join(names)}, or 0 to {len(names) - 1}"
            )
    return [code_of[value] for value in values]


def require_unique(names: Sequence[str], where: Path | str, rows: Sequence[str] | None = None) -> None:
    """Raise DataError for the first name that is listed twice. It names both rows.

    names: [N].
    where: the file.
    rows: the name of each row in messages, e.g. 'line 7'. By default 'row 7', counted from 1.
    """
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        before = first.setdefault(name, number)
        if before != number:
            here, there = (rows[k] if rows is not None else f"row {k + 1}" for k in (number, before))
            raise DataError(f"{where}, {here}: {name} is listed twice, first in {there}; every image has one row")
