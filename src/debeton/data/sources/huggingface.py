"""Your own data set of the library `datasets` (Hugging Face): saved with save_to_disk, or as parquet files.

Licence: that of the data set. Nothing is fetched, and nothing is written into the folder. Layouts of RAW:
- what `DatasetDict.save_to_disk` or `Dataset.save_to_disk` wrote;
- a folder of parquet files, at any depth, of which each names its split: `data/train-00000-of-00002.parquet`,
  `validation.parquet`, `test/0000.parquet`. Files that name none are train;
- one parquet file.

Images are bytes in a column of type Image, of bytes and path, or of bytes alone. JPEG files stay as they are. Columns
of type ClassLabel have names; other values are numbered in sorted order. Every other column with one number or text in
a row is kept beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.beton.image_decoding import BadImage
from debeton.data.raw.arrow_tables import ArrowPart, image_columns, label_names, read_parts, single_columns
from debeton.data.raw.dataset_items import IMAGE, NAMES
from debeton.data.raw.labelled_splits import LabelledRows, make_dataset, naming_options
from debeton.data.raw.layout import raw_folder
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import RawImage
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.file_names import path_below


@register_source(
    "huggingface",
    "your own data set of the library datasets: save_to_disk or parquet files",
    "it is yours: --raw DIR names the folder of save_to_disk, or the parquet files",
    (
        Option("label", str, "", "column with the class (default: by name, such as label or target)"),
        Option("attribute", str, "", "column with the spurious attribute (default: by name, else none)"),
        Option("image", str, "", "column with the images, where there are several"),
        *naming_options("huggingface"),
    ),
)
def load(request: Request) -> Dataset:
    raw = raw_folder(request, "huggingface")
    parts = read_parts(raw)
    image = _choose_image(request.options["image"], parts[0], raw)
    first = parts[0]
    for part in parts:
        if sorted(part.schema.names) != sorted(first.schema.names):
            differing = sorted(set(part.schema.names) ^ set(first.schema.names))
            raise DataError(
                f"{part.path} and {first.path} have different columns: {', '.join(differing)} is in one only"
            )
    names = {name: found for name in first.schema.names if (found := label_names(first.features.get(name)))}
    columns: dict[str, list[Any]] = {name: [] for name in single_columns(first) if name != image}
    for part in parts:
        table = part.read(list(columns))
        for name, values in columns.items():
            values += _known(table.column(name).to_pylist(), is_code=name in names)
    ends = np.cumsum([part.num_rows for part in parts])

    def read(row: int) -> RawImage:
        place = int(np.searchsorted(ends, row, side="right"))
        part = parts[place]
        start = int(ends[place]) - part.num_rows
        return _raw_image(part.image_at(image, row - start), raw)

    splits = [part.split for part in parts for _ in range(part.num_rows)]
    rows = LabelledRows(str(raw), columns, names, splits, _row_names(parts))
    return make_dataset(request, rows, read)


def _choose_image(given: str, part: ArrowPart, raw: Path) -> str:
    """Return the column with the images. An error if none, or more than one, can be meant."""
    found = image_columns(part)
    if given:
        if given not in part.schema.names:
            raise UsageError(
                f"--image '{given}': {raw} has no such column{nearest(given, found)} images are in "
                f"{', '.join(found) or 'none'}"
            )
        return given
    named = [name for known in NAMES[IMAGE] for name in found if name.casefold() == known]
    if not found:
        raise DataError(
            f"{part.path}: no column holds images as bytes; it has {', '.join(part.schema.names)}. A column of paths "
            "can be named with --image"
        )
    if len(found) > 1 and not named:
        raise DataError(f"{part.path}: images are in {' and '.join(found)}; say which with --image")
    return named[0] if named else found[0]


def _known(values: list[Any], *, is_code: bool) -> list[Any]:
    """Return values as numbers or text. The code -1 of a ClassLabel says that the label is not known."""
    if is_code:
        return [None if value == -1 else value for value in values]
    return [value if value is None or isinstance(value, bool | int | float | str) else str(value) for value in values]


def _raw_image(value: Any, raw: Path) -> RawImage:
    """Return the image in a cell: bytes, a path below the folder, or both of which the bytes count."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return (raw if raw.is_dir() else raw.parent) / path_below(value, "is not read", BadImage)
    if not value:
        raise BadImage("is empty: the cell holds neither bytes nor a path")
    return bytes(value)


def _row_names(parts: list[ArrowPart]) -> list[str]:
    """Return the name of each row: its split, and its number there."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for part in parts:
        start = seen.get(part.split, 0)
        names += [f"{part.split}[{start + row}]" for row in range(part.num_rows)]
        seen[part.split] = start + part.num_rows
    return names
