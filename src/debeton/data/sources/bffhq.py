"""BFFHQ: faces of FFHQ, young or old.

The shortcut is the sex: nearly all young faces are female, old ones male.

Kim et al. 2021, "BiaSwap" (ICCV). In this form by Lee et al. 2021, "Learning Debiased Representation via
Disentangled Feature Augmentation" (arXiv 2103.15597), github.com/kakaoenterprise/Learning-Debiased-Disentangled.
FFHQ's photos are under Creative Commons and public-domain licences, the set under CC BY-NC-SA 4.0.

Layout: `bffhq/` with
- `PERCENT/align/CLASS/*` and `PERCENT/conflict/CLASS/*`: the training rows for each share of bias-conflicting rows
  (0.5pct, 1pct, 2pct, 5pct; `--conflict-percent`);
- `valid/*` (some copies have valid in PERCENT) and `test/*`.

In an older copy the training rows of 0.5pct are `train/align` and `train/conflict`.
RAW is the folder itself, the folder around it or its .zip.

File names are ID_TARGET_BIAS.png, one digit each: the label and the attribute. A name with equal digits is aligned (the
owners' code compares them). In papers that use the set, 0 stands for young and female, and 1 for old and male. The
owners' code gives no names; a wrong guess would swap the meaning of all numbers at once. Papers report the accuracy on
the bias-conflicting half of test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_images, find_root, known_choice
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import DataError

PERCENTS = ("0.5", "1", "2", "5")
NAME = re.compile(r"[^_]+_([01])_([01])")
SPEC = DatasetSpec(
    "bffhq", ("young", "old"), ("female", "male"), aligned=((0,), (1,)), label_name="age", attribute_name="gender"
)
# The counts that papers repeat. 96 rows of train at 0.5 % and 500 rows of test are bias-conflicting.
EXPECTED = {"val": 1000, "test": 1000}
EXPECTED_TRAIN = {"0.5": {"train": 19200}}


@register_source(
    "bffhq",
    "young and old faces, the sex is the shortcut, 19,200 + 1,000 + 1,000 RGB photos (Biased FFHQ)",
    "get bffhq.zip by hand from the Google Drive folder that "
    "https://github.com/kakaoenterprise/Learning-Debiased-Disentangled links: RAW/bffhq/0.5pct/align/0/*.png, ..., "
    "RAW/bffhq/valid, RAW/bffhq/test, or the zip",
    (Option("conflict-percent", str, "0.5", "bias-conflicting share of train in percent: 0.5, 1, 2 or 5"),),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    percent = known_choice("conflict-percent", request.options["conflict_percent"].removesuffix("pct"), PERCENTS)
    markers = (f"{percent}pct", "train") if percent == PERCENTS[0] else (f"{percent}pct",)
    root = find_root(request, "bffhq", markers, ("bffhq",), any_of=True, zips=("bffhq.zip",))
    tree = ImageTree(root)
    folder = next((folder for folder in markers if tree.files(f"{folder}/align/*/*")), markers[0])
    valid = "valid" if tree.files("valid/*") else f"{folder}/valid"
    patterns = {
        "train": (f"{folder}/align/*/*", f"{folder}/conflict/*/*"),
        "val": (f"{valid}/*",),
        "test": ("test/*",),
    }
    splits = {split: _rows(tree, find_images(tree, globs, "bffhq")) for split, globs in patterns.items()}
    return Dataset(SPEC, splits, EXPECTED_TRAIN.get(percent, {}) | EXPECTED)


def _rows(tree: ImageTree, files: Iterable[str]) -> Rows:
    names = list(files)
    digits = [_digits(file, tree) for file in names]
    return file_rows(tree, names, [target for target, _ in digits], [bias for _, bias in digits])


def _digits(file: str, tree: ImageTree) -> tuple[int, int]:
    """Return TARGET and BIAS of a file. DataError if its folders contradict its name."""
    path = PurePosixPath(file)
    digits = NAME.fullmatch(path.stem)
    if digits is None:
        raise DataError(f"bffhq: {file} in {tree.root} is not called ID_TARGET_BIAS.png with digits 0 or 1")
    target, bias = int(digits[1]), int(digits[2])
    _, *kind, _ = path.parts
    conflicting = "conflict" in kind
    if len(kind) > 1 and (kind[-1] != digits[1] or conflicting != (target != bias)):
        raise DataError(
            f"bffhq: {file} in {tree.root} lies in {'/'.join(kind)}, which contradicts its name; unpack it again"
        )
    return target, bias
