"""CelebA-HQ as CelebAMask-HQ ships it: 30,000 faces of 1024x1024 with CelebA's 40 attributes.

Karras et al. 2018 and Lee et al. 2020 (MaskGAN); https://github.com/switchablenorms/CelebAMask-HQ; non-commercial
research only. From Fake to Real (FFR, Qraitem et al. 2024) predicts Smiling with the sex as spurious attribute.

Layout: `CelebAMask-HQ/` or `CelebAMask-HQ.zip`, which is read as it is, with
- `CelebA-HQ-img/N.jpg`;
- `CelebAMask-HQ-attribute-anno.txt`: the count, the names, then `N.jpg -1 1 ...`.

RAW is the folder, the .zip, or the folder around them.

Splits as in FFR's code: the first 80 % of the listing are train, the next 10 val, the last 10 test. FFR lists the files
in the order of its file system. Ours is the order of the attribute file, which is by number. So a split has other rows,
and its counts are close but not equal. `--ffr-splits` reads the splits that FFR ships and gives exactly its rows.

Base bias as in FFR's code: in train and val each class keeps all rows of its majority attribute and
floor(n_maj (1 - r) / r) others, r = `--base-bias` (0.9 there; 0 keeps all). Test is not changed. The majority is (not
smiling, male) and (smiling, female). For other `--label` and `--attribute` FFR's rule finds the majority: class 1 has
the attribute that more of its train rows have, class 0 the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.raw.faces import (
    BIAS_OPTIONS,
    CROSSED,
    AttributeTable,
    check_base_bias,
    eighty_ten_ten,
    read_attributes,
    rows_after_base_bias,
    task_options,
    task_rows,
    task_spec,
)
from debeton.data.raw.image_files import ImageTree, zip_text
from debeton.data.raw.layout import find_part, folders_around
from debeton.data.raw.shipped_splits import read_shipped_splits, shipped_options, shipped_rate
from debeton.data.raw.source import Dataset, Request, register_source
from debeton.data.sources.celeba import with_generated_folders
from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError, UsageError
from debeton.system.regular_files import MAX_TABLE_BYTES, read_regular_text

IMAGES, ATTRIBUTES, PACKED = "CelebA-HQ-img", "CelebAMask-HQ-attribute-anno.txt", "CelebAMask-HQ.zip"
TASKS = {"Smiling x Male": CROSSED}
SIZE = 30_000
# Rows by group of FFR's shipped splits of Smiling x Male; its test split is the same at every rate.
SHIPPED_TEST = (914, 693, 943, 450)
SHIPPED = {
    "0.9": ((592, 5335, 7797, 866), (73, 666, 989, 109)),
    "0.95": ((281, 5335, 7797, 411), (36, 666, 989, 53)),
    "0.97": ((166, 5335, 7797, 242), (21, 666, 989, 31)),
    "0.99": ((54, 5335, 7797, 79), (10, 666, 989, 10)),
    "0.999": ((6, 5335, 7797, 8), (10, 666, 989, 10)),
}


@register_source(
    "celeba_hq",
    "30,000 faces RGB 1024x1024 with 40 attributes; Smiling x Male with From Fake to Real's splits",
    "get CelebAMask-HQ.zip from https://github.com/switchablenorms/CelebAMask-HQ (by hand, Google Drive) into RAW; it "
    f"may be unpacked: RAW/CelebAMask-HQ/{IMAGES}/N.jpg and RAW/CelebAMask-HQ/{ATTRIBUTES}",
    (*task_options("Smiling", "Male"), *BIAS_OPTIONS, *shipped_options()),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    options = request.options
    check_base_bias(options["base_bias"])
    table, tree = _open(request)
    files = [f"{IMAGES}/{file}" for file in table.files]
    spec = with_generated_folders(task_spec("celeba_hq", table.values_by_name(), options, TASKS))
    if options["ffr_splits"] is not None:
        splits = _shipped_rows(spec, options, files, table)
        expected: Mapping[str, int | Sequence[int]] = _shipped_counts(spec, shipped_rate(options))
    else:
        spec, splits = _listing_order(spec, options, table)
        expected = _expected(options)
    rows = {
        split: task_rows(tree, [files[row] for row in numbers], table.columns(numbers), spec)
        for split, numbers in splits.items()
    }
    return Dataset(spec, rows, expected)


def _open(request: Request) -> tuple[AttributeTable, ImageTree]:
    """Return the table of attributes and the tree of images, from the folder or from the .zip."""
    raw = request.raw
    where = folders_around(request, "celeba_hq", ("CelebAMask-HQ",))
    unpacked = any((place / ATTRIBUTES).is_file() for place in where)
    given = raw is not None and raw.is_file() and raw.suffix == ".zip"
    if raw is not None and (given or (not unpacked and (raw / PACKED).is_file())):
        path = raw if given else raw / PACKED
        return _packed_attributes(path), ImageTree(path)
    table_path = find_part("celeba_hq", ATTRIBUTES, where, (ATTRIBUTES,))
    images = find_part("celeba_hq", f"{IMAGES}/", where, (IMAGES,))
    text = read_regular_text(table_path, "utf-8-sig", MAX_TABLE_BYTES)
    return read_attributes(text, str(table_path)), ImageTree(images.parent)


def _packed_attributes(path: Path) -> AttributeTable:
    """Return the table of attributes in the .zip."""
    text = zip_text(path, ATTRIBUTES)
    if text is None:
        raise DataError(f"{path} holds no {ATTRIBUTES}; expected the whole CelebAMask-HQ.zip: fetch it again")
    return read_attributes(text, f"{path}: {ATTRIBUTES}")


def _listing_order(
    spec: DatasetSpec, options: Mapping[str, Any], table: AttributeTable
) -> tuple[DatasetSpec, dict[str, Ints]]:
    """Return the spec and FFR's 80/10/10 splits of the listing after the base bias.

    The spec names the pairing that the base bias imposes.
    """
    parts = {split: np.arange(len(table.files))[part] for split, part in eighty_ten_ten(len(table.files)).items()}
    if not spec.aligned and options["base_bias"]:
        spec = replace(spec, aligned=_majority(spec, table.columns(parts["train"])))
    for split in ("train", "val"):
        parts[split] = parts[split][rows_after_base_bias(spec, table.columns(parts[split]), split, options)]
    return spec, parts


def _majority(spec: DatasetSpec, train: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Return `DatasetSpec.aligned` by FFR's rule.

    Class 1 goes with the attribute that more of its rows have, class 0 with the other.
    """
    counts = np.bincount(train[spec.attribute_name][train[spec.label_name] == 1], minlength=2)
    common = 1 - int(np.argmin(counts))
    return ((1 - common,), (common,))


