"""CelebA: 202,599 aligned photos of celebrities, 178x218, with 40 binary attributes.

Liu et al. 2015, "Deep Learning Face Attributes in the Wild"; http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html;
non-commercial research only, no redistribution.

Layout. RAW is torchvision's `celeba/`, WILDS' `celebA_v1.0/` or the folder around the files. Label files may lie in
`Anno/` and `Eval/` and the images in `Img/`, as on the owners' drive:
- `img_align_celeba/NNNNNN.jpg` or `img_align_celeba.zip`, which is read as it is;
- `list_attr_celeba.txt`: the count, the 40 names, then `NNNNNN.jpg -1 1 ...`; or `list_attr_celeba.csv`, the same
  with a header `image_id,...`;
- `list_eval_partition.txt`: `NNNNNN.jpg 0` with 0, 1, 2 for train, val, test; or `list_eval_partition.csv` with the
  columns image_id and partition.

`--metadata CSV` replaces the partition by the rows and splits of a metadata file. SCALE's has the columns filename,
split (0, 1, 2), y (blond) and a (male). DFR's calls them img_filename, split, y and place.

The beton of each split holds all 40 attributes as 0/1 columns, so one set of betons serves every task. The label and
the attribute of the beton are `--label` and `--attribute`. The alignment of these pairs is known:
- Blond_Hair x Male (Sagawa et al. 2020): not blond goes with male, blond with female;
- Smiling x Male (From Fake to Real): not smiling with male, smiling with female;
- Male x Blond_Hair (SCALE): female with blond, male with not blond;
- Young x Male (the age task of the bias-transfer code, which fixes no pairing): in this set the old are more often
  male and the young more often female.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from debeton.data.raw.faces import (
    CROSSED,
    AttributeTable,
    read_attributes,
    task_options,
    task_rows,
    task_spec,
)
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import find_part, folders_around
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tables import read_csv, read_fields, read_header, require_unique
from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError
from debeton.system.regular_files import MAX_TABLE_BYTES, read_regular_text

TASKS = dict.fromkeys(("Blond_Hair x Male", "Smiling x Male", "Male x Blond_Hair", "Young x Male"), CROSSED)
SPLITS = ("train", "val", "test")
SIZES = {"train": 162_770, "val": 19_867, "test": 19_962}
# Rows by group of Blond_Hair x Male, as counted by the code of group DRO's authors and its successors.
GROUPS = {
    "train": (71_629, 66_874, 22_880, 1_387),
    "val": (8_535, 8_276, 2_874, 182),
    "test": (9_767, 7_535, 2_480, 180),
}


@register_source(
    "celeba",
    "aligned faces with 40 attributes, 202,599 RGB 178x218; default Blond_Hair x Male",
    "get img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt from the CelebA team, "
    "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, into RAW",
    (
        *task_options("Blond_Hair", "Male"),
        Option(
            "metadata",
            Path,
            None,
            "metadata file of SCALE or DFR, whose rows and splits replace the official ones",
        ),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    options = request.options
    where = folders_around(request, "celeba", ("celeba", "CelebA", "celebA_v1.0"))
    table_path = find_part("celeba", "list_attr_celeba.txt or .csv", where, _in("Anno", "list_attr_celeba"))
    table = read_attributes(_text(table_path), str(table_path))
    if options["metadata"] is None:
        splits = _official_splits(where, table, table_path)
    else:
        splits = _metadata_splits(where[0] / options["metadata"], table)
    tree = _images(where)
    spec = with_generated_folders(task_spec("celeba", table.values_by_name(), options, TASKS))
    rows = {
        split: task_rows(
            tree, [f"img_align_celeba/{table.files[row]}" for row in numbers], table.columns(numbers), spec
        )
        for split, numbers in splits.items()
    }
    expected = _expected(spec) if options["metadata"] is None else {}
    return Dataset(spec, rows, expected)


def with_generated_folders(spec: DatasetSpec) -> DatasetSpec:
    """Return the spec with the folders in which From Fake to Real keeps its synthetic faces.

    It writes LABEL/CODE/SEX and reads celeba/LABEL/CODE/SEX.
    """
    if spec.attribute_name != "Male":
        return spec
    folders = {
        f"{top}{spec.label_name}/{label}/{sex}": (label, attribute)
        for top in ("celeba/", "")
        for label in range(spec.num_classes)
        for attribute, sex in enumerate(spec.attributes)
    }
    return replace(spec, generated_folders=folders)


def _official_splits(where: Sequence[Path], table: AttributeTable, table_path: Path) -> dict[str, Ints]:
    """Return the rows of the table by split, as the official partition divides them."""
    path = find_part("celeba", "list_eval_partition.txt or .csv", where, _in("Eval", "list_eval_partition"))
    if path.suffix == ".csv":
        pairs = [[row["image_id"], row["partition"]] for row in read_csv(path, ("image_id", "partition"))]
    else:
        pairs = read_fields(path, width=2)
    files, numbers = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(files) != len(table.files):
        raise DataError(f"{path} has {len(files)} rows but {table_path} has {len(table.files)}; fetch both again")
    return _by_split(table, files, numbers, path)


def _metadata_splits(path: Path, table: AttributeTable) -> dict[str, Ints]:
    """Return the rows of the table by split, as a metadata CSV divides them.

    DataError unless its columns for blond and male equal the table's Blond_Hair and Male.
    """
    columns = read_header(path)
    file_column = "img_filename" if "img_filename" in columns and "filename" not in columns else "filename"
    male_column = "place" if "place" in columns and "a" not in columns else "a"
    records = read_csv(path, (file_column, "split", "y", male_column))
    files = [record[file_column].rpartition("/")[2] for record in records]
    splits = _by_split(table, files, [record["split"] for record in records], path)
    row_of = {file: row for row, file in enumerate(table.files)}
    rows = np.array([row_of[file] for file in files])
    for column, name in (("y", "Blond_Hair"), (male_column, "Male")):
        own = table.values[rows, table.names.index(name)]
        differ = np.flatnonzero(np.array([record[column] for record in records]) != own.astype(str))
        if len(differ):
            record = records[int(differ[0])]
            raise DataError(
                f"{path}, line {record['line']}: {column} of {record[file_column]} is {record[column]} but its "
                f"{name} is {own[differ[0]]} in the list of attributes; {len(differ)} of {len(records)} rows differ"
            )
    return splits


def _by_split(table: AttributeTable, files: list[str], numbers: list[str], path: Path) -> dict[str, Ints]:
    """Return the rows of the table by split, in the order of `files`. Splits without a row are left out.

    files: [n] names of images.
    numbers: [n] '0', '1' or '2', the split of each.
    path: the file that lists them, for messages.
    """
    require_unique(files, str(path))
    row_of = {file: row for row, file in enumerate(table.files)}
    codes = {str(k): k for k in range(len(SPLITS))}
    for file, number in zip(files, numbers, strict=True):
        if file not in row_of:
            raise DataError(f"{path} lists {file}, which the list of attributes lacks")
        if number not in codes:
            raise DataError(f"{path}: the split of {file} is '{number}', expected 0, 1 or 2 for {', '.join(SPLITS)}")
    rows = np.array([row_of[file] for file in files], np.int64)
    split = np.array([codes[number] for number in numbers])
    return {name: rows[split == k] for k, name in enumerate(SPLITS) if (split == k).any()}


def _expected(spec: DatasetSpec) -> Mapping[str, int | Sequence[int]]:
    """Return the published counts, by group for tasks with Blond_Hair and Male, else by split."""
    pair = (spec.label_name, spec.attribute_name)
    if pair == ("Blond_Hair", "Male"):
        return GROUPS
    if pair == ("Male", "Blond_Hair"):
        return {split: (counts[0], counts[2], counts[1], counts[3]) for split, counts in GROUPS.items()}
    return SIZES


def _images(where: Sequence[Path]) -> ImageTree:
    images = find_part(
        "celeba",
        "img_align_celeba/ or img_align_celeba.zip",
        where,
        (
            "img_align_celeba",
            "Img/img_align_celeba",
            "img_align_celeba.zip",
            "Img/img_align_celeba.zip",
        ),
    )
    if images.suffix == ".zip" or (images / "img_align_celeba").is_dir():  # some archives hold the folder in itself
        return ImageTree(images)
    return ImageTree(images.parent)


def _in(folder: str, name: str) -> list[str]:
    return [f"{top}{name}{suffix}" for suffix in (".txt", ".csv") for top in ("", f"{folder}/")]


def _text(path: Path) -> str:
    try:
        return read_regular_text(path, "utf-8-sig", MAX_TABLE_BYTES)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error})") from None
