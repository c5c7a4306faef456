"""Small files that would hang a program or fill its memory, as somebody who means harm makes them."""

from __future__ import annotations

import io
import os
import socket
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def small_jpeg(side: int = 16, **how: object) -> bytes:
    buffer = io.BytesIO()
    pixels_ = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels_).save(buffer, "JPEG", **how)
    return buffer.getvalue()


def segment(kind: int, content: bytes = b"") -> bytes:
    return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2, "big") + content


def many_scans(side: int, count: int) -> bytes:
    """Return a grey progressive JPEG: one scan of averages, and others that say that all else is zero."""
    blocks = (-(-side // 8)) ** 2
    size = side.to_bytes(2, "big")
    run = "0" + format(16383, "014b")  # end of band, for 32,767 blocks
    bits = run * -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    zeros = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, b"\x08" + size + size + b"\1\1\x11\0"),
            segment(0xC4, b"\0\1" + bytes(15) + b"\0"),
            segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0"),
            segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8)),
            *([segment(0xDA, b"\1\1\0\1\x3f\0") + zeros] * (count - 1)),
            b"\xff\xd9",
        ]
    )


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_link_to_terminal(path: Path) -> None:
    path.symlink_to("/dev/tty" if os.path.exists("/dev/tty") else "/dev/null")


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have a hundred characters
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 30)


STRANGE = [make_fifo, make_link_to_zeros, make_link_to_terminal, make_socket]
