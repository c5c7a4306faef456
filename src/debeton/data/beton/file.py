"""A beton while it is written: images in pages, the tables around them, the sidecar, and reading back.

FFCV requires that no image crosses the border of a page, and that the size of a page is a power of two. The page may
therefore grow while images are written: an image that does not cross a small page does not cross a larger one.
So no size has to be known before the first image is written.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.columns import Column, write_columns
from debeton.data.beton.content import Content, image_hash, table_hashes
from debeton.data.beton.ffcv_format import (
    ALLOCATION,
    JPG,
    MAX_PAGE,
    METADATA,
    METADATA_START,
    MIN_PAGE,
    header_bytes,
)
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.sidecar import (
    SCHEMA_VERSION,
    checksum,
    columns_path,
    group_counts,
    sidecar_path,
    write_sidecar,
)
from debeton.data.beton.stretches import read_images
from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError

# Up to this size a page has room for eight of the largest image, so that little of it stays empty. All in bytes.
ROOMY_PAGE = 1 << 26
WRITE_BUFFER = 1 << 20


@dataclass(frozen=True)
class Tables:
    """The tables of a written beton, one entry per row.

    metadata: the fields of each row, [N] of type METADATA.
    allocations: the position and the size of each image in the file, [N] of type ALLOCATION.
    crcs: the CRC-32 of the bytes of each image, uint32 [N].
    """

    metadata: NDArray[Any]
    allocations: NDArray[Any]
    crcs: NDArray[np.uint32]

    @property
    def rows(self) -> StoredRows:
        """Return what the sidecar describes."""
        metadata, sizes = self.metadata, self.allocations["size"]
        return StoredRows(metadata["f1"], metadata["f2"], metadata["f4"], metadata["f0"], sizes, self.crcs)


@dataclass(frozen=True)
class StoredRows:
    """The rows of a beton as the sidecar describes them, N of each.

    label, attribute, source: int64.
    image: the fields of the images, of type IMAGE.
    sizes: of the stored images, in bytes.
    crcs: the CRC-32 of the bytes of each image, uint32.
    """

    label: Ints
    attribute: Ints
    source: Ints
    image: NDArray[Any]
    sizes: NDArray[Any]
    crcs: NDArray[np.uint32]


class BetonFile:
    """A beton that is being written. Append the images in row order, then call `write_tables`.

    capacity: the largest number of rows. Their fields lie before the images.
    """

    def __init__(self, path: Path, capacity: int):
        self.page_size = MIN_PAGE
        self._position = _round_up(METADATA_START + capacity * METADATA.itemsize, self.page_size)
        self._offsets, self._sizes, self._crcs = array("Q"), array("Q"), array("I")
        self._modes, self._heights, self._widths = array("B"), array("H"), array("H")
        self._file = path.open("wb", buffering=WRITE_BUFFER)
        self._file.seek(self._position)

    def __len__(self) -> int:
        return len(self._offsets)

    def __enter__(self) -> BetonFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, data: bytes | memoryview, height: int, width: int, mode: int, crc: int) -> None:
        """Write the image of the next row.

        data: the bytes to store.
        height, width: pixels.
        mode: JPG or RAW.
        crc: CRC-32 of `data`.
        """
        size = len(data)
        page = max(self.page_size, _page_size_for(size))
        crosses = self._position // page != (self._position + size - 1) // page
        if crosses or page > self.page_size:
            self.page_size, self._position = page, _round_up(self._position, page)
            self._file.seek(self._position)  # only here, because a seek empties the buffer
        self._file.write(data)
        self._offsets.append(self._position)
        self._sizes.append(size)
        self._crcs.append(crc)
        self._modes.append(mode)
        self._heights.append(height)
        self._widths.append(width)
        self._position += size

    def write_tables(self, spec: DatasetSpec, label: Ints, attribute: Ints, source: Ints) -> Tables:
        """Write the tables and the header, and close the file. label, attribute, source: int64 [rows appended]."""
        n = len(self)
        metadata, allocations = np.zeros(n, METADATA), np.zeros(n, ALLOCATION)
        image = {"mode": self._modes, "width": self._widths, "height": self._heights, "data_ptr": self._offsets}
        for name, values in image.items():
            metadata["f0"][name] = np.array(values)
        index = np.arange(n)
        for k, column in enumerate((label, attribute, spec.group(label, attribute), source, index), start=1):
            metadata[f"f{k}"] = column
        for name, column in (("sample_id", index), ("ptr", np.array(self._offsets)), ("size", np.array(self._sizes))):
            allocations[name] = column
        end = _round_up(self._position, self.page_size)
        self._file.seek(end)
        self._file.write(_bytes_of(allocations))
        self._file.seek(0)
        self._file.write(header_bytes(n, self.page_size, end))
        self._file.write(_bytes_of(metadata))
        self._file.close()
        return Tables(metadata, allocations, np.array(self._crcs, np.uint32))


def _page_size_for(size: int) -> int:
    """Return the size of the smallest page for images of `size` bytes, a power of two up to MAX_PAGE."""
    if size > MAX_PAGE:
        raise DataError(f"an image of {size} bytes does not fit in a page of {MAX_PAGE}; use --max-resolution")
    one_image = 1 << max(0, size - 1).bit_length()
    return max(one_image, min(8 * one_image, ROOMY_PAGE))


def _round_up(position: int, page_size: int) -> int:
    return -(-position // page_size) * page_size


def _bytes_of(table: NDArray[Any]) -> memoryview:
    return table.view(np.uint8).data


def beton_files(path: Path) -> tuple[Path, Path, Path]:
    """Return the three files of a beton in the order in which they get their final names.

    The beton is last. Until then an older beton disagrees with the new sidecar and is refused.
    """
    return columns_path(path), sidecar_path(path), path


def finish_beton(
    partials: Sequence[Path],
    tables: Tables,
    spec: DatasetSpec,
    split: str,
    names: Sequence[str],
    columns: Mapping[str, Column],
    entries: Mapping[str, Any],
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the columns and the sidecar of a beton, read the beton back, and return the sidecar.

    partials: the three files under their temporary names, in the order of `beton_files`.
    tables: the tables that were written into the beton.
    spec: the data set.
    split: the name of the split.
    names: the name of each row, [N]. They become the column 'path'.
    columns: further values per row, each of length N.
    entries: more entries of the sidecar. Its 'image' is completed with values from the tables.
    progress: whether to draw a progress bar.
    """
    columns_file, sidecar_file, beton_file = partials
    sidecar = {
        **describe_rows(tables.rows, spec, split, names, columns, entries),
        "checksum": checksum(tables.metadata, tables.allocations),
        "file_size": beton_file.stat().st_size,
    }
    sidecar = write_sidecar(sidecar_file, sidecar)
    write_columns(columns_file, {"path": list(names), **columns}, sidecar["checksum"], crcs=tables.crcs)
    read_back(beton_file, tables, progress=progress)
    return sidecar


