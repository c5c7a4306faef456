"""Describable Textures: 5,640 photos of textures, 47 words, 120 photos each.

Cimpoi et al. 2014, "Describing Textures in the Wild" (CVPR); for research purposes.

Layout: `dtd/labels/{train,val,test}{1..10}.txt` ('banded/banded_0002.jpg' a line) and `dtd/images/CLASS/*.jpg`.
RAW is `dtd` or the folder around it.

Splits: ten official ones, `--partition 1` by default, of 1,880 photos each for train, val and test. As in the
transfer-learning literature train and val together are train, 3,760; `--keep-val` keeps them apart. Classes are
numbered in sorted order. Metric: accuracy.
"""

from __future__ import annotations

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import check_partition, class_codes, find_root, listed_rows, train_and_val
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tables import read_fields
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError


@register_source(
    "dtd",
    "Describable Textures: photos of 47 kinds of texture, 3,760 + 1,880",
    "--raw DIR --download fetches dtd-r1.0.1.tar.gz (625 MB) from www.robots.ox.ac.uk/~vgg/data/dtd/ into DIR, or "
    "unpack it there: DIR/dtd/images/CLASS/*.jpg and DIR/dtd/labels/train1.txt",
    (
        Option("partition", int, 1, "the number of the official split, 1 to 10"),
        Option("keep-val", bool, False, "keep the official validation split apart instead of training on it"),
    ),
    (
        Archive(
            "dtd-r1.0.1.tar.gz",
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
            folder="dtd",
        ),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    partition, keep_val = check_partition(request.options["partition"]), request.options["keep_val"]
    root = find_root(request, "dtd", ("labels", "images"), ("dtd", "dtd/dtd"))
    lists = {split: root / "labels" / f"{split}{partition}.txt" for split in ("train", "val", "test")}
    paths = {split: [line[0] for line in read_fields(path, width=1)] for split, path in lists.items()}
    for split, names in paths.items():
        for row, name in enumerate(names, start=1):
            if name.count("/") != 1:
                raise DataError(f"{lists[split]}, row {row}: '{name}' is not CLASS/FILE")
    classes = tuple(sorted({name.split("/")[0] for name in paths["train"]}))
    listed = {
        split: (
            [f"images/{name}" for name in names],
            class_codes([name.split("/")[0] for name in names], classes, lists[split]),
        )
        for split, names in paths.items()
    }
    splits = {**train_and_val(listed["train"], listed["val"], keep_val=keep_val), "test": listed["test"]}
    rows = listed_rows(ImageTree(root), splits, root / "labels")
    sizes = {"train": 1880, "val": 1880} if keep_val else {"train": 3760}
    return Dataset(DatasetSpec("dtd", classes, label_name="texture"), rows, {**sizes, "test": 1880})
