"""Data to measure a classifier on: a beton, or images in folders or a CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.sources import SOURCES, Dataset
from debeton.data.spec import Rows
from debeton.data.split_names import beton_name
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError, nearest
from debeton.system.files import temporary_folder
from debeton.system.log import logger

SPLIT = "test"  # the split that the measured rows are reported as


@contextmanager
def open_data(path: Path, split: str | None, options: WriteOptions) -> Iterator[View]:
    """Open the rows to measure, all of them in file order.

    path: a beton; a folder or .zip of class folders, or with a metadata.csv; or a CSV of images beside it. Images are
        read as `write-betons --dataset folder` reads them, into a temporary beton.
    split: the split of images in folders or a CSV; None: 'test', or the only one.
    options: how images are stored in the temporary beton.
    """
    if not path.exists():
        raise UsageError(f"--data {path} does not exist; expected a beton, a folder of images or a CSV")
    if path.suffix == ".beton":
        if split is not None:
            raise UsageError(f"--split {split} is for images in folders or a CSV; {path} is one split")
        yield View.whole(open_beton(path), SPLIT)
        return
    dataset = _read(path)
    rows = _choose(dataset.splits, split, path)
    with temporary_folder("evaluate") as folder:
        beton = Path(folder, beton_name(dataset.spec.name, SPLIT))
        write_beton(beton, rows, dataset.spec, SPLIT, options)
        yield View.whole(open_beton(beton), SPLIT)


def _read(path: Path) -> Dataset:
    """Return the images of a folder or a CSV as a data set that has the name of the path."""
    name = re.sub(r"[^\w.-]", "_", path.resolve().stem)
    options: dict[str, Any] = {"name": name if re.match(r"\w", name) else f"images{name}"}
    source = SOURCES.get("folder")
    if path.is_dir() or path.suffix.lower() == ".zip":
        dataset = source.read(source.request(path, **options))
    elif path.suffix.lower() == ".csv":
        dataset = source.read(source.request(path.parent, csv=Path(path.name), **options))
    else:
        raise UsageError(f"--data {path} is no beton (.beton), no folder, no .zip and no .csv")
    for note in dataset.notes:
        logger.info("%s: %s", path, note)
    return dataset


def _choose(splits: Mapping[str, Rows], split: str | None, path: Path) -> Rows:
    """Return the rows of a split. UsageError if there is none of this name, or several without a name."""
    if split is not None:
        if split not in splits:
            raise UsageError(f"--split: {path} has no '{split}'{nearest(split, splits)} it has {', '.join(splits)}")
        return splits[split]
    if SPLIT in splits:
        return splits[SPLIT]
    if len(splits) > 1:
        raise UsageError(f"{path} has the splits {', '.join(splits)} and no '{SPLIT}'; choose one with --split")
    if not splits:
        raise DataError(f"{path} holds no image")
    return next(iter(splits.values()))
