"""Tests of attributes that are not known, from a CSV or from arrays to the beton and its counts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debeton.data.beton.merge import merge_betons
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.raw.check import describe_counts
from debeton.data.raw.own_data import rows_from_arrays, rows_from_dataset
from debeton.data.sources import SOURCES
from debeton.data.spec import DatasetSpec
from debeton.system.errors import DataError

PETS = DatasetSpec("pets", ("cat", "dog"), ("indoors", "outdoors"), aligned=((0,), (1,)))
IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def load(folder: Path, cells: list[str], labels: str = "cat dog cat dog cat dog", **options: Any):
    """Load the source 'folder' from a CSV: one train row for each cell of the column 'attribute'."""
    lines = [f"{k}.png,{label},{cell}" for k, (label, cell) in enumerate(zip(labels.split(), cells))]
    (folder / "metadata.csv").write_text("path,label,attribute\n" + "\n".join(lines) + "\n")
    source = SOURCES.get("folder")
    return source.load(source.request(folder, **options))


@pytest.mark.parametrize("word", ["", "  ", "nan", "NaN", "NA", "n/a", "N/A", "None", "null", "unknown", "-1", "<NA>"])
def test_a_cell_that_says_nothing_is_an_unknown_attribute_and_the_log_says_how_many(
    word: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "debeton"):
        dataset = load(tmp_path, ["indoors", word, "outdoors", word, "indoors"])
    rows = dataset.splits["train"]
    assert dataset.spec.attributes == ("indoors", "outdoors")
    assert rows.attribute.tolist() == [0, -1, 1, -1, 0]
    assert dataset.spec.group(rows.label, rows.attribute).tolist() == [0, -1, 1, -1, 0]
    shown = f"'{word.strip()}'" if word.strip() else "an empty cell"
    assert f"the attribute of 2 of 5 rows is unknown ({shown})" in caplog.text


def test_a_word_that_attributes_lists_is_a_name(tmp_path: Path) -> None:
    dataset = load(tmp_path, ["none", "hat", "", "hat"], attributes="none,hat")
    assert dataset.splits["train"].attribute.tolist() == [0, 1, -1, 1]


def test_whole_numbers_that_pandas_wrote_as_floats_beside_empty_cells_are_codes(tmp_path: Path) -> None:
    dataset = load(tmp_path, ["0.0", "", "1.0", "1.0"])
    assert dataset.spec.attributes == ("0", "1")
    assert dataset.splits["train"].attribute.tolist() == [0, -1, 1, 1]
    named = load(tmp_path, ["0.0", "", "1.0", "1.0"], attributes="indoors,outdoors")
    assert named.splits["train"].attribute.tolist() == [0, -1, 1, 1]
    assert load(tmp_path, ["0.5", "1.0", "1.0", "0.5"]).spec.attributes == ("0.5", "1.0")


def test_a_column_in_which_every_attribute_is_unknown_needs_their_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="attribute of every row is unknown; leave the column out, or name"):
        load(tmp_path, ["", "NA", "", ""])
    dataset = load(tmp_path, ["", "NA", "", ""], attributes="indoors,outdoors")
    assert dataset.splits["train"].attribute.tolist() == [-1] * 4


@pytest.mark.parametrize("label", ["nan", "<NA>", "NaN"])
def test_a_missing_label_is_refused_with_its_line(label: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"line 3: the label is '{label}', a missing value; every row needs a label"):
        load(tmp_path, ["indoors", "indoors"], labels=f"cat {label}")


def test_a_blank_label_is_refused_and_na_can_be_a_class(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("path,label,attribute\n0.png,,indoors\n")
    source = SOURCES.get("folder")
    with pytest.raises(DataError, match="line 2: no label; every row needs path, label"):
        source.load(source.request(tmp_path))
    assert load(tmp_path, ["indoors"] * 2, labels="NA DE").spec.classes == ("DE", "NA")
    assert load(tmp_path, ["indoors"] * 2, labels="nan DE", classes="nan,DE").splits["train"].label.tolist() == [0, 1]


@pytest.mark.parametrize("attribute", [[0, -1, 1, -1], [0, None, 1, None], [0.0, np.nan, 1.0, float("nan")]])
def test_arrays_mark_an_unknown_attribute_by_minus_one_none_or_nan(attribute: list[Any]) -> None:
    assert rows_from_arrays(IMAGES, [0, 1, 0, 1], attribute).attribute.tolist() == [0, -1, 1, -1]
    items = list(zip(IMAGES, [0, 1, 0, 1], attribute))
    assert rows_from_dataset(items).attribute.tolist() == [0, -1, 1, -1]


def test_items_without_an_attribute_beside_items_with_one_are_unknown() -> None:
    items = [(IMAGES[0], 0, 1), (IMAGES[1], 1), (IMAGES[2], 0, 0)]
    assert rows_from_dataset(items).attribute.tolist() == [1, -1, 0]


def test_arrays_refuse_other_values_and_a_label_that_is_not_known() -> None:
    with pytest.raises(DataError, match=r"attribute cannot be read \(0.5 is no whole number\)"):
        rows_from_arrays(IMAGES, [0, 1, 0, 1], [0, 0.5, 1, 1])
    with pytest.raises(DataError, match="attribute cannot be read"):
        rows_from_arrays(IMAGES, [0, 1, 0, 1], ["in", "out", "in", None])
    with pytest.raises(DataError, match="label of image 1 is -1; every image needs a label"):
        rows_from_arrays(IMAGES, [0, -1, 0, 1], [0, 0, 1, 1])


def write(path: Path, attribute: list[int], names: str = "r", **columns: Any) -> dict[str, Any]:
    n = len(attribute)
    rows = rows_from_arrays(IMAGES[:n], np.arange(n) % 2, attribute, names=[f"{names}{k}" for k in range(n)], **columns)
    return write_beton(path, rows, PETS, "train", WriteOptions(mode="raw"))


def test_a_beton_stores_minus_one_as_attribute_and_group_and_counts_such_rows_by_class(tmp_path: Path) -> None:
    sidecar = write(tmp_path / "a.beton", [0, -1, -1, -1])
    beton = open_beton(tmp_path / "a.beton")
    assert (beton.attribute.tolist(), beton.group.tolist()) == ([0, -1, -1, -1], [0, -1, -1, -1])
    assert sidecar["group_counts"] == {
        "cat, indoors": 1,
        "cat, outdoors": 0,
        "dog, indoors": 0,
        "dog, outdoors": 0,
        "cat, attribute unknown": 1,
        "dog, attribute unknown": 2,
    }
    assert list(write(tmp_path / "b.beton", [0, 1, 0, 1])["group_counts"]) == list(PETS.group_names)


def test_merged_betons_keep_unknown_attributes(tmp_path: Path) -> None:
    write(tmp_path / "a.beton", [0, -1])
    write(tmp_path / "b.beton", [-1, 1, 0], names="s")
    merge_betons([tmp_path / "a.beton", tmp_path / "b.beton"], tmp_path / "m.beton", "train")
    assert open_beton(tmp_path / "m.beton").group.tolist() == [0, -1, -1, 3, 0]


def test_the_check_counts_unknown_attributes_apart() -> None:
    lines = list(describe_counts(PETS, rows_from_arrays(IMAGES, [0, 1, 0, 1], [0, -1, 1, -1])))
    assert lines[1] == "  groups: cat, indoors 1 · cat, outdoors 1 · dog, attribute unknown 2"
    assert lines[2] == "  bias-aligned: 1 (50.00% of the 2 rows whose attribute is known)"
