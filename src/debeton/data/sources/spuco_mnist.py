"""SpuCoMNIST: five classes of two digits each, grey, on coloured backgrounds that go with the classes; 5 x 5 groups.

Joshi et al. 2023, "Towards Mitigating more Challenging Spurious Correlations" (arXiv 2306.11957); the package spuco,
https://github.com/BigML-CS-UCLA/SpuCo (MIT). MNIST is under CC BY-SA 3.0.

It is made of `--base` by the rule of that package:
- `--classes 0-1,2-3,4-5,6-7,8-9` are the digits of each class; digits in none of them are left out.
- The backgrounds are k colours of matplotlib's map hsv, at 0, 1/k, 2/k, ... They fill the pixels where the digit is 0.
- `--difficulty` is the part of the background that is coloured: magnitude_large all of it, magnitude_medium the 4x4
  pixels at the upper left, magnitude_small the 2x2 there; variance_low the 7x7 there, variance_medium 49 random pixels
  of the 14x14 there, variance_high 49 random pixels of all. Random pixels differ from image to image.
- In train a share `--strength` of each class, rounded down, has the colour of the class (0.995 in the package's
  examples). The other colours take turns in the rest. In val and test all colours take turns.
- `--label-noise` is the share of train rows that get a random other label; their true label is the column true_label.
- `--feature-noise` is the share of train rows whose digit loses 60 % of its pixels, where normal noise is below 0.25.

Splits: val is 12,000 of the 60,000 training images, drawn by `--data-seed`. `--val-indices FILE` takes exactly the
package's list of 11,996, from its file src/spuco/datasets/spuco_mnist_config.py. Its numbers count MNIST's own order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.layout import known_choice
from debeton.data.raw.parts import (
    Change,
    Pixels,
    base_options,
    changed_rows,
    load_part,
    parse_class_sets,
    with_set_labels,
)
from debeton.data.raw.skew import hold_out
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError
from debeton.system.regular_files import read_regular_text
from debeton.system.seed import make_rng

NAME = "spuco_mnist"
VAL_SHARE = 5  # one of 5 training images is val: 12,000 of MNIST's 60,000
SIDE, RANDOM_PIXELS, NOISE_LEVEL = 28, 49, 0.25
# Sides of the square at the upper left that holds the coloured pixels, and whether 49 random ones of it are coloured.
DIFFICULTIES = {
    "magnitude_large": (28, False),
    "magnitude_medium": (4, False),
    "magnitude_small": (2, False),
    "variance_low": (7, False),
    "variance_medium": (14, True),
    "variance_high": (28, True),
}


@register_source(
    NAME,
    "digit pairs on coloured backgrounds of chosen difficulty, 5 x 5 groups, RGB 28x28 (SpuCoMNIST)",
    "it is made of MNIST in RAW (mnist.npz or the IDX files; --download fetches them)",
    (
        Option("difficulty", str, "magnitude_large", f"coloured part of the background: {', '.join(DIFFICULTIES)}"),
        Option("strength", float, 0.995, "share of each class in train with the colour of the class"),
        Option("classes", str, "0-1,2-3,4-5,6-7,8-9", "the digits of each class: names, numbers or ranges"),
        Option("label-noise", float, 0.0, "share of train rows that get another label"),
        Option("feature-noise", float, 0.0, "share of train rows whose digit loses most of its pixels"),
        Option("val-indices", Path, None, "the package's spuco_mnist_config.py, whose numbers are val"),
        *base_options("mnist"),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    options = request.options
    known_choice("difficulty", options["difficulty"], tuple(DIFFICULTIES))
    for name, lowest in (("strength", 1e-9), ("label_noise", 0), ("feature_noise", 0)):
        if not lowest <= options[name] <= 1:
            above = "above 0 and at most 1" if lowest else "from 0 to 1"
            raise UsageError(f"--{name.replace('_', '-')} {options[name]} is no share; it is {above}")
    whole = load_part(request, "base")
    base = with_set_labels(whole, parse_class_sets(options["classes"], whole.spec.classes, "--classes"))
    names = base.spec.classes
    colours = _colours(len(names))
    spec = DatasetSpec(
        NAME,
        names,
        tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours),
        aligned=tuple((code,) for code in range(len(names))),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        label_name="digits",
        attribute_name="background",
        columns={"true_label": names, "digits": names},
    )
    train, val = _train_and_val(base.splits["train"], options)
    splits = {}
    for split, rows, numbers in (
        ("train", base.splits["train"], train),
        ("val", base.splits["train"], val),
        ("test", base.splits["test"], np.arange(len(base.splits["test"]))),
    ):
        splits[split] = _split(request, split, rows, numbers[rows.label[numbers] >= 0], colours)
    all_digits = whole.spec.name == "mnist" and all((rows.label >= 0).all() for rows in base.splits.values())
    expected = {"train": 60000 - len(val), "test": 10000} if all_digits else {}
    return Dataset(spec, splits, expected, left_out=base.left_out, notes=base.notes)


def _colours(count: int) -> Pixels:
    """Return the colours of the backgrounds, uint8 [count, 3]."""
    from matplotlib import colormaps  # slow to import

    return np.array([[round(255 * value) for value in colormaps["hsv"](k / count)[:3]] for k in range(count)], np.uint8)


def _train_and_val(rows: Rows, options: Mapping[str, Any]) -> tuple[Ints, Ints]:
    """Return the row numbers of train and of val, ascending."""
    if options["val_indices"] is None:
        return hold_out(rows, len(rows) // VAL_SHARE, options["data_seed"], NAME)
    val = _listed_numbers(options["val_indices"])
    if not len(val) or val.max() >= len(rows) or len(np.unique(val)) < len(val) or len(val) == len(rows):
        raise DataError(
            f"--val-indices {options['val_indices']} lists {len(val)} numbers; expected different ones below "
            f"{len(rows)}, the number of training images, and not all of them"
        )
    return np.setdiff1d(np.arange(len(rows)), val), np.sort(val)


def _listed_numbers(path: Path) -> Ints:
    """Return the whole numbers between the first '[' and the next ']' of a text file."""
    try:
        text = read_regular_text(path)
    except OSError as error:
        raise MissingDataError(f"--val-indices {path} cannot be read ({error.strerror})") from None
    numbers = re.search(r"\[([\d\s,]*)\]", text)
    return np.array(re.findall(r"\d+", numbers[1]) if numbers else [], np.int64)


def _split(request: Request, split: str, base: Rows, numbers: Ints, colours: Pixels) -> Rows:
    """Return the rows of a split: labels, backgrounds and noise."""
    options = request.options
    rng = make_rng(options["data_seed"], NAME, "backgrounds", split)
    label, count = base.label[numbers], len(colours)
    strength = options["strength"] if split == "train" else None
    background = np.zeros_like(label)
    for code in range(count):
        rows = np.flatnonzero(label == code)
        background[rows] = rng.permutation(_backgrounds(len(rows), code, count, strength))
    wrong, noisy = (
        rng.permutation(len(label))[: int(options[name] * len(label)) if split == "train" else 0]
        for name in ("label_noise", "feature_noise")
    )
    given = label.copy()
    given[wrong] = (label[wrong] + rng.integers(1, count, len(wrong))) % count
    has_noise = np.zeros(len(label), bool)
    has_noise[noisy] = True
    change = _filling(request, base, numbers, colours[background], has_noise)
    columns = {"digits": given, "true_label": label}
    return changed_rows(split, base, numbers, given, background, change, columns)


def _backgrounds(size: int, code: int, count: int, strength: float | None) -> Ints:
    """Return the backgrounds of a class, int64 [size], not yet shuffled. strength: None for all equally often."""
    if strength is None:
        return np.arange(size) % count
    own = int(strength * size)
    others = np.delete(np.arange(count), code)
    return np.concatenate([np.full(own, code), others[np.arange(size - own) % len(others)]])


def _filling(request: Request, base: Rows, numbers: Ints, colour: Pixels, has_noise: NDArray[np.bool_]) -> Change:
    """Return the change of one image: its black pixels get the colour of its row.

    colour: uint8 [N, 3].
    has_noise: [N], rows whose digit loses pixels.
    """
    side, at_random = DIFFICULTIES[request.options["difficulty"]]

    def fill(pixels: Pixels, row: int) -> Pixels:
        if pixels.shape != (SIDE, SIDE, 3):
            raise DataError(f"{NAME}: {base.names[numbers[row]]} is no image of 28x28 pixels")
        rng = make_rng(request.options["data_seed"], NAME, "pixels", base.names[numbers[row]])
        coloured = np.zeros((SIDE, SIDE), bool)
        coloured[:side, :side] = True
        if at_random:
            chosen = rng.permutation(side * side)[:RANDOM_PIXELS]
            coloured[:] = False
            coloured[chosen // side, chosen % side] = True
        digit = pixels.copy()
        if has_noise[row]:
            digit[rng.normal(size=(SIDE, SIDE)) <= NOISE_LEVEL] = 0
        return np.where((digit == 0) & coloured[:, :, None], colour[row], digit)

    return fill
