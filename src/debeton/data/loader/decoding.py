"""Reader of images: rows of a beton to pixels on several threads; a damaged image is reported by row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.turbojpeg import DECODE_ADDRESS, RESIZE_ADDRESS, TURBOJPEG, Decompressor
from debeton.data.draws import I64, U8
from debeton.data.loader import pixels
from debeton.data.loader.decoders import decode_batch, scale_and_shift
from debeton.data.loader.pixels import BYTES, STILL, Moves
from debeton.system.errors import DataError
from debeton.system.jit import KERNEL_GUARD, threads_for
from debeton.system.log import logger

_NOT_NORMALISED = scale_and_shift((0.0,) * 3, (1 / 255,) * 3)


@lru_cache
def _warn_of_the_fast_dct() -> None:
    """Warn, once, that JPEGs are decoded with small errors."""
    logger.warning(
        "pixels.c is not compiled, and FFCV's library does not offer libjpeg-turbo. JPEGs are decoded with the fast "
        "DCT, which is wrong by up to tens of grey levels at high qualities; main.py --doctor says what is missing"
    )


class ImageReader:
    """Reader that decodes images of one beton file.

    file: the open file, or a path to open.
    offsets, sizes: uint64 [N], where the bytes of each image lie.
    modes: uint8 [N], JPEG or raw.
    heights, widths: int64 [N], in pixels.
    os_cache: True maps the file, and the operating system keeps what fits into memory. False reads each batch into a
        buffer of its size, so that memory does not grow with the file. Without pixels.c, which stops at a page that is
        gone instead of ending the process, the file is never mapped.
    num_workers: threads, None for all cores.
    content: uint8 [M], the bytes that offsets point into, instead of those of the file.
    """

    def __init__(
        self,
        file: OpenedFile | Path,
        offsets: NDArray[np.uint64],
        sizes: NDArray[np.uint64],
        modes: U8,
        heights: I64,
        widths: I64,
        *,
        os_cache: bool = True,
        num_workers: int | None = None,
        content: U8 | None = None,
    ):
        self.file, self.threads = OpenedFile.of(file), threads_for(num_workers)
        self.offsets, self.sizes, self.modes = offsets, sizes, modes
        self.heights, self.widths = heights, widths
        # Without pixels.c, JPEGs that are cropped or resized are decoded into scratch memory first. Pages that are
        # never touched take no memory.
        largest = 0 if pixels.AVAILABLE else int((heights * widths).max()) * 3
        threads = int(numba.config.NUMBA_NUM_THREADS)
        self._scratch = np.empty((threads, largest), np.uint8)
        self._decompressors = [Decompressor() for _ in range(threads)] if TURBOJPEG and largest else []
        self._handles = np.array([each.handle for each in self._decompressors] or [0] * threads, np.uintp)
        if largest and not TURBOJPEG:
            _warn_of_the_fast_dct()
        self._staging = np.empty(0, np.uint8)
        mapped = content is None and os_cache and pixels.AVAILABLE
        self._map: U8 | None = self.file.mapped() if mapped else content
        if mapped:
            pixels.guard_mapped_files()

    def read(self, rows: I64, boxes: I64, size: tuple[int, int], moves: Moves = STILL) -> U8:
        """Return uint8 [B, size[0], size[1], 3]: a box of each row's image, resized, then moved.

        boxes: int64 [B, 4], top, left, height, width in pixels of the stored image.
        size: (height, width) in pixels.
        moves: must be STILL if pixels.c is not compiled.
        An axis that shrinks averages areas, as OpenCV's INTER_AREA does. An axis that grows is interpolated, as
        OpenCV's INTER_LINEAR does it. If one axis shrinks and the other grows, each follows its own rule.
        DataError names the first row whose JPEG is damaged. The result is newly allocated.
        """
        out = np.empty((len(rows), *size, 3), np.uint8)
        if pixels.AVAILABLE:
            self.write(out, BYTES, rows, boxes, size, moves, _NOT_NORMALISED)
            return out
        assert moves is STILL
        status = np.empty(len(rows), np.int32)
        base, offsets = self._locate(rows)
        with KERNEL_GUARD:
            decode_batch(
                DECODE_ADDRESS,
                RESIZE_ADDRESS,
                self._handles,
                base,
                offsets,
                self.sizes[rows],
                self.modes[rows],
                self.heights[rows],
                self.widths[rows],
                boxes,
                self._scratch,
                out,
                status,
            )
        self._check(status, rows)
        return out

    def write(
        self,
        out: NDArray[Any],
        layout: int,
        rows: I64,
        boxes: I64,
        size: tuple[int, int],
        moves: Moves,
        scales: NDArray[np.float32],
    ) -> None:
        """Write the values of `read`, times scales[0] plus scales[1], into `out` in one pass.

        out: [B, ...] in the layout of pixels.py that `layout` names.
        scales: float32 [2, 3], scale and shift by channel.
        """
        base, offsets = self._locate(rows)
        stored = (offsets, self.sizes[rows], self.modes[rows], self.heights[rows], self.widths[rows])
        status = pixels.write_images(out, layout, size, stored, boxes, base, moves, scales, self.threads)
        self._check(status, rows)

    def _check(self, status: NDArray[np.int32], rows: I64) -> None:
        """Raise DataError that names the first row whose status is not 0."""
        if status.any():
            first = np.flatnonzero(status)[0]
            row = int(rows[first])
            now = self.file.look()
            if status[first] == pixels.GONE or now.size < self.file.size:  # the rest of a mapped page reads as zeros
                raise self._unreadable(row)
            changed = ", and the file was written to while it was open" if self.file.change(now) else ""
            raise DataError(
                f"{self.file.path}: the image of row {row} is damaged and cannot be decoded{changed}; write the beton "
                "again"
            )

    def _locate(self, rows: I64) -> tuple[int, NDArray[np.uint64]]:
        """Return the address that the rows' offsets count from, and the offsets, uint64 [B].

        If the file is not mapped, the rows' bytes are read into a buffer first.
        """
        if self._map is not None:
            return self._map.ctypes.data, self.offsets[rows]
        ends = np.cumsum(self.sizes[rows])
        if int(ends[-1]) > len(self._staging):
            self._staging = np.empty(int(ends[-1]), np.uint8)
        starts = ends - self.sizes[rows]
        view, descriptor = memoryview(self._staging.data), self.file.descriptor
        for start, end, offset, row in zip(
            starts.tolist(), ends.tolist(), self.offsets[rows].tolist(), rows, strict=True
        ):
            count = os.preadv(descriptor, [view[start:end]], offset)
            if count < end - start:  # a network file system may return less than was asked for
                try:
                    self.file.fill(view[start + count : end], offset + count)
                except DataError:
                    raise self._unreadable(int(row)) from None
        return self._staging.ctypes.data, starts

    def _unreadable(self, row: int) -> DataError:
        """Return the error of a row whose bytes cannot be read: a cut file, or a fault of the disk."""
        now, size = self.file.look().size, self.file.size
        why = f"it was cut from {size} to {now} bytes while it was open" if now < size else "the disk reports an error"
        return DataError(f"{self.file.path}: row {row} cannot be read to its end; {why}: write the beton again")

    def whole_boxes(self, rows: Sequence[int] | I64) -> I64:
        """Return boxes [B, 4] that keep all of each image."""
        zero = np.zeros(len(rows), np.int64)
        return np.stack([zero, zero, self.heights[rows], self.widths[rows]], axis=1)

    def close(self) -> None:
        """Release the map of the file."""
        self._map = None
