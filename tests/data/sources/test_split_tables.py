"""`folder` with one CSV for each split: `--csv '{split}.csv'`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from debeton.data.raw.source import SOURCES, Dataset
from debeton.system.errors import DataError, UsageError

TRAIN = "path,label,attribute,age\nimages/1.jpg,cat,indoors,3\nimages/2.jpg,dog,outdoors,4.5\n"
TEST = "path,label,attribute,age\nimages/3.jpg,dog,indoors,9\n"


def load(raw: Path, csv: str | None = "{split}.csv", **options: Any) -> Dataset:
    source = SOURCES.get("folder")
    return source.load(source.request(raw, csv=Path(csv) if csv else None, **options))


def files(raw: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text(text)
    return raw


def test_each_table_is_a_split_and_codes_are_shared(tmp_path):
    dataset = load(
        files(tmp_path, {"train.csv": TRAIN, "validation.csv": TEST, "test_far.csv": TEST.replace("3", "4")})
    )
    assert list(dataset.splits) == ["train", "val", "test_far"]
    assert dataset.spec.classes == ("cat", "dog")
    assert dataset.splits["train"].names == ["images/1.jpg", "images/2.jpg"]
    assert dataset.splits["test_far"].label.tolist() == [1]
    assert dataset.splits["test_far"].attribute.tolist() == [0]
    assert dataset.splits["train"].columns["age"].tolist() == [3, 4.5]


def test_images_lie_beside_tables_in_folders(tmp_path):
    texts = {
        "train/metadata.csv": "file_name,label\na.jpg,x\nb.jpg,y\n",
        "test/metadata.csv": "file_name,label\na.jpg,y\n",
    }
    raw = files(tmp_path, {**texts, "train/a.jpg": "", "train/b.jpg": "", "test/a.jpg": ""})
    dataset = load(raw, "{split}/metadata.csv")
    assert dataset.splits["train"].names == ["train/a.jpg", "train/b.jpg"]
    assert dataset.splits["test"].names == ["test/a.jpg"]


def test_tables_may_lie_in_the_working_folder_and_in_a_zip(tmp_path, monkeypatch):
    raw = files(tmp_path / "raw", {"images/1.jpg": "", "images/2.jpg": "", "images/3.jpg": ""})
    files(tmp_path / "tables", {"my_train.csv": TRAIN, "my_test.csv": TEST})
    monkeypatch.chdir(tmp_path)
    assert len(load(raw, "tables/my_{split}.csv").splits["train"].names) == 2
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for name in ("images/1.jpg", "images/2.jpg", "images/3.jpg"):
            archive.writestr(f"pets/{name}", "")
        archive.writestr("pets/train.csv", TRAIN)
        archive.writestr("pets/test.csv", TEST)
    zipped = load(tmp_path / "raw.zip")
    assert {split: len(rows.names) for split, rows in zipped.splits.items()} == {"train": 2, "test": 1}


@pytest.mark.parametrize(
    ("texts", "csv", "message"),
    [
        ({"train.csv": TRAIN, "test.csv": "path,label\n3.jpg,dog\n"}, "{split}.csv", r"differ in age, attribute"),
        ({"train.csv": "path,label,split\n1.jpg,a,train\n"}, "{split}.csv", r"has a column 'split', and its name says"),
        ({"rows.csv": TRAIN}, "{split}.csv", r"fits .*rows.csv, and none has train, val or test"),
        ({}, "tables/{split}.csv", r"no CSV file fits 'tables/\{split\}.csv', neither in"),
        ({"train.csv": TRAIN, "test.csv": TRAIN}, "{split}.csv", r"train.csv, line 2: images/1.jpg is listed twice"),
        ({"train.csv": TRAIN, "test.csv": TEST.replace("dog", "")}, "{split}.csv", r"test.csv, line 2: no label"),
        (
            {"train.csv": TRAIN, "test.csv": TEST},
            None,
            r"there is test.csv and train.csv, name them with --csv '\{split",
        ),
    ],
)
def test_what_does_not_go_together_is_one_sentence(texts, csv, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(files(tmp_path, texts), csv)


def test_two_splits_in_a_path_are_refused(tmp_path):
    with pytest.raises(UsageError, match="twice; each table is one split"):
        load(files(tmp_path, {"train.csv": TRAIN}), "{split}/{split}.csv")
