"""Your own data as rows: images and labels in memory, or any PyTorch map-style data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from debeton.data.raw.dataset_items import MapDataset
from debeton.data.spec import UNKNOWN, Ints, RawImage, Rows, attribute_codes
from debeton.system.errors import DataError


def rows_from_arrays(
    images: Sequence[Any] | NDArray[Any],
    label: ArrayLike,
    attribute: ArrayLike | None = None,
    *,
    names: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Rows:
    """Return Rows of images and codes in memory.

    images: uint8 [N, H, W, 3] or [N, H, W], or a sequence of N images as `rows_from_dataset` takes them.
    label, attribute: whole numbers from 0, [N]; without attribute every row has attribute 0. The attribute of a row for
        which it is not known is -1, None or NaN.
    names: [N], how messages call a row, unique; default: 'image 0', 'image 1', ...
    columns: more values of each row for the sidecar, by name, each [N].
    DataError where lengths differ or codes are no whole numbers; of an image, when it is written.
    """
    count = len(images)
    return Rows(
        _codes(label, count, "label"),
        np.zeros(count, np.int64) if attribute is None else _attributes(attribute, count),
        lambda row: as_raw_image(images[row], row),
        _names(names, count),
        dict(columns or {}),
    )


def rows_from_dataset(
    dataset: MapDataset,
    *,
    label: ArrayLike | None = None,
    attribute: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Rows:
    """Return Rows of a PyTorch map-style data set, whose item i is (image, label) or (image, label, attribute).

    An image is one of these:

    - a PIL image;
    - an array, uint8 [H, W, 3] or [H, W];
    - a tensor [3, H, W] or [1, H, W], uint8 or float in [0, 1];
    - the bytes of an image file, or its path;
    - {'bytes': ..., 'path': ...}, as the library `datasets` gives an encoded image.

    Leave random transforms and Normalize out of the data set's transforms.

    label, attribute: [N], in place of what the items say, as in `rows_from_arrays`. With label given, no item is read
        before the beton is written; without it every item is read once more for its codes.
    names, columns: as in `rows_from_arrays`.
    `write_beton` reads items from several threads; use WriteOptions(num_workers=1) for a data set that allows one.
    """
    count = len(dataset)
    if label is None:
        items = [tuple(dataset[row])[1:3] for row in range(count)]
        label = [item[0] for item in items]
        if attribute is None and any(len(item) > 1 for item in items):
            attribute = [item[1] if len(item) > 1 else UNKNOWN for item in items]
    return Rows(
        _codes(label, count, "label"),
        np.zeros(count, np.int64) if attribute is None else _attributes(attribute, count),
        lambda row: as_raw_image(dataset[row][0], row),
        _names(names, count),
        dict(columns or {}),
    )


def as_raw_image(image: Any, row: int) -> RawImage:
    """Return an image as the writer takes it: uint8 [H, W, 3] or [H, W], bytes or a path.

    DataError with the number of its row where it is anything else.
    """
    if isinstance(image, bytes | Path):
        return image
    if isinstance(image, str):
        return Path(image)
    if isinstance(image, Mapping):  # an encoded image of the library `datasets`
        return image["bytes"] if image.get("bytes") is not None else Path(image["path"])
    if hasattr(image, "convert"):  # PIL's
        return np.asarray(image.convert("RGB"))
    is_tensor = hasattr(image, "detach")
    pixels = np.asarray(image.detach().cpu() if is_tensor else image)
    if is_tensor and pixels.ndim == 3:  # channels first
        pixels = np.moveaxis(pixels, 0, -1)
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    shaped = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3)
    if shaped and is_tensor and np.issubdtype(pixels.dtype, np.floating):
        if not pixels.size or pixels.min() < 0 or pixels.max() > 1:
            raise DataError(
                f"image {row} has values from {pixels.min():.3g} to {pixels.max():.3g}; expected uint8, or floats in "
                "[0, 1]: leave Normalize out of the data set's transforms"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if not shaped or pixels.dtype != np.uint8:
        raise DataError(
            f"image {row} is {pixels.dtype} {list(pixels.shape)}; expected uint8 [H, W, 3] or [H, W], or a tensor "
            "[3, H, W]"
        )
    return np.ascontiguousarray(pixels)


def _codes(values: ArrayLike, count: int, kind: str) -> Ints:
    codes = np.asarray(values)
    _check_length(codes, count, kind)
    if count and not np.issubdtype(codes.dtype, np.integer):
        raise DataError(f"{kind} is {codes.dtype}; expected whole numbers, the position of each name in the spec")
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise DataError(f"{kind} of image {row} is {int(codes[row])}; every image needs a {kind}, a number from 0")
    return codes.astype(np.int64)


def _attributes(values: ArrayLike, count: int) -> Ints:
    _check_length(np.asarray(values), count, "attribute")
    try:
        return attribute_codes(values)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the attribute cannot be read ({error}); expected whole numbers, the position of each name in the spec, "
            "and -1, None or NaN where it is not known"
        ) from None


def _check_length(values: NDArray[Any], count: int, kind: str) -> None:
    if values.shape != (count,):
        raise DataError(f"{kind} has shape {list(values.shape)}; expected [{count}], one for each image")


def _names(names: Sequence[str] | None, count: int) -> Sequence[str]:
    if names is not None and len(names) != count:
        raise DataError(f"there are {len(names)} names; expected {count}, one for each image")
    return [f"image {row}" for row in range(count)] if names is None else names
