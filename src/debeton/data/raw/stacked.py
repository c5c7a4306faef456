"""Two sources stacked, one image above the other: the shared code of `dominoes` and `mnist_cifar`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.image_decoding import BadImage
from debeton.data.beton.images import to_rgb
from debeton.data.raw.parts import load_part
from debeton.data.raw.source import Dataset, Option, Request
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import DataError

SIDE = 32
PART_OPTIONS = (
    Option("top", str, "mnist", "data set of the upper image"),
    Option("bottom", str, "cifar10", "data set of the lower image"),
    Option("top-raw", Path, None, "place of the upper set; default RAW/NAME, then RAW, then its usual place"),
    Option("bottom-raw", Path, None, "place of the lower set; default RAW/NAME, then RAW, then its usual place"),
    Option("data-seed", int, 0, "seed of the split and of the pairing, not of training"),
)


def load_half(request: Request, role: str) -> Dataset:
    """Load one half of a stacked set. DataError unless its first images are 28x28 or 32x32.

    role: 'top' or 'bottom'.
    """
    half = load_part(request, role)
    for split in ("train", "test"):
        try:
            square_pixels(half.splits[split], 0)
        except BadImage as error:
            raise DataError(f"--{role} {half.spec.name}: {error}") from None
    return half


def stacked_dataset(spec: DatasetSpec, splits: Mapping[str, Rows], top: Dataset, bottom: Dataset) -> Dataset:
    """Return the data set of two halves, with what each half leaves out of its own files."""
    left = (*(top.left_out or ()), *(bottom.left_out or ()))
    return Dataset(spec, splits, left_out=left, notes=(*top.notes, *bottom.notes))


def square_pixels(rows: Rows, row: int) -> NDArray[np.uint8]:
    """Return one half of a stacked image, uint8 [32, 32, 3].

    A 28x28 image is padded by 2 with zeros. BadImage for any other size.
    """
    try:
        image = to_rgb(rows.image(row))
    except BadImage as error:
        raise BadImage(f"{rows.names[row]} {error}") from None
    height, width = image.shape[:2]
    if (height, width) == (SIDE, SIDE):
        return image
    if (height, width) != (SIDE - 4, SIDE - 4):
        raise BadImage(f"{rows.names[row]} is {width}x{height}; stacked images must be 28x28 or 32x32")
    return np.pad(image, ((2, 2), (2, 2), (0, 0)))


def stack_rows(
    split: str,
    top: tuple[Rows, Ints],
    bottom: tuple[Rows, Ints],
    label: Ints,
    attribute: Ints,
    columns: Mapping[str, Ints] | None = None,
) -> Rows:
    """Return rows of 64x32 images, composed when they are read.

    Row i is top image top[1][i] above bottom image bottom[1][i]. The sidecar gets columns `top_index` and
    `bottom_index`.

    split: the name of the split.
    top, bottom: rows of one set, and the numbers of the rows to use, [N].
    label, attribute: int64 [N].
    columns: more values per row, [N] each.
    """
    (top_rows, top_index), (bottom_rows, bottom_index) = top, bottom

    def read(row: int) -> NDArray[np.uint8]:
        halves = square_pixels(top_rows, int(top_index[row])), square_pixels(bottom_rows, int(bottom_index[row]))
        return np.concatenate(halves)

    names = [
        f"{split}[{i}] ({top_rows.names[a]} over {bottom_rows.names[b]})"
        for i, (a, b) in enumerate(zip(top_index, bottom_index, strict=True))
    ]
    indices = {"top_index": top_index, "bottom_index": bottom_index, **(columns or {})}
    lists: dict[str, Any] = {name: np.asarray(values).tolist() for name, values in indices.items()}
    return Rows(label.astype(np.int64), attribute.astype(np.int64), read, names, lists)
