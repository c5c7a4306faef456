"""MetaShift in the layouts of its owners' scripts and of SubpopBench."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources import SOURCES
from debeton.data.sources.metashift import CAT_DOG, DISTANCES
from debeton.system.errors import DataError, UsageError

FOLDER = "MetaShift-Cat-Dog-indoor-outdoor"


def make_cat_dog(raw, counts=(8, 6, 4, 2)):
    names = [f"{folder}/{k}{i}.jpg" for k, (folder, n) in enumerate(zip(CAT_DOG, counts)) for i in range(n)]
    return write_images(raw / FOLDER, names)


def test_a_quarter_is_test_and_a_tenth_val_and_all_groups_are_there(tmp_path):
    make_cat_dog(tmp_path)
    dataset = load("metashift", tmp_path)
    assert sizes(dataset) == {"train": 13, "val": 2, "test": 5}
    total = np.zeros(4, int)
    for rows in dataset.splits.values():
        total += np.bincount(dataset.spec.group(rows.label, rows.attribute), minlength=4)
        for name, label, place in zip(rows.names, rows.label, rows.attribute, strict=True):
            assert name.split("/")[2] == f"{dataset.spec.classes[label]}({dataset.spec.attributes[place]})"
    assert dataset.spec.group_names == ("dog, outdoor", "dog, indoor", "cat, outdoor", "cat, indoor")
    assert total.tolist() == [6, 2, 4, 8]
    round_trip(dataset, "train", tmp_path / "train.beton", root=tmp_path / FOLDER)


def test_the_rows_are_drawn_as_subpopbench_draws_them_from_sorted_files(tmp_path):
    make_cat_dog(tmp_path)
    names = [f"{folder}/{k}{i}.jpg" for k, (folder, n) in enumerate(zip(CAT_DOG, (8, 6, 4, 2))) for i in range(n)]
    rng = np.random.RandomState(42)
    test = rng.choice(np.arange(20), size=5, replace=False)
    val = rng.choice(np.setdiff1d(np.arange(20), test), size=2, replace=False)
    found = load("metashift", tmp_path / FOLDER).splits
    assert set(found["test"].names) == {names[row] for row in test}
    assert set(found["val"].names) == {names[row] for row in val}


def write_table(raw, change=lambda row: row):
    lines = ["filename,y,a,split"]
    for k, (folder, y, a) in enumerate(zip(CAT_DOG, (1, 0, 1, 0), (1, 0, 0, 1))):
        lines += [",".join(map(str, change([f"/data/x/{FOLDER}/{folder}/{k}{i}.jpg", y, a, i]))) for i in range(3)]
    (raw / "metadata_metashift.csv").write_text("\n".join(lines) + "\n")


def test_the_table_of_subpopbench_decides_the_splits(tmp_path):
    make_cat_dog(tmp_path, (3, 3, 3, 3))
    write_table(tmp_path)
    dataset = load("metashift", tmp_path)
    for code, split in enumerate(("train", "val", "test")):
        assert dataset.splits[split].names == [f"{folder}/{k}{code}.jpg" for k, folder in enumerate(CAT_DOG)]
    assert "metadata_metashift.csv" in dataset.notes[0]
    write_table(tmp_path, lambda row: [row[0], 0, *row[2:]])
    with pytest.raises(DataError, match=r"line 2: y and a are \[0, 1\], and the folder of train/cat.* says \[1, 1\]"):
        load("metashift", tmp_path)
    write_table(tmp_path, lambda row: [row[0].replace("00.jpg", "77.jpg"), *row[1:]])
    with pytest.raises(DataError, match=r"there is no photo train/cat/cat\(indoor\)/77\.jpg \(1 of 12"):
        load("metashift", tmp_path)


@pytest.mark.parametrize("by_photo", [True, False])
def test_the_mixed_form_has_its_groups_in_a_pickle(tmp_path, by_photo):
    root = tmp_path / "MetaShift-subpopulation-shift"
    write_images(root, ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/3.jpg", "val_out_of_domain/cat/4.jpg"])
    write_images(root, ["val_out_of_domain/dog/5.jpg"])
    groups = {"1": "cat(indoor)", "2": "cat(outdoor)", "3": "dog(outdoor)", "4": "cat(outdoor)", "5": "dog(indoor)"}
    inverse = {group: [photo for photo in groups if groups[photo] == group] for group in set(groups.values())}
    content = {photo: [group] for photo, group in groups.items()} if by_photo else inverse
    (root / "imageID_to_group.pkl").write_bytes(pickle.dumps(content))
    dataset = load("metashift", tmp_path)
    found = {
        name: f"{dataset.spec.classes[label]}({dataset.spec.attributes[place]})"
        for rows in dataset.splits.values()
        for name, label, place in zip(rows.names, rows.label, rows.attribute, strict=True)
    }
    assert {name.rpartition("/")[2][0]: group for name, group in found.items()} == groups
    assert sizes(dataset) == {"train": 3, "test": 2}
    (root / "imageID_to_group.pkl").write_bytes(pickle.dumps({**content, "1": ["dog(indoor)"], "6": []}))
    if by_photo:
        with pytest.raises(DataError, match=r"train/cat/1\.jpg is dog\(indoor\) in"):
            load("metashift", tmp_path)
        with pytest.raises(UsageError, match="--distance is of the form subsets"):
            load("metashift", tmp_path, distance="0.44")


def make_distances(root):
    dogs = [subset for pair in DISTANCES.values() for subset in pair]
    train = [f"train/{subset[:3]}/{subset}/{k}.jpg" for k, subset in enumerate(["cat(sofa)", "cat(bed)", *dogs])]
    test = [f"test/{subset[:3]}/{subset}/{k + 50}.jpg" for k, subset in enumerate(["cat(shelf)", "dog(shelf)"])]
    return write_images(root, [*train, *test, "test/dog/dog(grass)/60.jpg"])


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_distance_chooses_the_dogs_of_training(tmp_path, distance):
    dataset = load("metashift", make_distances(tmp_path), distance=distance)
    found = {name.split("/")[2] for name in dataset.splits["train"].names}
    assert found == {"cat(sofa)", "cat(bed)", *DISTANCES[distance]}
    assert [name.split("/")[2] for name in dataset.splits["test"].names] == ["cat(shelf)", "dog(shelf)"]
    assert (dataset.spec.classes, dataset.spec.attribute_name) == (("cat", "dog"), "context")
    contexts = {name.removesuffix(")").split("(")[1] for name in (*found, "(shelf)")}
    assert set(dataset.spec.attributes) == contexts
    assert len(dataset.spec.existing_groups) == 6


def test_the_full_set_is_train_or_what_the_options_choose(tmp_path):
    names = ["cat/cat(sink)/1.jpg", "cat/cat(sink)/2.jpg", "cat/cat(box)/2.jpg", "bus/bus(sign)/3.jpg"]
    raw = write_images(tmp_path / "MetaDataset-full", names).parent
    dataset = load("metashift", raw)
    assert sizes(dataset) == {"train": 4}
    assert (dataset.spec.classes, dataset.spec.attributes) == (("bus", "cat"), ("box", "sign", "sink"))
    assert [dataset.spec.group_names[group] for group in dataset.spec.existing_groups] == [
        "bus, sign",
        "cat, box",
        "cat, sink",
    ]
    chosen = load("metashift", raw, train_subsets="cat(sink), bus(sign)", test_subsets="cat(box)")
    assert chosen.splits["train"].names == ["cat/cat(sink)/1.jpg", "bus/bus(sign)/3.jpg"]  # photo 2 is in test
    assert chosen.splits["test"].names == ["cat/cat(box)/2.jpg"]
    with pytest.raises(UsageError, match=r"--train-subsets 'cat\(sinc\)' is no subset in .*mean 'cat\(sink\)'"):
        load("metashift", raw, train_subsets="cat(sinc)")


def test_an_empty_folder_or_none_is_missing_data_with_its_source(tmp_path):
    for raw in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingDataError) as error:
            load("metashift", raw)
        assert str(error.value).endswith(SOURCES.get("metashift").where)
    make_cat_dog(tmp_path)
    with pytest.raises(MissingDataError, match=r"no train/cat/\* with imageID_to_group\.pkl"):
        load("metashift", tmp_path, form="mixed")
