"""UTKFace: over 20,000 faces with age, sex and race in the file name.

The task is the sex by the age band.

Zhang, Song and Qi 2017, "Age Progression/Regression by Conditional Adversarial Autoencoder";
https://susanqq.github.io/UTKFace/; non-commercial research only. The task is that of From Fake to Real (FFR, Qraitem et
al. 2024).

Layouts. RAW is the folder of images or the folder around it:
- The aligned and cropped faces, `UTKFace/AGE_SEX_RACE_DATE.jpg.chip.jpg`, unpacked from UTKFace.tar.gz: 23,708 of
  them, 200x200. FFR uses these.
- The faces in the wild, AGE_SEX_RACE_DATE.jpg in `part1/`, `part2/` and `part3/`.

AGE is in years, SEX 0 male or 1 female, RACE 0 to 4: White, Black, Asian, Indian, Others. A few names lack a field.

Class: Male or Female. Attribute: the age band, 'old' from 20 to 50, 'young' up to 5 (FFR's code). All other ages
are left out, and names without exactly these four fields; both are counted and named when the set is written. The
sidecar has age, race, gender and age_band.

`--label` and `--attribute` choose two of gender, age_band and race instead. `--age-bands 20,40,60` makes bands of all
ages that begin at these; without age_band in the task, all ages remain too. No base bias is made then.

Splits as in FFR's code: of all names, before any is left out, the first 80 % are train, the next 10 val, the last
10 test. FFR takes the order in which its file system lists them, which is as good as random. Sorted names cannot
replace it: they follow the digits of the age. Their last tenth is 7 to 9 and 70 to 96 years, a test split without a
row. So the sorted names are shuffled by `--data-seed`. `--ffr-splits` gives exactly FFR's rows.

Base bias as in FFR's code: in train and val each class keeps all rows of its majority band and
floor(n_maj (1 - r) / r) others, r = `--base-bias` (0.9 there; 0 keeps all). The majority is (Male, young) and
(Female, old).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from debeton.data.left_out import LeftOut, left_out
from debeton.data.raw.age_bands import age_bands, band_codes, band_names
from debeton.data.raw.faces import (
    BIAS_OPTIONS,
    CROSSED,
    check_base_bias,
    eighty_ten_ten,
    rows_after_base_bias,
    task_options,
    task_rows,
    task_spec,
)
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.layout import folders_around, missing_part_error
from debeton.data.raw.other_files import files_beside_rows
from debeton.data.raw.shipped_splits import read_shipped_splits, shipped_options, shipped_rate
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.spec import DatasetSpec, Ints, Rows
from debeton.system.errors import DataError, UsageError
from debeton.system.seed import make_rng

SEX, BANDS = ("Male", "Female"), ("old", "young")
FFR_BANDS = "ffr"
RACES = ("White", "Black", "Asian", "Indian", "Others")
NAME = re.compile(r"(\d+)_([01])_([0-4])_[^_]+")  # age, sex, race, date and endings
# Synthetic faces, as From Fake to Real keeps them below generated_images/.
FOLDERS = {f"utk_face/{sex}/{band}": (i, j) for i, sex in enumerate(SEX) for j, band in enumerate(BANDS)}
SPEC = DatasetSpec(
    "utkface",
    SEX,
    BANDS,
    CROSSED,
    label_name="gender",
    attribute_name="age_band",
    columns={"gender": SEX, "age_band": BANDS, "race": RACES},
    generated_folders=FOLDERS,
)
# Rows by group of FFR's shipped splits; its test split is the same at every rate.
SHIPPED_TEST = (723, 103, 710, 121)
SHIPPED = {
    "0.9": ((103, 934, 5731, 636), (13, 119, 724, 80)),
    "0.95": ((50, 934, 5731, 302), (10, 119, 724, 39)),
    "0.97": ((29, 934, 5731, 178), (10, 119, 724, 23)),
    "0.99": ((10, 934, 5731, 58), (10, 119, 724, 10)),
    "0.999": ((1, 934, 5731, 6), (10, 119, 724, 10)),
}


@register_source(
    "utkface",
    "faces with age, sex and race in their names, RGB 200x200; the sex by the age band (From Fake to Real)",
    "get UTKFace.tar.gz (Aligned&Cropped Faces) from https://susanqq.github.io/UTKFace/ by hand and unpack it: "
    "RAW/UTKFace/AGE_SEX_RACE_DATE.jpg.chip.jpg",
    (
        *task_options("gender", "age_band"),
        Option("age-bands", str, FFR_BANDS, "ffr: up to 5 and 20 to 50; or where new bands begin: 20,40,60"),
        *BIAS_OPTIONS,
        *shipped_options(),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    options = request.options
    check_base_bias(options["base_bias"])
    spec = _spec(options)
    if spec is not SPEC and options["ffr_splits"] is not None:
        raise UsageError("--ffr-splits has From Fake to Real's task; leave out --label, --attribute and --age-bands")
    tree, files = _listing(request)
    columns = _read_names(files, options["age_bands"])
    usable = np.flatnonzero((columns[spec.label_name] >= 0) & (columns[spec.attribute_name] >= 0))
    if options["ffr_splits"] is not None:
        splits = _shipped_rows(options, files, columns, usable)
        expected: Mapping[str, Sequence[int]] = _shipped_counts(shipped_rate(options))
    else:
        splits, expected = _shuffled_splits(options, columns, usable, spec), {}
    rows = {
        split: task_rows(tree, [files[row] for row in numbers], _columns_of(columns, numbers), spec)
        for split, numbers in splits.items()
    }
    notes = () if spec is SPEC else ("no base bias is made, as the task is not that of From Fake to Real",)
    return Dataset(spec, rows, expected, left_out=_left_out(files, columns, usable, rows, options), notes=notes)


def _spec(options: Mapping[str, Any]) -> DatasetSpec:
    """Return SPEC for From Fake to Real's task, else the spec of the task that the options name."""
    task = (options["label"], options["attribute"], options["age_bands"])
    if task == (SPEC.label_name, SPEC.attribute_name, FFR_BANDS):
        return SPEC
    bands = BANDS if options["age_bands"] == FFR_BANDS else band_names(age_bands(options["age_bands"]))
    return task_spec(SPEC.name, {"gender": SEX, "age_band": bands, "race": RACES}, options, {})


