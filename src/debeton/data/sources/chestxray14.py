"""ChestX-ray14 (NIH): 112,120 frontal chest X-rays of 30,805 patients, with 14 findings taken from the reports.

Wang et al. 2017, "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks" (CVPR); free to use with a
reference to the owner, the NIH Clinical Center.

Layout. RAW is the folder of these files or the folder around `CXR8`:
- `Data_Entry_2017_v2020.csv` or `Data_Entry_2017.csv` with Image Index, Finding Labels ('Effusion|Mass' or 'No
  Finding'), Patient ID, Patient Gender (Patient Sex in some copies) and View Position;
- `train_val_list.txt` and `test_list.txt`: an image a line;
- the images in `images/` (the NIH's archives images_01.tar.gz to images_12.tar.gz, unpacked), or in
  `images_001/images/` to `images_012/images/` (Kaggle).

Splits: the official ones by patient, 86,524 and 25,596. Label: whether there is any finding, two classes.
    bias-transfer's tables have two classes and do not name them. `--finding NAME` makes one finding the label instead.
Attribute: the patient's gender, F or M. These columns can replace either: every finding, any_finding, patient_gender
and view_position (PA standing, AP mostly bedridden). patient_id is stored as a column.
Metric: mean per-class accuracy, as in MadryLab's data-transfer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from debeton.data.raw.image_files import ImageTree, MissingDataError
from debeton.data.raw.layout import find_root, listed_rows
from debeton.data.raw.source import SOURCES, Dataset, Option, Request, register_source
from debeton.data.raw.tables import LINE, Record, parse_codes, read_csv, read_fields
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError, nearest

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NONE, ANY = "No Finding", "any_finding"
GENDERS, VIEWS = ("F", "M"), ("PA", "AP")
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
COLUMNS = {
    ANY: ("no finding", "finding"),
    **{name: (f"no {name}", name) for name in FINDINGS},
    "patient_gender": GENDERS,
    "view_position": VIEWS,
}


@register_source(
    "chestxray14",
    "NIH ChestX-ray14: X-rays with and without a finding, attribute gender, 86,524 + 25,596",
    "take it (45 GB) from nihcc.app.box.com/v/ChestXray-NIHCC or kaggle.com/datasets/nih-chest-xrays/data: "
    f"{TABLES[0]}, train_val_list.txt, test_list.txt and the unpacked archives, DIR/images/*.png",
    (Option("finding", str, "", "the finding that is the label, e.g. Pneumonia; default any finding"),),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    label_name = _label(request.options["finding"])
    root = find_root(request, "chestxray14", tuple(LISTS.values()), ("CXR8", "ChestXray-NIHCC"))
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    if table is None:
        raise MissingDataError(f"chestxray14: no {' or '.join(TABLES)} in {root}; {SOURCES.get('chestxray14').where}")
    columns, row_of = _read_table(table)
    images = {split: [fields[0] for fields in read_fields(root / name, width=1)] for split, name in LISTS.items()}
    _check_lists(images, row_of, root, table)
    row_numbers = {split: np.array([row_of[name] for name in names], np.int64) for split, names in images.items()}
    listed = {
        split: (_paths(root, names), columns[label_name][row_numbers[split]].tolist())
        for split, names in images.items()
    }
    spec = DatasetSpec(
        "chestxray14",
        COLUMNS[label_name],
        GENDERS,
        metric="mean_per_class",
        label_name=label_name,
        attribute_name="patient_gender",
        columns=COLUMNS,
    )
    rows = {
        split: _with_columns(part, {name: values[row_numbers[split]] for name, values in columns.items()})
        for split, part in listed_rows(ImageTree(root), listed, root).items()
    }
    return Dataset(spec, rows, {"train": 86524, "test": 25596})  # from memory; their sum is the 112,120 of the paper


def _label(finding: str) -> str:
    """Return the name of the label column. UsageError for an unknown finding."""
    if finding and finding not in FINDINGS:
        raise UsageError(f"--finding '{finding}' is unknown{nearest(finding, FINDINGS)} known: {', '.join(FINDINGS)}")
    return finding or ANY


def _read_table(path: Path) -> tuple[dict[str, Ints], dict[str, int]]:
    """Return the columns of the table as codes, and the row of each image."""
    records = read_csv(
        path,
        ("Image Index", "Finding Labels", "Patient ID", "View Position"),
        {"Patient Gender": "", "Patient Sex": ""},
    )
    names = [record["Image Index"] for record in records]
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) != len(names):
        twice = next(name for row, name in enumerate(names) if row_of[name] != row)
        raise DataError(f"{path}: {twice} is listed twice; every image has one row")
    columns = {name: np.zeros(len(records), np.int64) for name in (ANY, *FINDINGS)}
    for row, record in enumerate(records):
        for finding in _findings(record, path):
            columns[finding][row] = columns[ANY][row] = 1
    gender = [record["Patient Gender"] or record["Patient Sex"] for record in records]
    columns["patient_gender"] = np.array(parse_codes(gender, GENDERS, "gender", str(path), names), np.int64)
    view = [record["View Position"] for record in records]
    columns["view_position"] = np.array(parse_codes(view, VIEWS, "view position", str(path), names), np.int64)
    if not all(record["Patient ID"].isdecimal() for record in records):
        raise DataError(f"{path}: a Patient ID is not a number")
    columns["patient_id"] = np.array([int(record["Patient ID"]) for record in records], np.int64)
    return columns, row_of


def _findings(record: Record, path: Path) -> list[str]:
    """Return the findings of one record; [] for 'No Finding'. DataError for an unknown one."""
    findings = record["Finding Labels"].split("|")
    if findings == [NONE]:
        return []
    for name in findings:
        if name not in FINDINGS:
            raise DataError(
                f"{path}, line {record[LINE]}: unknown finding '{name}'{nearest(name, FINDINGS)} "
                f"expected '{NONE}' alone, or some of {', '.join(FINDINGS)}"
            )
    return findings


def _check_lists(images: dict[str, list[str]], row_of: dict[str, int], root: Path, table: Path) -> None:
    """Raise DataError if the two lists and the table do not hold the same images."""
    for split, names in images.items():
        unknown = [name for name in names if name not in row_of]
        if unknown:
            raise DataError(
                f"{root / LISTS[split]}: {len(unknown)} of {len(names)} images have no row in {table.name}, "
                f"the first is {unknown[0]}"
            )
    total = sum(map(len, images.values()))
    if total < len(row_of):
        raise DataError(
            f"{root}: {table.name} has {len(row_of)} images and the two lists {total}; fetch the lists again"
        )


def _paths(root: Path, names: Sequence[str]) -> list[str]:
    """Return the path of each image: in images/, or in one of Kaggle's twelve folders."""
    folders = sorted(folder for folder in root.glob("images_*/images") if folder.is_dir())
    folder_of = {name: folder.relative_to(root).as_posix() for folder in folders for name in os.listdir(folder)}
    return [f"{folder_of.get(name, 'images')}/{name}" for name in names]


def _with_columns(rows: Rows, columns: dict[str, Ints]) -> Rows:
    return replace(rows, attribute=columns["patient_gender"], columns=columns)
