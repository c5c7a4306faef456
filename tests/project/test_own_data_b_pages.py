"""The page on one's own data: data sets of other libraries, WILDS, and betons of other programs."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pages import block, run_block

import debeton

SHORT = ("--training.epochs", "1", "--training.device", "cpu")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 16, 3), "uint8")).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result() -> dict[str, Any]:
    """Return the result of the only run in the current folder."""
    (path,) = Path("runs").glob("*/version_0/results.json")
    return json.loads(path.read_text())


def test_the_example_of_a_pytorch_data_set_writes_both_splits(folder):
    exec(compile(block("own_data.md", "write-dataset"), "own_data.md", "exec"), {})
    train, test = (debeton.open_beton(f"betons/photos_{split}.beton") for split in ("train", "test"))
    assert train.spec == test.spec
    assert (train.spec.classes, train.spec.attributes) == (("cat", "dog"), ("indoors", "outdoors"))
    assert test.attribute.tolist() == [int(row % 3 == 0) for row in range(40)]
    assert test.extra["age"].tolist() == [row / 4 for row in range(40)]


def test_a_saved_data_set_trains(folder):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature

    kinds = {"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"]), "place": Value("string")}
    parts = {}
    for split, start in (("train", 0), ("test", 40)):
        rows = range(start, start + 40)
        values = {
            "image": [{"bytes": png(row), "path": None} for row in rows],
            "label": [row % 2 for row in rows],
            "place": [f"p{row % 3}" for row in rows],
        }
        parts[split] = Dataset.from_dict(values, features=Features(kinds))
    DatasetDict(parts).save_to_disk("saved")
    run_block("own_data.md", "huggingface", *SHORT)
    assert set(result()["test"]["group_count"]) == {f"{c}, p{p}" for c in ("cat", "dog") for p in range(3)}


def test_tar_shards_train(folder):
    Path("shards").mkdir()
    for split, start in (("train", 0), ("test", 40)):
        with tarfile.open(f"shards/{split}-000000.tar", "w") as archive:
            for row in range(start, start + 40):
                about = json.dumps({"animal": ("cat", "dog")[row % 2], "place": f"p{row % 2}"}).encode()
                for suffix, data in (("png", png(row)), ("json", about)):
                    info = tarfile.TarInfo(f"{row:04}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    run_block("own_data.md", "webdataset", *SHORT)
    assert sum(result()["test"]["group_count"].values()) == 40


def test_a_set_of_wilds_trains_and_is_measured_by_hospital(folder):
    lines = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for row in range(60):
        lines.append(f"{row},001,1,{row},7,{row % 2},{row % 5},{row % 5},{int(row > 45)}")
        path = folder / "wilds/camelyon17_v1.0/patches/patient_001_node_1" / f"patch_patient_001_node_1_x_{row}_y_7.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(row))
    (folder / "wilds/camelyon17_v1.0/metadata.csv").write_text("\n".join(lines) + "\n")
    run_block("own_data.md", "wilds", *SHORT)
    counts = result()["test"]["group_count"]
    assert counts["hospital 2"] == 12
    assert sum(counts.values()) == 12


def test_adopted_betons_train(folder):
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    for split in ("train", "test"):
        fields = {"photo": RGBImageField(), "y": IntField(), "place": IntField()}
        DatasetWriter(f"mine_{split}.beton", fields, num_workers=1).from_indexed_dataset(Samples())
    run_block("own_data.md", "adopt", *SHORT)
    assert result()["test"]["group_count"] == {"cat, 0": 10, "cat, 1": 10, "dog, 0": 10, "dog, 1": 10}
    data = json.loads(next(Path("runs").glob("*/version_0/data.json")).read_text())
    train = debeton.open_beton("mine_train.beton")
    assert train.content["images"] in json.dumps(data)


class Samples:
    """A data set for FFCV's writer."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        return np.random.default_rng(row).integers(0, 255, (12, 16, 3), "uint8"), row % 2, row // 2 % 2
