"""Waterbirds: land and water birds of CUB, pasted onto land and water backgrounds of Places; 2 x 2 groups.

Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts" (arXiv 1911.08731),
https://github.com/kohpangwei/group_DRO; non-commercial research (CUB-200-2011, Places).

Layout: `waterbird_complete95_forest2water2/` with metadata.csv and the photos by species. WILDS ships the same files as
`waterbirds_v1.0/`. RAW is the folder itself or the folder around it. Columns of metadata.csv:
- img_filename: SPECIES/NAME.jpg;
- y: 0 land bird, 1 water bird;
- place: 0 land, 1 water;
- split: 0 train, 1 val, 2 test.

The columns img_id and place_filename are not needed. Rows stay in the order of the file.

95 % of train is bias-aligned. In val and test each class has both backgrounds equally often. The average that the
owners report weighs the accuracies of the groups by their shares of train (`adjusted_accuracy`). Their README says that
a few land species are labelled as water birds; the labels are kept as they are.
"""

from __future__ import annotations

from pathlib import Path

from debeton.data.raw.fetch import Archive
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import find_root
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.raw.tables import LINE, Record, parse_codes, read_csv, require_unique
from debeton.data.spec import DatasetSpec, Rows
from debeton.system.errors import DataError

FOLDER, TABLE = "waterbird_complete95_forest2water2", "metadata.csv"
SPLITS = ("train", "val", "test")
SPEC = DatasetSpec(
    "waterbirds",
    ("landbird", "waterbird"),
    ("land", "water"),
    aligned=((0,), (1,)),
    label_name="bird",
    attribute_name="place",
)
# Rows by group. The counts of train are published in many places, those of val and test in papers.
EXPECTED = {"train": (3498, 184, 56, 1057), "val": (467, 466, 133, 133), "test": (2255, 2255, 642, 642)}


@register_source(
    "waterbirds",
    "land and water birds, the background is the shortcut, 4,795 + 1,199 + 5,794 RGB photos",
    f"--raw DIR --download fetches {FOLDER}.tar.gz from https://nlp.stanford.edu/data/dro/; or unpack it "
    f"there yourself: RAW/{FOLDER}/{TABLE}",
    # The owners publish no hash.
    archives=(Archive(f"{FOLDER}.tar.gz", f"https://nlp.stanford.edu/data/dro/{FOLDER}.tar.gz", folder=FOLDER),),
)
def load(request: Request) -> Dataset:
    root = find_root(request, "waterbirds", (TABLE,), (FOLDER, "waterbirds_v1.0"))
    table = root / TABLE
    records = read_csv(table, ("img_filename", "y", "split", "place"))
    lines = [f"line {record[LINE]}" for record in records]
    require_unique([record["img_filename"] for record in records], table, lines)
    split = parse_codes([record["split"] for record in records], SPLITS, "split", str(table), lines)
    parts: list[list[Record]] = [[], [], []]
    for code, record in zip(split, records, strict=True):
        parts[code].append(record)
    tree = ImageTree(root)
    return Dataset(SPEC, {name: _rows(part, tree, table, name) for name, part in zip(SPLITS, parts)}, EXPECTED)


def _rows(records: list[Record], tree: ImageTree, table: Path, split: str) -> Rows:
    if not records:
        raise DataError(f"{table} has no row of split {SPLITS.index(split)}, {split}; fetch it again")
    lines = [f"line {record[LINE]}" for record in records]
    label = parse_codes([record["y"] for record in records], SPEC.classes, "y", str(table), lines)
    place = parse_codes([record["place"] for record in records], SPEC.attributes, "place", str(table), lines)
    return file_rows(tree, [record["img_filename"] for record in records], label, place)
