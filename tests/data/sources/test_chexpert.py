"""chexpert: tables, demographics and splits become labels, attributes and columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources.chexpert import FINDINGS
from debeton.system.errors import DataError, UsageError

RACE_TEXTS = ("White, non-Hispanic", "Black or African American", "Asian", "White", "", "Other")


def table(split: str, n: int, start: int, **cells: list[str]) -> pd.DataFrame:
    """Return a table of the owners: patient k has the sex, age and findings that follow from k."""
    rows = []
    for k in range(start, start + n):
        side = "lateral" if k % 5 == 4 else "frontal"
        row = {
            "Path": f"CheXpert-v1.0-small/{split}/patient{k:05}/study1/view1_{side}.jpg",
            "Sex": "Unknown" if k == 3 else ("Male", "Female")[k % 2],
            "Age": 20 + 7 * (k % 10),
            "Frontal/Lateral": side.capitalize(),
            "AP/PA": "" if side == "lateral" else ("AP", "PA")[k % 2],
            **dict.fromkeys(FINDINGS, ""),
            "No Finding": "1.0" if k % 3 == 0 else "",
            "Edema": ("1.0", "0.0", "-1.0", "")[k % 4],
        }
        rows.append(row)
    return pd.DataFrame(rows).assign(**cells)


@pytest.fixture
def raw(tmp_path):
    """Write the small release: 60 training images, 12 of valid, and demographics of all patients but number 5."""
    root = tmp_path / "CheXpert-v1.0-small"
    for split, n, start in (("train", 60, 0), ("valid", 12, 100)):
        frame = table(split, n, start)
        write_images(root, [path.partition("/")[2] for path in frame["Path"]])
        frame.to_csv(root / f"{split}.csv", index=False)
    patients = [k for k in (*range(60), *range(100, 112)) if k != 5]
    races = [RACE_TEXTS[k % 6] for k in patients]
    demographics = pd.DataFrame({"PATIENT": [f"patient{k:05}" for k in patients], "PRIMARY_RACE": races})
    demographics.to_csv(root / "CHEXPERT DEMO.csv", index=False)
    return tmp_path


def test_the_label_is_no_finding_and_the_attribute_the_sex(raw):
    dataset = load("chexpert", raw)
    assert sizes(dataset) == {"train": 60, "test": 12}
    assert dataset.expected == {"train": 223414, "test": 234}
    assert dataset.spec.group_names[1] == "finding, Female"
    train = dataset.splits["train"]
    assert train.names[4] == "train/patient00004/study1/view1_lateral.jpg"
    assert train.label.tolist() == [int(k % 3 == 0) for k in range(60)]
    assert train.attribute.tolist() == [-1 if k == 3 else k % 2 for k in range(60)]
    assert train.columns["patient_id"].tolist() == list(range(60))
    assert train.columns["view"].tolist()[:6] == [0, 1, 0, 1, 2, 1]
    assert not len(train.absent())
    assert load("chexpert", raw / "CheXpert-v1.0-small").splits["train"].names == train.names


@pytest.mark.parametrize(("rule", "code"), [("ones", 1), ("zeros", 0)])
def test_uncertain_observations_are_what_the_option_says(raw, rule, code):
    rows = load("chexpert", raw, label="Edema", uncertain=rule).splits["train"]
    assert rows.label.tolist() == [(1, 0, code, 0)[k % 4] for k in range(60)]


def test_ignored_observations_leave_out_rows_of_the_label_and_are_unknown_elsewhere(raw):
    dataset = load("chexpert", raw, label="Edema", uncertain="ignore")
    assert sizes(dataset) == {"train": 45, "test": 9}
    assert dataset.expected == {}
    assert [(part.count, part.fault) for part in dataset.left_out if "uncertain" in part.reason] == [(18, False)]
    other = load("chexpert", raw, uncertain="ignore").splits["train"]
    assert other.columns["Edema"].tolist() == [(1, 0, -1, 0)[k % 4] for k in range(60)]


def test_age_bands_begin_at_the_given_ages(raw):
    dataset = load("chexpert", raw, attribute="age_band", age_bands="34,62")
    assert dataset.spec.attributes == ("under 34", "34 to 61", "62 and over")
    train = dataset.splits["train"]
    assert train.attribute.tolist() == [int(age >= 34) + int(age >= 62) for age in train.columns["age"]]


def test_race_is_white_black_or_other_by_the_first_word_and_unknown_without_a_patient(raw):
    rows = load("chexpert", raw, attribute="race").splits["train"]
    assert rows.attribute.tolist() == [-1 if k == 5 else (0, 1, 2, 0, 2, 2)[k % 6] for k in range(60)]
    assert rows.columns["primary_race"][1] == "Black or African American"
    both = load("chexpert", raw, attribute="sex_race")
    assert both.spec.attributes[:3] == ("White Male", "White Female", "Black Male")
    assert both.splits["train"].attribute[:6].tolist() == [0, 3, 4, -1, 4, -1]


def test_the_split_of_subpopbench_is_its_own_draw(raw):
    dataset = load("chexpert", raw, split="subpopbench", attribute="sex_race")
    frame = pd.concat([table("train", 60, 0), table("valid", 12, 100)], ignore_index=True)
    number = frame["Path"].str.extract(r"patient(\d+)")[0].astype(int)
    frame = frame[frame["Sex"].isin(["Male", "Female"]) & (number != 5)].reset_index(drop=True)
    number = frame["Path"].str.extract(r"patient(\d+)")[0].astype(int)
    group = 2 * number.map(lambda k: (0, 1, 2, 0, 2, 2)[k % 6]) + (frame["Sex"] == "Female")
    learn, test = train_test_split(frame.index, test_size=0.15, random_state=42, stratify=group)
    train, val = train_test_split(learn, test_size=0.1 / 0.85, random_state=42, stratify=group[learn])
    for split, part in (("train", train), ("val", val), ("test", test)):
        names = [path.partition("/")[2] for path in frame["Path"][np.sort(part)]]
        assert dataset.splits[split].names == names
    assert sum(sizes(dataset).values()) == 70
    assert [part.count for part in dataset.left_out] == [2]


def test_lateral_views_can_be_left_out(raw):
    dataset = load("chexpert", raw, frontal_only=True)
    assert sizes(dataset) == {"train": 48, "test": 10}
    assert set(dataset.splits["train"].columns["view"].tolist()) == {0, 1}


def test_without_demographics_there_is_no_race_and_the_rest_works(raw):
    (raw / "CheXpert-v1.0-small" / "CHEXPERT DEMO.csv").unlink()
    dataset = load("chexpert", raw)
    assert "race" not in dataset.spec.columns
    assert "there is no race" in dataset.notes[0]
    for options in ({"attribute": "race"}, {"split": "subpopbench"}):
        with pytest.raises(MissingDataError, match=r"race needs CHEXPERT DEMO\.csv or CHEXPERT DEMO\.xlsx in"):
            load("chexpert", raw, **options)


def test_a_sheet_is_read_as_the_csv_is(raw):
    folder = raw / "CheXpert-v1.0-small"
    expected = load("chexpert", raw, attribute="race").splits["train"].attribute
    frame = pd.read_csv(folder / "CHEXPERT DEMO.csv", dtype=str, keep_default_na=False)
    (folder / "CHEXPERT DEMO.csv").unlink()
    frame.to_excel(folder / "CHEXPERT DEMO.xlsx", index=False)
    np.testing.assert_array_equal(load("chexpert", raw, attribute="race").splits["train"].attribute, expected)
    (folder / "CHEXPERT DEMO.xlsx").write_bytes((folder / "CHEXPERT DEMO.xlsx").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"CHEXPERT DEMO.xlsx is not a readable .xlsx file .*; fetch it again"):
        load("chexpert", raw)
    frame.drop(columns="PRIMARY_RACE").to_excel(folder / "CHEXPERT DEMO.xlsx", index=False)
    with pytest.raises(DataError, match=r"lacks the column PRIMARY_RACE; it has PATIENT"):
        load("chexpert", raw)


def test_the_set_survives_a_round_trip(raw, tmp_path):
    dataset = load("chexpert", raw, attribute="age_band")
    beton = round_trip(dataset, "test", tmp_path / "c.beton", root=raw / "CheXpert-v1.0-small")
    assert beton.extra["race"].tolist()[:2] == [2, 2]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label": "No Findings"}, UsageError, "did you mean 'No Finding'"),
        ({"uncertain": "one"}, UsageError, "--uncertain 'one' is unknown; did you mean 'ones'"),
        ({"split": "mine"}, UsageError, "--split 'mine' is unknown"),
        ({"age_bands": "60,40"}, UsageError, "--age-bands '60,40' is no list of rising ages"),
    ],
)
def test_wrong_options_are_explained(raw, options, error, message):
    with pytest.raises(error, match=message):
        load("chexpert", raw, **options)


def test_a_bad_cell_is_named_with_its_line(raw):
    path = raw / "CheXpert-v1.0-small" / "valid.csv"
    path.write_text(path.read_text().replace("-1.0", "maybe", 1))
    with pytest.raises(DataError, match="line 4: Edema is 'maybe', expected 1, 0, -1 or nothing"):
        load("chexpert", raw)


def test_missing_tables_name_the_owner(tmp_path):
    with pytest.raises(MissingDataError, match=r"there is no train\.csv, valid\.csv in .*aimi\.stanford\.edu"):
        load("chexpert", tmp_path)
