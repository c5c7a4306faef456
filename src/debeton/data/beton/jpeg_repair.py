"""Repair of sound JPEG files of which libjpeg complains, without a second encoding.

libjpeg names its first complaint only. A harmless complaint, such as an unknown JFIF version, can hide damage. So no
complaint is trusted by its text. The harmless faults are taken out of the bytes, and the file is decoded again. A file
is sound if nothing is left to complain of and no pixel has changed. The repaired bytes are stored, and every decoder
reads them in silence. Harmless are:

- bytes between two segments that belong to neither, if every bit of the picture is there without them;
- an unknown JFIF version or Adobe transform, which libjpeg reads as the usual one;
- scan parameters that a sequential JPEG does not use;
- scans of a progressive JPEG in another order, or twice;
- a missing end marker, if every scan is complete;
- padding before the end marker, which some cameras write. Damage that decodes to fewer blocks than there were gives
  the same complaint: the rest of the picture is shifted, and its last blocks are left over. So only up to 8 bytes, any
  number of bytes of one value, and text count as padding. Half of the bytes of coded data are above 127, none of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.jpeg_scans import scans_in_order
from debeton.data.beton.jpeg_segments import (
    ADOBE,
    END,
    JFIF,
    JUNK,
    PROGRESSIVE,
    SCAN,
    SCAN_DATA,
    Piece,
    all_bits_are_coded,
    frame_of,
    scan_header,
    split_jpeg,
)

MAX_PADDING = 8  # bytes of several values before the end marker that can be padding
ASCII = 127
PADDING_COMPLAINT = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
END_MARKER = b"\xff\xd9"

Decode = Callable[[bytes], tuple[NDArray[np.uint8], str]]


@dataclass(frozen=True)
class Attempt:
    """A version of a file, its pixels and the complaint of libjpeg, '' if there is none."""

    data: bytes
    pixels: NDArray[np.uint8]
    problem: str


def sound_jpeg(data: bytes, decode: Decode) -> tuple[bytes, str]:
    """Return the JPEG with its harmless faults repaired, and '' or the complaint that no repair removes.

    decode: from the bytes of a JPEG to its pixels and the complaint of libjpeg.
    """
    attempt = Attempt(data, *decode(data))
    for repair in (_with_sound_headers, _with_end, _without_padding):
        if not attempt.problem:
            break
        pieces = split_jpeg(attempt.data)
        if pieces is not None:
            attempt = repair(attempt, pieces, decode)
    return attempt.data, attempt.problem


def _with_sound_headers(attempt: Attempt, pieces: list[Piece], decode: Decode) -> Attempt:
    """Return the file with repaired headers and scans in order; the same attempt if that changes its pixels."""
    repaired = _repaired_headers(pieces)
    return (repaired and _same_pixels(attempt, repaired, decode)) or attempt


def _with_end(attempt: Attempt, pieces: list[Piece], decode: Decode) -> Attempt:
    """Return the file with an end marker if it is missing and every scan is complete; else the same attempt."""
    if pieces[-1].kind == END:
        return attempt
    whole = pieces[:-1] if pieces[-1].cut else pieces
    if not all_bits_are_coded(whole):
        return attempt
    ended = _same_pixels(attempt, _joined(whole) + END_MARKER, decode)
    # Only padding may be left over. Another complaint says that the data of a scan are cut short.
    return ended if ended and (not ended.problem or PADDING_COMPLAINT.search(ended.problem)) else attempt


def _without_padding(attempt: Attempt, pieces: list[Piece], decode: Decode) -> Attempt:
    """Return the file without the padding before its end marker; the same attempt if that does not silence libjpeg.

    libjpeg counts a stuffed 0xff 0x00 as one byte or as two. So several numbers of bytes are tried.
    """
    complaint = PADDING_COMPLAINT.search(attempt.problem)
    if complaint is None or len(pieces) < 2 or (pieces[-2].kind, pieces[-1].kind) != (SCAN_DATA, END):
        return attempt
    *head, scan, end = pieces
    count = int(complaint[1])
    last = scan.data[max(0, len(scan.data) - count) :]
    if count > MAX_PADDING and len(set(last)) > 1 and max(last) > ASCII:
        return attempt
    for size in range(count, min(len(scan.data), count + MAX_PADDING - 1) + 1):
        shorter = replace(scan, data=scan.data[: len(scan.data) - size])
        again = _same_pixels(attempt, _joined([*head, shorter, end]), decode)
        if again is not None and not again.problem:
            return again
    return attempt


def _same_pixels(attempt: Attempt, data: bytes, decode: Decode) -> Attempt | None:
    """Return another version of the file, or None if it is the same one or decodes to other pixels."""
    if data == attempt.data:
        return None
    pixels, problem = decode(data)
    return Attempt(data, pixels, problem) if np.array_equal(pixels, attempt.pixels) else None


def _joined(pieces: list[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


# --- headers -----------------------------------------------------------------------------------


def _repaired_headers(pieces: list[Piece]) -> bytes | None:
    """Return the file with repaired headers. None if stray bytes may have lost a marker."""
    if any(piece.kind == JUNK and _is_lost_segment(piece.data) for piece in pieces):
        return None
    frame = frame_of(pieces)
    if frame is None:
        return None
    kept = [_repaired_segment(piece, frame) for piece in pieces if piece.kind != JUNK]
    if len(kept) < len(pieces) and not all_bits_are_coded(kept):
        return None
    if frame.kind in PROGRESSIVE:
        kept = scans_in_order(kept) or kept
    return _joined(kept)


def _is_lost_segment(junk: bytes) -> bool:
    """Return True if stray bytes are a segment without its marker, by its length or by its name.

    A table or an EXIF orientation that is lost in this way changes the picture, and no decoder notices it.
    """
    counted = any(int.from_bytes(junk[at : at + 2]) == len(junk) - at for at in range(1, min(len(junk) - 1, 16)))
    return counted or any(name in junk for name in (b"JFIF\0", b"Exif\0", b"Adobe"))


def _repaired_segment(piece: Piece, frame: Piece) -> Piece:
    """Return a segment with the value that libjpeg takes in place of one that it does not know."""
    data = bytearray(piece.data)
    if piece.kind == JFIF and data[4:9] == b"JFIF\0" and len(data) >= 16:
        data[9] = 1  # the major version
    elif piece.kind == ADOBE and data[4:9] == b"Adobe" and len(data) >= 16:
        known = {3: (0, 1), 4: (0, 2)}.get(frame.data[9])  # by the number of components
        if known and data[15] not in known:
            data[15] = known[1]
    elif piece.kind == SCAN and frame.kind not in PROGRESSIVE and scan_header(piece) is not None:
        data[-3:] = (0, 63, 0)
    return replace(piece, data=bytes(data))
