"""Dominoes: a digit (spurious) above a photo (the class), 64x32, 10 x 10 groups; built from two other sets.

Shah et al. 2020 "The Pitfalls of Simplicity Bias in Neural Networks" stacked two classes. This is the 10-class form of
SCALE (auxiliary learning): MNIST above CIFAR-10. Licences: those of the two sets.
`top-classes` and `bottom-classes` make it smaller: '0,1' above 'automobile,truck' is the binary form, with the
same splits and strengths (2 x 2 groups). Items may be class names, numbers or ranges ('0-4,5-9' are class halves).

The label is the class of the lower image, the attribute that of the upper image. Group k,k is bias-aligned.
Let V be val-target-size, s spurious-strength and C the number of classes. Each class of either set is shuffled by the
seed, and its images are used in this order:
- The first V/C images make the pool. Its two halves are shuffled independently, so 1 in C is aligned.
  V/2 of the pairs are `val`, the others are `target`.
- The next images, up to `per-class`, are `train`: digit k stands above class k. Then a share 1-s of all positions
  (floor((1-s) N + 1/2) of N) have their lower images permuted among themselves, with their labels. About
  s + (1-s)/C of the rows are aligned. Rows are stored in shuffled order.
- `test` pairs the two test sets at random.

A class with fewer than `per-class` images is cut in the same proportion and each part is repeated. So the pool and
`train` never share a source image, and `test` uses test images only. `class-shares` then keeps the first images of
each class of `train`, so that its classes, and the groups in them, are of unequal size.

Draws come from np.random.default_rng, one named stream for each purpose (`make_rng(data_seed, ...)`): every strength
has the same pool, and a larger pool contains a smaller one. They are not the draws of SCALE's legacy global seeds.
`legacy` repeats three faults of SCALE, only for comparing with its published table:
- test attributes as if every digit had count/10 test images (646 of 10,000 are wrong with MNIST);
- the same draw of permuted positions for every data seed;
- int((1-s) N) permuted positions in float64: one fewer where 1-s is not exact (3,999 of 40,000 for s = 0.9).
"""

from __future__ import annotations

import numpy as np

from debeton.data.raw.parts import parse_class_sets, with_set_labels
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.stacked import PART_OPTIONS, load_half, stack_rows, stacked_dataset
from debeton.data.spec import CIFAR_MEAN, CIFAR_STD, DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng

LEGACY_NOISE_SEED = 10  # SCALE always seeds Python's generator, which draws the permutation, with 10


