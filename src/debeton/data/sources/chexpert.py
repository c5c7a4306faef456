"""CheXpert: 224,316 chest X-rays of 65,240 patients, with 14 observations, sex, age and, from a second file, race.

Irvin et al. 2019, "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels" (arXiv 1901.07031); the
Stanford University School of Medicine's research use agreement.

Layout. RAW is `CheXpert-v1.0-small/` (or CheXpert-v1.0/), or the folder around it:
- `train.csv` and `valid.csv` with Path, Sex, Age, Frontal/Lateral, AP/PA and the 14 observations: 1, 0, -1 (uncertain)
  or empty (not mentioned, read as 0). The images are in `train/` and `valid/`;
- `CHEXPERT DEMO.csv` or `.xlsx` with PATIENT and PRIMARY_RACE, if there is one.

`--label` and `--attribute` are two columns: any observation, Sex, age_band, view, and with the file of demographics
race and sex_race. All are stored, with age, patient_id and primary_race as the file has them. `--uncertain` says what
-1 is: ones or zeros, the paper's U-Ones and U-Zeros, or ignore. Then it is not known: the rows whose label it is are
left out, as in U-Ignore. Sex and race are not known where the files do not give one.

Splits (`--split`):
- official: valid.csv is test, because published numbers are on it. The owners' test has no Sex or Age.
- subpopbench: that of SubpopBench (Yang et al. 2023, arXiv 2302.12254). Both tables together, without rows of unknown
  sex or of patients that are not in the demographics, are divided into 75, 10 and 15 %, stratified by sex_race. The
  draw is scikit-learn's with its seed 42. Patients are on both sides. Its task is `--attribute sex_race`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from debeton.data.left_out import LeftOut, left_out
from debeton.data.raw.age_bands import age_bands, band_codes, band_names
from debeton.data.raw.faces import task_options, task_rows, task_spec
from debeton.data.raw.image_files import ImageTree, MissingDataError
from debeton.data.raw.layout import find_root, known_choice
from debeton.data.raw.other_files import files_beside_rows
from debeton.data.raw.source import Dataset, Option, Request, register_source
from debeton.data.raw.tables import LINE, Record, read_csv
from debeton.data.spec import UNKNOWN, Ints
from debeton.system.errors import DataError
from debeton.system.packed_files import require_sound_zip
from debeton.system.regular_files import require_regular

SHEET_ROWS, SHEET_COLUMNS = 1 << 20, 16  # of an .xlsx: all rows that Excel allows, and the columns that are read
SHEET_RATIO, SHEET_BYTES = 100, 1 << 24  # an .xlsx may become so many times its size, or so many bytes
FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
SEX, RACES = ("Male", "Female"), ("White", "Black", "Other")
VIEWS = ("frontal AP", "frontal PA", "lateral")
UNCERTAIN = {"ones": 1, "zeros": 0, "ignore": UNKNOWN}
TABLES = {"train": "train.csv", "test": "valid.csv"}
DEMOGRAPHICS = tuple(f"CHEXPERT{gap}DEMO{suffix}" for suffix in (".csv", ".xlsx") for gap in (" ", "_"))
PATIENT = re.compile(r"patient(\d+)")
PLACES = ("CheXpert-v1.0-small", "CheXpert-v1.0", "chexpert")
SUBPOP_SEED, SUBPOP_TEST, SUBPOP_VAL = 42, 0.15, 0.1


@register_source(
    "chexpert",
    "chest X-rays with 14 observations, sex, age and race; default No Finding x Sex, 223,414 + 234",
    "get CheXpert-v1.0-small.zip from Stanford AIMI after registering, https://aimi.stanford.edu/datasets, by hand and "
    "unpack it: RAW/CheXpert-v1.0-small/train.csv; for the race also CHEXPERT DEMO.xlsx (or saved as .csv) beside it",
    (
        *task_options("No Finding", "Sex"),
        Option("uncertain", str, "ones", "meaning of -1, uncertain: ones, zeros or ignore"),
        Option("split", str, "official", "official, or subpopbench, which needs the file of demographics"),
        Option("age-bands", str, "40,60,80", "the ages at which a new age band begins"),
        Option("frontal-only", bool, False, "leave out the lateral views"),
    ),
)
def load(request: Request) -> Dataset:
    """Return the splits of the data set, as the module describes them."""
    options = request.options
    known_choice("uncertain", options["uncertain"], tuple(UNCERTAIN))
    known_choice("split", options["split"], ("official", "subpopbench"))
    root = find_root(request, "chexpert", tuple(TABLES.values()), PLACES)
    records: dict[str, list[Record]] = {split: _read_table(root / name) for split, name in TABLES.items()}
    together = [record for part in records.values() for record in part]
    bands = age_bands(options["age_bands"])
    race_of, notes = _read_demographics(root)
    if not race_of and (options["split"] == "subpopbench" or "race" in options["attribute"] + options["label"]):
        raise MissingDataError(f"chexpert: race needs {DEMOGRAPHICS[0]} or {DEMOGRAPHICS[2]} in {root}, PATIENT first")
    columns = _columns(together, UNCERTAIN[options["uncertain"]], bands, race_of)
    spec = task_spec("chexpert", _names(bands, with_race=bool(race_of)), options, {})
    files = [record["Path"].split("/", 1)[-1] for record in together]
    usable = columns[spec.label_name] >= 0
    frontal = columns["view"] != VIEWS.index("lateral") if options["frontal_only"] else np.ones(len(files), bool)
    if options["split"] == "official":
        sizes = np.cumsum([0, *(len(part) for part in records.values())])
        parts = {split: np.arange(sizes[k], sizes[k + 1]) for k, split in enumerate(records)}
    else:
        parts = _subpopbench(columns["sex_race"])
    tree = ImageTree(root)
    splits = {}
    for split, numbers in parts.items():
        kept = numbers[(usable & frontal)[numbers]]
        if not len(kept):
            raise DataError(f"chexpert/{split}: no row of {root} remains; check the options")
        splits[split] = task_rows(
            tree, [files[row] for row in kept], {name: values[kept] for name, values in columns.items()}, spec
        )
    used = np.concatenate(list(parts.values()))
    gone = [
        *left_out("X-rays of unknown sex or demographics", _others(files, np.isin(np.arange(len(files)), used))),
        *left_out(f"X-rays with an uncertain {spec.label_name}", _others(files, usable)),
        *left_out("lateral X-rays", _others(files, frontal)),
    ]
    whole = options["split"] == "official" and usable.all() and frontal.all()
    return Dataset(
        spec,
        splits,
        {"train": 223414, "test": 234} if whole else {},
        left_out=(*(LeftOut(part.reason, part.count, part.examples, False) for part in gone), *_beside(splits, files)),
        notes=notes,
    )


def _names(bands: Sequence[int], *, with_race: bool) -> dict[str, tuple[str, ...]]:
    """Return the names by code of each column that can be the label or the attribute."""
    names: dict[str, tuple[str, ...]] = {finding: (f"no {finding}", finding) for finding in FINDINGS}
    names |= {"No Finding": ("finding", "No Finding"), "Sex": SEX, "age_band": band_names(bands), "view": VIEWS}
    if with_race:
        names |= {"race": RACES, "sex_race": tuple(f"{race} {sex}" for race, sex in product(RACES, SEX))}
    return names


def _others(files: Sequence[str], inside: Any) -> list[str]:
    return [files[row] for row in np.flatnonzero(~np.asarray(inside)).tolist()]


def _beside(splits: Mapping[str, Any], files: Sequence[str]) -> tuple[LeftOut, ...]:
    return files_beside_rows(splits, set(files))


def _read_table(path: Path) -> list[Record]:
    return read_csv(
        path, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS), blank=("Sex", "AP/PA", *FINDINGS)
    )


def _columns(
    records: Sequence[Record], uncertain: int, bands: Sequence[int], race_of: Mapping[int, str]
) -> dict[str, Any]:
    """Return the columns over all rows as codes; the race only if the demographics are there."""
    code_of = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": uncertain, "-1.0": uncertain}
    columns: dict[str, Any] = {name: np.zeros(len(records), np.int64) for name in FINDINGS}
    for name in FINDINGS:
        for row, record in enumerate(records):
            if record[name] not in code_of:
                raise DataError(
                    f"chexpert: {record['Path']}, line {record[LINE]}: {name} is '{record[name]}', expected 1, 0, -1 "
                    "or nothing"
                )
            columns[name][row] = code_of[record[name]]
    age = np.array([_whole_number(record, "Age") for record in records], np.int64)
    patient = np.array([_patient(record["Path"]) for record in records], np.int64)
    sex = [SEX.index(record["Sex"]) if record["Sex"] in SEX else UNKNOWN for record in records]
    columns["Sex"] = np.array(sex, np.int64)
    columns["age_band"] = band_codes(age, bands)
    columns["view"] = np.array([_view(record) for record in records], np.int64)
    columns |= {"age": age, "patient_id": patient}
    if race_of:
        race = np.array([_race_code(race_of.get(number)) for number in patient.tolist()], np.int64)
        known = (race >= 0) & (columns["Sex"] >= 0)
        columns["race"] = race
        columns["sex_race"] = np.where(known, race * len(SEX) + columns["Sex"], UNKNOWN)
        columns["primary_race"] = np.array([race_of.get(number, "") for number in patient.tolist()], dtype=str)
    return columns


def _whole_number(record: Record, column: str) -> int:
    try:
        return int(float(record[column]))
    except ValueError:
        raise DataError(
            f"chexpert: {record['Path']}, line {record[LINE]}: {column} is '{record[column]}', no number"
        ) from None


def _patient(path: str) -> int:
    match = PATIENT.search(path)
    if match is None:
        raise DataError(f"chexpert: '{path}' names no patient; expected .../patient00001/study1/view1_frontal.jpg")
    return int(match[1])


def _view(record: Record) -> int:
    """Return the code of the view; frontal views that are neither AP nor PA are not known."""
    if record["Frontal/Lateral"].casefold() == "lateral":
        return VIEWS.index("lateral")
    return {"AP": 0, "PA": 1}.get(record["AP/PA"], UNKNOWN)


def _race_code(race: str | None) -> int:
    """Return the code of a race by its first word, as SubpopBench does. race: None if not listed."""
    if race is None:
        return UNKNOWN
    return next((code for code, name in enumerate(RACES) if race.startswith(name)), RACES.index("Other"))


def _read_demographics(root: Path) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return the race by patient number, {} if there is no file, and a note on what was read."""
    path = next(
        (folder / name for folder in (root, root.parent) for name in DEMOGRAPHICS if (folder / name).is_file()), None
    )
    if path is None:
        return {}, ("there is no race, as no file of demographics lies beside train.csv",)
    pairs = read_sheet(path) if path.suffix == ".xlsx" else _read_pairs(path)
    race_of: dict[int, str] = {}
    for patient, race in pairs:
        race_of.setdefault(_patient(patient), race)
    twice = len(pairs) - len(race_of)
    return race_of, (f"race from {path.name}" + (f", the first of {twice} repeated rows" if twice else ""),)


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    records = read_csv(path, ("PATIENT", "PRIMARY_RACE"), blank=("PRIMARY_RACE",))
    return [(record["PATIENT"], record["PRIMARY_RACE"]) for record in records]


