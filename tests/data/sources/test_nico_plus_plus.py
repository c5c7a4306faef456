"""NICO++: folders by context and class, divided as in SubpopBench or by context."""

from __future__ import annotations

import json
import random

import pytest
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources import SOURCES, nico_plus_plus
from debeton.data.sources.nico_plus_plus import CONTEXTS
from debeton.system.errors import DataError, UsageError

CLASSES = ("owl", "bear", "hot air balloon")


def make(raw, count=4, without=("rock", "owl")):
    names = [
        f"track_1/public_dg_0416/train/{context}/{name}/{context}_{k:06}.jpg"
        for context in CONTEXTS
        for name in CLASSES
        for k in range(count)
        if (context, name) != without
    ]
    return write_images(raw, names)


def write_mapping(raw, classes=CLASSES):
    (raw / "dg_label_id_mapping.json").write_text(json.dumps({name: code for code, name in enumerate(classes)}))


def test_folders_are_the_label_and_the_context(tmp_path):
    write_mapping(make(tmp_path))
    dataset = load("nico_plus_plus", tmp_path)
    assert (dataset.spec.classes, dataset.spec.attributes) == (CLASSES, CONTEXTS)
    for rows in dataset.splits.values():
        for name, label, context in zip(rows.names, rows.label, rows.attribute, strict=True):
            assert name.split("/")[1:3] == [CONTEXTS[context], CLASSES[label]]
    assert dataset.spec.missing == (CONTEXTS.index("rock"),)
    round_trip(dataset, "test", tmp_path / "test.beton", root=tmp_path / "track_1" / "public_dg_0416")
    (tmp_path / "dg_label_id_mapping.json").unlink()
    assert load("nico_plus_plus", tmp_path / "track_1").spec.classes == tuple(sorted(CLASSES))


def test_75_photos_of_a_group_are_a_third_val_and_the_rest_test_as_subpopbench_draws_them(tmp_path, monkeypatch):
    monkeypatch.setattr(nico_plus_plus, "PER_GROUP", 6)
    write_mapping(make(tmp_path, count=8))
    dataset = load("nico_plus_plus", tmp_path)
    assert sizes(dataset) == {"train": 17 * 2, "val": 17 * 2, "test": 17 * 4}
    generator = random.Random(666)
    expected = {"val": set(), "test": set()}
    for context in CONTEXTS:
        for name in CLASSES:
            if (context, name) == ("rock", "owl"):
                continue
            files = [f"train/{context}/{name}/{context}_{k:06}.jpg" for k in range(8)]
            generator.shuffle(files)
            expected["val"] |= set(files[:2])
            expected["test"] |= set(files[2:6])
    assert {split: set(dataset.splits[split].names) for split in expected} == expected


def test_a_small_group_has_no_row_for_training(tmp_path):
    with pytest.raises(DataError, match="leaves no photo for train; there are 68 photos"):
        load("nico_plus_plus", make(tmp_path))


@pytest.fixture(autouse=True)
def small_groups(request, monkeypatch):
    if "small_group" not in request.node.name:
        monkeypatch.setattr(nico_plus_plus, "PER_GROUP", 3)


def test_the_table_of_subpopbench_decides_the_splits(tmp_path):
    write_mapping(make(tmp_path))
    lines = ["filename,y,a,split"]
    for k in range(4):
        path = f"/x/nicopp/public_dg_0416/train/dim/bear/dim_{k:06}.jpg"
        lines.append(f"{path},1,1,{(0, 0, 1, 2)[k]}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    dataset = load("nico_plus_plus", tmp_path)
    assert [rows.names[0][-5] for rows in dataset.splits.values()] == ["0", "2", "3"]
    assert sizes(dataset) == {"train": 2, "val": 1, "test": 1}
    (tmp_path / "metadata.csv").write_text("\n".join(lines).replace(",1,1,", ",1,2,"))
    with pytest.raises(DataError, match=r"y and a are \[1, 2\], and the folder of train/dim/bear/.* says \[1, 1\]"):
        load("nico_plus_plus", tmp_path)


def test_test_contexts_are_not_in_train(tmp_path):
    dataset = load("nico_plus_plus", make(tmp_path), test_contexts="autumn, rock")
    found = {split: {name.split("/")[1] for name in rows.names} for split, rows in dataset.splits.items()}
    assert found == {"train": {"dim", "grass", "outdoor", "water"}, "test": {"autumn", "rock"}}
    assert sizes(dataset) == {"train": 48, "test": 20}
    with pytest.raises(UsageError, match="'rok' is unknown; did you mean 'rock'"):
        load("nico_plus_plus", tmp_path, test_contexts="rok")
    with pytest.raises(UsageError, match="leaves none for train"):
        load("nico_plus_plus", tmp_path, test_contexts=",".join(CONTEXTS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected the form"),
        ('{"owl": 1, "bear": 2, "hot air balloon": 3}', "do not count from 0"),
        ('{"owl": 0, "bear": 1}', "has no code for the class 'hot air balloon'"),
    ],
)
def test_a_wrong_list_of_classes_is_explained(tmp_path, text, message):
    make(tmp_path)
    (tmp_path / "dg_label_id_mapping.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load("nico_plus_plus", tmp_path)


def test_an_empty_folder_or_none_is_missing_data_with_its_source(tmp_path):
    for raw in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingDataError) as error:
            load("nico_plus_plus", raw)
        assert str(error.value).endswith(SOURCES.get("nico_plus_plus").where)
