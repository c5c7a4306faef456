"""Sets of WILDS in the folders of its release, small ones with the owners' columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import debeton
from debeton.data.sources import SOURCES
from debeton.system.errors import DataError, UsageError


def load(raw: Path, **options: Any) -> Any:
    source = SOURCES.get("wilds")
    return source.load(source.request(raw, **options))


def write_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


def camelyon(folder: Path) -> Path:
    """Write 20 patches of five hospitals. The owners' split is 0 or 1, and wrong for hospitals 1 and 2."""
    lines = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for row in range(20):
        patient, node, x, y, center = f"{row % 4:03}", row % 3, 3328 + row, 21792, row % 5
        lines.append(f"{row},{patient},{node},{x},{y},{row % 2},{row % 10},{center},{int(row % 7 == 3)}")
        stem = f"patient_{patient}_node_{node}"
        write_image(folder / "patches" / stem / f"patch_{stem}_x_{x}_y_{y}.png", row)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_camelyon17_has_its_hospitals_as_groups_and_the_owners_splits(tmp_path):
    dataset = load(camelyon(tmp_path / "camelyon17_v1.0").parent)
    assert dataset.spec.attributes == tuple(f"hospital {number}" for number in range(5))
    assert dataset.spec.num_groups == 5
    rows = {split: list(range(20)) for split in dataset.splits}
    rows["val"] = [row for row in range(20) if row % 5 == 1]
    rows["test"] = [row for row in range(20) if row % 5 == 2]
    rows["test_val_id"] = [row for row in range(20) if row % 5 not in (1, 2) and row % 7 == 3]
    rows["train"] = [row for row in range(20) if row % 5 not in (1, 2) and row % 7 != 3]
    assert list(dataset.splits) == ["train", "val", "test", "test_val_id"]
    for split, numbers in rows.items():
        part = dataset.splits[split]
        assert part.label.tolist() == [row % 2 for row in numbers]
        assert part.attribute.tolist() == [row % 5 for row in numbers]
        assert [np.asarray(Image.open(part.image(k)))[0, 0, 0] for k in range(len(part))] == numbers
        slides = dataset.spec.columns["slide"]
        assert [slides[code] for code in np.asarray(part.columns["slide"])] == [str(row % 10) for row in numbers]
    assert sum(dataset.expected.values()) == 455_954
    assert any("'id_val'" in note and "test_val_id" in note for note in dataset.notes)
    debeton.write_beton(tmp_path / "camelyon17_train.beton", dataset.splits["train"], dataset.spec, "train")
    beton = debeton.open_beton(tmp_path / "camelyon17_train.beton")
    assert beton.group.tolist() == beton.attribute.tolist()


def test_iwildcam_has_locations_as_groups_and_the_names_of_species(tmp_path):
    folder = tmp_path / "iwildcam_v2.0"
    names = ["train", "val", "test", "id_val", "id_test"]
    lines = ["split,location_remapped,location,sequence_remapped,seq_id,datetime,y,category_id,filename"]
    for row in range(15):
        lines.append(
            f"{names[row % 5]},{row},{row},{row // 2},s,2013-01-01 00:00:0{row % 9}.000,"
            f"{row % 3},{7 * (row % 3)},{row}.jpg"
        )
        write_image(folder / "train" / f"{row}.jpg", row)
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    for text in (
        "y,category_id,name\n0,0,empty\n1,7,ocelot\n2,14,puma\n9,99,nobody\n",
        "category_id,name\n14,puma\n0,empty\n7,ocelot\n",
    ):
        (folder / "categories.csv").write_text(text)
        dataset = load(folder)
        assert dataset.spec.classes == ("empty", "ocelot", "puma")
        assert dataset.spec.attributes[9:11] == ("location 9", "location 10")
        assert list(dataset.splits) == ["train", "val", "test", "test_id", "test_val_id"]
        assert dataset.splits["test_id"].label.tolist() == [row % 3 for row in range(15) if row % 5 == 4]
        assert dataset.splits["val"].attribute.tolist() == [1, 6, 11]
        assert not dataset.splits["train"].absent().size
    (folder / "categories.csv").write_text("y,name\n0,empty\n")
    with pytest.raises(DataError, match="has no name of the class 1"):
        load(folder)


