"""The scans of a progressive JPEG, brought into the sequence that decoders expect (ITU-T T.81, G.1.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from debeton.data.beton.jpeg_segments import (
    COEFFICIENTS,
    CONDITIONING,
    END,
    HUFFMAN,
    QUANTISATION,
    RESTART_INTERVAL,
    SCAN,
    SCAN_DATA,
    Piece,
    ScanHeader,
    scan_header,
)


@dataclass(frozen=True)
class Scan:
    """A scan with the tables that it is decoded with.

    pieces: its header and its data.
    tables: Huffman tables by class and number, and the restart interval, as segments.
    """

    header: ScanHeader
    pieces: tuple[Piece, ...]
    tables: dict[int, bytes] = field(compare=False)


def scans_in_order(pieces: Sequence[Piece]) -> list[Piece] | None:
    """Return the pieces with their scans in order, each once.

    None if a bit is missing between two scans, or the scans cannot be told apart.
    """
    first = next((k for k, piece in enumerate(pieces) if piece.kind == SCAN), len(pieces))
    start = next((k for k, piece in enumerate(pieces) if piece.kind in (HUFFMAN, RESTART_INTERVAL)), first)
    end = next((k for k, piece in enumerate(pieces) if piece.kind == END), len(pieces))
    if any(piece.kind in (QUANTISATION, CONDITIONING) for piece in pieces[first:end]):
        return None
    scans = _scans(pieces[start:end])
    chain = _chain(sorted(scans, key=lambda scan: not _is_first_of_dc(scan.header))) if scans else None
    if chain is None:
        return None
    others = [p for p in pieces[start:end] if p.kind not in (HUFFMAN, RESTART_INTERVAL, SCAN, SCAN_DATA)]
    return [*pieces[:start], *others, *_with_tables(chain), *pieces[end:]]


def _is_first_of_dc(header: ScanHeader) -> bool:
    return header.first == 0 and header.high == 0


def _scans(pieces: Sequence[Piece]) -> list[Scan] | None:
    """Return the scans of the pieces, each with its tables. None if a segment is malformed."""
    tables: dict[int, bytes] = {}
    scans: list[Scan] = []
    for k, piece in enumerate(pieces):
        if piece.kind == RESTART_INTERVAL:
            tables[RESTART_INTERVAL] = piece.data
        elif piece.kind == HUFFMAN:
            single = _single_tables(piece)
            if single is None:
                return None
            tables.update(single)
        elif piece.kind == SCAN:
            header = scan_header(piece)
            if header is None or header.last >= COEFFICIENTS:
                return None
            data = pieces[k + 1 : k + 2]
            scans.append(Scan(header, (piece, *(p for p in data if p.kind == SCAN_DATA)), dict(tables)))
    return scans


def _single_tables(piece: Piece) -> dict[int, bytes] | None:
    """Return the Huffman tables of a segment by class and number, each as a segment. None if it is malformed."""
    tables, at, data = {}, 4, piece.data
    while at < len(data):
        size = 17 + sum(data[at + 1 : at + 17])
        if piece.cut or at + size > len(data):
            return None
        tables[data[at]] = b"\xff\xc4" + (size + 2).to_bytes(2) + data[at : at + size]
        at += size
    return tables


def _chain(scans: Sequence[Scan]) -> list[Scan] | None:
    """Return the scans without repetitions. None if a scan leaves out a bit."""
    lowest: dict[tuple[int, int], int] = {}  # of the bits that are coded, by component and coefficient
    kept: list[Scan] = []
    for scan in scans:
        header = scan.header
        band = [(c, k) for c in header.components for k in range(header.first, header.last + 1)]
        before = {lowest.get(key) for key in band}
        if len(before) != 1:
            return None
        last_bit = before.pop()
        if header.high == (0 if last_bit is None else last_bit) and (last_bit is None or header.low == last_bit - 1):
            kept.append(scan)
        elif header.high == 0 and scan in kept:
            continue
        else:
            return None
        lowest.update(dict.fromkeys(band, header.low))
    return kept


def _with_tables(scans: Sequence[Scan]) -> list[Piece]:
    """Return the pieces of the scans, with the tables that change from scan to scan in between."""
    pieces: list[Piece] = []
    written: dict[int, bytes] = {}
    for scan in scans:
        for key, table in scan.tables.items():
            if written.get(key) != table:
                pieces.append(Piece(RESTART_INTERVAL if key == RESTART_INTERVAL else HUFFMAN, table))
        if RESTART_INTERVAL in written and RESTART_INTERVAL not in scan.tables:
            pieces.append(Piece(RESTART_INTERVAL, b"\xff\xdd\x00\x04\x00\x00"))
        written = {**written, **scan.tables}
        if RESTART_INTERVAL not in scan.tables:
            written.pop(RESTART_INTERVAL, None)
        pieces += scan.pieces
    return pieces
