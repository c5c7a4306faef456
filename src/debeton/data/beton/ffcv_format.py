"""FFCV's file format, version 2, as NumPy types (ffcv/types.py and ffcv/fields of release 1.0.2).

The types are repeated here because `import ffcv` compiles a numba dictionary, which takes seconds in every process.
tests/data/beton/test_ffcv_format.py compares these types with FFCV's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.opened import OpenedFile

VERSION = 2
JPG, RAW = 0, 1  # image modes
MOST_PIXELS = 1 << 28  # of a JPEG in a beton: 0.8 GB as RGB, and twice that where it is progressive
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
PIECE = np.dtype([("ptr", "<u8"), ("size", "<u8")])  # bytes that lie among the images
MAX_FIELDS = 64

# FFCV's fields by type id: the name of the class, and the type of their entry in a row. An array's entry is its place.
FLOAT, INT, RGB_IMAGE, NDARRAY, JSON, TENSOR = 0, 1, 2, 4, 5, 6
TYPES = {
    FLOAT: ("FloatField", np.dtype("<f8")),
    INT: ("IntField", np.dtype("<i8")),
    RGB_IMAGE: ("RGBImageField", IMAGE),
    3: ("BytesField", PIECE),
    NDARRAY: ("NDArrayField", np.dtype("<u8")),
    JSON: ("JSONField", PIECE),
    TENSOR: ("TorchTensorField", np.dtype("<u8")),
}

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


@dataclass(frozen=True)
class Field:
    """A field of an FFCV file.

    type_id: FFCV's number of its type, a key of TYPES, or 255 for a type of the user's own.
    arguments: of the field's type, uint8 [1024].
    """

    name: str
    type_id: int
    arguments: NDArray[np.uint8]

    @property
    def type_name(self) -> str:
        """Return the name of FFCV's class, such as 'IntField'."""
        return TYPES[self.type_id][0] if self.type_id in TYPES else "of a type of its own"


class Room(NamedTuple):
    """The part of a file in which images lie, in bytes: from `start` on and before `end`.

    page_size: a power of two. No image crosses the border of a page.
    """

    start: int
    end: int
    page_size: int


@dataclass(frozen=True)
class Stored:
    """The tables of an FFCV file with N rows.

    metadata: the fields of all rows, structured [N]: f0, f1, ...
    allocations: the position and the size of each stored piece of bytes, [M] of type ALLOCATION.
    room: the part of the file between the two.
    """

    fields: tuple[Field, ...]
    metadata: NDArray[Any]
    allocations: NDArray[Any]
    room: Room


def read_stored(file: OpenedFile | Path) -> Stored:
    """Return the tables of any FFCV file. ValueError says why it is none, or is not whole."""
    file = OpenedFile.of(file)
    header, fields = _read_header(file)
    own = [field.name for field in fields if field.type_id not in TYPES]
    if own:
        raise ValueError(
            f"the field '{own[0]}' has a type of its own, so nobody else knows how many bytes it takes in a row; write "
            f"the file without it"
        )
    dtype = np.dtype([("", TYPES[field.type_id][1]) for field in fields], align=True)
    num_rows, table, start = int(header["num_samples"]), int(header["alloc_table_ptr"]), _metadata_start(len(fields))
    if not table:
        raise ValueError("it was never finished: its header names no table of stored bytes")
    if table > file.size or start + num_rows * dtype.itemsize > table:
        raise ValueError(
            f"it is cut short: {num_rows} rows and a table at byte {table} do not fit in {file.size} bytes"
        )
    count, rest = divmod(file.size - table, ALLOCATION.itemsize)
    if rest:
        raise ValueError(f"it is cut short: its last table ends within an entry, {rest} bytes after the one before")
    room = _room(header, start + num_rows * dtype.itemsize)
    return Stored(fields, file.array(dtype, num_rows, start), file.array(ALLOCATION, count, table), room)


def _room(header: Any, start: int) -> Room:
    """Return the part of the file for images, which begins behind the rows. ValueError for an odd size of pages."""
    page_size = int(header["page_size"])
    if page_size < MIN_PAGE or page_size & (page_size - 1):
        raise ValueError(f"its pages have {page_size} bytes, which is no power of two from {MIN_PAGE} on")
    return Room(start, int(header["alloc_table_ptr"]), page_size)


def _read_header(file: OpenedFile) -> tuple[Any, tuple[Field, ...]]:
    """Return the header and the fields. ValueError if the file is too short or of another version."""
    if file.size < HEADER.itemsize + FIELD.itemsize:
        raise ValueError(f"{file.size} bytes are fewer than its header needs")
    header = file.array(HEADER, 1, 0)[0]
    if header["version"] != VERSION:
        raise ValueError(f"format version {header['version']}, expected {VERSION}")
    num_fields, most = int(header["num_fields"]), min(MAX_FIELDS, (file.size - HEADER.itemsize) // FIELD.itemsize)
    if not 1 <= num_fields <= most:
        raise ValueError(f"its header counts {num_fields} fields, and 1 to {most} are possible")
    described = file.array(FIELD, num_fields, HEADER.itemsize)
    return header, tuple(
        Field(bytes(f["name"]).rstrip(b"\0").decode("ascii", "replace"), int(f["type_id"]), f["arguments"])
        for f in described
    )


def _metadata_start(num_fields: int) -> int:
    return HEADER.itemsize + num_fields * FIELD.itemsize


def read_tables(file: OpenedFile | Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the fields of all rows and the allocation table of a beton of this project, as `read_own` does."""
    own = read_own(file)
    return own.metadata, own.allocations


def read_own(file: OpenedFile | Path) -> Stored:
    """Return the tables of a beton of this project: [N] of type METADATA, and [N] of type ALLOCATION.

    ValueError says why the file is no beton with these fields.
    """
    file = OpenedFile.of(file)
    size = file.size
    if size < METADATA_START:
        raise ValueError(f"{size} bytes are fewer than its header needs")
    header, fields = _read_header(file)
    if [(field.name, field.type_id) for field in fields] != [(name, type_id) for name, (type_id, _) in FIELDS.items()]:
        raise ValueError(f"it has the fields {[field.name for field in fields]}, expected {list(FIELDS)}")
    num_rows, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
    if METADATA_START + num_rows * METADATA.itemsize > table or table + num_rows * ALLOCATION.itemsize != size:
        raise ValueError(f"{num_rows} rows do not fit in {size} bytes")
    room = _room(header, METADATA_START + num_rows * METADATA.itemsize)
    rows, allocations = file.array(METADATA, num_rows, METADATA_START), file.array(ALLOCATION, num_rows, table)
    return Stored(fields, rows, allocations, room)
