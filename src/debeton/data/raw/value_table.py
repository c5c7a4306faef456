"""A table of single values, numbers or text, made rows: labels and attributes as codes, the rest as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from debeton.data.beton.columns import Column, values_at
from debeton.data.raw.further_columns import FurtherColumn, read_further_columns
from debeton.data.raw.tables import Table, parse_codes
from debeton.data.raw.value_codes import Names, code_values, is_missing, text_of
from debeton.data.spec import DatasetSpec, Ints, RawImage, Rows, parse_aligned
from debeton.system.errors import DataError, UsageError

LABEL, ATTRIBUTE = "label", "attribute"
PATH = "path"  # the column with the names of rows
Aligned = str | Sequence[Sequence[int]]


@dataclass(frozen=True)
class GivenNames:
    """The names of classes and attributes that a person gave.

    spec: of another split of the set; in place of the others.
    classes, attributes: None where the values name themselves.
    aligned: the attribute that goes with each class, as text or as in DatasetSpec.
    """

    spec: DatasetSpec | None = None
    classes: Names | None = None
    attributes: Names | None = None
    aligned: Aligned = ""

    def __post_init__(self) -> None:
        if self.spec is not None and (self.classes is not None or self.attributes is not None or self.aligned):
            raise UsageError("spec= holds the names of classes and attributes; give it, or classes= and attributes=")

    def of_role(self, role: str) -> Names | None:
        """Return the names of the codes of 'label' or 'attribute'; None if nobody named them."""
        if self.spec is not None:
            return self.spec.classes if role == LABEL else self.spec.attributes
        return self.classes if role == LABEL else self.attributes


@dataclass(frozen=True)
class ValueTable:
    """The single values of N rows. A missing value is None, NaN or ''.

    where: the data set, for messages.
    label: [N].
    attribute: [N]; None if there is none.
    columns: the other values by name, [N] each.
    row_names: [N], unique.
    words: the names of the label and the attribute in the spec, by role.
    """

    where: str
    label: Sequence[Any]
    attribute: Sequence[Any] | None
    columns: Mapping[str, Sequence[Any]]
    row_names: Sequence[str]
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CodedTable:
    """The rows of a table with codes.

    label, attribute: int64 [N]. columns: codes, numbers or text, [N] each.
    empty: the columns without any value, which are left out.
    """

    spec: DatasetSpec
    label: Ints
    attribute: Ints
    columns: Mapping[str, Column]
    row_names: Sequence[str]
    empty: Sequence[str]

    def rows(self, image: Callable[[int], RawImage], members: Ints | None = None) -> Rows:
        """Return some of the rows as `Rows`.

        image: row of the table -> RawImage.
        members: the rows of the table, int64 [n]; None for all.
        """
        chosen = np.arange(len(self.label)) if members is None else members
        numbers = chosen.tolist()
        return Rows(
            self.label[chosen],
            self.attribute[chosen],
            lambda row: image(numbers[row]),
            [self.row_names[row] for row in numbers],
            {name: values_at(column, chosen) for name, column in self.columns.items()},
        )


def code_table(table: ValueTable, name: str, given: GivenNames) -> CodedTable:
    """Return the rows of a table with codes, and their spec.

    name: of the data set.
    DataError for a value that is missing, unknown or no name.
    """

    def codes_of(role: str, values: Sequence[Any]) -> tuple[Ints, tuple[str, ...]]:
        names, row_name = given.of_role(role), table.row_names.__getitem__
        return code_values(values, names, role, table.where, row_name, may_be_missing=role == ATTRIBUTE)

    label, classes = codes_of(LABEL, table.label)
    names = given.of_role(ATTRIBUTE)
    if table.attribute is not None:
        attribute, attributes = codes_of(ATTRIBUTE, table.attribute)
    elif names is None or len(names) == 1:
        attribute, attributes = np.zeros(len(label), np.int64), tuple(names or ("any",))
    else:
        raise DataError(f"{table.where}: attributes are named, and nothing is the attribute of a row; say what it is")
    further, empty = _further_columns(table, given.spec)
    if given.spec is not None:
        spec = given.spec
    else:
        coded = {column.name: column.names for column in further if column.names is not None}
        spec = DatasetSpec(name, classes, attributes, _aligned(given.aligned, classes, attributes), columns=coded)
        spec = replace(
            spec,
            label_name=table.words.get(LABEL) or spec.label_name,
            attribute_name=table.words.get(ATTRIBUTE) or spec.attribute_name,
        )
    columns: dict[str, Column] = {column.name: column.values for column in further}
    return CodedTable(spec, label, attribute, columns, table.row_names, empty)


def _further_columns(table: ValueTable, spec: DatasetSpec | None) -> tuple[list[FurtherColumn], list[str]]:
    """Return the further columns, and the names of those without a value.

    spec: of another split, whose codes and kinds of columns hold for this one as well.
    """
    cells = {
        name: ["" if is_missing(value) else text_of(value) for value in values]
        for name, values in table.columns.items()
    }
    texts = Table(table.where, cells, list(table.row_names))
    further, empty = read_further_columns(texts, cells)
    if spec is None:
        return further, empty
    kept = [column if column.names is None else _without_codes(column) for column in further]
    coded = [
        FurtherColumn(
            name, np.array(parse_codes(cells[name], names, name, texts.where, texts.rows, may_be_unknown=True)), names
        )
        for name, names in spec.columns.items()
        if name in cells
    ]
    return [*(column for column in kept if column.name not in spec.columns), *coded], empty


def _without_codes(column: FurtherColumn) -> FurtherColumn:
    """Return a column of codes as text: another split names no codes of it."""
    names = (*(column.names or ()), "")
    return FurtherColumn(column.name, [names[code] for code in np.asarray(column.values).tolist()])


def _aligned(aligned: Aligned, classes: tuple[str, ...], attributes: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    if isinstance(aligned, str):
        return parse_aligned(aligned, classes, attributes)
    return tuple(tuple(codes) for codes in aligned)
