"""Living-17 of BREEDS: 17 kinds of animals of four ImageNet classes each, two of them only for a test.

Santurkar et al. 2021, "BREEDS: Benchmarks for Subpopulation Shift" (arXiv 2008.04859),
https://github.com/MadryLab/BREEDS-Benchmarks. The table below is the paper's random division of the subclasses, as
`make_living17(split="rand")` of the package robustness (https://github.com/MadryLab/robustness) draws it. ImageNet's
terms: non-commercial research.

Layout. RAW holds ImageNet as `imagenet.py` reads it, e.g. `train/nXXXXXXXX/*` with `val/nXXXXXXXX/*`.

Splits. train has the source subclasses of ImageNet's training photos. Of its validation photos, test has the source and
test_target the target subclasses. SubpopBench takes 10 % of train as val (`data.val_fraction`).

The attribute is the subclass, so groups are the 68 subclasses. The column `population` says source or target. No
subclass goes with a class by chance, so there are no bias-aligned rows. Metric: accuracy, in each of the two tests.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from debeton.data.raw.imagenet_classes import names_of_wnids
from debeton.data.raw.imagenet_folders import imagenet_rows
from debeton.data.raw.layout import raw_folder
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec, Ints, Rows

POPULATIONS = ("source", "target")
# The two source and the two target subclasses of each class, in the order of the owners' class codes.
SUBCLASSES = {
    "salamander": (("n01631663", "n01632777"), ("n01630670", "n01632458")),
    "turtle": (("n01669191", "n01665541"), ("n01664065", "n01667114")),
    "lizard": (("n01685808", "n01689811"), ("n01694178", "n01675722")),
    "snake": (("n01740131", "n01735189"), ("n01751748", "n01742172")),
    "spider": (("n01774750", "n01773157"), ("n01773797", "n01775062")),
    "grouse": (("n01796340", "n01798484"), ("n01797886", "n01795545")),
    "parrot": (("n01818515", "n01820546"), ("n01817953", "n01819313")),
    "crab": (("n01978287", "n01980166"), ("n01978455", "n01981276")),
    "dog": (("n02088466", "n02086079"), ("n02111500", "n02086910")),
    "wolf": (("n02114855", "n02114712"), ("n02114548", "n02114367")),
    "fox": (("n02120505", "n02120079"), ("n02119022", "n02119789")),
    "domestic cat": (("n02123159", "n02124075"), ("n02123394", "n02123597")),
    "bear": (("n02134418", "n02133161"), ("n02134084", "n02132136")),
    "beetle": (("n02172182", "n02174001"), ("n02167151", "n02168699")),
    "butterfly": (("n02281406", "n02276258"), ("n02280649", "n02277742")),
    "ape": (("n02483362", "n02480495"), ("n02480855", "n02481823")),
    "monkey": (("n02490219", "n02493509"), ("n02493793", "n02492660")),
}
WNIDS = tuple(sorted(wnid for pairs in SUBCLASSES.values() for pair in pairs for wnid in pair))
PLACE = {
    wnid: (code, population)
    for code, pairs in enumerate(SUBCLASSES.values())
    for population, pair in enumerate(pairs)
    for wnid in pair
}
# By the place of a subclass in WNIDS.
CLASS_OF, POPULATION_OF = (np.array([PLACE[wnid][k] for wnid in WNIDS], np.int64) for k in (0, 1))
TEST_ROWS = 50 * len(WNIDS) // 2  # ImageNet has 50 validation photos a class


@register_source(
    "living17",
    "17 kinds of animals of four ImageNet classes each, two for training and two more for a second test (BREEDS)",
    "get ImageNet by hand from https://image-net.org (ILSVRC 2012, needs an account): RAW/train/n01631663/*, "
    "RAW/val/n01631663/*",
)
def load(request: Request) -> Dataset:
    """Return train, test and test_target, as the module describes them."""
    root = raw_folder(request, "living17")
    imagenet = imagenet_rows("living17", root, WNIDS)
    names = names_of_wnids([root.parent if root.is_file() else root])
    groups = set((CLASS_OF * len(WNIDS) + np.arange(len(WNIDS))).tolist())
    spec = DatasetSpec(
        "living17",
        tuple(SUBCLASSES),
        tuple(names[wnid] for wnid in WNIDS),
        missing=tuple(group for group in range(len(SUBCLASSES) * len(WNIDS)) if group not in groups),
        attribute_name="subclass",
        columns={"population": POPULATIONS},
    )
    splits = {
        split: _part(imagenet[of], population)
        for split, of, population in (("train", "train", 0), ("test", "test", 0), ("test_target", "test", 1))
    }
    return Dataset(spec, splits, {"test": TEST_ROWS, "test_target": TEST_ROWS})


def _part(rows: Rows, population: int) -> Rows:
    """Return the rows of one population. The labels of `rows` are places in WNIDS."""
    chosen: Ints = np.flatnonzero(POPULATION_OF[rows.label] == population)
    subclass = rows.label[chosen]
    absent = rows.absent
    return replace(
        rows,
        label=CLASS_OF[subclass],
        attribute=subclass,
        image=lambda row: rows.image(int(chosen[row])),
        names=[rows.names[row] for row in chosen],
        columns={"population": np.full(len(chosen), population, np.int64)},
        absent=None if absent is None else lambda: np.flatnonzero(np.isin(chosen, absent())),
    )
