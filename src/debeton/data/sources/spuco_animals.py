"""SpuCo Animals: four classes of animals.

Two classes at a time share two backgrounds; 8 of 4 x 4 groups exist.

Joshi et al. 2023, "Towards Mitigating more Challenging Spurious Correlations" (arXiv 2306.11957); the package spuco
2.0.3, https://github.com/BigML-CS-UCLA/SpuCo, whose code is MIT. The photos come from other sets, for research.

Layout: the two halves, SpuCoBirds and SpuCoDogs, as the package unpacks them. RAW is the folder that holds both, or the
folder around `spuco_animals/`:
- `spuco_birds/{train,val,test}/{landbirds,waterbirds}/{land,water}/*`;
- `spuco_dogs/{train,val,test}/{small_dogs,big_dogs}/{indoor,outdoor}/*`.

`spuco_birds` and `spuco_dogs` are the halves alone: two classes, two backgrounds, 2 x 2 groups.

Labels and attributes are numbered as by the owners, birds before dogs. Bias-aligned are land birds on land, water birds
on water, small dogs indoors and big dogs outdoors, 20 of 21 training rows. Val is as biased as train, test is balanced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_images, find_root, folders_around, missing_part_error
from debeton.data.raw.shipped_splits import read_shipped_splits, shipped_options, shipped_rate
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.spec import DatasetSpec, Rows

SPLITS = ("train", "val", "test")
ANIMALS = ("landbird", "waterbird", "small_dog", "big_dog")
PLACES = ("Land", "Water", "Indoors", "Outdoors")
# (label, attribute) of each cell that exists, and its folder below spuco_birds/SPLIT or spuco_dogs/SPLIT
CELLS = {
    (0, 0): ("spuco_birds", "landbirds/land"),
    (0, 1): ("spuco_birds", "landbirds/water"),
    (1, 0): ("spuco_birds", "waterbirds/land"),
    (1, 1): ("spuco_birds", "waterbirds/water"),
    (2, 2): ("spuco_dogs", "small_dogs/indoor"),
    (2, 3): ("spuco_dogs", "small_dogs/outdoor"),
    (3, 2): ("spuco_dogs", "big_dogs/indoor"),
    (3, 3): ("spuco_dogs", "big_dogs/outdoor"),
}
HALVES = tuple(dict.fromkeys(half for half, _ in CELLS.values()))
SPEC = DatasetSpec(
    "spuco_animals",
    ANIMALS,
    PLACES,
    aligned=((0,), (1,), (2,), (3,)),
    missing=tuple(
        len(PLACES) * animal + place
        for animal in range(len(ANIMALS))
        for place in range(len(PLACES))
        if (animal, place) not in CELLS
    ),
    label_name="animal",
    attribute_name="background",
    # From Fake to Real's folders of synthetic images: spuco_animals/ANIMAL_Place, and without the first level.
    generated_folders={
        f"{top}{ANIMALS[cell[0]]}_{PLACES[cell[1]]}": cell for top in ("spuco_animals/", "") for cell in CELLS
    },
)
# Rows of each bias-aligned and each other cell, which the package checks when it loads them.
SIZES = {"train": (10000, 500), "val": (500, 25), "test": (500, 500)}
# Rows that From Fake to Real keeps of each other cell of train and val, by the rate in its split files.
SHIPPED = {"0.95": (500, 25), "0.97": (310, 16), "0.99": (102, 10), "0.999": (11, 10)}
WORDS = {split: split for split in SPLITS}  # the splits in its file names
# The address in the package; no hash is published.
BOX = "https://ucla.box.com/shared/static/"


ARCHIVES = {
    "spuco_birds": Archive("spuco_birds.tar.gz", f"{BOX}zrsx09ik7lqad1e389w06f1c4nbajo9z", folder="spuco_birds"),
    "spuco_dogs": Archive("spuco_dogs.tar.gz", f"{BOX}u3dkllvq7a2py4x443pqul295wwd549e", folder="spuco_dogs"),
}


@register_source(
    "spuco_animals",
    "land and water birds, small and big dogs, the background is the shortcut, 42,000 + 2,100 + 4,000 RGB photos",
    "--raw DIR --download fetches both halves (3.0 and 2.7 GB); or take them from "
    "https://github.com/BigML-CS-UCLA/SpuCo (SpuCoBirds, SpuCoDogs) and unpack them: "
    "RAW/spuco_birds/train/landbirds/land/*, ..., RAW/spuco_dogs/train/small_dogs/indoor/*",
    archives=tuple(ARCHIVES.values()),
    options=shipped_options("0.95"),
)
def load(request: Request) -> Dataset:
    root = find_root(request, "spuco_animals", HALVES, ("spuco_animals",), any_of=True)
    for half in HALVES:
        if not (root / half).is_dir():
            raise missing_part_error("spuco_animals", half, [root])
    tree = ImageTree(root)
    splits = {split: _rows(tree, split) for split in SPLITS}
    if request.options["ffr_splits"] is not None:
        return _shipped(request, tree, splits)
    return Dataset(SPEC, splits, {split: _sizes(*SIZES[split]) for split in SPLITS})


@register_source(
    "spuco_birds",
    "land and water birds, the background is the shortcut, 21,000 + 1,050 + 2,000 RGB photos (half of SpuCo Animals)",
    "--raw DIR --download fetches it (3.0 GB); or take SpuCoBirds from https://github.com/BigML-CS-UCLA/SpuCo and "
    "unpack it: RAW/spuco_birds/train/landbirds/land/*, ...",
    archives=(ARCHIVES["spuco_birds"],),
)
def load_birds(request: Request) -> Dataset:
    return _half(request, "spuco_birds", "bird")


@register_source(
    "spuco_dogs",
    "small and big dogs, the background is the shortcut, 21,000 + 1,050 + 2,000 RGB photos (half of SpuCo Animals)",
    "--raw DIR --download fetches it (2.7 GB); or take SpuCoDogs from https://github.com/BigML-CS-UCLA/SpuCo and "
    "unpack it: RAW/spuco_dogs/train/small_dogs/indoor/*, ...",
    archives=(ARCHIVES["spuco_dogs"],),
)
def load_dogs(request: Request) -> Dataset:
    return _half(request, "spuco_dogs", "dog")


def _half(request: Request, half: str, label_name: str) -> Dataset:
    """Return one half as a set of two classes and two backgrounds."""
    where = folders_around(request, half, ("spuco_animals",))
    root = next((folder for folder in where if (folder / half).is_dir()), None)
    if root is None and (where[0] / "train").is_dir() and where[0].name == half:
        root = where[0].parent
    if root is None:
        raise missing_part_error(half, half, where)
    tree = ImageTree(root)
    label, attribute = next(cell for cell, (part, _) in CELLS.items() if part == half)
    spec = DatasetSpec(
        half,
        ANIMALS[label : label + 2],
        PLACES[attribute : attribute + 2],
        aligned=((0,), (1,)),
        label_name=label_name,
        attribute_name="background",
    )
    splits = {}
    for split in SPLITS:
        rows = _rows(tree, split, (half,))
        splits[split] = replace(rows, label=rows.label - label, attribute=rows.attribute - attribute)
    expected = {split: (aligned, other, other, aligned) for split, (aligned, other) in SIZES.items()}
    return Dataset(spec, splits, expected)


def _shipped(request: Request, tree: ImageTree, splits: Mapping[str, Rows]) -> Dataset:
    """Return the rows of From Fake to Real's split files. DataError unless their labels are those of the folders."""
    cell = {name: (k, a) for rows in splits.values() for name, k, a in zip(rows.names, rows.label, rows.attribute)}
    split_rows = {}
    for split, shipped in read_shipped_splits(request.options, "spuco_animals", list(cell), WORDS).items():
        label, attribute = np.array([cell[file] for file in shipped.files], np.int64).reshape(-1, 2).T
        shipped.require(label, attribute)
        split_rows[split] = file_rows(tree, shipped.files, label, attribute)
    minority = SHIPPED.get(shipped_rate(request.options))
    expected = {} if minority is None else {"train": _sizes(10000, minority[0]), "val": _sizes(500, minority[1])}
    return Dataset(SPEC, split_rows, {**expected, "test": _sizes(500, 500)})


def _sizes(aligned: int, other: int) -> list[int]:
    """Return the rows by group from the rows of each bias-aligned group and of each other one that exists."""
    cells = (divmod(group, len(PLACES)) for group in range(SPEC.num_groups))
    return [0 if cell not in CELLS else aligned if cell[0] == cell[1] else other for cell in cells]


def _rows(tree: ImageTree, split: str, halves: Sequence[str] = HALVES) -> Rows:
    files: list[str] = []
    cells: list[tuple[int, int]] = []
    for cell, (half, folder) in CELLS.items():
        if half not in halves:
            continue
        images = find_images(tree, (f"{half}/{split}/{folder}/*",), "spuco_animals")
        files += images
        cells += [cell] * len(images)
    return file_rows(tree, files, [label for label, _ in cells], [attribute for _, attribute in cells])