def _left_out(
    files: Sequence[str],
    columns: Mapping[str, Ints],
    usable: Ints,
    rows: Mapping[str, Rows],
    options: Mapping[str, Any],
) -> tuple[LeftOut, ...]:
    """Return what is no row: names without the four fields, other ages, and the rest of the files."""
    used = {name for part in rows.values() for name in part.names}
    malformed = [files[row] for row in np.flatnonzero(columns["gender"] < 0).tolist()]
    named = np.flatnonzero(columns["gender"] >= 0)
    ages = [files[row] for row in np.setdiff1d(named, usable).tolist()]
    others = sorted(set(files) - used - set(malformed) - set(ages))
    reason = "that --base-bias leaves out" if options["ffr_splits"] is None else "that are in no file of --ffr-splits"
    return (
        *left_out("faces whose name is not AGE_SEX_RACE_DATE", malformed, fault=False),
        *left_out("faces of other ages than 0 to 5 and 20 to 50", ages, fault=False),
        *left_out(f"faces {reason}", others, fault=False),
        *files_beside_rows(rows, set(files)),
    )


def _listing(request: Request) -> tuple[ImageTree, list[str]]:
    """Return the tree of images and their sorted names: in UTKFace/ or RAW itself, else in the parts."""
    where = folders_around(request, "utkface", ("UTKFace",))
    for pattern in ("*", "part[123]/*"):
        for place in where[::-1]:
            tree = ImageTree(place)
            files = tree.files(pattern) if place.is_dir() else []
            if any(NAME.fullmatch(file.rpartition("/")[2]) for file in files):
                return tree, files
    raise missing_part_error("utkface", "UTKFace/AGE_SEX_RACE_DATE.jpg.chip.jpg", where)


def _read_names(files: Sequence[str], bands: str) -> dict[str, Ints]:
    """Return the columns over all files, with -1 for a name without four fields or an age in no band.

    bands: the value of `--age-bands`.
    """
    fields = np.full((len(files), 3), -1, np.int64)
    for row, file in enumerate(files):
        match = NAME.fullmatch(file.rpartition("/")[2])
        if match:
            fields[row] = [int(field) for field in match.groups()]
    age, sex, race = fields.T
    if bands == FFR_BANDS:
        band = np.select([(age >= 20) & (age <= 50), (age >= 0) & (age <= 5)], [0, 1], -1)
    else:
        band = np.where(age >= 0, band_codes(age, age_bands(bands)), -1)
    return {"gender": sex, "age_band": band, "race": race, "age": age}


def _shuffled_splits(
    options: Mapping[str, Any], columns: Mapping[str, Ints], usable: Ints, spec: DatasetSpec
) -> dict[str, Ints]:
    """Return the rows by split of the shuffled names, after the base bias of From Fake to Real's task."""
    n = len(columns["age"])
    order = make_rng(options["data_seed"], SPEC.name, "listing").permutation(n)
    splits = {}
    for split, part in eighty_ten_ten(n).items():
        rows = np.sort(np.intersect1d(order[part], usable))
        if not len(rows):
            ages = "an age of 0 to 5 or 20 to 50" if spec is SPEC else f"{spec.label_name} and {spec.attribute_name}"
            raise DataError(f"utkface/{split}: none of the {n} names has {ages}; check that RAW is complete")
        if split != "test" and spec is SPEC:
            rows = rows[rows_after_base_bias(SPEC, _columns_of(columns, rows), split, options)]
        splits[split] = rows
    return splits


def _shipped_rows(
    options: Mapping[str, Any], files: Sequence[str], columns: Mapping[str, Ints], usable: Ints
) -> dict[str, Ints]:
    """Return the rows by split, as FFR's files divide them."""
    row_of = {files[row]: int(row) for row in usable}
    splits = {}
    for split, shipped in read_shipped_splits(options, "utk_face", list(row_of)).items():
        rows = np.array([row_of[file] for file in shipped.files], np.int64)
        shipped.require(columns["gender"][rows], columns["age_band"][rows])
        splits[split] = rows
    return splits


def _shipped_counts(rate: str) -> dict[str, Sequence[int]]:
    """Return the counts by group of FFR's shipped splits at this rate; {} if they are unknown."""
    if rate not in SHIPPED:
        return {}
    train, val = SHIPPED[rate]
    return {"train": train, "val": val, "test": SHIPPED_TEST}


def _columns_of(columns: Mapping[str, Ints], rows: Ints) -> dict[str, Any]:
    """Return every column at the given rows."""
    return {name: values[rows] for name, values in columns.items()}
