"""Your own photos: class folders, or a CSV with labels, spurious attributes and splits.

Licence: yours. Layouts read, `--raw` naming the folder (class folders may also lie in a .zip):
- `SPLIT/CLASS/*.jpg` where there is a `train/`, else `CLASS/*.jpg`, all of it train. Classes are the
  folder names of train in sorted order;
- a CSV, `metadata.csv` in RAW or given by `--csv`, with the columns path (relative to RAW), label, and
  where wanted attribute and split (names, or 0, 1, 2 for train, val, test; without the column all is train).
  Labels and attributes are names, numbered in sorted order or as `--classes` and `--attributes` list
  them, or whole numbers from 0.

Without an attribute column every row has the one attribute 'any'. `--aligned` says which attribute goes
with which class in training, so that results name bias-aligned and bias-conflicting accuracy.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from debeton.data.sources import Dataset, Option, Request, register_source
from debeton.data.sources._images import ImageTree, file_rows
from debeton.data.spec import DatasetSpec, RawImage, Rows
from debeton.errors import DataError, UsageError, nearest

SPLIT_NUMBERS = {"0": "train", "1": "val", "2": "test"}
Record = dict[str, str]


@register_source(
    "folder",
    "your own images: SPLIT/CLASS/* folders, or a CSV of path, label, attribute and split",
    "it is yours: --raw DIR names the folder",
    (
        Option("name", str, "folder", "what to call the data set, also in file names"),
        Option("csv", Path, None, "CSV file with the rows, relative to RAW; default metadata.csv where there is one"),
        Option("classes", str, "", "names of the labels in order, 'cat,dog'; default those found, sorted"),
        Option("attributes", str, "", "names of the attributes in order; default those found, sorted"),
        Option("aligned", str, "", "the attribute that goes with each class, 'classA:attr1,classB:attr2'"),
    ),
)
def load(request: Request) -> Dataset:
    raw, name = request.raw, request.options["name"]
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"--name '{name}' must be letters, digits, '_', '-' and '.', as it becomes a file name")
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
    for option in ("attributes", "aligned"):
        if request.options[option]:
            raise UsageError(
                f"--{option} needs attributes, and class folders have none; write a metadata.csv with the column"
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
        codes = _codes(names, classes, "class", f"{raw}, split {split}", files[split])
        splits_rows[split] = file_rows(tree, files[split], codes)
    return _dataset(DatasetSpec(request.options["name"], classes), splits_rows, raw)


def _from_csv(request: Request, raw: Path, table: Path) -> Dataset:
    records = _read_records(table)
    _check_files(records, raw, table)
    classes = _names(request.options["classes"]) or _names_found(records, "label", table)
    attributes = _names(request.options["attributes"]) or _names_found(records, "attribute", table)
    spec = DatasetSpec(
        request.options["name"], classes, attributes, parse_aligned(request.options["aligned"], classes, attributes)
    )
    parts: dict[str, list[Record]] = {}
    for record in records:
        parts.setdefault(SPLIT_NUMBERS.get(record["split"], record["split"]), []).append(record)
    return _dataset(spec, {name: _csv_rows(part, raw, spec, table) for name, part in parts.items()}, table)


def _read_records(table: Path) -> list[Record]:
    """The rows as text, every one with path, label, attribute and split, and 'line' for messages."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is not a CSV file in UTF-8 ({error})") from None
    absent = [name for name in ("path", "label") if name not in columns]
    if absent:
        raise DataError(f"{table} lacks the column{'s' * (len(absent) > 1)} {' and '.join(absent)}; it has {columns}")
    defaults = {"attribute": "any", "split": "train"}
    wanted = ["path", "label", *(name for name in defaults if name in columns)]
    records = []
    for line, row in rows:
        record = {name: (row[name] or "").strip() for name in wanted}
        blank = [name for name in wanted if not record[name]]
        if blank:
            raise DataError(f"{table}, line {line}: no {blank[0]}; every row needs {', '.join(wanted)}")
        records.append({**defaults, **record, "line": str(line)})
    if not records:
        raise DataError(f"{table} has no row below its header")
    return records


