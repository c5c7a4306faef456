"""Tables of one split each, such as train.csv and test.csv, which are read as one table: `--csv '{split}.csv'`."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from debeton.data.raw.image_files import open_zip, zip_text
from debeton.data.raw.tables import Table, read_table
from debeton.data.split_names import is_split_word
from debeton.system.errors import DataError, UsageError, first_names

SPLIT = "split"
MARK = f"{{{SPLIT}}}"  # as in --pattern


def names_splits(given: Path | None) -> bool:
    """Return True if a path has {split} in the place of the split."""
    return given is not None and MARK in str(given)


def read_split_tables(raw: Path, given: Path) -> Table:
    """Return the rows of all tables whose path fits, with a column 'split' that holds the name in the path.

    Each table knows its folder below `raw`, because its images may lie beside it.

    raw: the folder or .zip with the images. Tables are looked for there, and then in the working folder.
    given: the path of the tables, with {split} once.

    UsageError for a second {split}; DataError if no table fits, or if their columns differ.
    """
    if str(given).count(MARK) > 1:
        raise UsageError(f"--csv '{given}' has {MARK} twice; each table is one split")
    tables = _in_zip(raw, given) if raw.is_file() else _in_folder(raw, given)
    tables = tables or _in_folder(Path(), given)
    if not tables:
        raise DataError(f"folder: no CSV file fits '{given}', neither in {raw} nor in the working folder")
    if not any(is_split_word(split) for split, _, _ in tables):
        raise DataError(
            f"folder: '{given}' fits {first_names([table.where for _, _, table in tables])}, and none has train, val "
            f"or test in the place of {MARK}"
        )
    return _joined(given, tables)


def split_pattern(names: Sequence[str]) -> str:
    """Return the --csv of tables that are named by their split, such as '{split}.csv'; '' for other names."""
    found = {MARK + name[name.rfind(".") :] for name in names if is_split_word(name.rpartition(".")[0])}
    return found.pop() if len(found) == 1 else ""


def _in_folder(raw: Path, given: Path) -> list[tuple[str, str, Table]]:
    """Return the split, the folder below `raw` and the table of each file that fits."""
    pattern = str(raw / given)
    start, _, end = pattern.partition(MARK)
    found = []
    for path in sorted(glob.glob(f"{glob.escape(start)}*{glob.escape(end)}")):
        beside = Path(path).parent
        folder = beside.relative_to(raw).as_posix() if beside.is_relative_to(raw) else ""
        if Path(path).is_file():
            found.append((path[len(start) : len(path) - len(end)], folder, read_table(Path(path))))
    return found


def _in_zip(raw: Path, given: Path) -> list[tuple[str, str, Table]]:
    """Return the split, '' for the folder, and the table of each file of a .zip whose name fits."""
    start, mark, end = given.name.partition(MARK)
    if not mark:
        raise UsageError(f"--csv '{given}': in an archive, {MARK} is a part of the name of the file")
    with open_zip(raw) as archive:
        names = sorted({name.rpartition("/")[2] for name in archive.namelist()})
    fitting = [(name, re.fullmatch(f"{re.escape(start)}(.+){re.escape(end)}", name)) for name in names]
    return [(match[1], "", read_table(raw / name, zip_text(raw, name))) for name, match in fitting if match]


def _joined(given: Path, tables: Sequence[tuple[str, str, Table]]) -> Table:
    """Return one table of the rows of all, with the column 'split'. DataError if their columns differ."""
    first = tables[0][2]
    for _, _, table in tables:
        if set(table.cells) != set(first.cells):
            odd = sorted(set(table.cells) ^ set(first.cells))
            raise DataError(
                f"the columns of {first.where} and {table.where} differ in {', '.join(odd)}; tables that --csv reads "
                "together have the same columns"
            )
    if SPLIT in first.cells:
        raise DataError(
            f"{first.where} has a column '{SPLIT}', and its name says the split too; name this one table with --csv, "
            "or rename the column"
        )
    cells = {name: [cell for _, _, table in tables for cell in table.cells[name]] for name in first.cells}
    cells[SPLIT] = [split for split, _, table in tables for _ in table.rows]
    rows = [f"{Path(table.where).name}, {row}" for _, _, table in tables for row in table.rows]
    folders = [folder for _, folder, table in tables for _ in table.rows]
    return Table(str(given), cells, rows, folders)
