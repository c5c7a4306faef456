"""Living-17: ImageNet's folders become 17 classes with source subclasses in train and test, target ones in a test."""

from __future__ import annotations

import pytest
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.data.raw.imagenet_classes import names_of_wnids
from debeton.data.sources import SOURCES
from debeton.data.sources.living17 import SUBCLASSES, WNIDS
from debeton.system.errors import DataError

PAPER = {  # source and target subclasses, as the paper's table names them
    "salamander": "eft, axolotl | common newt, spotted salamander",
    "wolf": "coyote, red wolf | white wolf, timber wolf",
    "bear": "sloth bear, American black bear | ice bear, brown bear",
    "monkey": "marmoset, titi | spider monkey, howler monkey",
}


def make(root):
    train = [f"train/{wnid}/{wnid}_{k}.JPEG" for wnid in (*WNIDS, "n01440764") for k in range(2)]
    val = [f"val/{wnid}/ILSVRC2012_val_{k:08}.JPEG" for k, wnid in enumerate((*WNIDS, "n01440764"))]
    return write_images(root, [*train, *val])


def test_train_and_test_have_the_source_and_test_target_the_other_subclasses(tmp_path):
    dataset = load("living17", make(tmp_path))
    assert sizes(dataset) == {"train": 68, "test": 34, "test_target": 34}
    assert dataset.expected == {"test": 1700, "test_target": 1700}
    for split, rows in dataset.splits.items():
        for name, label, attribute in zip(rows.names, rows.label, rows.attribute, strict=True):
            folder, wnid, _ = name.split("/")
            assert folder == ("train" if split == "train" else "val")
            pairs = SUBCLASSES[dataset.spec.classes[label]]
            assert wnid in pairs[split == "test_target"]
            assert dataset.spec.attributes[attribute] == names_of_wnids(())[wnid]
        assert set(rows.columns["population"].tolist()) == {int(split == "test_target")}
        assert not len(rows.absent())
    assert len(dataset.spec.existing_groups) == 68
    round_trip(dataset, "test_target", tmp_path / "target.beton", root=tmp_path)


def test_the_subclasses_are_those_of_the_papers_table():
    names = names_of_wnids(())
    for name, row in PAPER.items():
        for part, wnids in zip(row.split(" | "), SUBCLASSES[name], strict=True):
            assert all(names[wnid] in part for wnid in wnids)
    assert len(WNIDS) == len(set(WNIDS)) == 68


def test_a_missing_photo_and_a_missing_class_are_reported(tmp_path):
    root = make(tmp_path)
    rows = load("living17", root).splits["test_target"]
    (root / rows.names[5]).unlink()
    assert rows.absent().tolist() == [5]
    for folder in ("train", "val"):
        for file in (root / folder / WNIDS[3]).glob("*"):
            file.unlink()
    with pytest.raises(DataError, match=f"living17: a class is missing in .*{WNIDS[3]}"):
        load("living17", root)


def test_an_empty_folder_or_none_is_missing_data_with_its_source(tmp_path):
    for raw in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingDataError) as error:
            load("living17", raw)
        assert str(error.value).endswith(SOURCES.get("living17").where)
    write_images(tmp_path, [f"train/{wnid}/1.JPEG" for wnid in WNIDS])
    with pytest.raises(MissingDataError, match="living17: no val/ in"):
        load("living17", tmp_path)