def read_sheet(path: Path) -> list[tuple[str, str]]:
    """Return PATIENT and PRIMARY_RACE of each row of an .xlsx. DataError names its fault."""
    try:
        header, *rows = _sheet_rows(path)
    except DataError:
        raise
    except Exception as error:  # openpyxl and zipfile raise a dozen kinds of error for a damaged file
        raise DataError(f"{path} is not a readable .xlsx file ({error}); fetch it again") from None
    absent = [name for name in ("PATIENT", "PRIMARY_RACE") if name not in header]
    if absent:
        raise DataError(f"{path} lacks the column {absent[0]}; it has {', '.join(filter(None, header))}")
    patient, race = header.index("PATIENT"), header.index("PRIMARY_RACE")
    return [(row[patient], row[race]) for row in rows]


def _sheet_rows(path: Path) -> list[list[str]]:
    """Return the cells of the first sheet of an .xlsx, without empty rows.

    A file of 5 kB with one cell in the last row and column has 17 billion cells to openpyxl. So the sides of the sheet
    are bounded, and so are the bytes of its text. PackedBomb beyond these.
    """
    import openpyxl  # type: ignore[import-untyped]  # slow to import

    most = max(SHEET_BYTES, SHEET_RATIO * require_regular(path))
    with zipfile.ZipFile(path) as archive:
        require_sound_zip(archive, path, most)
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    try:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # the file's own word on them may be a lie
        rows = sheet.iter_rows(max_row=SHEET_ROWS, max_col=SHEET_COLUMNS, values_only=True)
        return [["" if cell is None else str(cell) for cell in row] for row in rows if row.count(None) < len(row)]
    finally:
        book.close()


def _subpopbench(sex_race: Ints) -> dict[str, Ints]:
    """Return the row numbers of SubpopBench's splits. sex_race: -1 for rows that it leaves out."""
    from sklearn.model_selection import train_test_split  # slow to import

    kept = np.flatnonzero(sex_race >= 0)
    stratum = sex_race[kept]
    try:
        learn, test = train_test_split(
            np.arange(len(kept)), test_size=SUBPOP_TEST, random_state=SUBPOP_SEED, stratify=stratum
        )
        train, val = train_test_split(
            learn, test_size=SUBPOP_VAL / (1 - SUBPOP_TEST), random_state=SUBPOP_SEED, stratify=stratum[learn]
        )
    except ValueError as error:
        raise DataError(f"chexpert: {len(kept)} rows with sex and race cannot be split by them ({error})") from None
    return {split: np.sort(kept[part]) for split, part in (("train", train), ("val", val), ("test", test))}
