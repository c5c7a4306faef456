"""Shared code for label files: rows of text with their line numbers, and names turned into codes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from debeton.data.raw.image_files import MissingDataError
from debeton.data.spec import UNKNOWN
from debeton.system.errors import DataError, nearest
from debeton.system.regular_files import MAX_TABLE_BYTES, read_regular

Record = dict[str, str]
DELIMITERS = (",", ";", "\t")
LONGEST_HEAD = 100_000  # characters of the header in which separators are counted; csv refuses cells of 131,072
LONGEST_LINE = 1 << 20  # bytes
LINE = "line"  # the key under which a record keeps its line number, for messages

# Cells, in lower case, that programs write where a value is missing; and further words of people for the same.
MISSING_CELLS = ("", "nan", "<na>", "#n/a")
UNKNOWN_CELLS = (*MISSING_CELLS, "na", "n/a", "none", "null", "unknown", "?", "-1", "-1.0")


@dataclass(frozen=True)
class Table:
    """A table of text, with a header.

    where: the file or folder of the table, for messages.
    cells: by column, [N] each, stripped. A column without a name is left out.
    rows: the name of each row in messages, such as 'line 7', [N].
    folders: the folder below the raw folder in which the table of each row lies, [N]; empty where it does not matter.
    """

    where: str
    cells: Mapping[str, list[str]]
    rows: list[str]
    folders: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.rows)


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
    columns, rows = _parse(_read_text(path), str(path))
    absent = [name for name in required if name not in columns]
    if absent:
        raise DataError(f"{path} lacks the column{'s' * (len(absent) > 1)} {' and '.join(absent)}; it has {columns}")
    wanted = [*required, *(name for name in defaults or {} if name in columns)]
    records = []
    for line, row in rows:
        cells = dict(zip(columns, row))
        record = {name: cells.get(name, "") for name in wanted}
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
    return _parse(_read_text(path), str(path))[0]


def read_table(path: Path, text: str | None = None) -> Table:
    """Read a table with a header: cells are separated by commas, semicolons or tabs, whichever the header has.

    Rows of blank cells are left out. DataError for a column named twice, a row longer than the header, a file without
    rows, or a file that is no table of text.

    path: the file. MissingDataError if there is none.
    text: its content, if it does not lie on the disk.
    """
    text = _read_text(path) if text is None else text
    head = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0][:LONGEST_HEAD]
    delimiter = max(DELIMITERS, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))
    columns, rows = _parse(text, str(path), delimiter)
    if not any(columns):
        raise DataError(f"{path} is empty; its first line names the columns, such as path,label,attribute,split")
    twice = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    if twice:
        raise DataError(f"{path} has {columns.count(twice[0])} columns called '{twice[0]}'; rename all but one")
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        raise DataError(f"{path} has no row below its header")
    for line, row in rows:
        if any(row[len(columns) :]):
            raise DataError(
                f"{path}, line {line}: {len(row)} cells, and the header has {len(columns)}: '{row[len(columns)]}' is "
                "in no column; put a cell that holds the separator in double quotes"
            )
    cells = {
        name: [row[place] if place < len(row) else "" for _, row in rows] for place, name in enumerate(columns) if name
    }
    return Table(str(path), cells, [f"line {line}" for line, _ in rows])


def _read_text(path: Path) -> str:
    """Return the text of a file. MissingDataError if there is none, DataError if it is not in UTF-8."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a CSV file")
    try:
        content = read_regular(path, MAX_TABLE_BYTES)
        _refuse_long_lines(content, path)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise MissingDataError(f"there is no {path}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it as UTF-8") from None


def _refuse_long_lines(content: bytes, path: Path) -> None:
    """Raise DataError if a line is longer than twice LONGEST_LINE; a shorter one may pass.

    Each stretch of LONGEST_LINE bytes of the file needs a line end, so that a table is not looked at line by line.
    """
    for start in range(0, len(content) - LONGEST_LINE + 1, LONGEST_LINE):
        end = start + LONGEST_LINE
        if content.find(b"\n", start, end) < 0 and content.find(b"\r", start, end) < 0:
            raise DataError(
                f"{path} has a line of more than {LONGEST_LINE:,} bytes, at byte {start:,}; expected a table of text "
                "with one row a line"
            )


def _parse(text: str, where: str, delimiter: str = ",") -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row with its line number. All cells are stripped; empty lines are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{where} is not a CSV file in UTF-8 (line {reader.line_num}: {error})") from None
    return (lines[0][1], lines[1:]) if lines else ([], [])


def read_fields(path: Path, width: int | None = None, skip: int = 0) -> list[list[str]]:
    """Return the blank-separated fields of every non-empty line after the first `skip` lines.

    path: the file. MissingDataError if there is none.
    width: the number of fields that each line must have. DataError for a line with another number.
    skip: lines at the beginning to leave out.
    """
    try:
        content = read_regular(path, MAX_TABLE_BYTES)
        _refuse_long_lines(content, path)
        lines = content.decode("utf-8-sig").splitlines()
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


def with_unknown_blank(cells: Sequence[str], names: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the cells, empty where the value is unknown, and the words for that.

    Unknown is an empty cell, and one of UNKNOWN_CELLS in any case, unless `names` lists that word as a name. If there
    is such a cell and all others are whole numbers, '1.0' becomes '1': pandas writes so beside empty cells.
    """
    known = [cell if cell in names or cell.casefold() not in UNKNOWN_CELLS else "" for cell in cells]
    words = {cell for cell, kept in zip(cells, known) if not kept}
    if words and all(re.fullmatch(r"\d+(\.0+)?", cell) for cell in known if cell) and not set(known) & set(names):
        known = [cell.partition(".")[0] for cell in known]
    return known, sorted(words)


def require_values(table: Table, columns: Mapping[str, str], kind: str, names: Sequence[str] = ()) -> None:
    """Raise DataError for the first row without a value of this kind.

    columns: the columns that every row needs, by kind, such as 'label'.
    names: words that are values, also if they are some of MISSING_CELLS.
    """
    for cell, row in zip(table.cells[columns[kind]], table.rows):
        if not cell:
            raise DataError(f"{table.where}, {row}: no {kind}; every row needs {', '.join(columns)}")
        if cell.casefold() in MISSING_CELLS and cell not in names:
            raise DataError(
                f"{table.where}, {row}: the {kind} is '{cell}', a missing value; every row needs a {kind}, so write it "
                "or leave the row out"
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
