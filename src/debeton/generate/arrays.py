"""A generated set as arrays, one of every class, as Diffusing DeBias's released code and captioner read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from debeton.data.beton.images import BadImage, to_rgb
from debeton.data.raw.synthetic_images import BLIND, read_synthetic_rows
from debeton.data.spec import Ints, Rows
from debeton.generate.image_set import names_from_folders
from debeton.system.errors import DataError, UsageError
from debeton.system.files import replacing


def write_arrays(folder: Path, out: Path) -> list[Path]:
    """CLASS.npy in `out`, uint8 [N, H, W, 3], of the images of every class in the order of their paths.

    folder: any layout of `data/generated.py`, which reads the arrays too. They hold no attribute: UsageError for a set
    whose prompts named some. DataError where images of a class differ in size, or one cannot be read.
    """
    spec = names_from_folders(folder)
    rows = read_synthetic_rows(folder, spec)
    if not np.all(rows.columns[BLIND]):
        raise UsageError(
            f"{folder} was made by cells ({', '.join(spec.attributes[:4])}), and arrays hold classes alone; give the "
            "folder itself to write_betons.py --synthetic"
        )
    label = np.asarray(rows.label)
    return [
        _write_class(rows, np.flatnonzero(label == code), out / f"{name}.npy")
        for code, name in enumerate(spec.classes)
        if (label == code).any()
    ]


def _write_class(rows: Rows, members: Ints, path: Path) -> Path:
    """One array, an image at a time: a set may be larger than memory."""
    shape = _pixels(rows, members[0]).shape
    with replacing(path) as (partial,):
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(members), *shape))
        for k, row in enumerate(members):
            pixels = _pixels(rows, row)
            if pixels.shape != shape:
                raise DataError(
                    f"{rows.names[row]} is {pixels.shape[1]} x {pixels.shape[0]} pixels, and {rows.names[members[0]]} "
                    f"is {shape[1]} x {shape[0]}; an array holds one size"
                )
            array[k] = pixels
        array.flush()
    return path


def _pixels(rows: Rows, row: int) -> np.ndarray:
    try:
        return to_rgb(rows.image(int(row)))
    except (OSError, BadImage) as error:
        raise DataError(f"{rows.names[row]} cannot be read ({error})") from None
