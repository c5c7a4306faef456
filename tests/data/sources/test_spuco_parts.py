"""spuco_birds, spuco_dogs and spuco_sun: the owners' folders become labels and attributes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources import SOURCES
from debeton.system.errors import DataError

SPLITS = ("train", "val", "test")
HALVES = {
    "spuco_birds": (("landbirds", "waterbirds"), ("land", "water")),
    "spuco_dogs": (("small_dogs", "big_dogs"), ("indoor", "outdoor")),
}


def half_files(half: str) -> list[str]:
    """Return files of a half: 3 in each bias-aligned cell and 1 in each other one."""
    classes, places = HALVES[half]
    return [
        f"{half}/{split}/{name}/{place}/{i}.jpg"
        for split in SPLITS
        for k, name in enumerate(classes)
        for a, place in enumerate(places)
        for i in range(3 if k == a else 1)
    ]


@pytest.mark.parametrize("half", sorted(HALVES))
@pytest.mark.parametrize("place", [".", "spuco_animals"])
def test_a_half_alone_is_a_set_of_two_classes_and_two_backgrounds(tmp_path, half, place):
    write_images(tmp_path / place, half_files(half))
    dataset = load(half, tmp_path)
    assert sizes(dataset) == {"train": 8, "val": 8, "test": 8}
    train = dataset.splits["train"]
    assert train.label.tolist() == [0] * 4 + [1] * 4
    assert train.attribute.tolist() == [0, 0, 0, 1, 0, 1, 1, 1]
    assert train.names[3] == half_files(half)[3]
    assert dataset.spec.is_aligned(train.label, train.attribute).sum() == 6
    assert dataset.expected == {
        "train": (10000, 500, 500, 10000),
        "val": (500, 25, 25, 500),
        "test": (500, 500, 500, 500),
    }


def test_the_halves_have_the_names_of_the_whole_set(tmp_path):
    write_images(tmp_path, half_files("spuco_birds") + half_files("spuco_dogs"))
    groups = {half: load(half, tmp_path).spec.group_names for half in HALVES}
    assert groups["spuco_dogs"][1] == "small_dog, Outdoors"
    existing = load("spuco_animals", tmp_path).spec
    assert {existing.group_names[g] for g in existing.existing_groups} == set(
        groups["spuco_birds"] + groups["spuco_dogs"]
    )
    assert (
        load("spuco_birds", tmp_path / "spuco_birds").splits["train"].names
        == load("spuco_birds", tmp_path).splits["train"].names
    )


def test_each_half_is_fetched_alone_and_missed_by_name(tmp_path):
    for half in HALVES:
        assert [archive.folder for archive in SOURCES.get(half).archives] == [half]
        with pytest.raises(MissingDataError, match=f"{half}: there is no {half} in .*https://github.com/BigML-CS-UCLA"):
            load(half, tmp_path)


def sun_files(classes: tuple[str, ...], objects: tuple[str, ...]) -> list[str]:
    return [
        f"{split}/{scene}/{thing}/{k}-{a}-{i}.jpg"
        for split in SPLITS
        for k, scene in enumerate(classes)
        for a, thing in enumerate(objects)
        for i in range(2 if k == a else 1)
    ]


@pytest.mark.parametrize("place", [".", "spuco_sun"])
def test_sun_takes_scene_and_object_from_its_folders_numbers_by_value(tmp_path, place):
    numbers = tuple(map(str, range(11)))
    dataset = load("spuco_sun", write_images(tmp_path / place, sun_files(numbers, numbers)))
    assert dataset.spec.classes == numbers
    assert dataset.spec.attributes[10] == "object 10"
    train = dataset.splits["train"]
    assert len(train) == 11 * 12
    assert [f"{k}-{a}" for k, a in zip(train.label, train.attribute)] == [
        name.rpartition("/")[2].rpartition("-")[0] for name in train.names
    ]
    assert dataset.spec.is_aligned(train.label, train.attribute).sum() == 22


def test_sun_with_names_keeps_them_and_survives_a_round_trip(tmp_path):
    root = write_images(tmp_path / "raw", sun_files(("beach", "forest"), ("boat", "tent")))
    dataset = load("spuco_sun", root)
    assert dataset.spec.group_names == ("beach, boat", "beach, tent", "forest, boat", "forest, tent")
    round_trip(dataset, "val", tmp_path / "s.beton", root=root)


def test_sun_may_lack_a_cell_but_not_a_split_or_an_attribute(tmp_path):
    files = sun_files(("0", "1"), ("0", "1"))
    few = write_images(tmp_path / "cell", [file for file in files if not file.startswith("train/0/1/")])
    assert np.bincount(load("spuco_sun", few).splits["train"].attribute).tolist() == [3, 2]
    with pytest.raises(DataError, match="2 classes 0, 1 and the 1 attributes 0"):
        load("spuco_sun", write_images(tmp_path / "attribute", [file for file in files if file.split("/")[2] == "0"]))
    with pytest.raises(MissingDataError, match=r"spuco_sun: there is no train, val, test in .*ask the owners"):
        load("spuco_sun", write_images(tmp_path / "split", [file for file in files if not file.startswith("val")]))
