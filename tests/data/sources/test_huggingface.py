"""Data sets of the library `datasets`: folders of save_to_disk, and parquet files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.toy import stored_image

import debeton
from debeton.commands import dispatch
from debeton.data.sources import SOURCES
from debeton.system.errors import DataError, UsageError, run_command

N = 20


def pixels(row: int) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def encoded(row: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(row)).save(file, kind)
    return file.getvalue()


def hf_dataset() -> Any:
    """A data set of 20 rows whose image tells the row."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features(
        {
            "img": ImageFeature(),
            "label": ClassLabel(names=["zebra", "ant"]),
            "place": ClassLabel(names=["out", "in"]),
            "row": Value("int32"),
            "note": Value("string"),
        }
    )
    values = {
        "img": [{"bytes": encoded(row), "path": f"{row}.png"} for row in range(N)],
        "label": [row % 2 for row in range(N)],
        "place": [row % 2 if row % 5 else -1 for row in range(N)],
        "row": list(range(N)),
        "note": [f"n{row % 3}" for row in range(N)],
    }
    return Dataset.from_dict(values, features=features)


def load(raw: Path, **options: Any) -> Any:
    source = SOURCES.get("huggingface")
    return source.load(source.request(raw, **options))


def rows_of(dataset: Any, split: str) -> list[int]:
    return np.asarray(dataset.splits[split].columns["row"]).tolist()


def test_a_saved_dictionary_of_splits_is_written_with_its_names_and_further_columns(tmp_path, capsys):
    parts = hf_dataset().shuffle(seed=1).train_test_split(0.3, seed=2)
    parts["validation"] = parts.pop("test")
    parts.save_to_disk(str(tmp_path / "saved"))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    words = ["write-betons", "--dataset", "huggingface", "--raw", str(tmp_path / "saved"), "--attribute", "place"]
    assert run_command(lambda: dispatch.main([*words, "--name", "zoo", "--out", str(tmp_path / "out")])) == 0
    text = capsys.readouterr().out
    assert "label is 'label', attribute is 'place'" in text
    assert "'validation' in" in text
    assert sorted(path.name for path in (tmp_path / "saved").rglob("*")) == [name for name in before if name != "saved"]
    for split, part in (("train", parts["train"]), ("val", parts["validation"])):
        beton = debeton.open_beton(tmp_path / "out" / f"zoo_{split}.beton")
        assert beton.spec.classes == ("zebra", "ant")
        assert beton.spec.attributes == ("out", "in")
        assert beton.label.tolist() == part["label"]
        assert beton.attribute.tolist() == part["place"]
        assert beton.extra["row"].tolist() == part["row"]
        note = beton.spec.columns["note"]
        assert [note[code] for code in beton.extra["note"].tolist()] == list(part["note"])
        np.testing.assert_array_equal(stored_image(beton.path, 2), pixels(part["row"][2]))


def test_a_selection_that_an_older_version_saved_as_row_numbers_is_followed(tmp_path):
    hf_dataset().save_to_disk(str(tmp_path))
    table = pa.table({"indices": pa.array([7, 3, 12], pa.uint64())})
    with pa.OSFile(str(tmp_path / "indices.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "indices.arrow"}]}))
    dataset = load(tmp_path)
    assert rows_of(dataset, "train") == [7, 3, 12]
    assert dataset.splits["train"].label.tolist() == [1, 1, 0]
    assert dataset.splits["train"].image(1) == encoded(3)


@pytest.mark.parametrize(
    "files",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00002-1a2b.parquet", "data/train-00001-of-00002-ff.parquet", "data/test.parquet"),
        ("default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"),
    ],
    ids=["shards", "data", "folders"],
)
def test_parquet_files_name_their_split_and_jpegs_stay_as_they_are(tmp_path, files):
    starts = (0, 5, 12, 20)
    for file, start, stop in zip(files, starts, starts[1:]):
        rows = range(start, stop)
        cells = [{"bytes": encoded(row, "JPEG"), "path": None} for row in rows]
        table = pa.table({"image": cells, "target": [f"c{row % 2}" for row in rows], "row": list(rows)})
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / file, row_group_size=3)
    dataset = load(tmp_path)
    assert dataset.spec.classes == ("c0", "c1")
    assert dataset.spec.attributes == ("any",)
    assert rows_of(dataset, "train") == list(range(12))
    assert rows_of(dataset, "test") == list(range(12, 20))
    for row in (11, 0, 7, 4):
        assert dataset.splits["train"].image(row) == encoded(row, "JPEG")
    sidecar = debeton.write_beton(tmp_path / "x.beton", dataset.splits["test"], dataset.spec, "test")
    assert sidecar["image"]["stored"][0]["stored"] == "as it is"


