"""Your own photos: class folders, or a CSV with labels, spurious attributes and splits.

Licence: yours. Layouts. RAW is the folder; class folders may also lie in a .zip:
- `SPLIT/CLASS/` if there is a `train/`, else `CLASS/`, all of it train. As in torchvision's ImageFolder, the images of
  a class lie at any depth below its folder, and classes are the folder names of train in sorted order. A folder below a
  class is no attribute. Files that are left out are counted and named.
- A CSV, `metadata.csv` in RAW or the file of `--csv`, with the columns path (relative to RAW) and label. The columns
  attribute and split are optional. A split is a name, or 0, 1, 2 for train, val, test; without the column all is train.
  Labels and attributes are names, numbered in sorted order or as `--classes` and `--attributes` list them, or whole
  numbers from 0.

Splits are train, val, test and test_NAME. Other words for them are understood and reported: `validation` is val,
`Train` is train, `val_out_of_domain` is test_val_out_of_domain (data/split_names.py has the list). A split of any other
name is written only if `--splits` lists it, because training does not look for it.

Without an attribute column every row has the one attribute 'any'. An attribute is unknown (-1) where its cell is empty
or holds nan, NA, N/A, None, null, unknown, ? or -1, unless `--attributes` lists that word. `--aligned` names the
attribute that goes with each class in training, so that results hold bias-aligned and bias-conflicting accuracy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from debeton.data.raw.class_folders import read_class_folders
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tables import (
    Record,
    parse_codes,
    read_csv,
    require_unique,
    require_values,
    with_unknown_blank,
)
from debeton.data.spec import DatasetSpec, Rows, parse_aligned
from debeton.data.split_names import first_in_order, name_splits
from debeton.system.errors import DataError, UsageError
from debeton.system.log import logger


@register_source(
    "folder",
    "your own images: SPLIT/CLASS/* folders, or a CSV of path, label, attribute and split",
    "it is yours: --raw DIR names the folder",
    (
        Option("name", str, "folder", "name of the data set, also in file names"),
        Option("csv", Path, None, "CSV file with the rows, relative to RAW; default metadata.csv where there is one"),
        Option("classes", str, "", "names of the classes in order, 'cat,dog'; default those in the data, sorted"),
        Option("attributes", str, "", "names of the attributes in order; default those in the data, sorted"),
        Option("aligned", str, "", "the attribute that goes with each class, 'classA:attr1,classB:attr2'"),
    ),
)
def load(request: Request) -> Dataset:
    raw, name = request.raw, request.options["name"]
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"--name '{name}' must be letters, digits, '_', '-' and '.': it becomes a file name")
    if raw is None or not raw.exists():
        raise DataError(f"folder needs --raw, the folder with your images; {raw or 'none'} was given")
    given: Path | None = request.options["csv"]
    table = raw / (given or "metadata.csv")
    if given is not None and not table.is_file():
        raise DataError(f"folder: there is no CSV file {table}")
    if raw.is_dir() and table.is_file():
        return _from_csv(request, raw, table)
    return _from_class_folders(request, raw)


def _from_class_folders(request: Request, raw: Path) -> Dataset:
    """Return the data set from class folders."""
    for option in ("attributes", "aligned"):
        if request.options[option]:
            raise UsageError(
                f"--{option} needs attributes, and class folders have none; write a metadata.csv with that column"
            )
    tree = ImageTree(raw)
    given = _names(request.options["classes"])
    found = read_class_folders(tree, given)
    if not found.files["train"]:
        raise DataError(f"folder: {raw} holds neither metadata.csv, SPLIT/CLASS/* nor CLASS/* images")
    classes = given or tuple(sorted(set(found.labels["train"])))
    rows = {}
    for split, names in found.labels.items():
        label = parse_codes(names, classes, "class", f"{raw}, split {split}", found.files[split])
        rows[split] = file_rows(tree, found.files[split], label)
    dataset = _dataset(DatasetSpec(request.options["name"], classes), rows, raw)
    return replace(dataset, left_out=found.left_out, notes=found.notes)


def _from_csv(request: Request, raw: Path, table: Path) -> Dataset:
    """Return the data set from a CSV."""
    records = read_csv(table, ("path", "label"), {"attribute": "any", "split": "train"}, blank=("attribute",))
    paths = [os.path.normpath(record["path"]) for record in records]
    require_unique(paths, table, [f"line {record['line']}" for record in records])
    named_classes, named_attributes = (_names(request.options[option]) for option in ("classes", "attributes"))
    require_values(records, "label", named_classes, table)
    records = _with_known_attributes(records, named_attributes, table)
    classes = named_classes or _names_in_table(records, "label", table)
    attributes = named_attributes or _names_in_table(records, "attribute", table)
    spec = DatasetSpec(
        request.options["name"], classes, attributes, parse_aligned(request.options["aligned"], classes, attributes)
    )
    split_of, notes = name_splits((record["split"] for record in records), str(table), numbers=True)
    parts: dict[str, list[Record]] = {}
    for record in records:
        parts.setdefault(split_of[record["split"]], []).append(record)
    tree = ImageTree(raw)
    dataset = _dataset(spec, {name: _csv_rows(part, tree, spec, table) for name, part in parts.items()}, table)
    return replace(dataset, notes=tuple(notes))


def _with_known_attributes(records: list[Record], names: Sequence[str], table: Path) -> list[Record]:
    """Return the records with an empty attribute where it is unknown. Log their number and the words for it."""
    records, words = with_unknown_blank(records, "attribute", names)
    unknown = sum(not record["attribute"] for record in records)
    if unknown == len(records) and not names:
        raise DataError(
            f"{table}: the attribute of every row is unknown; leave the column out, or name the attributes with "
            "--attributes"
        )
    if unknown:
        shown = ", ".join(f"'{word}'" if word else "an empty cell" for word in words)
        logger.warning(
            "warning: %s: the attribute of %d of %d rows is unknown (%s); a word that --attributes lists is a name",
            table,
            unknown,
            len(records),
            shown,
        )
    return records


def _names_in_table(records: Sequence[Record], column: str, table: Path) -> tuple[str, ...]:
    """Return the names of a column by code, in sorted order.

    Whole numbers must count from 0 to the largest without a gap.
    """
    values = {record[column] for record in records} - {""}
    if not all(value.lstrip("-").isdecimal() for value in values):
        return tuple(sorted(values))
    numbers = {int(value) for value in values}
    gaps = sorted(set(range(max(max(numbers), 0) + 1)) - numbers)
    if min(numbers) < 0 or gaps:
        flag = "--classes" if column == "label" else "--attributes"
        raise DataError(
            f"{table}: the {column}s are numbers from {min(numbers)} to {max(numbers)}"
            f"{f' but none is {gaps[0]}' if gaps else ''}; they count from 0 without a gap, or {flag} names them all"
        )
    return tuple(str(number) for number in sorted(numbers))


def _csv_rows(records: Sequence[Record], tree: ImageTree, spec: DatasetSpec, table: Path) -> Rows:
    lines = [f"line {record['line']}" for record in records]
    label = parse_codes([record["label"] for record in records], spec.classes, "label", str(table), lines)
    attribute = parse_codes(
        [record["attribute"] for record in records],
        spec.attributes,
        "attribute",
        str(table),
        lines,
        may_be_unknown=True,
    )
    return file_rows(tree, [record["path"] for record in records], label, attribute)


def _dataset(spec: DatasetSpec, splits: dict[str, Rows], where: Path) -> Dataset:
    """Return the data set with train, val and test first, then the other splits by name.

    DataError if a split holds a class that train lacks.
    """
    for split, rows in splits.items():
        if "train" in splits and (unknown := sorted(set(rows.label) - set(splits["train"].label))):
            raise DataError(
                f"{where}: split {split} has the class '{spec.classes[unknown[0]]}', which train lacks; "
                "a model cannot learn it: give the class the same name in every split, or leave it out"
            )
    return Dataset(spec, {name: splits[name] for name in first_in_order(splits)})


def _names(text: str) -> tuple[str, ...]:
    """Return the names in 'a,b,...'. UsageError if a name is empty or occurs twice."""
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if len(set(names)) != len(names) or "" in names:
        raise UsageError(f"'{text}' is not a list of different names")
    return names
