"""The places, sizes and dimensions of stored images, held against the file before any image is read.

The tables of a beton may come from anybody, and their checksum says only that they belong to their sidecar. What they
say decides which bytes are read and how much memory is taken. So it is looked at once, for all rows together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.ffcv_format import JPG, MOST_PIXELS, RAW, Room

# A JPEG codes blocks of 8 x 8 pixels with at least one bit each. At the coarsest sampling of its components, nine
# blocks stand for 32 x 32 pixels.
PIXELS_PER_BYTE = 1024
BLOCK = 1 << 14  # rows that are looked at together: their values stay in the cache of a core


def check_images(image: NDArray[Any], sizes: NDArray[np.uint64], room: Room) -> None:
    """Raise ValueError for the first images that cannot be as the tables say.

    image: [N] of type IMAGE.
    sizes: of the stored images in bytes, [N].
    room: the part of the file in which images lie.
    """
    for first in range(0, len(image), BLOCK):
        rows = slice(first, first + BLOCK)
        for bad, problem in _faults(image[rows], sizes[rows], room):
            if bad.any():
                row, more = first + int(np.argmax(bad)), int(bad.sum()) - 1
                others = f"; so it is with {more} more rows up to row {first + len(bad) - 1}" if more else ""
                raise ValueError(f"the image of row {row} {problem}{others}")


def _faults(image: NDArray[Any], sizes: NDArray[np.uint64], room: Room) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield the rows with each fault, bool [N], and its words.

    The values of a fault are meaningful only if no row has a fault before it.
    """
    start, mode = np.ascontiguousarray(image["data_ptr"]), np.ascontiguousarray(image["mode"])
    outside = (start < room.start) | (start > room.end) | (sizes > np.uint64(room.end) - start)
    yield outside, f"lies outside bytes {room.start} to {room.end}, where the images are"
    yield sizes == 0, "has no byte"
    last = start + (sizes - np.uint64(1))
    yield (start ^ last) >= room.page_size, f"crosses the border of a page of {room.page_size} bytes"
    yield (mode != JPG) & (mode != RAW), "is stored in a mode that is neither JPEG nor raw"
    pixels = image["height"].astype(np.uint64) * image["width"]
    yield pixels == 0, "has no pixel"
    raw = mode == RAW
    yield raw & (sizes != np.uint64(3) * pixels), "is raw and has another size than its pixels"
    too_many = ~raw & (pixels > np.uint64(PIXELS_PER_BYTE) * sizes)
    yield too_many, "is a JPEG of fewer bytes than its pixels need"
    # Decoding takes memory and time for the whole picture, whatever part of it is wanted.
    yield ~raw & (pixels > np.uint64(MOST_PIXELS)), f"is a JPEG of more than {MOST_PIXELS} pixels"


def sizes_by_row(starts: NDArray[np.uint64], allocations: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the size of each image in bytes, uint64 [N]. ValueError unless the table names each row once.

    starts: the position of each image by the table of the rows, [N].
    allocations: [N] of type ALLOCATION, in any order.
    """
    ids, sizes, found = (allocations[name] for name in ("sample_id", "size", "ptr"))
    rows = np.arange(len(starts), dtype=np.uint64)
    if not np.array_equal(ids, rows):
        order = np.argsort(ids, kind="stable")
        if not np.array_equal(ids[order], rows):
            raise ValueError("its table of stored bytes does not name each row once")
        sizes, found = sizes[order], found[order]
    if (differs := found != starts).any():
        row = int(np.argmax(differs))
        raise ValueError(
            f"the image of row {row} lies at byte {int(starts[row])} by the table of rows, and at byte "
            f"{int(found[row])} by the table of stored bytes"
        )
    return np.ascontiguousarray(sizes)