def test_fmow_splits_by_year_and_groups_by_region_and_year(tmp_path):
    folder = tmp_path / "fmow_v1.1"
    cases = [
        ("train", 2005, "train"), ("val", 2012, "test_val_id"), ("test", 2009, "test_id"), ("val", 2013, "val"),
        ("val", 2015, "val"), ("test", 2016, "test"), ("train", 2014, None), ("train", 2017, None),
        ("val", 2016, None), ("test", 2014, None), ("seq", 2005, None), ("train", 2012, "train"),
    ]  # fmt: skip
    lines = ["split,img_path,category,country_code,timestamp"]
    for row, (split, year, _) in enumerate(cases):
        country = ("DEU", "BRA", "XXX")[row % 3]
        lines.append(f"{split},a,{('zoo', 'airport')[row % 2]},{country},{year}-12-31T23:59:59Z")
        write_image(folder / "images" / f"rgb_img_{row}.png", row)
    (folder / "rgb_metadata.csv").write_text("\n".join(lines) + "\n")
    (folder / "country_code_mapping.csv").write_text(
        'name,alpha-3,region\n"Germany, all",DEU,Europe\nBrazil,BRA,Americas\n'
    )
    dataset = load(folder, set="fmow")
    assert dataset.spec.classes == ("airport", "zoo")
    for split, part in dataset.splits.items():
        numbers = [row for row, case in enumerate(cases) if case[2] == split]
        assert [np.asarray(Image.open(part.image(k)))[0, 0, 0] for k in range(len(part))] == numbers
        regions = [("Europe", "Americas", "Other")[row % 3] for row in numbers]
        expected = [f"{region} {cases[row][1]}" for region, row in zip(regions, numbers)]
        assert [dataset.spec.attributes[code] for code in part.attribute.tolist()] == expected
    assert sum(map(len, dataset.splits.values())) == 7
    assert "5 rows of" in dataset.notes[-1]
    assert set(dataset.spec.columns) == {"region", "country"}  # six years in seven rows stay numbers
    assert np.asarray(dataset.splits["val"].columns["year"]).tolist() == [2013, 2015]
    assert sum(dataset.expected.values()) == 141_696


def test_waterbirds_and_celeba_are_read_by_their_own_sources(tmp_path):
    birds = tmp_path / "waterbirds_v1.0"
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for row in range(6):
        lines.append(f"{row},a/{row}.jpg,{row % 2},{row % 3},{row // 3},p")
        write_image(birds / "a" / f"{row}.jpg", row)
    (birds / "metadata.csv").write_text("\n".join(lines) + "\n")
    dataset = load(tmp_path)
    assert (dataset.spec.name, dataset.spec.classes) == ("waterbirds", ("landbird", "waterbird"))
    assert dataset.splits["test"].label.tolist() == [0, 1]
    faces = tmp_path / "celebA_v1.0"
    (faces / "img_align_celeba").mkdir(parents=True)
    attributes = ["image_id,Blond_Hair,Male"] + [f"{row:06}.jpg,{2 * (row % 2) - 1},-1" for row in range(1, 4)]
    (faces / "list_attr_celeba.csv").write_text("\n".join(attributes) + "\n")
    (faces / "list_eval_partition.csv").write_text("image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n")
    for row in range(1, 4):
        write_image(faces / "img_align_celeba" / f"{row:06}.jpg", row)
    with pytest.raises(DataError, match="holds waterbirds and celeba; say which one with --set"):
        load(tmp_path)
    assert load(tmp_path, set="celeba").splits["test"].label.tolist() == [1]


def test_folders_and_columns_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match=r"holds no set of WILDS; expected camelyon17_v1.0/metadata.csv or"):
        load(tmp_path)
    with pytest.raises(UsageError, match=r"--set 'fmw'.*did you mean 'fmow'"):
        load(tmp_path, set="fmw")
    folder = tmp_path / "camelyon17_v1.0"
    folder.mkdir()
    (folder / "metadata.csv").write_text("patient,node\n1,2\n")
    with pytest.raises(DataError, match="lacks the column x_coord and y_coord and tumor"):
        load(folder)