def _check_files(records: Sequence[Record], raw: Path, table: Path) -> None:
    seen: dict[str, str] = {}
    for record in records:
        path = os.path.normpath(record["path"])
        if path in seen:
            raise DataError(
                f"{table}, line {record['line']}: {record['path']} is listed twice, first in line {seen[path]}"
            )
        seen[path] = record["line"]
    missing = [record for record in records if not (raw / record["path"]).is_file()]
    if missing:
        raise DataError(
            f"{table}: {len(missing)} of {len(records)} files are missing, the first is {raw / missing[0]['path']} "
            f"(line {missing[0]['line']}); paths are relative to {raw}"
        )


def _names_found(records: Sequence[Record], column: str, table: Path) -> tuple[str, ...]:
    """Names by code: the values in sorted order; of whole numbers, 0 to the largest, all of which must occur."""
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
    label = _codes([record["label"] for record in records], spec.classes, "label", str(table), lines)
    attribute = _codes([record["attribute"] for record in records], spec.attributes, "attribute", str(table), lines)

    def read(row: int) -> RawImage:
        return raw / records[row]["path"]

    names = [record["path"] for record in records]
    return Rows(np.asarray(label, np.int64), np.asarray(attribute, np.int64), read, names)


def _codes(values: Sequence[str], names: tuple[str, ...], kind: str, where: str, rows: Sequence[str]) -> list[int]:
    """Code of each value, a name or a number; DataError names the first that is neither, and its row."""
    known = {**{str(code): code for code in range(len(names))}, **{name: code for code, name in enumerate(names)}}
    for value, row in zip(values, rows, strict=True):
        if value not in known:
            raise DataError(
                f"{where}: {kind} '{value}' of {row} is unknown or out of range{nearest(value, names)} "
                f"known: {', '.join(names)}, or 0 to {len(names) - 1}"
            )
    return [known[value] for value in values]


def _dataset(spec: DatasetSpec, splits: dict[str, Rows], where: Path) -> Dataset:
    """train, val, test first, then the others by name; no split may hold a class that train lacks."""
    for split, rows in splits.items():
        if "train" in splits and (unknown := sorted(set(rows.label) - set(splits["train"].label))):
            raise DataError(
                f"{where}: split {split} has the class '{spec.classes[unknown[0]]}', which train lacks; "
                "a model cannot learn it: name the class alike in every split, or leave it out"
            )
    order = [*(name for name in SPLIT_NUMBERS.values() if name in splits), *sorted(splits)]
    return Dataset(spec, {name: splits[name] for name in dict.fromkeys(order)})


def parse_aligned(text: str, classes: tuple[str, ...], attributes: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """`DatasetSpec.aligned` of 'classA:attr1,classB:attr2'; a class may have several, every class one at least."""
    if not text:
        return ()
    pairs: dict[str, list[int]] = {name: [] for name in classes}
    for item in text.split(","):
        label, _, attribute = (part.strip() for part in item.rpartition(":"))
        for kind, name, names in (("class", label, classes), ("attribute", attribute, attributes)):
            if name not in names:
                raise UsageError(
                    f"--aligned '{item}': unknown {kind} '{name}'{nearest(name, names)} known: {', '.join(names)}"
                )
        pairs[label].append(attributes.index(attribute))
    lacking = [name for name, codes in pairs.items() if not codes]
    if lacking:
        raise UsageError(
            f"--aligned '{text}' names no attribute for the class {lacking[0]}; it needs one for each class"
        )
    return tuple(tuple(sorted(set(codes))) for codes in pairs.values())


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if len(set(names)) != len(names) or "" in names:
        raise UsageError(f"'{text}' is not a list of different names")
    return names
