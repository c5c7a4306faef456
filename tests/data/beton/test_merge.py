"""A merged beton holds the rows of its inputs, byte by byte and name by name.

Betons that cannot be merged are refused with a reason.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from debeton.data.beton import file as beton_file
from debeton.data.beton.ffcv_format import HEADER
from debeton.data.beton.merge import merge_betons
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import columns_path, sidecar_path
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.decoding import ImageReader
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

Photo = Callable[..., np.ndarray]
Encoder = Callable[..., bytes]
MakeRows = Callable[..., Rows]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, spec: DatasetSpec, make_rows: MakeRows, photo: Photo) -> Write:
    """Return write(name, images, spec=..., mode='raw', columns of Rows): a beton with rows NAME/0, NAME/1, ..."""

    def run(
        name: str, images: Sequence[Any] | int = 3, spec: DatasetSpec = spec, mode: str = "raw", **changes: Any
    ) -> Path:
        images = [photo(hash_of(name) + k) for k in range(images)] if isinstance(images, int) else images
        names = [f"{name}/{k}" for k in range(len(images))]
        rows = make_rows(images, **{"names": names, **changes})
        write_beton(tmp_path / f"{name}.beton", rows, spec, "train", WriteOptions(mode=mode, num_workers=1))
        return tmp_path / f"{name}.beton"

    return run


def hash_of(name: str) -> int:
    return sum(map(ord, name))


def merged(inputs: Sequence[Path], split: str = "train") -> Beton:
    output = inputs[0].with_name("merged.beton")
    returned = merge_betons(inputs, output, split)
    beton = open_beton(output)
    assert beton.sidecar == json.loads(json.dumps(returned))
    return beton


def stored_bytes(beton: Beton) -> list[bytes]:
    file = beton.path.read_bytes()
    return [file[int(o) : int(o) + int(s)] for o, s in zip(beton.offsets, beton.sizes)]


def pixels(beton: Beton, size: tuple[int, int]) -> np.ndarray:
    reader = ImageReader(beton.path, beton.offsets, beton.sizes, beton.modes, beton.heights, beton.widths)
    rows = np.arange(len(beton))
    return reader.read(rows, reader.whole_boxes(rows), size)


# --- the result ------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), mode=st.sampled_from(["raw", "jpg", "proportion"]))
def test_merged_betons_equal_one_beton_of_all_their_rows(
    data: st.DataObject, mode: str, tmp_path_factory: pytest.TempPathFactory, spec: DatasetSpec
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    n = data.draw(st.integers(2, 24))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    sides = data.draw(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=n, max_size=n))
    images = [rng.integers(0, 256, (*side, 3), dtype=np.uint8) for side in sides]
    texts = data.draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=n, max_size=n))
    columns = {"note": texts, "count": rng.integers(-5, 300, n), "share": rng.random(n), "hue": rng.integers(0, 2, n)}
    group, source = rng.integers(0, 5, n), rng.integers(0, 2, n)
    named = replace(spec, columns={"hue": ("red", "green")})

    def write(name: str, rows: np.ndarray) -> Path:
        parts = {key: np.array(values, object)[rows].tolist() for key, values in columns.items()}
        names = [f"r{row}" for row in rows]
        label, attribute = group[rows] // 3, group[rows] % 3
        chosen = Rows(label, attribute, lambda k: images[rows[k]], names, parts, source[rows])
        write_beton(folder / name, chosen, named, "train", WriteOptions(mode=mode, num_workers=2))
        return folder / name

    cuts = sorted(data.draw(st.lists(st.integers(1, n - 1), min_size=1, max_size=4, unique=True)))
    parts = np.split(np.arange(n), cuts)
    whole = open_beton(write("whole.beton", np.arange(n)))
    found = merged([write(f"{k}.beton", rows) for k, rows in enumerate(parts)])
    for name in ("label", "attribute", "group", "source", "heights", "widths"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert list(found.extra) == list(whole.extra)
    for name in whole.extra:
        np.testing.assert_array_equal(found.extra[name], whole.extra[name])
    for name in ("row_hash", "group_counts", "spec", "n", "columns", "skipped"):
        assert found.sidecar[name] == whole.sidecar[name]
    if mode != "proportion":  # its choice of JPEG or raw depends on the row number
        assert stored_bytes(found) == stored_bytes(whole)
        np.testing.assert_array_equal(pixels(found, (16, 16)), pixels(whole, (16, 16)))
    page = int(np.fromfile(found.path, HEADER, count=1)["page_size"][0])
    np.testing.assert_array_equal(found.offsets // page, (found.offsets + found.sizes - 1) // page)
    shutil.rmtree(folder)


def test_jpegs_are_copied_byte_for_byte(write: Write, photo: Photo, encoded: Encoder) -> None:
    files = [encoded(photo(k, 30 + k, 60), quality=50 + k) for k in range(12)]
    parts = [write("a", files[:5], mode="jpg"), write("b", files[5:6], mode="jpg"), write("c", files[6:], mode="jpg")]
    assert stored_bytes(merged(parts)) == files


def test_a_merged_beton_has_pages_large_enough_for_all_inputs(write: Write) -> None:
    small = [np.full((400, 500, 3), k, np.uint8) for k in range(9)]
    large = [np.full((1500, 2000, 3), 9, np.uint8)]
    for name, order in (("sl", ["s", "l"]), ("ls", ["l", "s"])):
        paths = {"s": write(f"s{name}", small), "l": write(f"l{name}", large)}
        sizes = {key: int(np.fromfile(path, HEADER, count=1)["page_size"][0]) for key, path in paths.items()}
        assert sizes == {"s": 8 << 20, "l": 64 << 20}
        found = merged([paths[key] for key in order])
        assert int(np.fromfile(found.path, HEADER, count=1)["page_size"][0]) == 64 << 20
        np.testing.assert_array_equal(found.offsets >> 26, (found.offsets + found.sizes - 1) >> 26)
        values = [set(data) for data in stored_bytes(found)]
        assert values == [{k} for k in ([*range(9), 9] if order[0] == "s" else [9, *range(9)])]


def test_rows_keep_their_order_names_and_source(write: Write) -> None:
    real = write("real", 3)
    synthetic = write("sd", 2, source=np.array([1, 1]))
    found = merged([synthetic, real])
    assert found.extra["path"].tolist() == ["sd/0", "sd/1", "real/0", "real/1", "real/2"]
    assert found.source.tolist() == [1, 1, 0, 0, 0]


def test_the_sidecar_describes_the_merged_betons(write: Write, photo: Photo) -> None:
    first, second = write("a", 3), write("b", 2, mode="jpg")
    sidecars = [json.loads(sidecar_path(path).read_text()) for path in (first, second)]
    found = merged([first, second], "val").sidecar
    assert found["merged_from"] == [
        {
            "file": path.name,
            "dataset": "pets",
            "split": "train",
            "n": n,
            "row_hash": sidecar["row_hash"],
            "dataset_options": {},
        }
        for path, n, sidecar in zip((first, second), (3, 2), sidecars)
    ]
    assert (found["split"], found["n"], found["dataset"]) == ("val", 5, "pets")
    assert found["image"] == {
        "mode": "mixed",
        "max_resolution": None,
        "stored": [
            {"images": 3, "source": "array", "stored": "raw pixels", "changes": [], "quality": None, "chroma": None},
            {"images": 2, "source": "array", "stored": "encoded", "changes": [], "quality": 95, "chroma": "4:4:4"},
        ],
        "jpeg_share": 0.4,
        "height": [40, 40],
        "width": [48, 48],
    }
    assert sum(found["group_counts"].values()) == 5


def test_a_merged_beton_can_be_merged_again(write: Write, tmp_path: Path) -> None:
    a, b, c = (write(name, 2) for name in "abc")
    merge_betons([a, b], tmp_path / "ab.beton", "train")
    merge_betons([tmp_path / "ab.beton", c], tmp_path / "abc.beton", "train")
    assert open_beton(tmp_path / "abc.beton").sidecar["row_hash"] == merged([a, b, c]).sidecar["row_hash"]


# --- names and columns -----------------------------------------------------------------------------------------


def test_classes_and_attributes_in_another_order_are_matched_by_name(write: Write, spec: DatasetSpec) -> None:
    first = write("a", label=np.array([0, 1, 1]), attribute=np.array([0, 1, 0]))
    turned = DatasetSpec("others", ("dog", "cat"), ("top", "left", "right"))
    second = write("b", spec=turned, label=np.array([0, 1, 1]), attribute=np.array([1, 2, 0]))
    found = merged([first, second])
    assert found.label.tolist() == [0, 1, 1, 1, 0, 0]
    assert found.attribute.tolist() == [0, 1, 0, 0, 1, 2]
    assert found.spec == spec
    np.testing.assert_array_equal(found.group, found.label * 3 + found.attribute)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("cat", "bird")}, "different classes: 'bird' is only in b.beton; 'dog' is only in a.beton"),
        ({"classes": ("cat", "dog", "eel")}, "different classes: 'eel' is only in b.beton"),
        ({"attributes": ("left", "right")}, "different attributes: 'top' is only in a.beton"),
    ],
)
def test_other_classes_or_attributes_are_refused_by_name(
    changes: dict[str, Any], words: str, write: Write, spec: DatasetSpec
) -> None:
    other = replace(spec, aligned=(), missing=(), **changes)
    with pytest.raises(DataError, match=re.escape(words)):
        merged([write("a"), write("b", spec=other)])


def test_a_group_missing_in_the_first_beton_exists_if_another_has_it(write: Write, spec: DatasetSpec) -> None:
    assert spec.missing == (5,)
    top_dogs = write("b", spec=replace(spec, missing=()), label=np.ones(3, np.int64), attribute=np.full(3, 2))
    found = merged([write("a"), top_dogs])
    assert found.spec.missing == ()
    assert found.sidecar["group_counts"]["dog, top"] == 3


def test_a_column_that_one_input_lacks_is_empty_minus_one_or_nan(write: Write) -> None:
    given = {"prompt": ["p", "q", "r"], "seed": [7, 8, 9], "score": [0.5, 1.5, 2.5], "kept": [True, False, True]}
    found = merged([write("a"), write("b", columns=given), write("c", 1, columns={"seed": [3]})]).extra
    assert found["prompt"].tolist() == ["", "", "", "p", "q", "r", ""]
    assert found["seed"].tolist() == [-1, -1, -1, 7, 8, 9, 3]
    assert found["kept"].tolist() == [-1, -1, -1, 1, 0, 1, -1]
    np.testing.assert_array_equal(found["score"], [np.nan] * 3 + [0.5, 1.5, 2.5, np.nan])


def test_a_column_of_text_in_one_beton_and_numbers_in_another_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"'seed' holds text in .*a\.beton and numbers in .*b\.beton"):
        merged([write("a", columns={"seed": ["1", "2", "3"]}), write("b", columns={"seed": [1, 2, 3]})])


def hued(spec: DatasetSpec, *names: str) -> DatasetSpec:
    return replace(spec, columns={"hue": names})


def test_codes_of_a_named_column_are_matched_by_name(write: Write, spec: DatasetSpec) -> None:
    first = write("a", spec=hued(spec, "red", "green"), columns={"hue": [0, 1, 1]})
    second = write("b", spec=hued(spec, "green", "red"), columns={"hue": [0, 1, -1]}, source=np.array([0, 1, 1]))
    found = merged([first, second])
    assert found.extra["hue"].tolist() == [0, 1, 1, 1, 0, -1]
    assert found.spec.columns == {"hue": ("red", "green")}


def test_different_names_of_a_columns_codes_are_refused(write: Write, spec: DatasetSpec) -> None:
    first = write("a", spec=hued(spec, "red", "green"), columns={"hue": [0, 1, 1]})
    other = write("b", spec=hued(spec, "red", "blue"), columns={"hue": [0, 1, 1]})
    with pytest.raises(DataError, match=r"different values of the column 'hue': 'blue' is only in b\.beton; 'green'"):
        merged([first, other])
    plain = write("c", columns={"hue": [0, 1, 1]})
    with pytest.raises(DataError, match=r"'hue' has names for its codes in .*a\.beton and none in .*c\.beton"):
        merged([first, plain])


def test_a_column_keeps_its_names_if_only_synthetic_rows_lack_it(write: Write, spec: DatasetSpec) -> None:
    named = replace(hued(spec, "red", "green"), tasks={"hue x attribute": ((0,), (1, 2))})
    real = write("real", 6, spec=named, columns={"hue": [0, 1, 1, 0, 1, 0]})
    synthetic = write("sd", 3, source=np.ones(3, np.int64))
    both = merged([real, synthetic])
    assert both.extra["hue"].tolist() == [0, 1, 1, 0, 1, 0, -1, -1, -1]
    view = View.whole(both).with_task("hue")
    assert len(view) == 6
    assert view.spec.aligned == ((0,), (1, 2))
    more = merged([real, write("more", 3)])
    assert more.extra["hue"].tolist() == [0, 1, 1, 0, 1, 0, -1, -1, -1]
    assert more.spec.columns == {}  # real rows without a value: no longer a task


# --- refusals --------------------------------------------------------------------------------------------------


def test_a_row_that_occurs_twice_is_named_with_both_betons(write: Write) -> None:
    first, second = write("a"), write("b", names=["x/0", "a/1", "x/2"])
    words = r"row 'a/1' is in .*a\.beton and in .*b\.beton.*give their folders different names"
    with pytest.raises(DataError, match=words):
        merged([first, second])


def test_fewer_than_two_betons_or_one_twice_are_usage_errors(write: Write, tmp_path: Path) -> None:
    path = write("a")
    with pytest.raises(UsageError, match="1 beton cannot be merged"):
        merge_betons([path], tmp_path / "m.beton", "train")
    with pytest.raises(UsageError, match="named twice"):
        merge_betons([path, tmp_path / "." / "a.beton"], tmp_path / "m.beton", "train")


@pytest.mark.parametrize("linked", [False, True])
def test_the_output_may_not_be_an_input(linked: bool, write: Write, tmp_path: Path) -> None:
    first, second = write("a"), write("b")
    output = tmp_path / "link.beton" if linked else second
    if linked:
        output.symlink_to(second)
    before = second.read_bytes()
    with pytest.raises(UsageError, match="is one of the betons to merge"):
        merge_betons([first, second], output, "train")
    assert second.read_bytes() == before


def test_a_damaged_input_is_refused_and_an_older_output_stays(write: Write, tmp_path: Path) -> None:
    first, second, older = write("a"), write("b"), write("older")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("older")}
    os.truncate(second, second.stat().st_size - 1)
    with pytest.raises(DataError, match=r"b\.beton is truncated"):
        merge_betons([first, second], older, "train")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not list(tmp_path.glob("*.partial"))


def test_an_input_without_its_columns_is_refused(write: Write) -> None:
    first, second = write("a"), write("b")
    columns_path(second).unlink()
    with pytest.raises(DataError, match=r"the columns of b\.beton are missing"):
        merged([first, second])


def test_bytes_that_do_not_read_back_are_noticed(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, real = [write("a"), write("b")], beton_file.BetonFile.write_tables

    def write_tables(file: beton_file.BetonFile, *arguments: Any) -> Any:
        tables = real(file, *arguments)
        (partial,) = tmp_path.glob("m.beton.*.partial")
        with partial.open("r+b") as written:
            written.seek(int(tables.metadata["f0"]["data_ptr"][4]) + 9)
            written.write(b"a lie")
        return tables

    monkeypatch.setattr(beton_file.BetonFile, "write_tables", write_tables)
    with pytest.raises(DataError, match="row 4 read back differs"):
        merge_betons(inputs, tmp_path / "m.beton", "train")
    assert not list(tmp_path.glob("m.beton*"))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [write("a"), write("b")]

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match=f"the disk under {tmp_path / 'new'} is full"):
        merge_betons(inputs, tmp_path / "new" / "m.beton", "train")
    assert not (tmp_path / "new").exists()
