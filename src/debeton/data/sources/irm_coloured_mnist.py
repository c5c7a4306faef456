"""IRM's Coloured MNIST: digits below 5 or not, in red or green, misleading at test; 2 x 2 groups.

Arjovsky, Bottou, Gulrajani and Lopez-Paz 2019, "Invariant Risk Minimization" (arXiv 1907.02893), code
github.com/facebookresearch/InvariantRiskMinimization. MNIST is under CC BY-SA 3.0.

It is made of `--base` by the rule of that code:
- The training images are shuffled by `--data-seed`. The last sixth, 10,000, is `test` (`--test-flip`, 0.9). The others
  go in turn to the training environments of `--flips` (0.2 and 0.1), 25,000 rows each. The official test images are
  not used. (That code takes the last 10,000 of the file for test, but some copies of MNIST are sorted by digit.)
- The label is 1 for the digits 0 to 4. It is wrong with the probability `--label-noise` (0.25).
- The colour is the label, 0 red and 1 green, flipped with the probability of the environment.
- `--size` 14, as in that code, takes every other row and column; 28 keeps all. The grey value is the value of the red
  or the green channel; the other channels are 0.

A model that reads the colour alone is right in 80, 90 and 10 % of the rows; one that reads the digit alone in 75 %.
The columns are environment, digit and true_label, the label before the noise. Each can be `data.label` or
`data.attribute`.
"""

from __future__ import annotations

import numpy as np

from debeton.data.raw.parts import Pixels, base_options, changed_rows, load_part
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng

TEST_SHARE = 6  # one of 6 training images is test: 10,000 of MNIST's 60,000
CLASSES, COLOURS = ("5 to 9", "0 to 4"), ("red", "green")
SIZES = {14: 2, 28: 1}  # step from one row or column of pixels to the next


@register_source(
    "irm_coloured_mnist",
    "digits below 5 or not, red or green, two training environments and a misleading test (IRM)",
    "it is made of MNIST in RAW (mnist.npz or the IDX files; --download fetches them)",
    (
        Option("flips", str, "0.2,0.1", "probability that the colour is flipped, for each training environment"),
        Option("test-flip", float, 0.9, "probability that the colour is flipped in test"),
        Option("label-noise", float, 0.25, "probability that the label is wrong"),
        Option("size", int, 14, "rows and columns of an image: 14, as in the paper's code, or 28"),
        *base_options("mnist"),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    options = request.options
    flips = [_probability("flips", text) for text in options["flips"].split(",")]
    flips.append(_probability("test-flip", options["test_flip"]))
    noise = _probability("label-noise", options["label_noise"])
    if options["size"] not in SIZES:
        raise UsageError(f"--size {options['size']} is unknown; it is 14 or 28")
    base = load_part(request, "base")
    if base.spec.num_classes != 10:
        raise UsageError(f"--base {options['base']} has {base.spec.num_classes} classes; irm_coloured_mnist needs 10")
    rows = base.splits["train"]
    first_of_test = len(rows) - len(rows) // TEST_SHARE
    if first_of_test < len(flips) or first_of_test == len(rows):
        raise DataError(f"irm_coloured_mnist: {len(rows)} images are too few for {len(flips)} environments")
    environments = tuple(f"train {k}, flip {flip:g}" for k, flip in enumerate(flips[:-1]))
    spec = DatasetSpec(
        "irm_coloured_mnist",
        CLASSES,
        COLOURS,
        aligned=((0,), (1,)),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        attribute_name="colour",
        columns={
            "environment": (*environments, f"test, flip {flips[-1]:g}"),
            "digit": base.spec.classes,
            "true_label": CLASSES,
            "label": CLASSES,
            "colour": COLOURS,
        },
    )
    order = make_rng(options["data_seed"], spec.name, "order").permutation(len(rows))
    splits = {}
    for split, numbers, environment in (
        ("train", order[:first_of_test], np.arange(first_of_test) % (len(flips) - 1)),
        ("test", order[first_of_test:], np.full(len(rows) - first_of_test, len(flips) - 1)),
    ):
        rng = make_rng(options["data_seed"], spec.name, "flips", split)
        digit = rows.label[numbers]
        true_label = (digit < 5).astype(np.int64)
        label = true_label ^ (rng.random(len(digit)) < noise)
        colour = label ^ (rng.random(len(digit)) < np.array(flips)[environment])
        columns = {"environment": environment, "digit": digit, "true_label": true_label}
        columns |= {"label": label, "colour": colour}
        change = _Paint(colour, SIZES[options["size"]])
        splits[split] = changed_rows(split, rows, numbers, label, colour, change, columns)
    expected = {"train": 50000, "test": 10000} if base.spec.name == "mnist" else {}
    return Dataset(spec, splits, expected, left_out=base.left_out, notes=base.notes)


class _Paint:
    """The change of one image: smaller, and in one colour. colour: the channel of each row, [N]."""

    def __init__(self, colour: Ints, step: int):
        self.colour, self.step = colour, step

    def __call__(self, pixels: Pixels, row: int) -> Pixels:
        small = pixels[:: self.step, :: self.step]
        painted = np.zeros_like(small)
        painted[:, :, self.colour[row]] = small[:, :, 0]
        return painted


def _probability(option: str, value: str | float) -> float:
    """Return a number from 0 to 1. UsageError for anything else."""
    try:
        number = float(value)
    except ValueError:
        number = -1
    if not 0 <= number <= 1:
        raise UsageError(f"--{option}: '{value}' is no probability from 0 to 1")
    return number
