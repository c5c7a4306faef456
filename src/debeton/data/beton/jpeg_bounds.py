"""Bounds on the segments and scans of a JPEG, so that no small file takes minutes to decode.

Each scan goes over all blocks of the picture, even if its data are a few bytes: 400 scans in 1 MB took ten minutes.
Encoders write at most 18 (libjpeg's script for CMYK). Here 20 are allowed in a picture of any size, and up to 100 where
they are no more work than 20 in a picture of MAX_PIXELS. pixels.c has the same rule.
Pillow reads the segments of a header one by one. A colour profile has up to 255 of them, further metadata some dozens.
"""

from __future__ import annotations

from debeton.data.beton.jpeg_segments import MARKER, SCAN, segment_end, split_jpeg

SCANS_OF_ANY, MAX_SCANS = 20, 100
SCANNED_PIXELS = SCANS_OF_ANY * 89_478_485  # scans times pixels; MAX_SCANS in pictures of up to 18 megapixels
MAX_HEADER_SEGMENTS = 1000  # before the first scan
MAX_HEADER_JUNK = 1 << 16  # bytes between these segments
SCAN_MARKER = b"\xff\xda"
# Markers after which Pillow expects no length: TEM, RST, SOI, EOI and the extensions JPG0 to JPG13.
BARE = frozenset({0x01, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})


def header_problem(data: bytes) -> str:
    """Return what is wrong with the number of segments before the first scan; '' if it is in bounds."""
    at = end = 2
    junk = 0
    for _ in range(MAX_HEADER_SEGMENTS):
        found = MARKER.search(data, at)
        at = len(data) if found is None else found.start()
        junk += at - end
        if junk > MAX_HEADER_JUNK:
            return f"has more than {MAX_HEADER_JUNK} stray bytes before its first scan; save the image again"
        if found is None or data[at + 1] == SCAN:
            return ""
        at = end = at + 2 if data[at + 1] in BARE else segment_end(data, at)
    return f"has more than {MAX_HEADER_SEGMENTS} segments before its first scan; save the image without metadata"


def max_scans(height: int, width: int) -> int:
    """Return the number of scans that a JPEG of this size in pixels may have."""
    return min(MAX_SCANS, max(SCANS_OF_ANY, SCANNED_PIXELS // max(1, height * width)))


def scan_problem(data: bytes, height: int, width: int) -> str:
    """Return what is wrong with the number of scans of a JPEG; '' if it is in bounds.

    The markers are counted first, which takes microseconds. A preview in the metadata has scans of its own, so that a
    file with many markers is taken apart.
    """
    most = max_scans(height, width)
    count = data.count(SCAN_MARKER)
    if count <= most:
        return ""
    pieces = split_jpeg(data)
    if pieces is None:
        return "is a JPEG of too many segments; save the image again"
    count = sum(piece.kind == SCAN for piece in pieces)
    advice = "save the image again, as a baseline JPEG or with the usual 10 scans"
    return f"is a JPEG of {count} scans, more than the bound of {most} at this size; {advice}" if count > most else ""
