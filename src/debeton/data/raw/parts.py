"""Sets that are made of other sets: their options, where the other sets lie, and their rows with new values.

`dominoes` and `mnist_cifar` have two parts, 'top' and 'bottom'. A recoloured or corrupted set has one, 'base'.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.images import to_rgb
from debeton.data.raw.fetch import fetch, unfinished_files_note
from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.other_files import files_beside_rows
from debeton.data.raw.source import SOURCES, Dataset, Option, Request
from debeton.data.spec import Ints, Rows
from debeton.system.errors import DataError, UsageError, nearest

ClassSets = tuple[tuple[int, ...], ...]
Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, int], Pixels]  # the pixels of an image of the base set, and the row -> new pixels


def base_options(base: str) -> tuple[Option, ...]:
    """Return the options of a set that is made of one other set. base: the default of `--base`."""
    return (
        Option("base", str, base, "data set of the images that are changed"),
        Option("base-raw", Path, None, "place of the base set; default RAW/NAME, then RAW, then its usual place"),
        Option("data-seed", int, 0, "seed of the random choices in the set, not of training"),
    )


def load_part(request: Request, role: str) -> Dataset:
    """Load the source that an option names, from the first place that holds it.

    role: the name of the option: 'top', 'bottom' or 'base'. `--ROLE-raw` is the place of the set.
    """
    part = _load_from_places(request, role)
    for split in ("train", "test"):
        if split not in part.splits:
            raise UsageError(f"--{role} {part.spec.name} has no split '{split}'; it has {', '.join(part.splits)}")
    left = files_beside_rows(part.splits) if part.left_out is None else part.left_out
    return replace(
        part,
        left_out=tuple(replace(entry, reason=f"{role}: {entry.reason}") for entry in left),
        notes=tuple(f"{role}: {note}" for note in part.notes),
    )


def changed_rows(
    split: str,
    base: Rows,
    numbers: Ints,
    label: Ints,
    attribute: Ints,
    change: Change,
    columns: Mapping[str, Any] | None = None,
) -> Rows:
    """Return rows whose images are those of another set, changed when they are read.

    The sidecar gets the column `base_index`, the row in the other set.

    split: the name of the split.
    base: the rows of the other set.
    numbers: the rows of it to use, int64 [N].
    label, attribute: int64 [N].
    change: (pixels of the other image, row) -> pixels, uint8 [H, W, 3] both.
    columns: more values per row, [N] each.
    """

    def read(row: int) -> Pixels:
        return change(to_rgb(base.image(int(numbers[row]))), row)

    names = [f"{split}[{row}] ({base.names[number]})" for row, number in enumerate(numbers)]
    values = {"base_index": numbers, **(columns or {})}
    lists = {name: np.asarray(column).tolist() for name, column in values.items()}
    return Rows(label.astype(np.int64), attribute.astype(np.int64), read, names, lists)


def _load_from_places(request: Request, role: str) -> Dataset:
    source = SOURCES.get(request.options[role])
    given: Path | None = request.options[f"{role}_raw"]
    folder = given or request.raw  # the folder for a download
    may_fetch = request.download and bool(source.archives)
    errors = []
    for place in _places(given, request.raw, source.name):
        try:
            return source.read(source.request(place))
        except DataError as error:
            if not may_fetch and not isinstance(error, MissingDataError):
                raise
            errors.append(error)  # damaged or incomplete files are fetched again
    if may_fetch:
        if folder is None:
            raise UsageError(f"--download needs --raw or --{role}-raw, the folder to download {source.name} to")
        fetch(source.archives, folder, mirror=request.mirror, progress=sys.stderr.isatty())
        return source.read(source.request(folder))
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
