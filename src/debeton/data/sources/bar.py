"""BAR, Biased Action Recognition: six actions. The training photos of an action share a place, the test photos do not.

Nam et al. 2020, "Learning from Failure" (arXiv 2007.02561), https://github.com/alinlab/BAR. Photos from imSitu,
Stanford 40 Actions, Flickr and web search, many of them CC BY-NC; their metadata.json names each source.

Layouts. RAW is the folder around them, the folder itself or its .zip (`bar.zip`, `BAR-master.zip`):
- The original: `train/CLASS_N.jpg` and `test/CLASS_N.jpg`, 1,941 and 654 photos. The class is in the file name,
  vaulting as 'pole vaulting'. There is no validation split.
- The version that Lee et al. 2023 split again (arXiv 2205.14594, github.com/kakaoenterprise/BiasEnsemble). It is
  recognised by its folder `train/align`. Train is `train/align/CLASS/*` and `train/conflict/PERCENT/CLASS/*`, PERCENT
  `--conflict`, 1pct or 5pct. The others are `valid/CLASS/*` and `test/CLASS/*`. File names end in _CLASS_BIAS.
  CLASS folders are names, or numbers in the order of the paper's table. No file gives the meaning of the numbers; this
  order is our choice.

Attribute: whether the photo shows the typical place of the class, or another place. The typical places are climbing:
a rock wall; diving: under water; fishing: a water surface; racing: a paved track; throwing: a playing field; vaulting:
the sky. The labels say no more: no file names the other place of a test photo, so the attribute cannot be the place
itself. In the original all of train is typical and all of test is not, as the paper describes them. Half of the groups
are empty in each. In the other version train goes by its folders, valid and test by the file name: typical if CLASS and
BIAS are equal, as its owners evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_images, find_root, known_choice
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tables import parse_codes
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import DataError, UsageError

CLASSES = ("climbing", "diving", "fishing", "racing", "throwing", "vaulting")
TYPICAL, OTHER = 0, 1
SPEC = DatasetSpec(
    "bar",
    CLASSES,
    ("typical", "other"),
    aligned=((TYPICAL,),) * len(CLASSES),
    label_name="action",
    attribute_name="place",
)
FOLDERS = ("bar", "BAR", "BAR-master")
PERCENTS = ("1pct", "5pct")
DEFAULT_PERCENT = "5pct"  # as in the debiasing suites that read this version

# Rows by class as the owners' README counts them.
TRAIN = (326, 520, 163, 336, 317, 279)
TEST = (105, 159, 42, 132, 85, 131)


@register_source(
    "bar",
    "actions whose place is the shortcut, six classes, 1,941 + 654 RGB photos (Biased Action Recognition)",
    "--raw DIR --download fetches BAR-master.zip of https://github.com/alinlab/BAR, or unpack that: "
    "RAW/train/climbing_0.jpg, ...; or the version with train/align and train/conflict from https://github.com/kakaoenterprise/BiasEnsemble",
    (Option("conflict", str, "", "bias-conflicting training rows of the split-again version, 1pct or 5pct [5pct]"),),
    # GitHub makes this file when it is asked for. Its bytes may change, so there is no hash.
    archives=(Archive("BAR-master.zip", "https://github.com/alinlab/BAR/archive/refs/heads/master.zip"),),
)
def load(request: Request) -> Dataset:
    root = find_root(request, "bar", ("train",), FOLDERS, zips=[f"{folder}.zip" for folder in FOLDERS])
    tree = ImageTree(root)
    percent: str = request.options["conflict"]
    if tree.files("train/align/*/*"):
        return _split_again(tree, known_choice("conflict", percent or DEFAULT_PERCENT, PERCENTS))
    if percent:
        raise UsageError(f"--conflict {percent} is of the version with train/align/; {root} holds the original release")
    return _original(tree)


def _original(tree: ImageTree) -> Dataset:
    """Return the splits of the original release."""
    splits = {}
    for split, attribute in (("train", TYPICAL), ("test", OTHER)):
        files = find_images(tree, (f"{split}/*",), "bar")
        label = _labels([PurePosixPath(file).name.rpartition("_")[0] for file in files], files, tree)
        splits[split] = file_rows(tree, files, label, [attribute] * len(files))
    expected = {
        "train": [n for count in TRAIN for n in (count, 0)],
        "test": [n for count in TEST for n in (0, count)],
    }
    return Dataset(SPEC, splits, expected)


def _split_again(tree: ImageTree, percent: str) -> Dataset:
    """Return the splits of the version with train/align. percent: '1pct' or '5pct'."""
    align, conflict = "train/align/*/*", f"train/conflict/{percent}/*/*"
    files = find_images(tree, (align, conflict), "bar")
    attribute = [OTHER if file.startswith("train/conflict/") else TYPICAL for file in files]
    splits = {"train": _rows(tree, files, attribute)}
    for split, folder in (("val", "valid"), ("test", "test")):
        files = find_images(tree, (f"{folder}/*/*",), "bar")
        splits[split] = _rows(tree, files, [_place_in_name(file) for file in files])
    return Dataset(SPEC, splits)


def _rows(tree: ImageTree, files: Sequence[str], attribute: Sequence[int]) -> Rows:
    return file_rows(tree, files, _labels([PurePosixPath(file).parent.name for file in files], files, tree), attribute)


def _labels(names: Sequence[str], files: Sequence[str], tree: ImageTree) -> list[int]:
    return parse_codes([name.removeprefix("pole ") for name in names], CLASSES, "class", str(tree.root), files)


def _place_in_name(file: str) -> int:
    """Return TYPICAL if the last two fields of the name, CLASS and BIAS, are equal, else OTHER."""
    fields = PurePosixPath(file).stem.split("_")[-2:]
    if len(fields) < 2 or not all(field.isdecimal() for field in fields):
        raise DataError(f"bar: {file} does not end in _CLASS_BIAS, two numbers; is this the version with train/align/?")
    return TYPICAL if int(fields[0]) == int(fields[1]) else OTHER
