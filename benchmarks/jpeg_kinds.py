"""JPEG files of every kind that libjpeg reads: a small encoder in NumPy, which shares no code with libjpeg.

It writes any sampling factors, which Pillow and OpenCV cannot do. Its Huffman codes all have the same length, so its
files are larger than those of other encoders; their pixels are not affected.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Factors = tuple[tuple[int, int], ...]
Blocks = NDArray[np.int64]

_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])
_ANGLE = np.pi * np.arange(8)[:, None] * (2 * np.arange(8) + 1) / 16
_DCT = np.cos(_ANGLE) * np.where(np.arange(8)[:, None] == 0, np.sqrt(1 / 8), 0.5)
_ZIGZAG = sorted(np.ndindex(8, 8), key=lambda p: (p[0] + p[1], p[0] if (p[0] + p[1]) % 2 else p[1]))
_DC = list(range(12))
_AC = [0x00, 0xF0, *(16 * run + size for run in range(16) for size in range(1, 11))]


@dataclass(frozen=True)
class JpegKind:
    """A kind of JPEG.

    factors: horizontal and vertical sampling factor of each component, 1 to 4.
    rgb: the components are red, green and blue; else they are luma and chroma.
    progressive: a scan for the averages of the blocks, then a scan for each component.
    separate: a scan for each component, not progressive.
    restart: MCUs between two restart markers; 0 writes none.
    precision: bits of a sample that the header claims.
    """

    factors: Factors = ((1, 1), (1, 1), (1, 1))
    rgb: bool = False
    progressive: bool = False
    separate: bool = False
    restart: int = 0
    precision: int = 8


def _luma(h: int, v: int, **options: bool | int) -> JpegKind:
    """Return a kind whose luma has these factors, and whose chroma has 1 x 1."""
    return JpegKind(((h, v), (1, 1), (1, 1)), **options)  # type: ignore[arg-type]


KINDS = {
    "4:4:4": _luma(1, 1),
    "4:2:2": _luma(2, 1),
    "4:2:0": _luma(2, 2),
    "4:4:0": _luma(1, 2),
    "4:1:1": _luma(4, 1),
    "4:1:0": _luma(4, 2),
    "luma 1x4": _luma(1, 4),
    "luma 2x4": _luma(2, 4),
    "luma 3x1": _luma(3, 1),
    "luma 1x3": _luma(1, 3),
    "luma 3x2": _luma(3, 2),
    "luma 2x3": _luma(2, 3),
    "4:4:4 as 2x2": JpegKind(((2, 2), (2, 2), (2, 2)), separate=True),  # 12 blocks are too many for one MCU
    "4:2:2 as 2x2, 1x2": JpegKind(((2, 2), (1, 2), (1, 2))),
    "4:4:0 as 2x2, 2x1": JpegKind(((2, 2), (2, 1), (2, 1))),
    "4:2:0 as 4x4, 2x2": JpegKind(((4, 4), (2, 2), (2, 2)), separate=True),
    "chroma of two sizes": JpegKind(((2, 2), (1, 2), (2, 1))),
    "chroma finer than luma, 2x2": JpegKind(((1, 1), (2, 2), (2, 2))),
    "chroma finer than luma, 2x1": JpegKind(((1, 1), (2, 1), (1, 1))),
    "grey": JpegKind(((1, 1),)),
    "grey as 2x2": JpegKind(((2, 2),)),
    "grey as 3x1": JpegKind(((3, 1),)),
    "RGB": JpegKind(rgb=True),
    "RGB, green 2x2": JpegKind(((1, 1), (2, 2), (1, 1)), rgb=True),
    "4:2:0, progressive": _luma(2, 2, progressive=True),
    "4:4:0, progressive": _luma(1, 2, progressive=True),
    "luma 3x1, progressive": _luma(3, 1, progressive=True),
    "4:2:0, a scan for each component": _luma(2, 2, separate=True),
    "4:1:1, a scan for each component": _luma(4, 1, separate=True),
    "4:2:0, restart markers": _luma(2, 2, restart=3),
    "4:2:2, restart markers": _luma(2, 1, restart=1),
    "4:4:0, restart markers": _luma(1, 2, restart=2),
}


def encode_kind(image: NDArray[np.uint8], kind: JpegKind, quality: int = 95) -> bytes:
    """Return an image as a JPEG of this kind.

    image: uint8 [H, W, 3]. A grey JPEG holds its luma.
    quality: scales the standard table of the luma, which serves all components, as libjpeg scales it.
    """
    height, width = image.shape[:2]
    table = _table(quality)
    components = [_blocks(plane, kind.factors, c, table) for c, plane in enumerate(_planes(image, kind))]
    count, most = len(components), _most(kind.factors)
    frame = [struct.pack(">BHHB", kind.precision, height, width, count)]
    frame += [bytes([c + 1, 16 * h + v, 0]) for c, (h, v) in enumerate(kind.factors)]
    parts = [b"\xff\xd8", _segment(0xDB, b"\0" + bytes(table[p] for p in _ZIGZAG))]
    if kind.rgb:
        parts.append(_segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)))
    parts.append(_segment(0xC2 if kind.progressive else 0xC0, b"".join(frame)))
    for number, length, symbols in ((0x00, 4, _DC), (0x10, 8, _AC)):
        lengths = bytes(len(symbols) if k == length else 0 for k in range(1, 17))
        parts.append(_segment(0xC4, bytes([number]) + lengths + bytes(symbols)))
    if kind.restart:
        parts.append(_segment(0xDD, struct.pack(">H", kind.restart)))
    for members, first, last in _scans(kind, count):
        order = list(_order(members, kind.factors, most, height, width))
        selected = b"".join(bytes([c + 1, 0]) for c in members)
        parts.append(_segment(0xDA, bytes([len(members)]) + selected + bytes([first, last, 0])))
        parts.append(_scan(components, order, first, last, kind.restart))
    return b"".join([*parts, b"\xff\xd9"])


def _scans(kind: JpegKind, count: int) -> list[tuple[list[int], int, int]]:
    """Return the components of each scan, and its first and last coefficient."""
    everything, single = list(range(count)), [[c] for c in range(count)]
    if kind.progressive:
        return [(everything, 0, 0), *((one, 1, 63) for one in single)]
    return [(one, 0, 63) for one in single] if kind.separate else [(everything, 0, 63)]


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _most(factors: Factors) -> tuple[int, int]:
    """Return the largest horizontal and the largest vertical factor."""
    return max(h for h, _ in factors), max(v for _, v in factors)


def _table(quality: int) -> NDArray[np.int64]:
    """Return quantisation steps, int64 [8, 8]: a smooth table like the standard one, scaled as libjpeg scales it."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    frequency = np.add.outer(np.arange(8), np.arange(8))
    return np.clip(np.floor(((11 + 6 * frequency) * scale + 50) / 100), 1, 255).astype(np.int64)