def test_one_parquet_file_of_bytes_or_paths_and_values_that_lack_are_read(tmp_path):
    for row in range(4):
        (tmp_path / f"{row}.png").write_bytes(encoded(row))
    table = pa.table(
        {
            "data": [encoded(row) for row in range(4)],
            "file": [f"{row}.png" for row in range(4)],
            "y": [3, 1, 3, 1],
            "place": ["a", None, "b", "a"],
            "when": pa.array([0, 1, 2, 3], pa.timestamp("s")),
            "box": [[1, 2]] * 4,
        }
    )
    pq.write_table(table, tmp_path / "pets.parquet")
    with pytest.raises(DataError, match="whole numbers from 1 to 3, and none is 0"):
        load(tmp_path / "pets.parquet")
    with pytest.raises(DataError, match=r"label of train.0. is '3'"):
        load(tmp_path / "pets.parquet", classes="cat,dog")
    dataset = load(tmp_path / "pets.parquet", classes="1,3", attribute="place")
    rows = dataset.splits["train"]
    assert (dataset.spec.classes, rows.label.tolist()) == (("1", "3"), [1, 0, 1, 0])
    assert (dataset.spec.attributes, rows.attribute.tolist()) == (("a", "b"), [0, -1, 1, 0])
    assert sorted(rows.columns) == ["file", "when"]
    assert rows.image(2) == encoded(2)
    by_path = load(tmp_path / "pets.parquet", classes="1,3", image="file").splits["train"]
    assert by_path.image(3) == tmp_path / "3.png"


def test_a_test_whose_labels_are_withheld_is_left_out_with_a_note(tmp_path):
    for split, labels in (("train", [0, 1, 0]), ("test", [None, None])):
        table = pa.table({"image": [encoded(0)] * len(labels), "label": pa.array(labels, pa.int64())})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    dataset = load(tmp_path)
    assert list(dataset.splits) == ["train"]
    assert "the split 'test' is left out: none of its rows has a label" in dataset.notes


def test_what_is_missing_or_unclear_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"holds neither dataset_dict.json"):
        load(tmp_path)
    table = pa.table({"left": [encoded(0)], "right": [encoded(1)], "label": [0]})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="images are in left and right; say which with --image"):
        load(tmp_path)
    assert load(tmp_path, image="right").splits["train"].image(0) == encoded(1)
    with pytest.raises(UsageError, match=r"--label 'lable'.*did you mean 'label'"):
        load(tmp_path, image="left", label="lable")
    pq.write_table(pa.table({"label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no column holds images as bytes; it has label"):
        load(tmp_path)
    data = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="is no readable parquet file"):
        load(tmp_path)
    os.remove(tmp_path / "train.parquet")
    hf_dataset().save_to_disk(str(tmp_path / "saved"))
    arrow = tmp_path / "saved" / "data-00000-of-00001.arrow"
    arrow.write_bytes(arrow.read_bytes()[:700])
    with pytest.raises(DataError, match="is no whole Arrow file"):
        load(tmp_path / "saved")
    arrow.unlink()
    with pytest.raises(DataError, match=r"lacks its file data-00000-of-00001.arrow"):
        load(tmp_path / "saved")


def test_an_empty_image_is_a_bad_row(tmp_path):
    table = pa.table({"image": [{"bytes": encoded(0), "path": None}, {"bytes": None, "path": None}], "label": [0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    dataset = load(tmp_path)
    with pytest.raises(DataError, match=r"1 of 2 rows.*\n.*train\[1\] is empty"):
        debeton.write_beton(tmp_path / "x.beton", dataset.splits["train"], dataset.spec, "train")
