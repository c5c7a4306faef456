"""Shared code for label files: rows of text with their line numbers, and names turned into codes."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from debeton.data.raw.image_files import MissingDataError
from debeton.data.spec import UNKNOWN
from debeton.system.errors import DataError, nearest

Record = dict[str, str]
LINE = "line"  # the key under which a record keeps its line number, for messages

# Cells, in lower case, that programs write where a value is missing; and further words of people for the same.
MISSING_CELLS = ("", "nan", "<na>", "#n/a")
UNKNOWN_CELLS = (*MISSING_CELLS, "na", "n/a", "none", "null", "unknown", "?", "-1", "-1.0")


def read_csv(
    path: Path,
    required: Sequence[str],
    defaults: Mapping[str, str] | None = None,
    blank: Sequence[str] = (),
) -> list[Record]:
    """Read the rows of a CSV file with a header, with their line number as 'line'. Values are stripped.

    path: the file. MissingDataError if there is none.
    required: columns that must be there.
    defaults: columns that may be missing, with the value that all rows then have.
    blank: columns whose cells may be empty.

    DataError for a missing column, another empty cell, a file without rows, or a file that is no CSV.
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
        lacking = [name for name in wanted if not record[name] and name not in blank]
        if lacking:
            needed = ", ".join(name for name in wanted if name not in blank)
            raise DataError(f"{path}, line {line}: no {lacking[0]}; every row needs {needed}")
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


def with_unknown_blank(records: Sequence[Record], column: str, names: Sequence[str]) -> tuple[list[Record], list[str]]:
    """Return the records with an empty cell in `column` where its value is unknown, and the words for that.

    Unknown is an empty cell, and one of UNKNOWN_CELLS in any case, unless `names` lists that word as a name. If there
    is such a cell and all others are whole numbers, '1.0' becomes '1': pandas writes so beside empty cells.
    """
    cells = ["" if record[column].casefold() in UNKNOWN_CELLS else record[column] for record in records]
    cells = [record[column] if record[column] in names else cell for record, cell in zip(records, cells)]
    words = {record[column] for record, cell in zip(records, cells) if not cell}
    if words and all(re.fullmatch(r"\d+(\.0+)?", cell) for cell in cells if cell) and not set(cells) & set(names):
        cells = [cell.partition(".")[0] for cell in cells]
    return [{**record, column: cell} for record, cell in zip(records, cells)], sorted(words)


def require_values(records: Sequence[Record], column: str, names: Sequence[str], where: Path) -> None:
    """Raise DataError for the first cell that says that the value is missing, unless `names` lists it as a name."""
    for record in records:
        if record[column].casefold() in MISSING_CELLS and record[column] not in names:
            raise DataError(
                f"{where}, line {record[LINE]}: the {column} is '{record[column]}', a missing value; every row needs a "
                f"{column}, so write it or leave the row out"
            )


def parse_codes(
    values: Sequence[str],
    names: Sequence[str],
    kind: str,
    where: str,
    rows: Sequence[str],
    *,
    may_be_unknown: bool = False,
) -> list[int]:
    """Return the code of each value, which is a name or a number.

    DataError gives the first value that is neither, and its row.

    values: [N].
    names: the names by code.
    kind: the word for a value in messages, 'class' or 'attribute'.
    where: the file.
    rows: the name of each row in messages, [N].
    may_be_unknown: an empty value gets the code -1, not known.
    """
    by_number = {str(code): code for code in range(len(names))}
    by_name = {name: code for code, name in enumerate(names)}
    code_of = {**({"": UNKNOWN} if may_be_unknown else {}), **by_number, **by_name}
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
