"""Rows of a table with a split each, as a data set: what the readers of other libraries' files share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from debeton.data.raw.dataset_items import NAMES
from debeton.data.raw.source import Dataset, Option, Request
from debeton.data.raw.value_codes import Names, is_missing
from debeton.data.raw.value_table import ATTRIBUTE, LABEL, GivenNames, ValueTable, code_table
from debeton.data.spec import RawImage
from debeton.data.split_names import FILE_NAME, first_in_order, name_splits
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.name_lists import join_names, parse_names


def naming_options(name: str) -> tuple[Option, ...]:
    """Return the options that name the set, its classes and its attributes.

    name: the default name of the set.
    """
    return (
        Option("name", str, name, "name of the data set, also in file names"),
        Option("classes", str, "", "names of the classes in order, 'cat,dog'; default those in the data"),
        Option("attributes", str, "", "names of the attributes in order; default those in the data"),
        Option("aligned", str, "", "the attribute that goes with each class, 'classA:attr1,classB:attr2'"),
    )


@dataclass(frozen=True)
class LabelledRows:
    """Rows with their values, before they are divided into splits.

    where: the files, for messages.
    columns: the single values by column, [N] each.
    names: names of the codes of a column, where the files have them.
    splits: the split of each row as the files call it, [N].
    row_names: [N], unique.
    """

    where: str
    columns: Mapping[str, Sequence[Any]]
    names: Mapping[str, Names]
    splits: Sequence[str]
    row_names: Sequence[str]


def choose_column(role: str, given: str | None, columns: Mapping[str, Any], where: str) -> str | None:
    """Return the column of the label or the attribute, as given or by its name.

    None if there is no attribute.
    DataError without a label. UsageError for an unknown column.
    """
    known = join_names(columns, ", ") or "none"
    if given:
        if given not in columns:
            raise UsageError(f"--{role} '{given}': {where} has no such column{nearest(given, columns)} known: {known}")
        return given
    plain = {column.rpartition(".")[2].casefold(): column for column in reversed(list(columns))}
    found = next((plain[name] for name in NAMES[role] if name in plain), None)
    if found is None and role == LABEL:
        raise DataError(f"{where}: no column is called like a label; it has {known}. Name one with --label")
    return found


def make_dataset(request: Request, rows: LabelledRows, image: Callable[[int], RawImage]) -> Dataset:
    """Return the data set of rows, with the splits that training looks for first.

    request: with the options of `naming_options`, and 'label' and 'attribute'.
    image: row -> RawImage.
    """
    options = request.options
    if not re.fullmatch(FILE_NAME, options["name"]):
        raise UsageError(
            f"--name '{options['name']}' must be letters, digits, '_', '-' and '.': it becomes a file name"
        )
    label = choose_column(LABEL, options["label"], rows.columns, rows.where) or ""
    rest = {name: values for name, values in rows.columns.items() if name != label}
    attribute = choose_column(ATTRIBUTE, options["attribute"], rest, rows.where)
    labelled, unlabelled = _labelled(rows, label)
    values = {name: [column[row] for row in labelled] for name, column in rows.columns.items()}
    given = GivenNames(
        classes=parse_names(options["classes"]) or rows.names.get(label),
        attributes=parse_names(options["attributes"]) or rows.names.get(attribute or ""),
        aligned=options["aligned"] or "",
    )
    further = {
        name: _named(column, rows.names.get(name)) for name, column in values.items() if name not in (label, attribute)
    }
    words = {LABEL: label, **({ATTRIBUTE: attribute} if attribute else {})}
    names = [rows.row_names[row] for row in labelled]
    table = ValueTable(rows.where, values[label], values.get(attribute or ""), further, names, words)
    coded = code_table(table, options["name"], given)
    split_of, notes = name_splits((rows.splits[row] for row in labelled), rows.where)
    codes = np.array([split_of[rows.splits[row]] for row in labelled])
    splits = {
        split: coded.rows(lambda row: image(labelled[row]), np.flatnonzero(codes == split))
        for split in first_in_order(dict.fromkeys(codes.tolist()))
    }
    roles = ", ".join(f"{role} is '{word}'" for role, word in words.items())
    return Dataset(
        coded.spec,
        splits,
        left_out=(),
        notes=(
            f"{roles} (--label and --attribute say it otherwise)",
            *(
                []
                if attribute
                else ["no column is the attribute, so groups are the classes; name one with --attribute"]
            ),
            *([f"further columns are kept beside: {join_names(coded.columns, ', ')}"] if coded.columns else []),
            *([f"left out, because no row has a value: {join_names(coded.empty, ', ')}"] if coded.empty else []),
            *(f"the split '{split}' is left out: none of its rows has a label" for split in unlabelled),
            *notes,
        ),
    )


def _labelled(rows: LabelledRows, label: str) -> tuple[list[int], list[str]]:
    """Return the rows of splits that have labels, and the splits without any: owners publish such tests."""
    with_label = {split for split, value in zip(rows.splits, rows.columns[label]) if not is_missing(value)}
    without = [split for split in dict.fromkeys(rows.splits) if split not in with_label]
    if not with_label:
        raise DataError(f"{rows.where}: no row has a label in '{label}'; name another column with --label")
    return [row for row, split in enumerate(rows.splits) if split in with_label], without


def _named(values: Sequence[Any], names: Names | None) -> Sequence[Any]:
    """Return the names of codes, where the files name them: a column keeps them."""
    if not isinstance(names, Sequence):
        return values
    return [None if is_missing(value) else names[int(value)] for value in values]