def _shipped_rows(
    spec: DatasetSpec, options: Mapping[str, Any], files: Sequence[str], table: AttributeTable
) -> dict[str, Ints]:
    """Return the rows of the table by split, as FFR's files divide them."""
    if spec.attribute_name != "Male":
        raise UsageError(f"--ffr-splits are splits by Male; there are none for --attribute {spec.attribute_name}")
    row_of = {file: row for row, file in enumerate(files)}
    splits = {}
    for split, shipped in read_shipped_splits(options, f"celeba_{spec.label_name}", files).items():
        rows = np.array([row_of[file] for file in shipped.files], np.int64)
        columns = table.columns(rows)
        shipped.require(columns[spec.label_name], columns[spec.attribute_name])
        splits[split] = rows
    return splits


def _shipped_counts(spec: DatasetSpec, rate: str) -> dict[str, Sequence[int]]:
    """Return the counts by group of FFR's shipped splits at this rate; {} if they are unknown."""
    if spec.label_name != "Smiling" or rate not in SHIPPED:
        return {}
    train, val = SHIPPED[rate]
    return {"train": train, "val": val, "test": SHIPPED_TEST}


def _expected(options: Mapping[str, Any]) -> dict[str, int]:
    """Return the counts that are certain for our own listing order: test, and the sizes without a base bias."""
    sizes = {split: part.stop - part.start for split, part in eighty_ten_ten(SIZE).items()}
    return {"test": sizes["test"]} if options["base_bias"] else sizes
