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

from debeton.data.beton.ffcv_format import JPG
from debeton.data.beton.image_sums import ImageSums
from debeton.data.beton.opened import OpenedFile
from debeton.data.beton.turbojpeg import DECODE_ADDRESS, RESIZE_ADDRESS, TURBOJPEG, Decompressor
from debeton.data.draws import I64, U8
from debeton.data.loader import pixels
from debeton.data.loader.decoders import decode_batch, scale_and_shift
from debeton.data.loader.frames import check_frames
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
    sums: the checksums of the images, with which each is compared when it is first read; None compares none.
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
        sums: ImageSums | None = None,
    ):
        self.sums = sums
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
        DataError names the first row whose image is damaged, or does not lie where the tables say. The result is newly
        allocated.
        """
        out = np.empty((len(rows), *size, 3), np.uint8)
        if pixels.AVAILABLE:
            self.write(out, BYTES, rows, boxes, size, moves, _NOT_NORMALISED)
            return out
        assert moves is STILL
        memory, offsets = self._locate(rows)
        status = self._before_decoding(memory, offsets, rows, boxes)
        self._check(status, rows)
        with KERNEL_GUARD:
            check_frames(
                memory, offsets, self.sizes[rows], self.modes[rows], self.heights[rows], self.widths[rows], status
            )
            self._check(status, rows)
            decode_batch(
                DECODE_ADDRESS,
                RESIZE_ADDRESS,
                self._handles,
                memory.ctypes.data,
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
        self._have_read(rows)
        return out

    def _before_decoding(self, memory: U8, offsets: NDArray[np.uint64], rows: I64, boxes: I64) -> NDArray[np.int32]:
        """Return the status of each image before it is decoded, int32 [B], as pixels.c finds it."""
        sizes, sides = self.sizes[rows], np.stack([self.heights[rows], self.widths[rows]], axis=1)
        start, side = boxes[:, :2], boxes[:, 2:]
        inside = (offsets <= len(memory)) & (sizes <= np.uint64(len(memory)) - offsets)
        inside &= ((start >= 0) & (side >= 1) & (side <= sides) & (start <= sides - side)).all(axis=1)
        inside &= (self.modes[rows] == JPG) | (sizes == (3 * sides.prod(axis=1)).astype(np.uint64))
        status = np.where(inside, 0, pixels.OUTSIDE).astype(np.int32)
        new = None if self.sums is None else self.sums.to_compare(rows)
        if self.sums is not None and new is not None:
            for k in np.flatnonzero(new & inside).tolist():
                start_of = int(offsets[k])
                if self.sums.is_damaged(int(rows[k]), memory[start_of : start_of + int(sizes[k])]):
                    status[k] = pixels.ALTERED
        return status

    def _have_read(self, rows: I64) -> None:
        """Note that these rows were read without a fault."""
        if self.sums is not None:
            self.sums.compared[rows] = True

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
        memory, offsets = self._locate(rows)
        stored = (offsets, self.sizes[rows], self.modes[rows], self.heights[rows], self.widths[rows])
        new, crcs = None if self.sums is None else self.sums.to_compare(rows), None
        if self.sums is not None and new is not None:
            crcs = np.where(new, self.sums.crcs[rows].astype(np.int64), pixels.NOT_COMPARED)
        base, room = memory.ctypes.data, len(memory)
        status = pixels.write_images(
            out, layout, size, stored, boxes, base, moves, scales, self.threads, room=room, crcs=crcs
        )
        self._check(status, rows)
        if crcs is not None:
            self._have_read(rows)

    def _check(self, status: NDArray[np.int32], rows: I64) -> None:
        """Raise DataError that names the first row whose status is not 0."""
        if status.any():
            first = np.flatnonzero(status)[0]
            row = int(rows[first])
            now = self.file.look()
            if status[first] == pixels.GONE or now.size < self.file.size:  # the rest of a mapped page reads as zeros
                raise self._unreadable(row)
            if status[first] == pixels.OUTSIDE:
                raise DataError(
                    f"{self.file.path}: the image of row {row} does not lie in the file as its tables say; they are "
                    "damaged or were made up: write the beton again"
                )
            changed = ", and the file was written to while it was open" if self.file.change(now) else ""
            if self.sums is not None and status[first] == pixels.ALTERED:
                raise DataError(self.sums.damage(self.file.path, row, changed))
            raise DataError(
                f"{self.file.path}: the image of row {row} is damaged and cannot be decoded{changed}; write the beton "
                "again"
            )

    def _locate(self, rows: I64) -> tuple[U8, NDArray[np.uint64]]:
        """Return the bytes that the rows' offsets count from, uint8 [M], and the offsets, uint64 [B].

        If the file is not mapped, the rows' bytes are read into a buffer first.
        """
        if self._map is not None:
            return self._map, self.offsets[rows]
        outside = (self.offsets[rows] > self.file.size) | (
            self.sizes[rows] > np.uint64(self.file.size) - self.offsets[rows]
        )
        self._check(np.where(outside, pixels.OUTSIDE, 0).astype(np.int32), rows)
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
        return self._staging, starts

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
