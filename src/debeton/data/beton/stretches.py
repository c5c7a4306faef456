"""The stored images of a beton, read in stretches of neighbours with the CRC-32 of each."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from debeton.data.beton.opened import OpenedFile
from debeton.system.pool import in_order

STRETCH_BYTES = 1 << 22  # read at once
READER_THREADS = 2  # each has up to eight stretches in memory

Stretch = tuple[range, list[tuple[memoryview, int]]]


def read_images(
    file: OpenedFile, offsets: Sequence[int], sizes: Sequence[int], describe: str, *, progress: bool
) -> Generator[Stretch, None, None]:
    """Yield rows, and the bytes of their images with their CRC-32, for one stretch of the file after the other.

    The bytes are valid until the next stretch is asked for: new memory for each would take longer than reading it.
    Close the generator with `contextlib.closing` if it may not be read to its end.

    offsets, sizes: the position and the size of each image in the file, in bytes, [N].
    describe: the text of the progress bar.
    progress: whether to draw the bar.
    """
    spare: list[bytearray] = []

    def read(rows: range) -> tuple[bytearray, Stretch]:
        first = offsets[rows[0]]
        size = offsets[rows[-1]] + sizes[rows[-1]] - first
        try:
            buffer = spare.pop()
        except IndexError:
            buffer = bytearray(STRETCH_BYTES)
        if len(buffer) < size:
            buffer = bytearray(size)
        data = memoryview(buffer)[:size]
        file.fill(data, first)
        images = [data[offsets[row] - first : offsets[row] - first + sizes[row]] for row in rows]
        return buffer, (rows, [(image, zlib.crc32(image)) for image in images])

    stretches = list(_stretches(offsets, sizes))
    with closing(in_order(read, stretches, READER_THREADS, describe, progress=progress)) as done:
        for buffer, stretch in done:
            yield stretch
            spare.append(buffer)


def _stretches(offsets: Sequence[int], sizes: Sequence[int]) -> Iterator[range]:
    """Yield the rows to read at once: neighbours in the file, up to STRETCH_BYTES or one image."""
    first, n = 0, len(offsets)
    for row in range(1, n + 1):
        if row == n or offsets[row] < offsets[row - 1] or offsets[row] + sizes[row] - offsets[first] > STRETCH_BYTES:
            yield range(first, row)
            first = row
