"""Tar shards of images and what belongs to them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import debeton
from debeton.commands import dispatch
from debeton.data.raw.tar_shards import split_of_shard
from debeton.data.sources import SOURCES
from debeton.system.errors import DataError, UsageError, run_command


def encoded(row: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(row).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def with_json(rows: range) -> dict[str, bytes]:
    """Return samples with a JPEG, a class and a JSON file, whose values tell the row."""
    members = {}
    for row in rows:
        about = {"place": f"p{row % 3}", "row": row, "meta": {"age": row + 0.5}, "box": [1, 2]}
        members |= {
            f"a/{row:05}.jpg": encoded(row),
            f"a/{row:05}.cls": str(row % 2).encode(),
            f"a/{row:05}.json": json.dumps(about).encode(),
        }
    return members


def load(raw: Path, **options: Any) -> Any:
    source = SOURCES.get("webdataset")
    return source.load(source.request(raw, **options))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_shards_become_splits_with_the_jpegs_as_they_are_and_every_value_beside(tmp_path, suffix, capsys):
    raw = tmp_path / "shards"
    write_shard(raw / f"train-000000{suffix}", with_json(range(8)))
    write_shard(raw / f"train-000001{suffix}", with_json(range(8, 13)))
    write_shard(raw / f"val-000000{suffix}", with_json(range(13, 20)))
    (raw / "classnames.txt").write_text("zebra\nant\n")
    words = ["write-betons", "--dataset", "webdataset", "--raw", str(raw), "--attribute", "place", "--name", "zoo"]
    assert run_command(lambda: dispatch.main([*words, "--out", str(tmp_path)])) == 0
    assert "label is 'cls', attribute is 'place'" in capsys.readouterr().out
    for split, rows in (("train", range(13)), ("val", range(13, 20))):
        beton = debeton.open_beton(tmp_path / f"zoo_{split}.beton")
        assert beton.spec.classes == ("zebra", "ant")
        assert beton.spec.attributes == ("p0", "p1", "p2")
        assert beton.label.tolist() == [row % 2 for row in rows]
        assert beton.attribute.tolist() == [row % 3 for row in rows]
        assert beton.extra["row"].tolist() == list(rows)
        assert beton.extra["meta.age"].tolist() == [row + 0.5 for row in rows]
        start, size = int(beton.offsets[3]), int(beton.sizes[3])
        assert beton.path.read_bytes()[start : start + size] == encoded(rows[3])
    assert debeton.open_beton(tmp_path / "zoo_val.beton").extra["path"][0] == f"val-000000{suffix}/a/00013"


def test_the_label_is_text_or_a_key_of_json_and_one_tar_is_train(tmp_path):
    members = {}
    for row in range(4):
        members |= {
            f"{row}.png": encoded(row, "PNG"),
            f"{row}.seg.png": encoded(9, "PNG"),
            f"{row}.txt": b"dog\n" if row % 2 else b"cat",
        }
    dataset = load(write_shard(tmp_path / "pets.tar", members))
    assert dataset.spec.classes == ("cat", "dog")
    assert dataset.splits["train"].label.tolist() == [0, 1, 0, 1]
    assert dataset.splits["train"].image(2) == encoded(2, "PNG")
    path = write_shard(tmp_path / "more.tar", with_json(range(6)))
    nested = load(path, label="place", attribute="cls")
    assert nested.splits["train"].label.tolist() == [0, 1, 2] * 2
    with pytest.raises(UsageError, match=r"--label 'plac'.*did you mean 'place'"):
        load(path, label="plac")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-000000.tar", "train"),
        ("imagenet-train-000123.tar", "train"),
        ("imagenet_val_000001.tar.gz", "val"),
        ("test/0.tar", "test"),
        ("data/validation/shard-0001.tar", "validation"),
        ("val_out_of_domain-00.tar", "val_out_of_domain"),
        ("00042.tar", "train"),
    ],
)
def test_a_shard_names_its_split(name, split):
    assert split_of_shard(name) == split


def test_missing_parts_and_damaged_shards_are_named(tmp_path):
    with pytest.raises(DataError, match="holds no shard"):
        load(tmp_path)
    members = with_json(range(4))
    del members["a/00001.jpg"]
    dataset = load(write_shard(tmp_path / "a.tar", members))
    assert len(dataset.splits["train"]) == 3
    assert "a.tar/a/00001" in str(dataset.left_out[0])
    del members["a/00002.cls"]
    with pytest.raises(DataError, match=r"a\.tar/a/00002 has no label"):
        load(write_shard(tmp_path / "a.tar", members))
    with pytest.raises(DataError, match="no sample has a label"):
        load(write_shard(tmp_path / "a.tar", {"1.jpg": encoded(1)}))
    with pytest.raises(DataError, match="none of 1 samples holds an image"):
        load(write_shard(tmp_path / "a.tar", {"1.cls": b"1"}))
    with pytest.raises(DataError, match=r"a\.tar: 1\.json is not JSON"):
        load(write_shard(tmp_path / "a.tar", {"1.jpg": encoded(1), "1.json": b"{"}))
    whole = write_shard(tmp_path / "a.tar", with_json(range(9))).read_bytes()
    for size in (700, 5000, 100):
        (tmp_path / "a.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.tar is (cut short|no whole tar file)"):
            load(tmp_path / "a.tar")
