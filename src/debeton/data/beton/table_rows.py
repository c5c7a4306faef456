"""The rows of a beton, read from its tables and held against its sidecar and against the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.adopted import ADOPTED, image_field, stored_sizes
from debeton.data.beton.columns import Columns
from debeton.data.beton.ffcv_format import Room, read_own, read_stored
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.places import check_images, sizes_by_row
from debeton.data.beton.sidecar import checksum, columns_path, find_beside, sidecar_path
from debeton.data.spec import Ints
from debeton.system.errors import DataError


@dataclass(frozen=True)
class TableRows:
    """The rows of a beton as its file holds them, N of each.

    label, attribute, source: int64.
    group: int64; None for an adopted beton, whose file has none.
    image: of type IMAGE.
    sizes: of the images in bytes, uint64.
    checksum: of everything that the sidecar is tied to.
    room: the part of the file in which images lie.
    """

    label: Ints
    attribute: Ints
    source: Ints
    group: Ints | None
    image: NDArray[Any]
    sizes: NDArray[np.uint64]
    checksum: str
    room: Room


def read_matching_rows(file: OpenedFile, sidecar: Mapping[str, Any]) -> TableRows:
    """Return the rows of a beton. DataError unless they match the sidecar."""
    path, size = file.path, file.size
    if size != sidecar["file_size"]:
        state = "truncated" if size < sidecar["file_size"] else "longer than it was written"
        raise DataError(f"{path} is {state}: {size} bytes, its sidecar says {sidecar['file_size']}; write it again")
    stored = read_rows(file, sidecar)
    if stored.checksum != sidecar["checksum"]:
        raise DataError(
            f"{path} and {sidecar_path(path).name} disagree: they were not written together; write it again"
        )
    if not len(stored.label):
        raise DataError(f"{path} holds no row; an empty split can be used neither for training nor for evaluation")
    try:
        check_images(stored.image, stored.sizes, stored.room)
    except ValueError as error:
        raise DataError(f"{path}: {error}; its tables are damaged or were made up: write it again") from None
    return stored


def read_rows(file: OpenedFile, sidecar: Mapping[str, Any], codes: tuple[Ints, Ints] | None = None) -> TableRows:
    """Return the rows of a beton, whose sidecar says if this project wrote it. DataError if another program did.

    codes: the labels and attributes of an adopted beton, if they are known; else its columns are read.
    """
    try:
        if ADOPTED in sidecar:
            return _read_adopted(file, sidecar, codes)
        own = read_own(file)
        tied = checksum(own.metadata, own.allocations)
        if tied != sidecar["checksum"]:
            sizes = np.zeros(len(own.metadata), np.uint64)
        else:
            sizes = sizes_by_row(own.metadata["f0"]["data_ptr"], own.allocations)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file.path} is not a beton of this project: {error}; write it again") from None
    label, attribute, group, source = (np.ascontiguousarray(own.metadata[f"f{k}"]) for k in range(1, 5))
    return TableRows(label, attribute, source, group, own.metadata["f0"], sizes, tied, own.room)


def _read_adopted(file: OpenedFile, sidecar: Mapping[str, Any], codes: tuple[Ints, Ints] | None) -> TableRows:
    """Return the rows of a beton of another program, whose labels and attributes lie beside it."""
    stored = read_stored(file)
    if codes is None:
        columns = Columns(find_beside(file.path, columns_path), len(stored.metadata), sidecar["checksum"])
        codes = columns.read_codes()
    name = sidecar[ADOPTED].get("image")
    _, image = image_field(stored, None if name is None else str(name))
    tied = checksum(stored.metadata, stored.allocations, *codes)
    sizes = stored_sizes(image, stored) if tied == sidecar["checksum"] else np.zeros(len(image), np.uint64)
    source = np.zeros(len(image), np.int64)
    return TableRows(*codes, source, None, image, sizes, tied, stored.room)
