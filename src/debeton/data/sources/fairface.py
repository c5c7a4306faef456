"""FairFace: 97,698 faces balanced by race, with race, sex and nine age bands.

Karkkainen and Joo 2021, "FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age";
https://github.com/joojs/fairface; CC BY 4.0.

Layout. RAW is the folder of these files:
- `fairface_label_train.csv` and `fairface_label_val.csv` with the columns file (`train/1.jpg`), age, gender, race and
  service_test;
- the images `train/` and `val/`, in RAW itself or in `fairface-img-margin025-trainval/` (the owners' main crop; else
  `-margin125-`), as a folder or as the .zip that they ship.

Splits: the train list is train. The val list is test: the bias-transfer code evaluates on it, and there is no other.

Label and attribute: young x gender by default. Young are the bands 0-2, 3-9, 10-19 and 20-29, as in the bias-transfer
code. `--label` and `--attribute` choose others of age, gender, race, young and service_test. All of these are columns
of the sidecar. Young goes with female and old with male, as in CelebA's age task; FairFace itself imposes no pairing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from debeton.data.raw.faces import CROSSED, SEX, task_options, task_rows, task_spec
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import find_part, folders_around
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.raw.tables import parse_codes, read_csv, require_unique
from debeton.data.spec import Ints

AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
RACES = ("White", "Black", "Indian", "East Asian", "Southeast Asian", "Middle Eastern", "Latino_Hispanic")
YOUNG = 4  # the first four age bands are young
COLUMNS = {
    "young": ("not young", "young"),
    "gender": SEX,
    "age": AGES,
    "race": RACES,
    "service_test": ("False", "True"),
}
TASKS = {"young x gender": CROSSED}
LISTS = {"train": "fairface_label_train.csv", "test": "fairface_label_val.csv"}
IMAGES = ("fairface-img-margin025-trainval", "fairface-img-margin125-trainval")
SIZES = {"train": 86_744, "test": 10_954}


@register_source(
    "fairface",
    "faces balanced by race with age, sex and race, 97,698 RGB; young x gender",
    "get fairface-img-margin025-trainval.zip, fairface_label_train.csv and fairface_label_val.csv from "
    "https://github.com/joojs/fairface (by hand, Google Drive) into RAW; the images may be unpacked: RAW/train/1.jpg",
    task_options("young", "gender"),
)
def load(request: Request) -> Dataset:
    spec = task_spec("fairface", COLUMNS, request.options, TASKS)
    where = folders_around(request, "fairface", ("fairface", "FairFace"))
    lists = {split: find_part("fairface", name, where, (name,)) for split, name in LISTS.items()}
    tree = _images(where)
    splits = {}
    for split, path in lists.items():
        files, columns = _read_list(path)
        splits[split] = task_rows(tree, files, columns, spec)
    return Dataset(spec, splits, SIZES)


def _images(where: Sequence[Path]) -> ImageTree:
    packed = (f"{folder}{suffix}" for folder in IMAGES for suffix in ("", ".zip"))
    images = find_part("fairface", "train/ or fairface-img-margin025-trainval.zip", where, ("train", *packed))
    return ImageTree(images.parent if images.name == "train" else images)


def _read_list(path: Path) -> tuple[list[str], dict[str, Ints]]:
    """Return the paths of the images in one list, and their columns."""
    records = read_csv(path, ("file", "age", "gender", "race"), {"service_test": "False"})
    files = [record["file"] for record in records]
    require_unique(files, str(path))
    columns = {
        name: np.array(parse_codes([record[name] for record in records], values, name, str(path), files), np.int64)
        for name, values in COLUMNS.items()
        if name != "young"
    }
    return files, {"young": (columns["age"] < YOUNG).astype(np.int64), **columns}
