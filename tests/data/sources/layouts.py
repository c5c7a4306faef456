"""Shared code of the tests of sources: loading a set, small files in its layout, and a beton of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.sources import SOURCES, Dataset


def load(name: str, raw: Path | None = None, /, **options: object) -> Dataset:
    """Return the data set that the source reads from a raw folder."""
    source = SOURCES.get(name)
    return source.load(source.request(raw, **options))


def sizes(dataset: Dataset) -> dict[str, int]:
    """Return the number of rows by split."""
    return {name: len(rows) for name, rows in dataset.splits.items()}


def listed(dataset: Dataset) -> dict[str, list[tuple[str, int]]]:
    """Return the (file, label) of each row, by split."""
    return {split: list(zip(rows.names, rows.label.tolist(), strict=True)) for split, rows in dataset.splits.items()}


def write_images(root: Path, names: Iterable[str]) -> Path:
    """Write a small image of its own colours under each name, and return the folder."""
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (8, 9, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)
    return root


def round_trip(dataset: Dataset, split: str, path: Path, mode: str = "jpg", root: Path | None = None) -> Beton:
    """Write a split as a beton, open it and compare spec, groups and columns with the rows.

    root: the folder of the files, if the beton must hold each of them byte by byte.
    """
    rows = dataset.splits[split]
    write_beton(path, rows, dataset.spec, split, WriteOptions(mode=mode))
    beton = open_beton(path)
    assert beton.spec == dataset.spec
    assert beton.label.tolist() == rows.label.tolist()
    assert beton.group.tolist() == (rows.label * len(dataset.spec.attributes) + rows.attribute).tolist()
    for name, values in {**rows.columns, "path": rows.names}.items():
        assert beton.extra[name].tolist() == list(values)
    if root is not None:
        stored = path.read_bytes()
        assert all((root / name).read_bytes() in stored for name in rows.names)
    return beton
