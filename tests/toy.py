"""The toy set: what it shows, and how its rows are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from debeton.data.beton.reading import open_beton
from debeton.data.spec import DatasetSpec, Rows

TOY_SPEC = DatasetSpec(
    "toy", ("left", "right"), ("dark", "light"), aligned=((0,), (1,)), mean=(0.5,) * 3, std=(0.25,) * 3
)


def toy_rows(n: int, aligned_share: float, seed: int, size: int = 16) -> Rows:
    """The label is the bright half of the image (hard under noise), the attribute its brightness (easy)."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    attribute = np.where(rng.random(n) < aligned_share, label, 1 - label)
    images = rng.normal(90 + 60 * attribute[:, None, None], 25, (n, size, size))
    half = size // 2
    for i in range(n):
        images[i, :, :half] += 18 * (1 - 2 * label[i])
    pixels = np.repeat(np.clip(images, 0, 255).astype(np.uint8)[..., None], 3, axis=3)
    return Rows(label, attribute, lambda i: pixels[i], [f"{seed}/{i}" for i in range(n)])


def stored_image(beton: Path, row: int) -> np.ndarray:
    """The pixels of a row of a raw beton, read from the file itself."""
    found = open_beton(beton)
    first, height, width = int(found.offsets[row]), int(found.heights[row]), int(found.widths[row])
    data = beton.read_bytes()[first : first + height * width * 3]
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)