@register_source(
    "dominoes",
    "a digit above a photo: MNIST over CIFAR-10, spurious digit, splits train, target, val and test",
    "it is built from --top and --bottom; --raw DIR names the folder that holds both, --download fetches them there",
    (
        *PART_OPTIONS,
        Option("spurious-strength", float, 1.0, "s: share of train rows whose digit keeps matching the class"),
        Option("val-target-size", int, 2000, "V: rows of val and target together, a multiple of the number of classes"),
        Option("per-class", int, 5000, "images of each class to use, pool and train together"),
        Option("top-classes", str, "", "classes of the upper image: names, numbers or ranges; default all"),
        Option("bottom-classes", str, "", "classes of the lower image, as in 'automobile,truck'; default all"),
        Option(
            "class-shares", str, "", "share of the train images of each class that is kept, as in '1,0.5'; default all"
        ),
        Option(
            "legacy",
            bool,
            False,
            "SCALE's three faults, to compare with its table",
        ),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    top, bottom = _part(request, "top"), _part(request, "bottom")
    classes, attributes = bottom.spec.classes, top.spec.classes
    if len(classes) != len(attributes):
        raise UsageError(
            f"dominoes pairs class k with class k: top {top.spec.name} has {len(attributes)} classes, "
            f"bottom {bottom.spec.name} has {len(classes)}"
        )
    _check(request, len(classes))
    spec = DatasetSpec(
        "dominoes", classes, attributes, tuple((k,) for k in range(len(classes))), mean=CIFAR_MEAN, std=CIFAR_STD
    )
    splits = _learning_splits(request, top.splits["train"], bottom.splits["train"], len(classes))
    splits["test"] = _test_split(request, top.splits["test"], bottom.splits["test"], len(classes))
    return stacked_dataset(spec, splits, top, bottom)


def _part(request: Request, role: str) -> Dataset:
    """Load the upper or the lower set, with the classes that the options name. role: 'top' or 'bottom'."""
    part, text = load_half(request, role), request.options[f"{role}_classes"]
    if not text:
        return part
    if request.options["legacy"]:
        raise UsageError(f"--legacy works only with SCALE's ten classes; leave out --{role}-classes")
    return with_set_labels(part, parse_class_sets(text, part.spec.classes, f"--{role}-classes"))


def _check(request: Request, num_classes: int) -> None:
    """Raise UsageError for options that leave no image or do not fit the number of classes."""
    options = request.options
    strength, pool, per_class = options["spurious_strength"], options["val_target_size"], options["per_class"]
    if not 0 <= strength <= 1:
        raise UsageError(f"--spurious-strength {strength} is not in [0, 1]")
    if pool <= 0 or pool % num_classes:
        raise UsageError(f"--val-target-size {pool} is not a positive multiple of the {num_classes} classes")
    if pool // num_classes >= per_class:
        raise UsageError(
            f"--val-target-size {pool} takes {pool // num_classes} images of each class and --per-class allows "
            f"{per_class}: none is left to train on"
        )


def _class_shares(request: Request, num_classes: int) -> list[float]:
    """Return the share of the train images that each class keeps, in (0, 1]; UsageError for other values."""
    text = str(request.options["class_shares"])
    if not text:
        return [1.0] * num_classes
    try:
        shares = [float(one) for one in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != num_classes or not all(0 < share <= 1 for share in shares):
        raise UsageError(
            f"--class-shares '{text}': expected {num_classes} shares above 0 and up to 1, one for each class"
        )
    return shares


def _stream(request: Request, purpose: str, seed: int | None = None) -> np.random.Generator:
    """Return the random stream for one purpose. seed: None for `--data-seed`."""
    return make_rng(request.options["data_seed"] if seed is None else seed, "dominoes", purpose)


def _learning_splits(request: Request, top: Rows, bottom: Rows, num_classes: int) -> dict[str, Rows]:
    """Return train, target and val."""
    options = request.options
    per_class, in_pool = options["per_class"], options["val_target_size"] // num_classes
    pool_top, train_top = _divide(top, num_classes, per_class, in_pool, _stream(request, "order top"))
    pool_bottom, train_bottom = _divide(bottom, num_classes, per_class, in_pool, _stream(request, "order bottom"))

    in_train, shares = per_class - in_pool, _class_shares(request, num_classes)
    kept = np.concatenate([k * in_train + np.arange(max(1, round(s * in_train))) for k, s in enumerate(shares)])
    train_top, train_bottom = train_top[kept], train_bottom[kept]

    exact = (1 - options["spurious_strength"]) * len(train_bottom)
    permuted = int(exact) if options["legacy"] else int(np.floor(exact + 0.5))
    noise_seed = LEGACY_NOISE_SEED if options["legacy"] else None
    at = _stream(request, "noise at", noise_seed).permutation(len(train_bottom))[:permuted]
    train_bottom[at] = train_bottom[at][_stream(request, "noise", noise_seed).permutation(permuted)]

    pool_top, pool_bottom = (
        _stream(request, "pool top").permutation(pool_top),
        _stream(request, "pool bottom").permutation(pool_bottom),
    )
    halves = _stream(request, "halves").permutation(len(pool_top))
    val, target = np.split(halves, [len(halves) // 2])
    order = _stream(request, "train order").permutation(len(train_top))

    def rows(split: str, tops: Ints, bottoms: Ints) -> Rows:
        return stack_rows(split, (top, tops), (bottom, bottoms), bottom.label[bottoms], top.label[tops])

    return {
        "train": rows("train", train_top[order], train_bottom[order]),
        "target": rows("target", pool_top[target], pool_bottom[target]),
        "val": rows("val", pool_top[val], pool_bottom[val]),
    }


def _divide(rows: Rows, num_classes: int, per_class: int, in_pool: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return the row numbers of the pool and of train, class after class.

    Each class gives in_pool and per_class - in_pool of them.
    """
    order = rng.permutation(len(rows))
    pool, train = [], []
    for k in range(num_classes):
        of_class = order[rows.label[order] == k][:per_class]
        size = len(of_class)
        if size < 2:
            raise DataError(f"dominoes needs 2 images of every class; class {k} ({rows.names[0]}, ...) has {size}")
        cut = in_pool if size == per_class else round(size * in_pool / per_class)
        cut = min(max(cut, 1), size - 1)
        pool.append(np.resize(of_class[:cut], in_pool))
        train.append(np.resize(of_class[cut:], per_class - in_pool))
    return np.concatenate(pool), np.concatenate(train)


def _test_split(request: Request, top: Rows, bottom: Rows, num_classes: int) -> Rows:
    """Return test: the images of the two test sets paired at random."""
    in_a_class = [np.flatnonzero(rows.label >= 0) for rows in (top, bottom)]
    bottoms = _stream(request, "test bottom").permutation(in_a_class[1])
    tops = np.resize(_stream(request, "test top").permutation(in_a_class[0]), len(bottoms))
    digits = _legacy_digits(top.label, num_classes) if request.options["legacy"] else top.label
    return stack_rows("test", (top, tops), (bottom, bottoms), bottom.label[bottoms], digits[tops])


def _legacy_digits(label: Ints, num_classes: int) -> Ints:
    """Return the test digits that SCALE wrote.

    It sorted the images by class and then wrote count/num_classes labels of each class in turn.
    """
    written = np.empty_like(label)
    written[np.argsort(label, kind="stable")] = np.arange(len(label)) * num_classes // len(label)
    return written
