"""Bounds on the segments and scans of a JPEG, so that no small file takes minutes to decode.

Each scan goes over all blocks of the picture, even if its data are a few bytes: 400 scans in 1 MB took ten minutes.
Encoders write at most 18 (libjpeg's script for CMYK). Here 20 are allowed in a picture of any size, and up to 100 where
they are no more work than 20 in a picture of MAX_PIXELS. pixels.c has the same rule.
Pillow reads the segments of a header one by one. A colour profile has up to 255 of them, further metadata some dozens.
"""

from __future__ import annotations

import numpy as np

from debeton.data.beton.jpeg_segments import MARKER, SCAN, segment_end, split_jpeg

SCANS_OF_ANY, MAX_SCANS = 20, 100
SCANNED_PIXELS = SCANS_OF_ANY * 89_478_485  # scans times pixels; MAX_SCANS in pictures of up to 18 megapixels
MAX_HEADER_SEGMENTS = 1000  # before the first scan
MAX_HEADER_JUNK = 1 << 16  # bytes between these segments
# Markers after which Pillow expects no length: TEM, RST, SOI, EOI and the extensions JPG0 to JPG13.
BARE = frozenset({0x01, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})


def first_scan(data: bytes) -> tuple[int, str]:
    """Return the position of the first scan, or of the file's end, and what is wrong before it.

    The latter is '' if the segments are in bounds.
    """
    at, junk, end = 2, 0, len(data) - 1
    for _ in range(MAX_HEADER_SEGMENTS):
        if at >= end or data[at] != 0xFF or data[at + 1] in (0, 0xFF):  # no segment begins here
            found = MARKER.search(data, at)
            start = len(data) if found is None else found.start()
            junk += max(0, start - at)
            at = start
            if junk > MAX_HEADER_JUNK:
                return at, f"has more than {MAX_HEADER_JUNK} stray bytes before its first scan; save the image again"
            if found is None:
                return at, ""
        kind = data[at + 1]
        if kind == SCAN:
            return at, ""
        at = at + 2 if kind in BARE else segment_end(data, at)
    return at, f"has more than {MAX_HEADER_SEGMENTS} segments before its first scan; save the image without metadata"


def max_scans(height: int, width: int) -> int:
    """Return the number of scans that a JPEG of this size in pixels may have."""
    return min(MAX_SCANS, max(SCANS_OF_ANY, SCANNED_PIXELS // max(1, height * width)))


def scan_problem(data: bytes, first: int, size: tuple[int, int], components: int, *, progressive: bool) -> str:
    """Return what is wrong with the number of scans of a JPEG; '' if it is in bounds.

    libjpeg refuses a second scan where the first one of a file that is not progressive holds all components. In other
    files the markers are counted. A preview in the metadata has scans of its own, so that a file with many markers is
    taken apart.

    first: the position of the first scan.
    size: height and width in pixels.
    components: of the picture.
    progressive: whether its frame says so.
    """
    if not progressive and data[first + 4 : first + 5] == bytes([components]):
        return ""
    most = max_scans(*size)
    if _count_scan_markers(data) <= most:
        return ""
    pieces = split_jpeg(data)
    if pieces is None:
        return "is a JPEG of too many segments; save the image again"
    count = sum(piece.kind == SCAN for piece in pieces)
    advice = "save the image again, as a baseline JPEG or with the usual 10 scans"
    return f"is a JPEG of {count} scans, more than the bound of {most} at this size; {advice}" if count > most else ""


def _count_scan_markers(data: bytes) -> int:
    """Return how often the two bytes of a scan's marker occur. NumPy counts four times as fast as bytes.count."""
    values = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(values[:-1] == 0xFF)
    return int(np.count_nonzero(values[places + 1] == SCAN))
