"""The pieces of a JPEG file: its segments, the data of its scans, and stray bytes (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Kinds of pieces: the second byte of a marker, or one of the two negative numbers.
SCAN_DATA, JUNK = -1, -2
START, END, SCAN, RESTART_INTERVAL, HUFFMAN, QUANTISATION, CONDITIONING = 0xD8, 0xD9, 0xDA, 0xDD, 0xC4, 0xDB, 0xCC
JFIF, ADOBE = 0xE0, 0xEE
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})

MARKER = re.compile(rb"\xff[\x01-\xfe]")
END_OF_SCAN_DATA = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither stuffed nor a restart marker
COEFFICIENTS = 64
MAX_PIECES = 10_000  # of a file that is taken apart: a hundred scans with tables and a long header have a tenth


@dataclass(frozen=True)
class Piece:
    """A piece of a JPEG file.

    kind: the second byte of the marker it begins with, SCAN_DATA, or JUNK for bytes that belong to no segment. The
        END holds all that follows it too.
    cut: the file ends before the segment does.
    """

    kind: int
    data: bytes
    cut: bool = False


@dataclass(frozen=True)
class ScanHeader:
    """The header of a scan: its components, its band of coefficients, and its bits (T.81, B.2.3)."""

    components: tuple[int, ...]
    first: int
    last: int
    high: int  # the bit that an earlier scan ended with, 0 for a first scan
    low: int


def split_jpeg(data: bytes) -> list[Piece] | None:
    """Return the pieces that make up a JPEG.

    None if the bytes do not begin as a JPEG does, or the pieces are more than MAX_PIECES.
    """
    if data[:2] != b"\xff\xd8":
        return None
    pieces, at = [Piece(START, data[:2])], 2
    while at < len(data):
        if pieces[-1].kind == SCAN:
            found = END_OF_SCAN_DATA.search(data, at)
            end = found.start() if found else len(data)
            pieces.append(Piece(SCAN_DATA, data[at:end]))
        elif (found := MARKER.search(data, at)) is None:
            end = len(data)
            pieces.append(Piece(JUNK, data[at:]))
        elif found.start() > at:
            end = found.start()
            pieces.append(Piece(JUNK, data[at:end]))
        else:
            kind = data[at + 1]
            end = len(data) if kind == END else segment_end(data, at)
            pieces.append(Piece(kind, data[at:end], cut=end > len(data)))
        if len(pieces) > MAX_PIECES:
            return None
        at = end
    return pieces


def segment_end(data: bytes, at: int) -> int:
    """Return the position behind the segment at `at`; it lies behind the file's end if the segment is cut."""
    if data[at + 1] in WITHOUT_LENGTH:
        return at + 2
    if at + 4 > len(data):
        return len(data) + 1
    return at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))


def frame_of(pieces: Sequence[Piece]) -> Piece | None:
    """Return the frame header, if it is whole."""
    whole = (piece for piece in pieces if piece.kind in FRAMES and not piece.cut)
    return next((piece for piece in whole if len(piece.data) >= 10 + 3 * piece.data[9]), None)


def components_of(frame: Piece) -> list[int]:
    """Return the identifiers of the components of a frame."""
    return [frame.data[10 + 3 * k] for k in range(frame.data[9])]


def scan_header(piece: Piece) -> ScanHeader | None:
    """Return the header of a scan, or None if its length is wrong."""
    data = piece.data
    if piece.cut or len(data) < 5 or len(data) != 8 + 2 * data[4]:
        return None
    components = tuple(data[5 + 2 * k] for k in range(data[4]))
    return ScanHeader(components, data[-3], data[-2], data[-1] >> 4, data[-1] & 15)


def all_bits_are_coded(pieces: Sequence[Piece]) -> bool:
    """Return True if the scans code all coefficients of all components to their last bit."""
    frame = frame_of(pieces)
    headers = [scan_header(piece) for piece in pieces if piece.kind == SCAN]
    if frame is None or None in headers:
        return False
    progressive = frame.kind in PROGRESSIVE
    coded = {
        (component, coefficient)
        for header in headers
        if header is not None and (header.low == 0 or not progressive)
        for component in header.components
        for coefficient in (range(header.first, header.last + 1) if progressive else range(COEFFICIENTS))
    }
    return len(coded) == COEFFICIENTS * len(set(components_of(frame)))
