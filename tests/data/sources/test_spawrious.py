"""Spawrious: the owners' folders become two training environments and a test with the locations of a challenge."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tests.data.sources.layouts import load, round_trip, sizes, write_images

from debeton.data.raw.image_files import MissingDataError
from debeton.data.sources import SOURCES, spawrious
from debeton.data.sources.spawrious import BREEDS, CHALLENGES, LOCATIONS, test_parts, train_parts
from debeton.system.errors import DataError, UsageError

test_parts.__test__ = False  # is no test

PAPER = {  # breed: locations of environment 0, of environment 1, of test
    "o2o_hard": {
        "bulldog": ("jungle", "jungle", "mountain"),
        "dachshund": ("mountain", "mountain", "snow"),
        "labrador": ("snow", "snow", "desert"),
        "corgi": ("desert", "desert", "jungle"),
    },
    "m2m_hard": {
        "bulldog": ("dirt", "jungle", "snow beach"),
        "dachshund": ("jungle", "dirt", "snow beach"),
        "labrador": ("snow", "beach", "dirt jungle"),
        "corgi": ("beach", "snow", "dirt jungle"),
    },
}


def folders(name):
    return sorted(
        {f"{p.folder}/{p.location}/{p.breed}" for f in (train_parts, test_parts) for p in f(CHALLENGES[name])}
    )


def make(root, name, count):
    return write_images(root, [f"spawrious224/{folder}/x_{k}.png" for folder in folders(name) for k in range(count)])


@pytest.mark.parametrize("name", PAPER)
def test_breeds_are_at_the_locations_of_the_paper(tmp_path, name):
    dataset = load("spawrious", make(tmp_path, name, 2), challenge=name)
    for split, places in (("train", (0, 1)), ("test", (2,))):
        rows = dataset.splits[split]
        found = Counter()
        for label, attribute, environment, path in zip(
            rows.label, rows.attribute, rows.columns["environment"], rows.names, strict=True
        ):
            breed, location = BREEDS[label], LOCATIONS[attribute]
            assert path.split("/")[1:3] == [location, breed]
            assert name.startswith("o2o") or path.startswith("0/")
            if location == CHALLENGES[name].further and split == "train":
                found["further", breed, environment] += 1
            else:
                assert location in PAPER[name][breed][environment].split()
                found[breed, environment] += 1
        assert {found[breed, place] for breed in BREEDS for place in places} == {4 if split == "test" else 2}
        assert ("further", "corgi", 1) in found or not (split == "train" and name == "o2o_hard")
    aligned = {breed: {LOCATIONS[code] for code in codes} for breed, codes in zip(BREEDS, dataset.spec.aligned)}
    assert aligned == {breed: set(places[:2]) for breed, places in PAPER[name].items()}


def test_counts_of_one_to_one_are_97_and_87_percent_of_3168_images(tmp_path):
    expected = load("spawrious", make(tmp_path, "o2o_easy", 1)).expected
    train = np.reshape(expected["train"], (4, 6))
    assert train[BREEDS.index("corgi")].tolist() == [0, 0, 0, 0, 3072 + 2756, 96 + 412]
    assert [sum(expected["train"]), sum(expected["test"])] == [25_344, 25_344]
    assert np.reshape(expected["test"], (4, 6))[BREEDS.index("corgi")].tolist() == [0, 6336, 0, 0, 0, 0]


def test_an_image_is_used_once_and_only_the_first_of_a_folder(tmp_path, monkeypatch):
    raw = make(tmp_path, "o2o_medium", 4)
    monkeypatch.setattr(spawrious, "PER_FOLDER", 100)  # 97 and 87 of 100; 3 and 13 further ones
    dataset = load("spawrious", raw, challenge="o2o_medium")
    assert sizes(dataset) == {"train": 4 * (4 + 4 + 3 + 4), "test": 32}
    names = [name for rows in dataset.splits.values() for name in rows.names]
    assert len(names) == len(set(names))
    assert [name for name in dataset.splits["train"].names if name.startswith("0/desert/corgi")] == [
        f"0/desert/corgi/x_{k}.png" for k in range(3)
    ]
    round_trip(dataset, "train", tmp_path / "train.beton")


@pytest.mark.parametrize("name", CHALLENGES)
def test_a_breed_is_never_in_test_where_it_was_in_training(name):
    cells = [{(part.breed, part.location) for part in f(CHALLENGES[name])} for f in (train_parts, test_parts)]
    assert not cells[0] & cells[1]
    assert len(cells[0]) == 8
    counts = Counter()
    for part in train_parts(CHALLENGES[name]):
        counts[part.breed, part.environment] += part.count
    assert set(counts.values()) == {3168}


def test_groups_without_an_image_are_missing_and_the_others_are_not(tmp_path):
    spec = load("spawrious", make(tmp_path, "m2m_easy", 1), challenge="m2m_easy").spec
    assert len(spec.existing_groups) == 16
    assert spec.has_cell(0, LOCATIONS.index("desert"))
    assert not spec.has_cell(0, LOCATIONS.index("snow"))


def test_absent_folders_and_unknown_challenges_are_named(tmp_path):
    with pytest.raises(MissingDataError) as error:
        load("spawrious", tmp_path)
    assert str(error.value).endswith(SOURCES.get("spawrious").where)
    raw = make(tmp_path, "o2o_easy", 1)
    with pytest.raises(DataError, match=r"no image 0/jungle/bulldog/\* in .*spawrious224"):
        load("spawrious", raw, challenge="o2o_hard")
    with pytest.raises(UsageError, match="'o2o_easi' is unknown; did you mean 'o2o_easy'"):
        load("spawrious", raw, challenge="o2o_easi")
