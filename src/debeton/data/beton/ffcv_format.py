"""FFCV's file format, version 2, as NumPy types (ffcv/types.py and ffcv/fields of release 1.0.2).

The types are repeated here because `import ffcv` compiles a numba dictionary, which takes seconds in every process.
tests/data/beton/test_ffcv_format.py compares these types with FFCV's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.opened import OpenedFile

VERSION = 2
JPG, RAW = 0, 1  # image modes
WRITE_MODES = ("auto", "jpg", "raw", "proportion")  # `WriteOptions.mode`

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
FIELD = np.dtype([("type_id", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])

# The fields of our betons: FFCV's type id (1 IntField, 2 RGBImageField, both without arguments) and the stored type.
COLUMNS = ("label", "attribute", "group", "source", "index")
FIELDS = {"image": (2, IMAGE), **{name: (1, np.dtype("<i8")) for name in COLUMNS}}
METADATA = np.dtype([("", dtype) for _, dtype in FIELDS.values()], align=True)  # the fields of one row: f0, f1, ...
METADATA_START = HEADER.itemsize + len(FIELDS) * FIELD.itemsize

# A page holds whole images. Its size in bytes is a power of two between these two.
MIN_PAGE, MAX_PAGE = 1 << 21, 1 << 31


def header_bytes(num_rows: int, page_size: int, table_start: int) -> bytes:
    """Return the header and the field descriptors of a beton, METADATA_START bytes.

    num_rows: the number of rows.
    page_size: the size of a page in bytes.
    table_start: the position of the allocation table in the file, in bytes.
    """
    header = np.zeros(1, HEADER)
    header[0] = (VERSION, len(FIELDS), page_size, num_rows, table_start)
    descriptors = np.zeros(len(FIELDS), FIELD)
    for descriptor, (name, (type_id, _)) in zip(descriptors, FIELDS.items()):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
    return header.tobytes() + descriptors.tobytes()


def read_tables(file: OpenedFile | Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the fields of all rows and the allocation table.

    The first is an array [N] of type METADATA, the second an array [N] of type ALLOCATION.
    ValueError says why the file is no beton with these fields.
    """
    file = OpenedFile.of(file)
    size = file.size
    if size < METADATA_START:
        raise ValueError(f"{size} bytes are fewer than its header needs")
    header = file.array(HEADER, 1, 0)[0]
    if header["version"] != VERSION:
        raise ValueError(f"format version {header['version']}, expected {VERSION}")
    num_fields = min(int(header["num_fields"]), 64, (size - HEADER.itemsize) // FIELD.itemsize)
    fields = file.array(FIELD, num_fields, HEADER.itemsize)
    stored = [(bytes(f["name"]).rstrip(b"\0").decode("ascii", "replace"), int(f["type_id"])) for f in fields]
    if stored != [(name, type_id) for name, (type_id, _) in FIELDS.items()]:
        raise ValueError(f"it has the fields {[name for name, _ in stored]}, expected {list(FIELDS)}")
    num_rows, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
    if METADATA_START + num_rows * METADATA.itemsize > table or table + num_rows * ALLOCATION.itemsize != size:
        raise ValueError(f"{num_rows} rows do not fit in {size} bytes")
    return (
        file.array(METADATA, num_rows, METADATA_START),
        file.array(ALLOCATION, num_rows, table),
    )
