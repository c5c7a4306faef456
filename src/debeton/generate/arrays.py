"""A generated set as arrays, one of every class, as Diffusing DeBias's released code and captioner read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from debeton.data.generated import KEPT, manifests
from debeton.errors import DataError, UsageError
from debeton.files import replacing
from debeton.generate.image_set import read_lines


def write_arrays(folder: Path, out: Path) -> list[Path]:
    """CLASS.npy in `out`, uint8 [N, H, W, 3], of the kept images of every class in the order of their paths.

    `data/generated.py` reads them, and so does write_betons.py --synthetic. They hold no attribute: UsageError for a
    set whose prompts named some. DataError where images of a class differ in size, or one is not there.
    """
    lines = [line for path in manifests(folder) for line in read_lines(path) if line["verdict"] == KEPT]
    if not lines:
        raise DataError(f"{folder} is no set of generated images, or none of its images was kept: there is no manifest "
                        "that lists any")  # fmt: skip
    if named := next((line for line in lines if line["attribute"] is not None), None):
        raise UsageError(
            f"{folder} was made by cells ('{named['label']}, {named['attribute']}'), and arrays hold classes alone; "
            "give the folder itself to write_betons.py --synthetic"
        )
    paths: dict[str, list[Path]] = {}
    for line in lines:
        paths.setdefault(str(line["label"]), []).append(folder / line["path"])
    return [_write_class(sorted(images), out / f"{label}.npy") for label, images in paths.items()]


def _write_class(images: list[Path], path: Path) -> Path:
    """One array, an image at a time: a set may be larger than memory."""
    shape = _pixels(images[0]).shape
    with replacing(path) as (partial,):
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(images), *shape))
        for k, image in enumerate(images):
            pixels = _pixels(image)
            if pixels.shape != shape:
                raise DataError(f"{image} is {pixels.shape[1]} x {pixels.shape[0]} pixels, and {images[0].name} is "
                                f"{shape[1]} x {shape[0]}; an array holds one size")  # fmt: skip
            array[k] = pixels
        array.flush()
    return path


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); see writers/generate_images.py --check") from None
