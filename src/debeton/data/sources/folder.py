"""Your own photos: class folders, or a CSV with labels, spurious attributes and splits.

Licence: yours. Layouts. RAW is the folder; class folders may also lie in a .zip:
- `SPLIT/CLASS/*.jpg` if there is a `train/`, else `CLASS/*.jpg`, all of it train. Classes are the folder names of train
  in sorted order.
- A CSV, `metadata.csv` in RAW or the file of `--csv`, with the columns path (relative to RAW) and label. The columns
  attribute and split are optional. A split is a name, or 0, 1, 2 for train, val, test; without the column all is train.
  Labels and attributes are names, numbered in sorted order or as `--classes` and `--attributes` list them, or whole
  numbers from 0.

Without an attribute column every row has the one attribute 'any'. `--aligned` names the attribute that goes with
each class in training, so that results hold bias-aligned and bias-conflicting accuracy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tables import Record, parse_codes, read_csv, require_unique
from debeton.data.spec import DatasetSpec, Rows, parse_aligned
from debeton.system.errors import DataError, UsageError

SPLIT_NUMBERS = {"0": "train", "1": "val", "2": "test"}


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
    files: dict[str, list[str]] = {}
    for path in tree.files("*/*/*"):
        files.setdefault(path.split("/")[0], []).append(path)
    if "train" not in files:
        if raw.is_dir() and (raw / "train").is_dir():
            raise DataError(f"folder: no image under {raw / 'train'}/CLASS/; expected train/CLASS/*.jpg")
        files = {"train": tree.files("*/*")}
    elif raw.is_dir():
        splits = [part.name for part in raw.iterdir() if part.is_dir() and not part.name.startswith(".")]
        empty = sorted(set(splits) - set(files))
        if empty:
            raise DataError(f"folder: split {empty[0]} is empty: no image under {raw / empty[0]}/CLASS/")
    if not files["train"]:
        raise DataError(f"folder: {raw} holds neither metadata.csv, SPLIT/CLASS/* nor CLASS/* images")
    labels = {split: [path.split("/")[-2] for path in paths] for split, paths in files.items()}
    classes = _names(request.options["classes"]) or tuple(sorted(set(labels["train"])))
    splits_rows = {}
    for split, names in labels.items():
        label = parse_codes(names, classes, "class", f"{raw}, split {split}", files[split])
        splits_rows[split] = file_rows(tree, files[split], label)
    return _dataset(DatasetSpec(request.options["name"], classes), splits_rows, raw)


def _from_csv(request: Request, raw: Path, table: Path) -> Dataset:
    """Return the data set from a CSV."""
    records = read_csv(table, ("path", "label"), {"attribute": "any", "split": "train"})
    paths = [os.path.normpath(record["path"]) for record in records]
    require_unique(paths, table, [f"line {record['line']}" for record in records])
    classes = _names(request.options["classes"]) or _names_in_table(records, "label", table)
    attributes = _names(request.options["attributes"]) or _names_in_table(records, "attribute", table)
    spec = DatasetSpec(
        request.options["name"], classes, attributes, parse_aligned(request.options["aligned"], classes, attributes)
    )
    parts: dict[str, list[Record]] = {}
    for record in records:
        parts.setdefault(SPLIT_NUMBERS.get(record["split"], record["split"]), []).append(record)
    return _dataset(spec, {name: _csv_rows(part, raw, spec, table) for name, part in parts.items()}, table)


def _names_in_table(records: Sequence[Record], column: str, table: Path) -> tuple[str, ...]:
    """Return the names of a column by code, in sorted order.

    Whole numbers must count from 0 to the largest without a gap.
    """
    values = {record[column] for record in records}
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


def _csv_rows(records: Sequence[Record], raw: Path, spec: DatasetSpec, table: Path) -> Rows:
    lines = [f"line {record['line']}" for record in records]
    label = parse_codes([record["label"] for record in records], spec.classes, "label", str(table), lines)
    attribute = parse_codes(
        [record["attribute"] for record in records], spec.attributes, "attribute", str(table), lines
    )
    return file_rows(ImageTree(raw), [record["path"] for record in records], label, attribute)


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
    order = [*(name for name in SPLIT_NUMBERS.values() if name in splits), *sorted(splits)]
    return Dataset(spec, {name: splits[name] for name in dict.fromkeys(order)})


def _names(text: str) -> tuple[str, ...]:
    """Return the names in 'a,b,...'. UsageError if a name is empty or occurs twice."""
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if len(set(names)) != len(names) or "" in names:
        raise UsageError(f"'{text}' is not a list of different names")
    return names
