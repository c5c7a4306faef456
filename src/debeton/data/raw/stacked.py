"""Two sources stacked, one image above the other: the shared code of `dominoes` and `mnist_cifar`."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.image_decoding import BadImage
from debeton.data.beton.images import to_rgb
from debeton.data.raw.fetch import fetch, unfinished_files_note
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.other_files import files_beside_rows
from debeton.data.raw.source import SOURCES, Dataset, Option, Request
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError, nearest

SIDE = 32
ClassSets = tuple[tuple[int, ...], ...]
PART_OPTIONS = (
    Option("top", str, "mnist", "data set of the upper image"),
    Option("bottom", str, "cifar10", "data set of the lower image"),
    Option("top-raw", Path, None, "place of the upper set; default RAW/NAME, then RAW, then its usual place"),
    Option("bottom-raw", Path, None, "place of the lower set; default RAW/NAME, then RAW, then its usual place"),
    Option("data-seed", int, 0, "seed of the split and of the pairing, not of training"),
)


def load_part(request: Request, role: str) -> Dataset:
    """Load the source that `--top` or `--bottom` names, from the first place that holds it.

    role: 'top' or 'bottom'.
    """
    part = _load_from_places(request, role)
    for split in ("train", "test"):
        if split not in part.splits:
            raise UsageError(f"--{role} {part.spec.name} has no split '{split}'; it has {', '.join(part.splits)}")
        try:
            square_pixels(part.splits[split], 0)
        except BadImage as error:
            raise DataError(f"--{role} {part.spec.name}: {error}") from None
    left = files_beside_rows(part.splits) if part.left_out is None else part.left_out
    return replace(
        part,
        left_out=tuple(replace(entry, reason=f"{role}: {entry.reason}") for entry in left),
        notes=tuple(f"{role}: {note}" for note in part.notes),
    )


def stacked_dataset(spec: DatasetSpec, splits: Mapping[str, Rows], top: Dataset, bottom: Dataset) -> Dataset:
    """Return the data set of two halves, with what each half leaves out of its own files."""
    left = (*(top.left_out or ()), *(bottom.left_out or ()))
    return Dataset(spec, splits, left_out=left, notes=(*top.notes, *bottom.notes))


def _load_from_places(request: Request, role: str) -> Dataset:
    source = SOURCES.get(request.options[role])
    given: Path | None = request.options[f"{role}_raw"]
    folder = given or request.raw  # the folder for a download
    may_fetch = request.download and bool(source.archives)
    errors = []
    for place in _places(given, request.raw, source.name):
        try:
            return source.load(source.request(place))
        except DataError as error:
            if not may_fetch and not isinstance(error, MissingDataError):
                raise
            errors.append(error)  # damaged or incomplete files are fetched again
    if may_fetch:
        if folder is None:
            raise UsageError(f"--download needs --raw or --{role}-raw, the folder to download {source.name} to")
        fetch(source.archives, folder, mirror=request.mirror, progress=sys.stderr.isatty())
        return source.load(source.request(folder))
    note = unfinished_files_note(source.archives, folder)
    raise MissingDataError(f"{role}: {errors[0]}; --{role}-raw PATH names another place{f'; {note}' if note else ''}")


def _places(given: Path | None, raw: Path | None, name: str) -> list[Path | None]:
    """Return the places to look in, in this order. None is the usual place of the set."""
    if given is not None:
        return [given]
    return [path for path in (raw / name, raw) if path.exists()] + [None] if raw is not None else [None]


def parse_class_sets(text: str, classes: tuple[str, ...], flag: str) -> ClassSets:
    """Return the disjoint sets of class codes in 'a,b,...'.

    Each item is a class name, a number or a range 'i-j' of numbers. UsageError unless there are two sets or more.

    text: the value of the option.
    classes: the names of the classes.
    flag: the option, for messages.
    """
    sets = []
    for item in (part.strip() for part in text.split(",")):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if item in classes:
            codes: tuple[int, ...] = (classes.index(item),)
        elif numbers:
            codes = tuple(range(int(numbers[1]), int(numbers[2] or numbers[1]) + 1))
        else:
            raise UsageError(f"{flag}: unknown class '{item}'{nearest(item, classes)} known: {', '.join(classes)}")
        if not codes or max(codes) >= len(classes):
            raise UsageError(f"{flag}: '{item}' is not a range of class numbers within 0 to {len(classes) - 1}")
        sets.append(codes)
    if len(sets) < 2 or len({code for codes in sets for code in codes}) < sum(map(len, sets)):
        raise UsageError(f"{flag} '{text}' must name two or more class sets without a common class, as in '0-4,5-9'")
    return tuple(sets)


def with_set_labels(part: Dataset, sets: ClassSets) -> Dataset:
    """Return the same rows with new labels.

    The label is the number of the set that holds the row's class, or -1 if no set does.
    """
    names = tuple("+".join(part.spec.classes[code] for code in codes) for codes in sets)
    number = np.full(part.spec.num_classes, -1)
    for k, codes in enumerate(sets):
        number[list(codes)] = k
    splits = {split: replace(rows, label=number[rows.label]) for split, rows in part.splits.items()}
    return replace(part, spec=replace(part.spec, classes=names, aligned=()), splits=splits)


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
