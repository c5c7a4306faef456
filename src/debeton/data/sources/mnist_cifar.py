"""MNIST-CIFAR: the binary form of dominoes that measures simplicity bias; built from two other sets.

Shah, Tamuly, Raghunathan, Jain and Netrapalli 2020, "The Pitfalls of Simplicity Bias in Neural Networks":
digit 0 or 1 above automobile or truck, always paired, so either half alone gives the class.
Licences: those of the two sets. 64x32 RGB, the digit padded to 32x32.

`top-classes` and `bottom-classes` are two sets each, of class names, numbers or ranges ('0-4,5-9' are
class halves). Both sides are shuffled by the seed and cut to the size of the smallest of the four sets.
Splits: `train`; `val`, 10 % (rounded) of the pairs of each class; `test`; and two tests of reliance, `test_random_top`
and `test_random_bottom`. These are the pairs of `test` with the images of one side shuffled over all rows.

The label is the class set of the pair, the attribute the set of the upper image. A model that reads only
the shuffled side scores 1/2. In `test_random_bottom` the label remains that of the pair, and so of the upper image.
The column `bottom_class` holds the set of the lower image.
"""

from __future__ import annotations

import numpy as np

from debeton.data.raw.parts import parse_class_sets, with_set_labels
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.stacked import PART_OPTIONS, load_half, stack_rows, stacked_dataset
from debeton.data.spec import CIFAR_MEAN, CIFAR_STD, DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng


@register_source(
    "mnist_cifar",
    "simplicity bias: digits 0 and 1 above automobile and truck, with randomised-half tests",
    "it is built from --top and --bottom; --raw DIR names the folder that holds both, --download fetches them there",
    (
        *PART_OPTIONS,
        Option("top-classes", str, "0,1", "the two class sets of the upper image: names, numbers or ranges"),
        Option("bottom-classes", str, "automobile,truck", "the two class sets of the lower image, as in '0-4,5-9'"),
    ),
)
def load(request: Request) -> Dataset:
    top, bottom = load_half(request, "top"), load_half(request, "bottom")
    top, bottom = (_two_sets(request, part, role) for part, role in ((top, "top"), (bottom, "bottom")))
    splits = {
        **_learning_splits(request, (top.splits["train"], bottom.splits["train"])),
        **_test_splits(request, (top.splits["test"], bottom.splits["test"])),
    }
    classes, attributes = bottom.spec.classes, top.spec.classes
    spec = DatasetSpec("mnist_cifar", classes, attributes, ((0,), (1,)), mean=CIFAR_MEAN, std=CIFAR_STD)
    return stacked_dataset(spec, splits, top, bottom)


def _two_sets(request: Request, part: Dataset, role: str) -> Dataset:
    """Return one half with two class sets as classes. UsageError for more than two. role: 'top' or 'bottom'."""
    text, flag = request.options[f"{role}_classes"], f"--{role}-classes"
    sets = parse_class_sets(text, part.spec.classes, flag)
    if len(sets) != 2:
        raise UsageError(f"{flag} '{text}' names {len(sets)} class sets; mnist_cifar has two (dominoes takes more)")
    return with_set_labels(part, sets)


def _stream(request: Request, purpose: str) -> np.random.Generator:
    return make_rng(request.options["data_seed"], "mnist_cifar", purpose)


def _learning_splits(request: Request, halves: tuple[Rows, Rows]) -> dict[str, Rows]:
    """Return train and val."""
    pairs = _pair(halves, (_stream(request, "train top"), _stream(request, "train bottom")))
    pairs = pairs[:, _stream(request, "train order").permutation(pairs.shape[1])]
    held_out = np.zeros(pairs.shape[1], bool)
    for k in (0, 1):
        of_class = np.flatnonzero(pairs[2] == k)
        held_out[of_class[: round(0.1 * len(of_class))]] = True
    return {"train": _rows("train", halves, pairs[:, ~held_out]), "val": _rows("val", halves, pairs[:, held_out])}


def _test_splits(request: Request, halves: tuple[Rows, Rows]) -> dict[str, Rows]:
    """Return test and the two tests with one shuffled side."""
    pairs = _pair(halves, (_stream(request, "test top"), _stream(request, "test bottom")))
    splits = {"test": _rows("test", halves, pairs)}
    for name, side in (("test_random_top", [0, 3]), ("test_random_bottom", [1, 4])):
        shuffled = pairs.copy()
        shuffled[side] = pairs[side][:, _stream(request, name).permutation(pairs.shape[1])]
        splits[name] = _rows(name, halves, shuffled)
    return splits


def _pair(halves: tuple[Rows, Rows], rngs: tuple[np.random.Generator, np.random.Generator]) -> Ints:
    """Return pairs [5, N]: top row, bottom row, label, top set, bottom set.

    Both classes have the same size, in shuffled order.
    """
    by_class = [
        [order[rows.label[order] == k] for k in (0, 1)]
        for rows, order in ((rows, rng.permutation(len(rows))) for rows, rng in zip(halves, rngs, strict=True))
    ]
    size = min(len(rows) for side in by_class for rows in side)
    if size == 0:
        raise DataError("mnist_cifar: one of the four class sets has no image")
    label = np.repeat([0, 1], size)
    top, bottom = (np.concatenate([rows[:size] for rows in side]) for side in by_class)
    return np.stack([top, bottom, label, label, label])


def _rows(split: str, halves: tuple[Rows, Rows], pairs: Ints) -> Rows:
    top, bottom, label, attribute, bottom_class = pairs
    return stack_rows(split, (halves[0], top), (halves[1], bottom), label, attribute, {"bottom_class": bottom_class})
