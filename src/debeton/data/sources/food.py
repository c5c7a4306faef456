"""Food-101: 101,000 photos of dishes, 101 classes of 1,000.

Bossard et al. 2014, "Food-101 - Mining Discriminative Components with Random Forests" (ECCV). The photos come from
Foodspotting. Their owners decide on any use beyond scientific fair use.

Layout: `food-101/` with
- `meta/classes.txt`: the classes in order;
- `meta/train.txt` and `meta/test.txt`: 'apple_pie/1005649' a line;
- `images/apple_pie/1005649.jpg`.

RAW is `food-101` or the folder around it.

Splits: the official ones, 75,750 and 25,250. The labels of train are noisy on purpose, those of test were checked by
hand. Metric: accuracy.
"""

from __future__ import annotations

from pathlib import Path

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import Listed, class_codes, find_root, listed_rows
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.raw.tables import read_fields
from debeton.data.spec import DatasetSpec


@register_source(
    "food",
    "Food-101: photos of 101 dishes, 75,750 + 25,250",
    "--raw DIR --download fetches food-101.tar.gz (5 GB) from data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/ into "
    "DIR, or unpack it there: DIR/food-101/meta/train.txt and DIR/food-101/images/CLASS/*.jpg",
    archives=(
        Archive(
            "food-101.tar.gz",
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            "md5:85eeb15f3717b99a5da872d97d918f87",
            folder="food-101",
        ),
    ),
)
def load(request: Request) -> Dataset:
    root = find_root(request, "food", ("meta/classes.txt", "images"), ("food-101",))
    classes = tuple(line[0] for line in read_fields(root / "meta" / "classes.txt", width=1))
    splits = {split: _listed(root / "meta" / f"{split}.txt", classes) for split in ("train", "test")}
    rows = listed_rows(ImageTree(root), splits, root / "meta")
    return Dataset(DatasetSpec("food", classes, label_name="dish"), rows, {"train": 75750, "test": 25250})


def _listed(path: Path, classes: tuple[str, ...]) -> Listed:
    names = [line[0] for line in read_fields(path, width=1)]
    return [f"images/{name}.jpg" for name in names], class_codes([n.split("/")[0] for n in names], classes, path)
