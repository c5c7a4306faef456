"""Betons that another program wrote with FFCV: their fields, and the values of each.

Such a file may have any fields of FFCV under any names. One field holds the images.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.ffcv_format import FLOAT, INT, JSON, NDARRAY, RGB_IMAGE, TENSOR, Field, Stored
from debeton.data.beton.opened import OpenedFile
from debeton.system.errors import nearest

ADOPTED = "adopted"  # the entry of the sidecar of such a beton
SHAPE = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])  # the first arguments of an array field


def image_field(stored: Stored, name: str | None = None) -> tuple[str, NDArray[Any]]:
    """Return the name of the field with the images, and their entries, [N] of type IMAGE.

    ValueError if no field, or more than one, can be meant.

    name: of the field; None takes the only one.
    """
    images = [field.name for field in stored.fields if field.type_id == RGB_IMAGE]
    known = ", ".join(f"{field.name} ({field.type_name})" for field in stored.fields)
    if name is not None and name not in images:
        raise ValueError(f"it has no image field '{name}'{nearest(name, images)} its fields are {known}")
    if not images:
        raise ValueError(f"it has no field with images; its fields are {known}, and an RGBImageField is needed")
    if name is None and len(images) > 1:
        raise ValueError(f"it has {len(images)} fields with images, {' and '.join(images)}; say which one with --image")
    return name or images[0], _column(stored, name or images[0])


def _column(stored: Stored, name: str) -> NDArray[Any]:
    place = next(k for k, field in enumerate(stored.fields) if field.name == name)
    return np.asarray(stored.metadata[f"f{place}"])


def stored_sizes(image: NDArray[Any], stored: Stored) -> NDArray[np.uint64]:
    """Return the size of each image in bytes, uint64 [N]. ValueError if the file does not name all of them."""
    pieces = stored.allocations[stored.allocations["size"] > 0]  # an empty one shares its place with the next
    pieces = pieces[np.argsort(pieces["ptr"], kind="stable")]
    starts = pieces["ptr"]
    place = np.searchsorted(starts, image["data_ptr"])
    found = place < len(starts)
    found[found] = starts[place[found]] == image["data_ptr"][found]
    if not found.all():
        row = int(np.flatnonzero(~found)[0])
        raise ValueError(f"its table of stored bytes lacks the image of row {row} and {int((~found).sum()) - 1} more")
    return np.asarray(pieces["size"][place], np.uint64)


def field_values(file: OpenedFile, stored: Stored) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return the single values of all rows by field, [N] each, and the other fields.

    The second result has a word for what each other field holds.

    A field of JSON objects gives a column for each key with single values, called 'field.key'.
    """
    values: dict[str, list[Any]] = {}
    others: dict[str, str] = {}
    for field in stored.fields:
        column = _column(stored, field.name)
        if field.type_id in (INT, FLOAT):
            values[field.name] = column.tolist()
        elif field.type_id in (NDARRAY, TENSOR) and _array_type(field)[0] == (1,):
            dtype = _array_type(field)[1]
            values[field.name] = [_piece(file, dtype, 1, place, field.name)[0].item() for place in column.tolist()]
        elif field.type_id == JSON:
            keys, rest = _json_values(file, field.name, column)
            values.update(keys)
            others.update(rest)
        elif field.type_id != RGB_IMAGE:
            is_array = field.type_id in (NDARRAY, TENSOR)
            others[field.name] = f"{field.type_name} {list(_array_type(field)[0])}" if is_array else field.type_name
    return values, others


def _piece(file: OpenedFile, dtype: np.dtype[Any], count: int, place: int, field: str) -> NDArray[Any]:
    """Return the values of a field that lie among the images, [count]. ValueError if the file does not hold them."""
    if dtype.hasobject or place + count * dtype.itemsize > file.size:
        raise ValueError(f"values of the field '{field}' lie beyond the end of the file, or are no numbers")
    return file.array(dtype, count, place)


def _array_type(field: Field) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and the type of the arrays of a field."""
    arguments = np.ascontiguousarray(field.arguments)
    header = arguments[: SHAPE.itemsize].view(SHAPE)[0]
    text = bytes(arguments[SHAPE.itemsize :][: int(header["type_length"])]).decode("ascii")
    shape = [int(side) for side in header["shape"]]
    while shape and not shape[-1]:
        shape.pop()
    return tuple(shape), np.dtype(json.loads(text)[0][1])


def _json_values(file: OpenedFile, name: str, pieces: NDArray[Any]) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return the single values of JSON objects by 'field.key', [N] each, and the keys with other values."""
    values: dict[str, list[Any]] = {}
    others: dict[str, str] = {}
    for row, (place, size) in enumerate(zip(pieces["ptr"].tolist(), pieces["size"].tolist())):
        content = json.loads(_piece(file, np.dtype(np.uint8), size, place, name).tobytes().rstrip(b"\0") or b"null")
        items = content.items() if isinstance(content, dict) else [("", content)]
        for key, value in items:
            column = f"{name}.{key}" if key else name
            if value is None or isinstance(value, bool | int | float | str):
                values.setdefault(column, [None] * len(pieces))[row] = value
            else:
                others[column] = f"JSON {type(value).__name__}"
    return {key: column for key, column in values.items() if key not in others}, others
