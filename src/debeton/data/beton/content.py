"""Hashes that name the content of a beton: one for each part, so that a difference says which part differs.

They name what a run sees of a beton, not how it lies on the disk: the order of pages does not matter. They are made
while a beton is written, from checksums that are there already, and stored in the sidecar.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.columns import Column
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.stretches import read_images
from debeton.data.spec import DatasetSpec, Ints

Content = dict[str, str]  # a SHA-256 by part
PARTS = ("rows", "labels", "attributes", "columns", "images")


def table_hashes(
    spec: DatasetSpec,
    names: Sequence[str],
    label: Ints,
    attribute: Ints,
    source: Ints,
    columns: Mapping[str, Column],
) -> Content:
    """Return the hash of each part of a beton with N rows, but for its images.

    spec: the data set; its names of classes and attributes belong to the codes.
    names: the name of each row, [N].
    label, attribute, source: int64 [N].
    columns: the further columns, each of length N, without 'path'.
    """
    return {
        "rows": _hash(list(names), source),
        **code_hashes(spec, label, attribute),
        "columns": _hash(*(part for name in sorted(columns) for part in _named(name, columns[name], spec))),
    }


def code_hashes(spec: DatasetSpec, label: Ints, attribute: Ints) -> Content:
    """Return the hashes of labels and attributes, int64 [N] each, with their names and the pairs that go together."""
    grouping = [spec.group_by] if spec.by_attribute else []  # betons without it keep their hash
    return {
        "labels": _hash(list(spec.classes), label),
        "attributes": _hash([*spec.attributes, str(spec.aligned), *grouping], attribute),
    }


def image_hash(image: NDArray[Any] | Mapping[str, NDArray[Any]], sizes: NDArray[Any], crcs: NDArray[np.uint32]) -> str:
    """Return the hash of the images of N rows: of the mode, height, width, size and CRC-32 of each.

    image: the image fields 'mode', 'height' and 'width', [N] each.
    sizes: the sizes of the stored images in bytes, [N].
    crcs: the CRC-32 of the stored bytes, [N].
    """
    return _hash(image["mode"], image["height"], image["width"], sizes, crcs)


def read_crcs(
    file: OpenedFile, offsets: NDArray[Any], sizes: NDArray[Any], *, progress: bool = False
) -> NDArray[np.uint32]:
    """Read all images of a beton and return the CRC-32 of their bytes, uint32 [N].

    offsets, sizes: the position and the size of each image in the file, in bytes, [N].
    progress: whether to draw a progress bar.
    """
    crcs = np.empty(len(offsets), np.uint32)
    with closing(read_images(file, offsets.tolist(), sizes.tolist(), "read", progress=progress)) as stretches:
        for rows, images in stretches:
            crcs[rows.start : rows.stop] = [crc for _, crc in images]
    return crcs


def differing_parts(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the parts whose hashes differ, in the sequence of PARTS.

    A part that one of the two lacks is left out.
    """
    known = [part for part in PARTS if part in expected and part in found]
    return [part for part in known if expected[part] != found[part]]


def in_words(parts: Sequence[str]) -> str:
    """Return names of parts as a list in a sentence, such as 'rows, labels and images'."""
    return " and ".join([*([", ".join(parts[:-1])] if parts[:-1] else []), parts[-1]])


def _named(name: str, column: Column, spec: DatasetSpec) -> list[Any]:
    """Return what belongs to a further column: its name, the names of its codes, its values."""
    return [[name, *spec.columns.get(name, ())], column]


def _hash(*values: Column | NDArray[Any]) -> str:
    """Return the SHA-256 of columns, each with its length. Equal integers of any type are equal."""
    digest = hashlib.sha256()
    for column in values:
        kind, data = _bytes_of(column)
        digest.update(f"{kind} {len(column)} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _bytes_of(column: Column | NDArray[Any]) -> tuple[str, bytes]:
    """Return the kind of a column's values, and the values as bytes."""
    if isinstance(column, list) or column.dtype.kind in "TU":
        texts = column if isinstance(column, list) else column.tolist()
        return "text", json.dumps(texts, ensure_ascii=True).encode()
    if column.dtype.kind in "iu":
        return "int", column.astype("<i8").tobytes()
    return column.dtype.newbyteorder("<").str, column.astype(column.dtype.newbyteorder("<")).tobytes()
