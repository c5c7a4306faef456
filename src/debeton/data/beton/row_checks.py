"""The checks of rows before they are stored that need no image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.columns import Column, as_column
from debeton.data.spec import UNKNOWN, DatasetSpec, Rows
from debeton.system.errors import DataError


@dataclass(frozen=True)
class CheckedRows:
    """Rows that can be stored under a spec, as far as that needs no image.

    columns: the further columns, as they are stored.
    """

    rows: Rows
    spec: DatasetSpec
    columns: dict[str, Column]


def check_rows(rows: Rows, spec: DatasetSpec, where: str) -> CheckedRows:
    """Return the rows with their further columns. DataError if a length, a code, a name or a column is wrong.

    where: the data set and the split, for messages.
    """
    return CheckedRows(rows, spec, _checked_columns(rows, spec, where))


def _checked_columns(rows: Rows, spec: DatasetSpec, where: str) -> dict[str, Column]:
    """Check the rows and return the further columns."""
    if not len(rows):
        raise DataError(f"{where} has no row; nothing to write")
    given: dict[str, Sequence[Any] | NDArray[Any]] = {
        "label": rows.label,
        "attribute": rows.attribute,
        "names": rows.names,
        **rows.columns,
    }
    if rows.source is not None:
        given["source"] = rows.source
    for name, values in given.items():
        if len(values) != len(rows):
            raise DataError(f"{where}: column '{name}' has {len(values)} values for {len(rows)} rows")
    spec.group(rows.label, rows.attribute)
    _check_names(rows.names, where)
    columns = {name: _named_column(name, values, where) for name, values in rows.columns.items()}
    for name, values in spec.columns.items():
        _check_codes(name, columns.get(name), values, rows, where)
    return columns


def _check_names(names: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where}: the row '{name}' is listed twice; every row needs a name of its own")
        seen.add(name)
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:  # a file name that is not UTF-8
        raise DataError(
            f"{where}: the name of the row {next(filter(_is_no_text, names))!r} is not UTF-8 ({error}); rename the file"
        ) from None


def _is_no_text(name: str) -> bool:
    return name.encode(errors="ignore").decode() != name


def _named_column(name: str, values: Sequence[Any] | NDArray[Any], where: str) -> Column:
    if name == "path" or "#" in name:
        raise DataError(f"{where}: a column cannot be called '{name}'; give it another name, without '#'")
    if not name.isprintable() or not name:
        raise DataError(
            f"{where}: a column cannot be called {name!r}; give it a name of characters that can be printed"
        )
    try:
        return as_column(values)
    except ValueError as error:
        raise DataError(f"{where}: column '{name}' mixes types; {error}") from None


def _check_codes(name: str, column: Column | None, values: Sequence[str], rows: Rows, where: str) -> None:
    """Check that a column named in the spec holds codes of its values, or -1 for not known."""
    if column is None:
        raise DataError(
            f"{where}: the spec names the column '{name}', but the rows have no such column; add it to them"
        )
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "iub":
        raise DataError(
            f"{where}: column '{name}' must hold whole numbers, the codes of {', '.join(values)}; it holds other values"
        )
    bad = np.flatnonzero((column < UNKNOWN) | (column >= len(values)))
    if len(bad):
        raise DataError(
            f"{where}: column '{name}' has the code {int(column[bad[0]])} in row {int(bad[0])} "
            f"({rows.names[bad[0]]}); there are {len(values)} values (0 to {len(values) - 1}) and {len(bad)} such rows"
        )
