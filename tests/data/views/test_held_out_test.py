"""Rows set apart as a test split before betons are written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from debeton.data.raw.own_data import rows_from_arrays
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.held_out_test import rows_at, with_test_split
from debeton.system.errors import UsageError

SPEC = DatasetSpec("pets", ("cat", "dog"), ("in", "out"), aligned=((0,), (1,)))
SIZES = {(0, 0): 40, (0, 1): 10, (1, 0): 5, (1, 1): 45}


def make_rows() -> Rows:
    label, attribute = (np.repeat([key[k] for key in SIZES], list(SIZES.values())) for k in (0, 1))
    images = np.arange(len(label), dtype=np.uint8)[:, None, None] + np.zeros((1, 2, 2), np.uint8)
    columns = {"age": np.arange(len(label)) / 2, "text": [f"t{k}" for k in range(len(label))]}
    return rows_from_arrays(images, label, attribute, names=[f"r{k}" for k in range(len(label))], columns=columns)


def counts(rows: Rows) -> list[int]:
    return np.bincount(SPEC.group(rows.label, rows.attribute), minlength=4).tolist()


def test_every_group_gives_its_share_and_rows_keep_what_belongs_to_them():
    train = make_rows()
    splits = with_test_split(SPEC, {"train": train, "val": rows_at(train, np.arange(3))}, 0.2)
    assert list(splits) == ["train", "val", "test"]
    assert (counts(splits["train"]), counts(splits["test"])) == ([32, 8, 4, 36], [8, 2, 1, 9])
    test = splits["test"]
    rows = [int(name[1:]) for name in test.names]
    assert sorted([*test.names, *splits["train"].names]) == sorted(train.names)
    assert [int(test.image(k)[0, 0]) for k in range(len(test))] == rows
    assert test.columns["text"] == [f"t{row}" for row in rows]
    assert test.columns["age"].tolist() == [row / 2 for row in rows]
    assert splits["test"].names == with_test_split(SPEC, {"train": train}, 0.2)["test"].names


def test_synthetic_rows_stay_in_train():
    source = np.arange(100) % 2
    test = with_test_split(SPEC, {"train": replace(make_rows(), source=source)}, 0.5)["test"]
    assert test.source.tolist() == [0] * len(test)
    assert len(test) == 25


def test_missing_files_are_those_of_the_part():
    rows = replace(make_rows(), absent=lambda: np.array([3, 7, 50]))
    assert rows_at(rows, np.array([7, 8, 50])).absent().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("names", "fraction", "message"),
    [
        (("train", "test"), 0.2, "pets has the split test"),
        (("train", "test_far"), 0.2, "pets has the split test_far"),
        (("val",), 0.2, "has no split 'train'"),
        (("train",), 0.0, "0 is no share; expected a number between 0 and 1"),
        (("train",), 0.001, "takes no row: the groups of train have at most 45 rows"),
    ],
)
def test_wrong_fractions_and_splits_are_usage_errors(names, fraction, message):
    with pytest.raises(UsageError, match=message):
        with_test_split(SPEC, dict.fromkeys(names, make_rows()), fraction)
