"""Image sets of WILDS in the folders of its release: Camelyon17, iWildCam, FMoW, Waterbirds and CelebA.

Koh et al. 2021, "WILDS: A Benchmark of in-the-Wild Distribution Shifts" (arXiv 2012.07421); the layouts and the splits
are those of https://github.com/p-lambda/wilds. Licences differ by set, see there. RAW is the folder of one set, or the
folder around it; `--set` says which if there are several. Layouts:
- `camelyon17_v1.0/`: metadata.csv with patient, node, x_coord, y_coord, tumor, slide, center and split (0 train, 1
  id_val); `patches/patient_P_node_N/patch_patient_P_node_N_x_X_y_Y.png`. Hospital 1 is val, and hospital 2 is test.
- `iwildcam_v2.0/`: metadata.csv with split, filename, y, location_remapped, sequence_remapped and datetime;
  categories.csv with the names of the species; the photos in `train/`.
- `fmow_v1.1/`: rgb_metadata.csv with split, category, country_code and timestamp; country_code_mapping.csv with alpha-3
  and region; `images/rgb_img_I.png`, where I is the number of the row. From 2016 on, rows of test are test; of 2013 to
  2015, rows of val are val; of before, rows are train, id_val and id_test. Other rows belong to no split, as do those
  of 'seq'.
- `waterbirds_v1.0/` and `celebA_v1.0/`: as the sources `waterbirds` and `celeba` read them.

Groups of the first three are domains alone: the hospital, the location, and the region with the year. val and test are
the owners', of other domains than train. id_val and id_test, of the domains of train, become test_val_id and test_id.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.raw.further_columns import read_further_columns
from debeton.data.raw.image_files import ImageTree, file_rows
from debeton.data.raw.layout import known_choice, raw_folder
from debeton.data.raw.source import SOURCES, Dataset, Option, Request, register_source
from debeton.data.raw.tables import Table, parse_codes, read_table
from debeton.data.spec import BY_ATTRIBUTE, DatasetSpec
from debeton.data.split_names import first_in_order, name_splits
from debeton.system.errors import DataError

# The folder of each set, its table, and the rows of its splits that the paper publishes (appendix E).
FOLDERS = {
    "camelyon17": ("camelyon17_v1.0", "metadata.csv"),
    "iwildcam": ("iwildcam_v2.0", "metadata.csv"),
    "fmow": ("fmow_v1.1", "rgb_metadata.csv"),
    "waterbirds": ("waterbirds_v1.0", "metadata.csv"),
    "celeba": ("celebA_v1.0", "list_attr_celeba.csv"),
}
EXPECTED = {
    "camelyon17": {"train": 302_436, "test_val_id": 33_560, "val": 34_904, "test": 85_054},
    "iwildcam": {"train": 129_809, "test_val_id": 7_314, "test_id": 8_154, "val": 14_961, "test": 42_791},
    "fmow": {"train": 76_863, "test_val_id": 11_483, "test_id": 11_327, "val": 19_915, "test": 22_108},
}
CAMELYON_SPLITS = {"0": "train", "1": "id_val"}
CAMELYON_OTHER_HOSPITALS = {"1": "val", "2": "test"}
FIRST_VAL_YEAR, FIRST_TEST_YEAR = 2013, 2016  # of FMoW


@dataclass(frozen=True)
class Domains:
    """The rows of one set, before they are divided into splits.

    All lists have one entry for each row of the table.

    files: paths below the folder.
    splits: as the owners call them; '' for a row of no split.
    labels, domains: names. further: the columns of the table that are kept beside.
    """

    files: list[str]
    splits: list[str]
    labels: list[str]
    domains: list[str]
    further: Mapping[str, list[str]]
    classes: tuple[str, ...]
    label_name: str
    attribute_name: str

    def without_unused(self, lines: list[str]) -> tuple[Domains, list[str]]:
        """Return the rows that belong to a split, and the names of their lines."""
        used = [row for row, split in enumerate(self.splits) if split]

        def chosen(values: list[str]) -> list[str]:
            return [values[row] for row in used]

        further = {name: chosen(values) for name, values in self.further.items()}
        kept = replace(
            self,
            files=chosen(self.files),
            splits=chosen(self.splits),
            labels=chosen(self.labels),
            domains=chosen(self.domains),
            further=further,
        )
        return kept, chosen(lines)


@register_source(
    "wilds",
    "sets of WILDS by domain: camelyon17, iwildcam, fmow; also waterbirds, celeba",
    "get a set with `download_datasets.py` of https://github.com/p-lambda/wilds, and name its folder with --raw",
    (Option("set", str, "", f"which set: {', '.join(FOLDERS)} (default: the one that RAW holds)"),),
)
def load(request: Request) -> Dataset:
    name, folder = _find_set(request)
    if name in ("waterbirds", "celeba"):
        return SOURCES.get(name).load(SOURCES.get(name).request(folder))
    table = read_table(folder / FOLDERS[name][1])
    rows = READERS[name](table, folder)
    keys = list(dict.fromkeys(split for split in rows.splits if split))
    if "train" not in keys:
        raise DataError(f"{table.where} has no row of train; fetch it again")
    split_of, notes = name_splits(keys, table.where)
    unused = rows.splits.count("")
    if unused:
        notes.append(f"{unused} rows of {table.where} belong to no split of the owners and are left out")
    rows, lines = rows.without_unused(table.rows)
    domains = tuple(sorted(set(rows.domains), key=_by_number))
    label = np.array(parse_codes(rows.labels, rows.classes, rows.label_name, table.where, lines), np.int64)
    attribute = np.array(parse_codes(rows.domains, domains, rows.attribute_name, table.where, lines), np.int64)
    further, _ = read_further_columns(Table(table.where, rows.further, lines), rows.further)
    spec = DatasetSpec(
        name,
        rows.classes,
        domains,
        label_name=rows.label_name,
        attribute_name=rows.attribute_name,
        columns={column.name: column.names for column in further if column.names is not None},
        group_by=BY_ATTRIBUTE,
    )
    tree, splits = ImageTree(folder), {}
    for split in first_in_order(dict.fromkeys(split_of.values())):
        members = np.flatnonzero([split_of[name] == split for name in rows.splits])
        columns = {column.name: column.at(members) for column in further}
        files = [rows.files[row] for row in members.tolist()]
        splits[split] = file_rows(tree, files, label[members], attribute[members], columns)
    return Dataset(spec, splits, EXPECTED[name], notes=tuple(notes))


def _find_set(request: Request) -> tuple[str, Path]:
    """Return the set that RAW holds, or that --set names, and its folder."""
    raw, chosen = raw_folder(request, "wilds"), request.options["set"]
    names = [known_choice("set", chosen, tuple(FOLDERS))] if chosen else list(FOLDERS)
    found = [(name, raw / FOLDERS[name][0]) for name in names if (raw / FOLDERS[name][0] / FOLDERS[name][1]).is_file()]
    here = [name for name in names if (raw / FOLDERS[name][1]).is_file() and (chosen or _is_named(raw, name))]
    found = [(name, raw) for name in here] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{raw} holds {' and '.join(name for name, _ in found)}; say which one with --set")
    expected = " or ".join("/".join(FOLDERS[name]) for name in names)
    raise DataError(f"{raw} holds no set of WILDS; expected {expected} in it. {SOURCES.get('wilds').where}")


def _is_named(raw: Path, name: str) -> bool:
    """Return whether a folder is called like a set, whatever its version."""
    return raw.resolve().name.casefold().startswith(name)


def _camelyon17(table: Table, folder: Path) -> Domains:
    """Return the patches of lymph nodes by hospital."""
    columns = _columns(table, "patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
    patient, node, x, y, tumor, slide, center, split = columns
    files = [
        f"patches/patient_{p}_node_{n}/patch_patient_{p}_node_{n}_x_{a}_y_{b}.png"
        for p, n, a, b in zip(patient, node, x, y)
    ]
    splits = [
        CAMELYON_OTHER_HOSPITALS.get(hospital) or CAMELYON_SPLITS.get(code, "") for hospital, code in zip(center, split)
    ]
    hospitals = [f"hospital {hospital}" for hospital in center]
    further = {"slide": slide, "patient": patient}
    return Domains(files, splits, tumor, hospitals, further, ("normal", "tumor"), "tumor", "hospital")


def _iwildcam(table: Table, folder: Path) -> Domains:
    """Return the photos of camera traps by location."""
    columns = _columns(table, "filename", "split", "y", "location_remapped", "sequence_remapped", "datetime")
    filename, split, label, location, sequence, time = columns
    classes = _species(table, folder)
    files = [f"train/{name}" for name in filename]
    locations = [f"location {number}" for number in location]
    further = {"sequence": sequence, "datetime": time}
    return Domains(files, split, label, locations, further, classes, "species", "location")


def _species(table: Table, folder: Path) -> tuple[str, ...]:
    """Return the names of the classes of iWildCam by code, from categories.csv."""
    path = folder / "categories.csv"
    categories = read_table(path)
    (names,) = _columns(categories, "name")
    if "y" in categories.cells:
        name_of = dict(zip(categories.cells["y"], names))
    else:
        by_category = dict(zip(_columns(categories, "category_id")[0], names))
        codes, category = _columns(table, "y", "category_id")
        name_of = {code: by_category.get(number, "") for code, number in zip(codes, category)}
    codes = sorted(set(table.cells["y"]), key=int)
    if [int(code) for code in codes] != list(range(len(codes))):
        raise DataError(f"{table.where}: the classes y do not count from 0 without a gap; fetch the set again")
    lacking = [code for code in codes if not name_of.get(code)]
    if lacking:
        raise DataError(f"{path} has no name of the class {lacking[0]}; fetch the set again")
    return tuple(name_of[code] for code in codes)


def _fmow(table: Table, folder: Path) -> Domains:
    """Return the satellite photos by region and year."""
    split, category, country, time = _columns(table, "split", "category", "country_code", "timestamp")
    codes, regions = _columns(read_table(folder / "country_code_mapping.csv"), "alpha-3", "region")
    region_of = dict(zip(codes, regions))
    region = [region_of.get(code) or "Other" for code in country]
    year = [_year(text, table, row) for row, text in enumerate(time)]
    return Domains(
        [f"images/rgb_img_{row}.png" for row in range(len(table))],
        [_fmow_split(name, when) for name, when in zip(split, year)],
        category,
        [f"{where} {when}" for where, when in zip(region, year)],
        {"region": region, "year": list(map(str, year)), "country": country},
        tuple(sorted(set(category))),
        "category",
        "region,year",
    )


def _fmow_split(split: str, year: int) -> str:
    """Return the owners' split of a row by its year; '' for a row of none."""
    if split == "seq":
        return ""
    if year >= FIRST_TEST_YEAR:
        return "test" if split == "test" else ""
    if year >= FIRST_VAL_YEAR:
        return "val" if split == "val" else ""
    return {"train": "train", "val": "id_val", "test": "id_test"}.get(split, "")


def _year(text: str, table: Table, row: int) -> int:
    if not text[:4].isdecimal():
        raise DataError(f"{table.where}, {table.rows[row]}: the timestamp '{text}' does not begin with a year")
    return int(text[:4])


def _columns(table: Table, *names: str) -> list[list[str]]:
    """Return columns of a table. DataError names those that it lacks."""
    if absent := [name for name in names if name not in table.cells]:
        raise DataError(
            f"{table.where} lacks the column {' and '.join(absent)}; it has {', '.join(table.cells)}; fetch it again"
        )
    return [table.cells[name] for name in names]


def _by_number(name: str) -> tuple[Any, ...]:
    """Return a key that sorts 'location 9' before 'location 10'."""
    words = name.rsplit(" ", 1)
    return (words[0], int(words[1])) if words[-1].isdecimal() else (name, 0)


READERS: dict[str, Callable[[Table, Path], Domains]] = {
    "camelyon17": _camelyon17,
    "iwildcam": _iwildcam,
    "fmow": _fmow,
}