def describe_rows(
    rows: StoredRows,
    spec: DatasetSpec,
    split: str,
    names: Sequence[str],
    columns: Mapping[str, Column],
    entries: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the sidecar of a beton, but for the two entries that tie it to its file. See `finish_beton`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": spec.name,
        "split": split,
        "n": len(rows.label),
        "spec": spec.to_dict(),
        "group_counts": group_counts(spec, rows.label, spec.group(rows.label, rows.attribute)),
        **entries,
        "image": {**entries["image"], **_describe_images(rows.image)},
        "columns": sorted({"path", *columns}),
        "row_hash": row_hash(names, rows.label, rows.attribute),
        "content": _content(rows, spec, names, columns),
    }


def _describe_images(image: NDArray[Any]) -> dict[str, Any]:
    """Return the share of JPEGs and the smallest and largest height and width."""
    sides = {name: [int(image[name].min()), int(image[name].max())] for name in ("height", "width")}
    return {"jpeg_share": float(np.mean(image["mode"] == JPG)), **sides}


def _content(rows: StoredRows, spec: DatasetSpec, names: Sequence[str], columns: Mapping[str, Column]) -> Content:
    """Return the hashes that name what was written. The parameters are those of `finish_beton`."""
    hashes = table_hashes(spec, names, rows.label, rows.attribute, rows.source, columns)
    return {**hashes, "images": image_hash(rows.image, rows.sizes, rows.crcs)}


def row_hash(names: Sequence[str], label: Ints, attribute: Ints) -> str:
    """Return the SHA-256 of names, labels and attributes. It is equal exactly if two betons hold the same rows."""
    digest = hashlib.sha256()
    for row in zip(names, label.tolist(), attribute.tolist(), strict=True):
        digest.update("{}\t{}\t{}\n".format(*row).encode())
    return digest.hexdigest()


def read_back(path: Path, tables: Tables, *, progress: bool = False) -> None:
    """Compare the bytes of every image on the disk with those that were written, by their CRC-32.

    DataError names the first row that differs. No image is decoded again: the written bytes are pixels, or a JPEG that
    was decoded before, and equal bytes decode equally. The bytes come from the disk if the system gives up its cache.
    """
    file = OpenedFile(path)
    os.fsync(file.descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    crcs = tables.crcs.tolist()
    stretches = read_images(
        file, tables.allocations["ptr"].tolist(), tables.allocations["size"].tolist(), "read back", progress=progress
    )
    with closing(stretches):
        for rows, images in stretches:
            for row, (_, crc) in zip(rows, images, strict=True):
                if crc != crcs[row]:
                    raise DataError(f"{path}: row {row} read back differs from the written bytes; check the disk")
