"""The sides that a JPEG's own header names, for decoders that do not look at them.

libjpeg-turbo's `tjDecompress2` fits a JPEG of other sides to those that it is told: by a coarser scale, or by leaving
part of the memory as it was.
"""

from __future__ import annotations

from numba import njit, prange

from debeton.data.beton.ffcv_format import JPG


@njit(nogil=True, cache=True)
def frame_sides(data):
    """Return (height, width) in pixels of a JPEG, uint8 [n]; (0, 0) where no frame header is found.

    Bytes between segments end the search: libjpeg complains of them too.
    """
    at, end = 2, len(data)
    if end < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return 0, 0
    while at + 4 <= end and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:  # padding before a marker
            at += 1
            continue
        if kind == 0x01 or 0xD0 <= kind <= 0xD7:  # markers without a length
            at += 2
            continue
        if kind == 0x00 or 0xD8 <= kind <= 0xDA:  # stuffing, a second start, the end, or a scan before any frame
            break
        if 0xC0 <= kind <= 0xCF and kind != 0xC4 and kind != 0xC8 and kind != 0xCC:
            if at + 9 > end:
                break
            return 256 * int(data[at + 5]) + int(data[at + 6]), 256 * int(data[at + 7]) + int(data[at + 8])
        at += 2 + max(2, 256 * int(data[at + 2]) + int(data[at + 3]))
    return 0, 0


@njit(parallel=True, nogil=True, cache=True)
def check_frames(memory, offsets, sizes, modes, heights, widths, status):
    """Set status [B] to -1 for each JPEG whose header names other sides than heights [B] and widths [B].

    memory: uint8 [M], the bytes that offsets [B] and sizes [B] point into.
    """
    for i in prange(len(offsets)):
        if modes[i] == JPG:
            begin = int(offsets[i])
            height, width = frame_sides(memory[begin : begin + int(sizes[i])])
            if height != heights[i] or width != widths[i]:
                status[i] = -1