def _planes(image: NDArray[np.uint8], kind: JpegKind) -> NDArray[np.float64]:
    """Return the samples of each component before they are thinned out, float64 [C, H, W]."""
    channels = np.moveaxis(image.astype(np.float64), 2, 0)
    if not kind.rgb:
        channels = np.tensordot(_TO_YCC, channels, 1) + np.array([0, 128, 128])[:, None, None]
    return channels[: len(kind.factors)]


def _blocks(plane: NDArray[np.float64], factors: Factors, c: int, table: NDArray[np.int64]) -> Blocks:
    """Return the quantised coefficients of component c, int64 [rows, columns, 64], up to the last whole MCU."""
    (h, v), (most_h, most_v) = factors[c], _most(factors)
    pad = [(0, -side % (8 * most)) for side, most in zip(plane.shape, (most_v, most_h))]
    plane = np.pad(plane, pad, mode="edge")
    if most_h % h or most_v % v:  # libjpeg cannot read this; repeat samples, so that the file exists
        plane = plane.repeat(h, 1).repeat(v, 0)
        down, across = most_v, most_h
    else:
        down, across = most_v // v, most_h // h
    rows, columns = plane.shape[0] // down, plane.shape[1] // across
    thin = plane.reshape(rows, down, columns, across).mean((1, 3)) - 128
    blocks = thin.reshape(rows // 8, 8, columns // 8, 8).transpose(0, 2, 1, 3)
    quantised = np.rint(_DCT @ blocks @ _DCT.T / table).astype(np.int64)
    y, x = np.array(_ZIGZAG).T
    return quantised[:, :, y, x]


def _order(
    members: Sequence[int], factors: Factors, most: tuple[int, int], height: int, width: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Yield the blocks (component, row, column) of each MCU of a scan."""
    if len(members) == 1:  # an MCU is a block, and blocks that lie beyond the image are left out
        (h, v), c = factors[members[0]], members[0]
        rows, columns = -(-height * v // (8 * most[1])), -(-width * h // (8 * most[0]))
        for y, x in np.ndindex(rows, columns):
            yield [(c, y, x)]
        return
    for y, x in np.ndindex(-(-height // (8 * most[1])), -(-width // (8 * most[0]))):
        yield [
            (c, y * factors[c][1] + v, x * factors[c][0] + h)
            for c in members
            for v in range(factors[c][1])
            for h in range(factors[c][0])
        ]


def _scan(
    components: Sequence[Blocks], order: Sequence[list[tuple[int, int, int]]], first: int, last: int, restart: int
) -> bytes:
    """Return the entropy-coded data of a scan."""
    parts: list[bytes] = []
    every = restart or len(order)
    for number, start in enumerate(range(0, len(order), every)):
        bits: list[str] = []
        before = [0] * len(components)
        for c, y, x in (block for mcu in order[start : start + every] for block in mcu):
            block = components[c][y, x].tolist()
            if first == 0:
                size, extra = _number(block[0] - before[c])
                bits += [f"{_DC.index(size):04b}", extra]
                before[c] = block[0]
            if last:
                bits += _frequencies(block, max(first, 1), last)
        text = "".join(bits)
        text += "1" * (-len(text) % 8)
        data = int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:]
        marker = bytes([0xFF, 0xD0 + (number - 1) % 8]) if number else b""
        parts.append(marker + data.replace(b"\xff", b"\xff\0"))
    return b"".join(parts)


def _frequencies(block: list[int], first: int, last: int) -> list[str]:
    """Return the bits of coefficients `first` to `last`."""
    bits, run = [], 0
    for value in block[first : last + 1]:
        if not value:
            run += 1
            continue
        while run > 15:
            bits.append(f"{_AC.index(0xF0):08b}")
            run -= 16
        size, extra = _number(value)
        bits += [f"{_AC.index(16 * run + size):08b}", extra]
        run = 0
    return [*bits, f"{_AC.index(0x00):08b}"] if run else bits


def _number(value: int) -> tuple[int, str]:
    """Return the number of bits of a value, and these bits; a negative value is coded as its complement."""
    size = abs(value).bit_length()
    return size, f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else ""
