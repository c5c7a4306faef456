"""Names of splits: the words that are understood, and those that are refused."""

from __future__ import annotations

import pytest

from debeton.data.split_names import is_known_split, known_split, name_splits, refuse_unknown_splits
from debeton.system.errors import DataError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("training", "train"),
        ("validation", "val"),
        ("Valid", "val"),
        ("dev", "val"),
        ("TEST", "test"),
        ("test_art", "test_art"),
        ("Test-Art", "test_Art"),
        ("id_test", "test_id"),
        ("ood_val", "test_val_ood"),
        ("val_out_of_domain", "test_val_out_of_domain"),
        ("synthetic", "synthetic"),
        ("extra", None),
        ("eval", None),
        ("train_extra", None),
        ("test_train", "test_train"),
        ("test_../../x", None),
        ("1", None),
    ],
)
def test_a_name_stands_for_one_split_or_for_none(name, split):
    assert known_split(name) == split


def test_only_names_that_training_looks_for_are_known():
    assert [name for name in ("train", "val", "test", "target", "synthetic", "test_x") if is_known_split(name)] == [
        "train",
        "val",
        "test",
        "target",
        "synthetic",
        "test_x",
    ]
    assert not any(map(is_known_split, ("Train", "validation", "id_val", "test_", "tests", "test_a/b")))


def test_the_splits_of_wilds_stay_apart_and_each_new_name_is_said():
    split_of, notes = name_splits(("train", "val", "id_val", "test", "id_test"), "DIR")
    assert split_of == {"train": "train", "val": "val", "id_val": "test_val_id", "test": "test", "id_test": "test_id"}
    assert notes == [
        "'id_val' in DIR is the split 'test_val_id': models are measured on it, and none is chosen by it",
        "'id_test' in DIR is the split 'test_id'",
    ]


def test_a_validation_set_of_the_training_distribution_is_val_where_there_is_no_other():
    assert name_splits(("train", "id_val", "ood_test"), "DIR")[0] == {
        "train": "train",
        "id_val": "val",
        "ood_test": "test_ood",
    }


@pytest.mark.parametrize("names", [("val", "validation"), ("Train", "train"), ("id_test", "test_id")])
def test_two_names_of_one_split_are_not_merged(names):
    with pytest.raises(DataError, match=f"DIR: '{names[0]}' and '{names[1]}' are both the split"):
        name_splits(names, "DIR")


def test_numbers_are_splits_of_tables_only():
    assert name_splits(("0", "1.0", "2", "3"), "T", numbers=True) == (
        {"0": "train", "1.0": "val", "2": "test", "3": "3"},
        [],
    )
    assert name_splits(("0", "1"), "DIR")[0] == {"0": "0", "1": "1"}


def test_unknown_splits_are_refused_with_the_known_names():
    with pytest.raises(DataError, match=r"the split 'tset'; did you mean 'test'\? known: train, val, test, target"):
        refuse_unknown_splits(("train", "tset"), "pets")
