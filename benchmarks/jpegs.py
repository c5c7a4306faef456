"""Pixel differences of the loader against Pillow, for JPEGs of every kind."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import register_benchmark
from benchmarks.jpeg_kinds import KINDS, encode_kind
from benchmarks.photos import load_photos
from benchmarks.timing import Result
from debeton.system.errors import UsageError

FACTORS = (1, 2, 4, 8)  # side of a box divided by the side of the result
STATISTICS = ("mean", "99th percentile", "largest")
Box = tuple[int, int, int, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py jpegs`."""
    parser.add_argument("--images", type=Path, help="folder or zip of JPEG photos; default: as for 'loader'")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEGs, 1 to 100; default: %(default)s")


@register_benchmark("jpegs", "pixel differences against Pillow by kind of JPEG, a photo a round", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Compare the loader's pixels with Pillow's full decode and an average of the area (OpenCV's INTER_AREA).

    Each round encodes another photo, cut to odd sides, as each kind. The whole image and a box at each corner are
    decoded, at their own size and at a half, a quarter and an eighth of it.
    """
    if not 1 <= arguments.quality <= 100:
        raise UsageError(f"--quality {arguments.quality} is out of range; use 1 to 100")
    photos = load_photos(arguments.images, arguments.rounds)
    values: dict[str, list[float]] = {f"{kind}, {name}": [] for kind in KINDS for name in STATISTICS}
    for photo in photos.files:
        image = _pillow(photo)
        image = image[: image.shape[0] // 2 * 2 - 1, : image.shape[1] // 2 * 2 - 1]
        for name, kind in KINDS.items():
            found = np.concatenate(list(differences(encode_kind(image, kind, arguments.quality))))
            summary = np.mean(found), np.percentile(found, 99), np.max(found)
            for statistic, value in zip(STATISTICS, summary, strict=True):
                values[f"{name}, {statistic}"].append(float(value))
    return Result(
        benchmark="jpegs",
        values=values,
        units=dict.fromkeys(values, "grey levels"),
        settings={"images": photos.source, "quality": arguments.quality, "factors": list(FACTORS)},
    )


def differences(file: bytes) -> Iterator[NDArray[np.float64]]:
    """Yield the differences, float64 [n], in the pixels of each box at each size."""
    import cv2

    from debeton.data.beton.ffcv_format import JPG
    from debeton.data.loader.decoding import ImageReader

    expected = _pillow(file)
    height, width = expected.shape[:2]
    zero, mode = np.zeros(1, np.uint64), np.full(1, JPG, np.uint8)
    columns = zero, zero + np.uint64(len(file)), mode, np.array([height]), np.array([width])
    reader = ImageReader(Path(os.devnull), *columns, content=np.frombuffer(file, np.uint8), num_workers=1)
    for top, left, h, w in boxes_of(height, width):
        crop = expected[top : top + h, left : left + w].astype(np.float32)
        for factor in FACTORS:
            size = max(1, h // factor), max(1, w // factor)
            ours = reader.read(np.zeros(1, np.int64), np.array([[top, left, h, w]]), size)[0]
            theirs = cv2.resize(crop, size[::-1], interpolation=cv2.INTER_AREA)
            yield np.abs(ours - np.rint(theirs)).ravel().astype(np.float64)


def boxes_of(height: int, width: int) -> list[Box]:
    """Return the whole image and a box at each corner, as top, left, height and width."""
    h, w = max(1, 61 * height // 100), max(1, 57 * width // 100)
    corners = [(top, left, h, w) for top in (0, height - h) for left in (0, width - w)]
    return [(0, 0, height, width), *corners]


def _pillow(file: bytes) -> NDArray[np.uint8]:
    """Return the pixels as Pillow decodes them, uint8 [H, W, 3]."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
