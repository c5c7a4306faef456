"""Calls of pixels.c with random and damaged rows; run it with the library of a sanitizer: LIBRARY SEED CALLS."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from debeton.data.beton.ffcv_format import JPG, RAW
from debeton.data.loader import pixels
from debeton.data.loader.pixels import BLACK, BYTES, STILL, Moves

SCALES = np.array([[1 / 255] * 3, [0] * 3], np.float32)


def stored_image(rng: np.random.Generator) -> tuple[bytearray, int, int, int]:
    """Return the bytes of an image, its mode, height and width; often damaged or with other sides than it has."""
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mode = int(rng.choice([JPG, RAW]))
    content = bytearray(image.tobytes())
    if mode == JPG:
        stream = io.BytesIO()
        kind = {"progressive": bool(rng.integers(2)), "subsampling": int(rng.integers(3))}
        Image.fromarray(image).save(stream, "JPEG", quality=int(rng.integers(1, 100)), **kind)
        content = bytearray(stream.getvalue())
    for _ in range(int(rng.integers(3))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    if rng.random() < 0.2:
        del content[int(rng.integers(len(content))) :]
    if rng.random() < 0.1:
        height, width = height + int(rng.integers(-1, 3)), width + int(rng.integers(-1, 3))
    return content, mode, height, width


def moves_of(rng: np.random.Generator, n: int, size: tuple[int, int]) -> Moves:
    """Return no moves, or rows, columns and patches at random places."""
    if rng.random() < 0.5:
        return STILL
    rows = rng.integers(BLACK, size[0], (n, size[0])).astype(np.int32)
    columns = rng.integers(BLACK, size[1], (n, size[1])).astype(np.int32)
    corners = np.sort(rng.integers(0, min(size) + 1, (n, 2, 2)), axis=1).reshape(n, 4)
    return Moves(rows, columns, corners.astype(np.int64), int(rng.integers(256)))


def one_call(rng: np.random.Generator) -> int:
    """Call pixels.c with a batch of one to four images, and return the number of good ones."""
    images = [stored_image(rng) for _ in range(int(rng.integers(1, 5)))]
    n, size = len(images), (int(rng.integers(1, 33)), int(rng.integers(1, 33)))
    # One block of its own that ends with the last image, so that a byte behind it is noticed.
    memory = np.frombuffer(b"".join(bytes(image[0]) for image in images), np.uint8).copy()
    sizes = np.array([len(image[0]) for image in images], np.uint64)
    offsets = (np.cumsum(sizes) - sizes).astype(np.uint64)
    if rng.random() < 0.1:
        offsets[int(rng.integers(n))] = rng.integers(0, 1 << 63, dtype=np.uint64)
    heights, widths = (np.array([image[k] for image in images], np.int64) for k in (2, 3))
    top, left = rng.integers(0, np.maximum(heights, 1)), rng.integers(0, np.maximum(widths, 1))
    boxes = np.stack([top, left, np.maximum(heights - top, 1), np.maximum(widths - left, 1)], 1).astype(np.int64)
    if rng.random() < 0.1:
        boxes[int(rng.integers(n)), int(rng.integers(4))] = int(rng.integers(-5, 1 << 40))
    out = np.empty((n, *size, 3), np.uint8)
    stored = (offsets, sizes, np.array([image[1] for image in images], np.uint8), heights, widths)
    crcs = rng.integers(-1, 1 << 32, n) if rng.random() < 0.3 else None
    moves, base = moves_of(rng, n, size), memory.ctypes.data
    options = {"room": len(memory), "crcs": crcs}
    status = pixels.write_images(
        out, BYTES, size, stored, boxes, base, moves, SCALES, int(rng.integers(1, 3)), **options
    )
    return int((status == 0).sum())


if __name__ == "__main__":
    library, seed, calls = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    pixels._LIBRARY = pixels.loaded(library)
    print(sum(one_call(np.random.default_rng([seed, k])) for k in range(calls)))
