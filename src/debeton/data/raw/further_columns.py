"""The further columns of a table of images: named codes where there are few values, else numbers or text.

Columns of named codes can take the place of the label or of the attribute in training (`data.label`, `data.attribute`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.tables import UNKNOWN_CELLS, Table, parse_codes, with_unknown_blank
from debeton.data.spec import UNKNOWN, Ints

FEW_NUMBERS, FEW_WORDS = 20, 20  # values that become named codes
MANY_WORDS = 500  # also so many words, if each occurs twice on average
WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})(\.0+)?")  # '007' is a name
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
IDENTIFIER = re.compile(r"[+-]?(0\d|\d{16})")  # digits that a float would not keep


@dataclass(frozen=True)
class FurtherColumn:
    """A column for the sidecar.

    name: its name there, which may differ from the name in the table.
    values: codes, numbers or text, [N].
    names: names by code; None if the values are numbers or text.
    """

    name: str
    values: NDArray[Any] | list[str]
    names: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """Return the name and the kind of the values, for messages."""
        if self.names is not None:
            unknown = int((np.asarray(self.values) == UNKNOWN).sum())
            return f"{self.name} ({len(self.names)} names{f', unknown in {unknown} rows' if unknown else ''})"
        return f"{self.name} ({'text' if isinstance(self.values, list) else 'numbers'})"

    def at(self, rows: Ints) -> NDArray[Any] | list[str]:
        """Return the values at `rows`, int64 [n]."""
        return [self.values[row] for row in rows.tolist()] if isinstance(self.values, list) else self.values[rows]


def read_further_columns(table: Table, columns: Iterable[str]) -> tuple[list[FurtherColumn], list[str]]:
    """Return these columns of a table for the sidecar, and the names of those without any value."""
    read, empty = [], []
    taken = {"path"}  # the sidecar's own
    for column in columns:
        if all(cell.casefold() in UNKNOWN_CELLS for cell in table.cells[column]):
            empty.append(column)
            continue
        name = column.replace("#", "_")
        while name in taken:
            name += "_"
        taken.add(name)
        read.append(_read_column(name, table.cells[column], table))
    return read, empty


def value_names(values: Iterable[str]) -> tuple[str, ...]:
    """Return different values in sorted order, whole numbers by size."""
    different = set(values)
    return tuple(sorted(different, key=int if all(map(_is_number_name, different)) else None))


def _read_column(name: str, cells: Sequence[str], table: Table) -> FurtherColumn:
    """Return one column. Its kind follows from the cells that are known."""
    known = _known_cells(cells)
    values = [cell for cell in known if cell]
    if all(map(WHOLE.fullmatch, values)):
        known = [cell.partition(".")[0] for cell in known]
        names = value_names(cell for cell in known if cell)
        if len(names) <= 2 or (len(names) <= FEW_NUMBERS and 2 * len(names) <= len(values)):
            return _coded(name, known, names, table)
        if all(known) or not any(cell.startswith("-") for cell in values):
            return FurtherColumn(name, np.array([int(cell) if cell else UNKNOWN for cell in known], np.int64))
    if all(map(DECIMAL.fullmatch, values)) and not any(map(IDENTIFIER.match, values)):
        return FurtherColumn(name, np.array([float(cell) if cell else np.nan for cell in known]))
    names = value_names(values)
    if len(names) <= FEW_WORDS or (len(names) <= MANY_WORDS and 2 * len(names) <= len(values)):
        return _coded(name, known, names, table)
    return FurtherColumn(name, list(cells))


def _known_cells(cells: Sequence[str]) -> list[str]:
    """Return the cells, empty where the value is unknown.

    -1 says so only among codes, which count from 0. Elsewhere it is a number, as in CelebA's pairs of -1 and 1.
    """
    others = {cell for cell in cells if cell.casefold() not in UNKNOWN_CELLS}
    is_code = others and all(map(re.compile(r"\d+(\.0+)?").fullmatch, others)) and others & {"0", "0.0"}
    is_word = not all(map(DECIMAL.fullmatch, others))
    known, _ = with_unknown_blank(cells, () if is_code or is_word else ("-1", "-1.0"))
    return known


def _is_number_name(value: str) -> bool:
    return re.fullmatch(r"-?(0|[1-9]\d*)", value) is not None


def _coded(name: str, known: Sequence[str], names: tuple[str, ...], table: Table) -> FurtherColumn:
    codes = parse_codes(known, names, name, table.where, table.rows, may_be_unknown=True)
    return FurtherColumn(name, np.array(codes, np.int64), names)
