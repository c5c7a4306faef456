"""Betons that you wrote with FFCV yourself: they get labels, attributes and a sidecar.

The file itself is not changed.

The label and the attribute are fields of the file, or columns of a CSV. Other single numbers and texts become columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.adopted import ADOPTED, field_values, image_field, stored_sizes
from debeton.data.beton.columns import write_columns
from debeton.data.beton.content import read_crcs
from debeton.data.beton.ffcv_format import INT, Stored, read_stored
from debeton.data.beton.file import StoredRows, describe_rows
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.places import check_images
from debeton.data.beton.row_checks import CheckedRows, check_rows
from debeton.data.beton.sidecar import checksum, columns_path, read_sidecar, sidecar_path, write_sidecar
from debeton.data.beton.treatment import UNKNOWN, Treatment, count_treatments
from debeton.data.raw.dataset_items import NAMES
from debeton.data.raw.tables import Table, read_table
from debeton.data.raw.value_codes import Names, text_of
from debeton.data.raw.value_table import ATTRIBUTE, LABEL, PATH, Aligned, GivenNames, ValueTable, code_table
from debeton.data.raw.write_dataset import name_and_split
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.failed_writes import naming_failed_writes
from debeton.system.files import replacing
from debeton.system.log import logger

Values = dict[str, list[Any]]


def adopt_beton(
    path: Path | str,
    *,
    label: str | None = None,
    attribute: str | None = None,
    image: str | None = None,
    csv: Path | str | None = None,
    csv_index: str | None = None,
    classes: Names | None = None,
    attributes: Names | None = None,
    aligned: Aligned = "",
    spec: DatasetSpec | None = None,
    name: str | None = None,
    split: str | None = None,
    out: Path | str | None = None,
) -> dict[str, Any]:
    """Give a beton that FFCV's own writer made a sidecar, and return the sidecar.

    The beton is read and not changed.
    The sidecar and the columns file lie beside the beton. Afterwards the beton is used like any other.

    path: the beton.
    label: the field, or the column of the CSV, with the class of each row. A key of a JSON field is 'field.key'. By
        default the one called 'label', 'target', 'y' or the like, or the only field of whole numbers.
    attribute: the same for the spurious attribute. By default one called 'attribute' or the like, else there is none.
    image: the field with the images, needed where there are several.
    csv: a table with a header and one line for each row, in their order.
    csv_index: a column of the table that says which row a line belongs to: by the value of the field of the same name,
        or by the number of the row from 0. Lines may then stand in any order, and there may be more of them.
    classes, attributes, aligned, spec, name: as in `write_dataset`.
    split: by default the end of the file name, as in 'pets_train.beton'.
    out: the path of a link to the beton, beside which the two files are written. It may lie in another folder.

    DataError where the file is no beton of FFCV, is cut short, or has no label for a row.
    """
    path, place = Path(path), Path(path if out is None else out)
    given = GivenNames(spec, classes, attributes, aligned)
    name, split = name_and_split(place, name or (spec.name if spec is not None else None), split)
    own = _read(path, image)
    _check_place(place, path)
    values = dict(own.values)
    if csv is not None:
        further = _csv_values(Path(csv), csv_index, values, len(own.images))
        if both := [column for column in further if column in values]:
            raise DataError(f"{csv}: the column '{both[0]}' is a field of {path} as well; give it another name")
        values.update(further)
    elif csv_index is not None:
        raise UsageError(f"the column '{csv_index}' says which line belongs to which row, and no CSV is given")
    label = _choose(LABEL, label, values, own)
    rest = {column: kept for column, kept in values.items() if column != label}
    roles = {LABEL: label, ATTRIBUTE: _choose(ATTRIBUTE, attribute, values if attribute else rest, own)}
    columns = {column: kept for column, kept in values.items() if column not in roles.values()}
    names = columns.pop(PATH, None)
    if names is None or not all(names) or len(set(names)) < len(names):
        names = [f"{place.stem}[{row}]" for row in range(len(own.images))]
    table = ValueTable(
        f"{name}/{split}",
        values[roles[LABEL] or ""],
        values.get(roles[ATTRIBUTE] or ""),
        columns,
        list(map(str, names)),
        {role: column for role, column in roles.items() if column is not None},
    )
    coded = code_table(table, name, given)
    checked = check_rows(coded.rows(lambda row: b""), coded.spec, table.where)
    entries = {ADOPTED: {"image": own.image, **{role: column for role, column in roles.items() if column is not None}}}
    return _write(place, path, own, checked, split, entries)


@dataclass(frozen=True)
class _Own:
    """The content of a beton of another program.

    image: the name of the field with the images.
    images: their entries, [N] of type IMAGE. sizes: of the stored images in bytes, [N].
    values: the single values by field, [N] each. others: the other fields, with a word for what they hold.
    """

    file: OpenedFile
    stored: Stored
    image: str
    images: NDArray[Any]
    sizes: NDArray[np.uint64]
    values: Values
    others: Mapping[str, str]


def _read(path: Path, image: str | None) -> _Own:
    """Read the tables and the single values of a beton. DataError says why that is not possible."""
    if not path.is_file():
        raise DataError(f"there is no beton {path}; name the file that FFCV's DatasetWriter wrote")
    file = OpenedFile(path)
    try:
        stored = read_stored(file)
        image, images = image_field(stored, image)
        sizes = stored_sizes(images, stored)
        check_images(images, sizes, stored.room)
        values, others = field_values(file, stored)
    except DataError:
        raise
    except (ValueError, TypeError, LookupError) as error:  # as json and NumPy raise them for damaged descriptions
        raise DataError(f"{path} cannot be adopted: {error}") from None
    if not len(images):
        raise DataError(f"{path} holds no row; an empty split can be used neither for training nor for evaluation")
    if others:
        listed = ", ".join(f"{field} ({word})" for field, word in others.items())
        logger.info("%s: no single number or text, so no column: %s", path, listed)
    return _Own(file, stored, image, images, sizes, values, others)


def _check_place(place: Path, path: Path) -> None:
    """Raise an error unless the sidecar may be written beside `place`, which is the beton or a link to it."""
    if place.suffix != ".beton":
        raise UsageError(f"{place} is no name of a beton; end it with .beton, as in --out data/pets_train.beton")
    if place.exists() and not place.samefile(path):
        raise DataError(f"{place} exists and is another file than {path}; choose another --out")
    if sidecar_path(place).exists() and ADOPTED not in read_sidecar(place):
        raise DataError(f"{place} has a sidecar, {sidecar_path(place).name}: it can be used as it is")


def _choose(role: str, given: str | None, values: Mapping[str, Any], own: _Own) -> str | None:
    """Return the field or column of a role; None if there is no attribute."""
    if given is not None and given in values:
        return given
    known = ", ".join([*values, *(f"{name} ({word})" for name, word in own.others.items())]) or "none"
    if given is not None:
        kind = f"is {own.others[given]}" if given in own.others else f"is unknown{nearest(given, values)}"
        raise DataError(
            f"{own.file.path}: the {role} '{given}' {kind}{'' if given not in own.others else ';'} single values are "
            f"in {known}; a CSV can add others with --csv"
        )
    named = [column for name in NAMES[role] for column in values if column.rpartition(".")[2].casefold() == name]
    if named or role == ATTRIBUTE:
        return named[0] if named else None
    whole = [field.name for field in own.stored.fields if field.type_id == INT]
    if len(whole) == 1:
        return whole[0]
    raise DataError(
        f"{own.file.path}: no field is called like a label; single values are in {known}. Name one with --label, or "
        "give a table with --csv"
    )


def _csv_values(path: Path, index: str | None, values: Mapping[str, list[Any]], count: int) -> Values:
    """Return the columns of a table, one value for each of the N rows of a beton.

    index: the column that says which row a line belongs to; None if the lines are in the rows' order.
    """
    table = read_table(path)
    if index is None:
        if len(table) != count:
            raise DataError(
                f"{path} has {len(table)} lines below its header, and the beton has {count} rows; give a line for each "
                "row in their order, or name the column that says which row a line belongs to with --csv-index"
            )
        return {name: list(cells) for name, cells in table.cells.items()}
    if index not in table.cells:
        raise UsageError(f"{path} has no column '{index}'{nearest(index, table.cells)} it has {', '.join(table.cells)}")
    line_of = _lines_by_key(table, index)
    keys = [text_of(value) for value in values.get(index, range(count))]
    if absent := [row for row, key in enumerate(keys) if key not in line_of]:
        raise DataError(
            f"{path}: no line has the {index} {keys[absent[0]]} of row {absent[0]}; {len(absent)} of {count} rows have "
            "no line"
        )
    lines = [line_of[key] for key in keys]
    return {name: [cells[line] for line in lines] for name, cells in table.cells.items() if name != index}


def _lines_by_key(table: Table, index: str) -> dict[str, int]:
    line_of: dict[str, int] = {}
    for line, cell in enumerate(table.cells[index]):
        before = line_of.setdefault(cell, line)
        if before != line:
            raise DataError(
                f"{table.where}, {table.rows[line]}: the {index} {cell} is listed twice, first in {table.rows[before]}"
            )
    return line_of


def _write(
    place: Path, path: Path, own: _Own, checked: CheckedRows, split: str, entries: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the columns and the sidecar beside `place`, and return the sidecar.

    If nothing lies at `place`, it becomes a link to the beton.
    """
    rows, spec = checked.rows, checked.spec
    crcs = read_crcs(own.file, own.images["data_ptr"], own.sizes)
    source = np.zeros(len(rows), np.int64)
    stored = StoredRows(rows.label, rows.attribute, source, own.images, own.sizes, crcs)
    image = {"mode": None, "max_resolution": None, "stored": count_treatments({Treatment("beton", UNKNOWN): len(rows)})}
    further = {"image_options": None, "image": image, "skipped": [], "dataset_options": {}, "left_out": [], **entries}
    sidecar = {
        **describe_rows(stored, spec, split, rows.names, checked.columns, further),
        "checksum": checksum(own.stored.metadata, own.stored.allocations, rows.label, rows.attribute),
        "file_size": own.file.size,
    }
    with replacing(columns_path(place), sidecar_path(place)) as (columns_file, sidecar_file):
        codes = (rows.label, rows.attribute)
        columns = {PATH: list(rows.names), **checked.columns}
        write_columns(columns_file, columns, sidecar["checksum"], codes, crcs)
        sidecar = write_sidecar(sidecar_file, sidecar)
    if not place.exists():
        with naming_failed_writes(place):
            os.symlink(path.resolve(), place)
    return sidecar
