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

from debeton.data.raw.align_conflict import PERCENTS, read_align_conflict
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import find_root, known_choice
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec

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
    splits = read_align_conflict(SPEC, ImageTree(root), markers)
    return Dataset(SPEC, splits, EXPECTED_TRAIN.get(percent, {}) | EXPECTED)
