"""Caltech-101 and Caltech-256: photos of objects, one folder a class.

Fei-Fei et al. 2004, "Learning Generative Visual Models from Few Training Examples", and Griffin et al. 2007,
"Caltech-256 Object Category Dataset"; both CC BY 4.0 at CaltechDATA (doi 10.22002/D1.20086 and D1.20087).

Layouts. RAW is the folder itself or the folder around it:
- `101_ObjectCategories/CLASS/image_0001.jpg`, also in `caltech-101/` or `caltech101/`. There are 101 classes; the
  folder BACKGROUND_Google is no class.
- `256_ObjectCategories/001.ak47/001_0001.jpg`, also in `caltech256/`. There are 257 classes, the last is clutter. The
  official archive also holds an empty folder tree in 056.dog and a stray file in 198.spider; they are left out
  and reported.

There is no official split. As in the transfer-learning literature, the first 30 files (of Caltech-256 the first 60) of
each class by name are train and the others test: 3,030 + 5,647 and 15,420 + 15,187. Classes are numbered in sorted
order of their folders, capitals first. Metric: mean per-class accuracy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from debeton.data.left_out import left_out
from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_root
from debeton.data.raw.other_files import files_beside_rows
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError


@dataclass(frozen=True)
class Variant:
    """The differences between the two sets.

    name: as on the command line.
    folder: the folder of class folders.
    around: folders in which `folder` may lie.
    background: a folder that is no class.
    a_class: one class, by which the folder of class folders is recognised.
    num_classes: the number of classes.
    train: files of each class for training.
    expected: published rows of train and test.
    """

    name: str
    folder: str
    around: tuple[str, ...]
    background: str
    a_class: str
    num_classes: int
    train: int
    expected: tuple[int, int]


CALTECH101 = Variant(
    name="caltech101",
    folder="101_ObjectCategories",
    around=("caltech-101", "caltech101", "caltech101/caltech-101"),
    background="BACKGROUND_Google",
    a_class="accordion",
    num_classes=101,
    train=30,
    expected=(3030, 5647),
)
CALTECH256 = Variant(
    name="caltech256",
    folder="256_ObjectCategories",
    around=("caltech256",),
    background="",
    a_class="001.ak47",
    num_classes=257,
    train=60,
    expected=(15420, 15187),
)


@register_source(
    "caltech101",
    "photos of 101 kinds of objects, 30 of each for training: 3,030 + 5,647",
    "--raw DIR --download fetches caltech-101.zip (137 MB) from data.caltech.edu/records/mzrjq-6wc02 into DIR, or "
    "unpack it and the 101_ObjectCategories.tar.gz inside it there: DIR/caltech-101/101_ObjectCategories/CLASS/*.jpg",
    archives=(
        Archive(
            "caltech-101.zip",
            "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
            "md5:3138e1922a9193bfa496528edbbc45d0",
            folder="caltech-101/101_ObjectCategories",
            inside="caltech-101/101_ObjectCategories.tar.gz",
        ),
    ),
)
def load_caltech101(request: Request) -> Dataset:
    return _load(CALTECH101, request)


@register_source(
    "caltech256",
    "photos of 256 kinds of objects and clutter, 60 of each for training: 15,420 + 15,187",
    "--raw DIR --download fetches 256_ObjectCategories.tar (1.2 GB) from data.caltech.edu/records/nyy15-4j048 into "
    "DIR, or unpack it there: DIR/256_ObjectCategories/001.ak47/*.jpg",
    archives=(
        Archive(
            "256_ObjectCategories.tar",
            "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
            "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
            folder="256_ObjectCategories",
        ),
    ),
)
def load_caltech256(request: Request) -> Dataset:
    return _load(CALTECH256, request)


def _load(variant: Variant, request: Request) -> Dataset:
    places = (variant.folder, *(f"{folder}/{variant.folder}" for folder in variant.around))
    root = find_root(request, variant.name, (variant.a_class,), places)
    tree = ImageTree(root)
    by_class: dict[str, list[str]] = {}
    for path in tree.files("*/*"):
        by_class.setdefault(path.split("/")[0], []).append(path)
    background = by_class.pop(variant.background, [])
    folders = sorted(by_class)
    if len(folders) != variant.num_classes:
        raise DataError(
            f"{variant.name} has {variant.num_classes} classes, {root} has {len(folders)} folders with images: "
            f"{', '.join(folders[:5])}, ...; unpack the archive again"
        )
    parts: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for code, folder in enumerate(folders):
        files = by_class[folder]
        for split, part in (("train", files[: variant.train]), ("test", files[variant.train :])):
            parts[split][0].extend(part)
            parts[split][1].extend([code] * len(part))
    classes = tuple(re.sub(r"^\d{3}\.", "", folder) for folder in folders)
    rows = {split: file_rows(tree, files, label) for split, (files, label) in parts.items()}
    return Dataset(
        DatasetSpec(variant.name, classes, metric="mean_per_class"),
        rows,
        expected=dict(zip(("train", "test"), variant.expected, strict=True)),
        left_out=(
            *left_out(f"images of {variant.background}, which is no class", background, fault=False),
            *files_beside_rows(rows),
        ),
    )
