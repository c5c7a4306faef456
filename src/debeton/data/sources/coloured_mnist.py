"""Coloured MNIST: ten digits, each nearly always in its own colour, RGB 28x28, 10 x 10 groups.

Nam et al. 2020, "Learning from Failure" (LfF, arXiv 2007.02561), github.com/alinlab/LfF. Lee et al. 2021, "Learning
Debiased Representation via Disentangled Feature Augmentation" (LDD, arXiv 2107.01372) release one such set,
github.com/kakaoenterprise/Learning-Debiased-Disentangled. MNIST is under CC BY-SA 3.0.

Three forms (`--form`; `auto` reads what lies in RAW, else it makes the set):
- ldd: `cmnist/0.5pct|1pct|2pct|5pct/align|conflict/CLASS/*.png`, `valid/` in or beside these, `test/CLASS/*.png`; or
  `cmnist.zip`. File names end in _DIGIT_COLOUR. The images have LfF's colours.
- lff: `ColoredMNIST-SkewedS-SeverityN/train|valid/images.npy, attrs.npy`, as LfF's make_dataset.py writes it.
- made: of `--base`, with LfF's colours and its rule for who gets which colour (raw/skew.py). A pixel is grey value
  times colour, rounded down. The colour of an image is the mean of its code plus normal noise per channel, cut to
  [0, 1]. The noise has the standard deviation of `--colour-severity` 1 to 5: 0.05, 0.02, 0.01, 0.005, 0.002.
  `--data-seed` draws val and the noise. Who gets which colour is as in LfF's code, image by image.

LfF trains on all 60,000 images and has no val: `--val-size 0`. LDD has 55,000 and 5,000, the default here.
Papers report the accuracy on test, where every colour is equally frequent in every class.
"""

from __future__ import annotations

import numpy as np

from debeton.data.raw.parts import Change, Pixels
from debeton.data.raw.skew import BiasedSet, load_biased, skew_options
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng

NOISE = (0.05, 0.02, 0.01, 0.005, 0.002)  # standard deviation of a colour channel in [0, 1], by severity
# The ten mean colours of LfF, RGB in [0, 1], with our names for them.
COLOURS = {
    "red-orange": (0.9837, 0.3125, 0.1686),
    "yellow": (0.9905, 0.9156, 0.3515),
    "mauve": (0.6730, 0.4611, 0.5798),
    "sage": (0.7833, 0.8316, 0.6013),
    "sky-blue": (0.0880, 0.7780, 0.9818),
    "green": (0.3214, 0.9611, 0.4464),
    "blue": (0.0246, 0.2357, 0.7587),
    "purple": (0.5552, 0.1016, 0.7618),
    "dark-green": (0.2077, 0.3929, 0.0187),
    "crimson": (0.8337, 0.2024, 0.2669),
}
SPEC = DatasetSpec(
    "coloured_mnist",
    tuple("0123456789"),
    tuple(COLOURS),
    aligned=tuple((digit,) for digit in range(10)),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    label_name="digit",
    attribute_name="colour",
)


@register_source(
    "coloured_mnist",
    "ten digits, each in its own colour, 10 x 10 groups, RGB 28x28 (Learning from Failure)",
    "it is made of MNIST in RAW (mnist.npz or the IDX files; --download fetches them); or get LDD's cmnist from the "
    "Google Drive folder that https://github.com/kakaoenterprise/Learning-Debiased-Disentangled links, by hand: "
    "RAW/cmnist/0.5pct/align/0/*.png, ..., RAW/cmnist/test/0/*.png",
    (
        *skew_options("mnist"),
        Option("colour-severity", int, 4, "made and lff: 1 to 5, the noise of the colours falls from 0.05 to 0.002"),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    if not 1 <= request.options["colour_severity"] <= len(NOISE):
        raise UsageError(
            f"--colour-severity {request.options['colour_severity']} is out of range; it is 1 to {len(NOISE)}"
        )
    return load_biased(request, _SET)


def _lff_folder(request: Request, skew: str) -> str:
    return f"ColoredMNIST-Skewed{skew}-Severity{request.options['colour_severity']}"


def _colouring(request: Request, base: Rows, numbers: Ints, attribute: Ints) -> Change:
    means, noise = np.array(list(COLOURS.values())), NOISE[request.options["colour_severity"] - 1]

    def colour(pixels: Pixels, row: int) -> Pixels:
        rng = make_rng(request.options["data_seed"], SPEC.name, "colour", base.names[numbers[row]])
        drawn = np.clip(means[attribute[row]] + rng.normal(0, noise, 3), 0, 1)
        return (pixels * drawn).astype(np.uint8)

    return colour


# Rows of train by conflict percent: 249, 491, 986 and 2,449 of them are bias-conflicting, as papers repeat.
_SET = BiasedSet(
    base="mnist",
    spec=SPEC,
    ldd_spec=SPEC,
    ldd_folder="cmnist",
    lff_prefix="ColoredMNIST-Skewed",
    lff_folder=_lff_folder,
    change=_colouring,
    ldd_sizes={"0.5": 55000, "1": 55000, "2": 55000, "5": 55000, "test": 10000},
    base_sizes={"train": 60000, "test": 10000},
)
