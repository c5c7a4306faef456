"""PyTorch map-style data sets written as betons: every kind of item, by threads and by processes."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.toy import stored_image

import debeton
from debeton.system.errors import DataError, UsageError

Sample = namedtuple("Sample", "x y place")


def picture(row: int) -> np.ndarray:
    """Return the image of a row, uint8 [4, 5, 3]."""
    return np.random.default_rng(row).integers(0, 256, (4, 5, 3), dtype=np.uint8)


class Items:
    """A map-style data set of 12 items made by a function, which counts how often each is read."""

    def __init__(self, make: Any, count: int = 12, **attributes: Any):
        self.make, self.count, self.reads = make, count, [0] * count
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        self.reads[row] += 1
        return self.make(row)


def with_three(row: int) -> tuple[Any, int, int]:
    return picture(row), row % 3, row % 2


def nested(row: int) -> dict[str, Any]:
    return {
        "img": Image.fromarray(picture(row)),
        "target": "even" if row % 2 == 0 else "odd",
        "meta": {"place": torch.tensor([row % 3]), "age": row / 4, "note": f"n{row}", "old": row > 5},
        "box": [0.0, 1.0, 2.0, 3.0],
        "path": f"folder/{row}.jpg",
    }


def three_ways(row: int, kind: str) -> Any:
    if kind == "named tuple":
        return Sample(torch.from_numpy(picture(row)).permute(2, 0, 1), row % 3, row % 2)
    if kind == "dict":
        return {"image": picture(row), "label": row % 3, "attribute": row % 2}
    if kind == "dataclass":
        return Record(picture(row), row % 3, row % 2)
    return [picture(row), np.int64(row % 3), torch.tensor(row % 2)]


@dataclass
class Record:
    image: Any
    label: int
    attribute: int


@pytest.mark.parametrize("kind", ["named tuple", "dict", "dataclass", "list"])
@pytest.mark.parametrize("readers", ["threads", "processes"])
def test_the_parts_of_any_kind_of_item_are_found_by_name_and_position(tmp_path, kind, readers):
    path = tmp_path / "pets_train.beton"
    data = Items(lambda row: three_ways(row, kind))
    debeton.write_dataset(data, path, readers=readers, options=debeton.WriteOptions(mode="raw"))
    beton = debeton.open_beton(path)
    assert (beton.spec.name, beton.split) == ("pets", "train")
    assert beton.label.tolist() == [row % 3 for row in range(12)]
    assert beton.attribute.tolist() == [row % 2 for row in range(12)]
    assert beton.spec.classes == ("0", "1", "2")
    for row in range(12):
        np.testing.assert_array_equal(stored_image(path, row), picture(row))


def test_each_item_is_read_once(tmp_path):
    data = Items(with_three)
    debeton.write_dataset(data, tmp_path / "pets_train.beton", readers="threads")
    assert data.reads == [1] * 12


def test_every_single_value_beside_the_image_becomes_a_column_and_the_rest_is_named(tmp_path, caplog):
    path = tmp_path / "pets_val.beton"
    with caplog.at_level(logging.INFO, "debeton"):
        sidecar = debeton.write_dataset(Items(nested), path, attribute="meta.place")
    beton = debeton.open_beton(path)
    assert beton.spec.classes == ("even", "odd")
    assert (beton.spec.label_name, beton.spec.attribute_name) == ("target", "place")
    assert beton.attribute.tolist() == [row % 3 for row in range(12)]
    assert sidecar["columns"] == ["age", "note", "old", "path"]
    assert beton.extra["age"].tolist() == [row / 4 for row in range(12)]
    assert beton.extra["old"].tolist() == [int(row > 5) for row in range(12)]
    assert beton.spec.columns["old"] == ("0", "1")
    assert beton.spec.columns["note"][beton.extra["note"][7]] == "n7"
    assert beton.extra["path"][3] == "folder/3.jpg"
    assert "box (list)" in caplog.text


def test_arrays_functions_and_positions_give_the_label_and_the_attribute(tmp_path):
    def item(row: int) -> Any:
        return picture(row), {"a": row % 2}, row % 4

    paths = [tmp_path / f"{name}_train.beton" for name in ("array", "function")]
    options = [
        {"label": torch.arange(12) % 4, "attribute": [None if row == 3 else row % 2 for row in range(12)]},
        {"label": 2, "attribute": lambda item: None if item[2] == 3 else item[1]["a"]},
    ]
    for path, given in zip(paths, options):
        debeton.write_dataset(Items(item), path, **given)
    first, second = map(debeton.open_beton, paths)
    assert first.label.tolist() == second.label.tolist() == [row % 4 for row in range(12)]
    assert first.attribute.tolist() == [-1 if row == 3 else row % 2 for row in range(12)]
    assert second.attribute.tolist() == [-1 if row % 4 == 3 else row % 2 for row in range(12)]


def test_names_come_from_the_data_set_a_mapping_or_the_spec_of_another_split(tmp_path):
    data = Items(with_three, classes=["ant", "bee", ("cat", "kitten")])
    debeton.write_dataset(
        torch.utils.data.Subset(data, range(9)), tmp_path / "pets_train.beton", attributes=("in", "out")
    )
    spec = debeton.open_beton(tmp_path / "pets_train.beton").spec
    assert (spec.classes, spec.attributes) == (("ant", "bee", "cat, kitten"), ("in", "out"))
    words = Items(lambda row: (picture(row), "bee", "out"), 3)
    debeton.write_dataset(words, tmp_path / "pets_test.beton", spec=spec)
    test = debeton.open_beton(tmp_path / "pets_test.beton")
    assert (test.label.tolist(), test.attribute.tolist(), test.spec) == ([1, 1, 1], [1, 1, 1], spec)
    far = Items(lambda row: (picture(row), (7, 30)[row % 2]), 4)
    debeton.write_dataset(far, tmp_path / "far_train.beton", classes={30: "thirty", 7: "seven"})
    beton = debeton.open_beton(tmp_path / "far_train.beton")
    assert (beton.spec.classes, beton.label.tolist()) == (("thirty", "seven"), [1, 0, 1, 0])


def test_the_names_of_the_data_sets_own_classes_are_not_given_to_another_label(tmp_path):
    data = Items(with_three, classes=["ant", "bee", "cat"])
    debeton.write_dataset(data, tmp_path / "pets_train.beton", label=lambda item: item[2])
    assert debeton.open_beton(tmp_path / "pets_train.beton").spec.classes == ("0", "1")


def test_aligned_pairs_are_names_or_codes(tmp_path):
    for aligned in ("0:1,1:0,2:0", ((1,), (0,), (0,))):
        path = tmp_path / "pets_train.beton"
        debeton.write_dataset(Items(with_three), path, aligned=aligned)
        assert debeton.open_beton(path).spec.aligned == ((1,), (0,), (0,))


@pytest.mark.parametrize("readers", ["threads", "processes"])
def test_damaged_images_are_listed_or_left_out_with_their_values(tmp_path, readers):
    def item(row: int) -> Any:
        file = io.BytesIO()
        Image.fromarray(picture(row)).save(file, "PNG")
        data = file.getvalue() if row != 4 else file.getvalue()[:60]
        if row == 7:
            raise OSError("the disk is gone")
        return Image.open(io.BytesIO(data)), f"class {row % 3}", row

    path = tmp_path / "pets_train.beton"
    with pytest.raises(DataError, match=r"2 of 12 rows cannot be stored.*\n  row 4: item 4 cannot be read .*\n.*disk"):
        debeton.write_dataset(Items(item), path, readers=readers, attribute=lambda item: 0)
    assert os.listdir(tmp_path) == []
    options = debeton.WriteOptions(skip_bad=True, shuffle_seed=3)
    sidecar = debeton.write_dataset(Items(item), path, readers=readers, attribute=lambda item: 0, options=options)
    assert sorted(sidecar["skipped"]) == ["item 4", "item 7"]
    beton = debeton.open_beton(path)
    kept = [int(str(name).split()[1]) for name in beton.extra["path"]]
    assert beton.label.tolist() == [row % 3 for row in kept]
    assert beton.extra["item_2"].tolist() == kept


def test_a_data_set_with_a_lock_or_an_open_file_is_read_by_threads_and_others_by_processes(tmp_path):
    processes: dict[str, Any] = {}
    for name, further in (("plain", {}), ("locked", {"lock": threading.Lock()})):
        data = PidItems(**further)
        debeton.write_dataset(data, tmp_path / f"{name}_train.beton", label="label")
        processes[name] = debeton.open_beton(tmp_path / f"{name}_train.beton").spec.columns["process"]
    assert processes["locked"] == (str(os.getpid()),)
    assert str(os.getpid()) not in processes["plain"]


class PidItems(Items):
    """Items that hold the number of the process that read them."""

    def __init__(self, **further: Any):
        super().__init__(None, **further)

    def __getitem__(self, row: int) -> Any:
        return {"image": picture(row), "label": row % 2, "process": os.getpid()}


@pytest.mark.parametrize("readers", ["threads", "processes"])
@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (lambda row: (picture(row),), {}, "item 0 of the data set has no label; it has .*say what it is with label="),
        (lambda row: (picture(row), 0), {"attribute": "plce"}, "no 'plce'"),
        (lambda row: {"image": picture(row), "lable": 1, "box": 2}, {"label": "label"}, "did you mean 'lable'"),
        (lambda row: (picture(row), (1, 2)), {}, r"'1', has the parts 1.0, 1.1; give one of them, as in label='1.0'"),
        (lambda row: (picture(row), np.zeros(3)), {}, r"is ndarray \[3\]; expected one number or text"),
        (lambda row: (picture(row), {}["key"]), {}, r"item 0 of the data set cannot be read \(KeyError: 'key'\)"),
        (lambda row: ("text", 1), {"image": lambda item: item[5]}, r"image= fails on item 0 \(IndexError"),
        (lambda row: (picture(row) / 255.0, 1), {}, "image 0 is float64"),
        (lambda row: (picture(row), None), {}, r"item 0 has no label \(None\), one of 3 such rows"),
        (lambda row: (picture(row), 0.5), {}, "a number with decimals, such as 0.5"),
        (lambda row: (picture(row), row + 1), {}, "whole numbers from 1 to 3, and none is 0.*with classes"),
        (lambda row: (picture(row), "cta"), {"classes": ("cat", "dog")}, "'cta'; did you mean 'cat'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_items_is_one_sentence(tmp_path, make, given, message, readers):
    with pytest.raises(DataError, match=message):
        debeton.write_dataset(Items(make, 3), tmp_path / "pets_train.beton", readers=readers, **given)
    assert os.listdir(tmp_path) == []


def test_wrong_use_is_a_usage_error(tmp_path):
    data, path = Items(with_three), tmp_path / "pets_train.beton"
    for call, message in (
        (lambda: debeton.write_dataset(torch.utils.data.DataLoader(data), path), "give its data set, loader.dataset"),
        (lambda: debeton.write_dataset(iter([1]), path), "no map-style data set"),
        (lambda: debeton.write_dataset(data, tmp_path / "pets.beton"), "does not end in a split.*split="),
        (lambda: debeton.write_dataset(data, path, label=[1, 2]), r"label= has shape \[2\]; expected \[12\]"),
        (lambda: debeton.write_dataset(data, path, readers="fork"), "known: auto, processes, threads"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(DataError, match="has no item"):
        debeton.write_dataset(Items(with_three, 0), path)


def test_an_error_of_the_users_code_in_a_process_keeps_its_traceback(tmp_path):
    def broken(row: int) -> Any:
        return undefined_name  # noqa: F821

    with pytest.raises(DataError, match="NameError") as caught:
        debeton.write_dataset(Items(broken), tmp_path / "pets_train.beton", readers="processes")
    assert "in broken" in caught.value.__notes__[0]
