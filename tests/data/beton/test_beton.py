"""Only an intact beton with its own sidecar opens. Every other one is refused in one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from debeton.data.beton import ffcv_format
from debeton.data.beton.ffcv_format import METADATA, METADATA_START, header_bytes, read_tables
from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.sidecar import checksum, columns_path, sidecar_path
from debeton.data.beton.writer import write_beton
from debeton.data.spec import DatasetSpec, Factor, Rows
from debeton.system.errors import DataError

MakeRows = Callable[..., Rows]
TABLES_END = METADATA_START + 70 * METADATA.itemsize
TRIPLET = (lambda path: path, sidecar_path, columns_path)


@pytest.fixture
def copy(tmp_path: Path, raw_beton: Beton) -> Path:
    """Copy the raw beton with its sidecar and columns, so that a test can damage it."""
    for part in TRIPLET:
        shutil.copy(part(raw_beton.path), part(tmp_path / "a.beton"))
    return tmp_path / "a.beton"


def refusal(path: Path) -> str:
    """Return the message of open_beton for a bad beton. It must be one sentence."""
    with pytest.raises(DataError) as error:
        open_beton(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_sidecar(path: Path, **changes: Any) -> None:
    sidecar = {**json.loads(sidecar_path(path).read_text()), **changes}
    sidecar_path(path).write_text(json.dumps({key: value for key, value in sidecar.items() if value is not ...}))


# --- betons that open ------------------------------------------------------------------------------------------------


def test_columns_equal_the_written_ones(
    raw_beton: Beton, grouped_rows: MakeRows, pixels: list[np.ndarray], spec: DatasetSpec
) -> None:
    rows = grouped_rows(pixels)
    assert len(raw_beton) == 70
    assert raw_beton.spec == spec
    assert raw_beton.split == "train"
    expected = {"label": rows.label, "attribute": rows.attribute, "source": rows.source}
    for name, column in expected.items():
        np.testing.assert_array_equal(getattr(raw_beton, name), column)
        assert getattr(raw_beton, name).dtype == np.int64
    assert set(raw_beton.heights) == {24}
    assert set(raw_beton.widths) == {32}
    assert set(raw_beton.sizes) == {24 * 32 * 3}
    assert raw_beton.max_bytes == 24 * 32 * 3


def test_image_sizes_equal_those_of_their_files(jpg_beton: Beton, jpegs: list[bytes]) -> None:
    assert jpg_beton.sizes.tolist() == [len(data) for data in jpegs]
    assert jpg_beton.heights.tolist() == list(range(30, 100))
    assert jpg_beton.widths.tolist() == list(range(95, 25, -1))
    assert jpg_beton.max_bytes == max((30 + i) * (95 - i) * 3 for i in range(70))


def test_a_beton_may_be_moved_with_its_sidecar(copy: Path) -> None:
    moved = copy.parent / "elsewhere" / "b.beton"
    moved.parent.mkdir()
    for part in TRIPLET:
        part(copy).rename(part(moved))
    assert len(open_beton(str(moved))) == 70


def test_the_columns_file_is_needed_only_for_further_columns(copy: Path) -> None:
    columns_path(copy).unlink()
    beton = open_beton(copy)
    with pytest.raises(DataError, match=r"no .*a\.beton\.columns\.npz"):
        beton.extra  # noqa: B018


def test_a_columns_file_of_another_beton_is_refused(copy: Path, jpg_beton: Beton) -> None:
    shutil.copy(columns_path(jpg_beton.path), columns_path(copy))  # as many rows, and the same names
    with pytest.raises(DataError, match=r"a\.beton\.columns\.npz and its beton were not written together"):
        open_beton(copy).extra  # noqa: B018


def as_schema_1(beton: Path, **columns: Any) -> None:
    """Rewrite the columns as schema 1 held them: compressed, text as arrays of fixed width."""
    edit_sidecar(beton, schema_version=1)
    np.savez_compressed(columns_path(beton), **columns)


def test_a_beton_of_schema_1_still_opens(copy: Path, raw_beton: Beton) -> None:
    numbers = {"count": np.arange(70, dtype=np.int32), "weight_g": np.arange(70) * 0.5}
    as_schema_1(copy, path=np.array([f"r{i}" for i in range(70)]), **numbers)
    beton = open_beton(copy)
    np.testing.assert_array_equal(beton.group, raw_beton.group)
    assert sorted(beton.extra) == ["count", "path", "weight_g"]
    assert beton.extra["path"].tolist() == raw_beton.extra["path"].tolist()
    for name, values in numbers.items():
        np.testing.assert_array_equal(beton.extra[name], values)
    assert beton.extra["count"].dtype == np.int64


def test_columns_of_schema_1_with_another_number_of_rows_are_refused(copy: Path) -> None:
    as_schema_1(copy, path=np.array(["a", "b"]))
    with pytest.raises(DataError, match="'path' has 2 values for 70 rows"):
        open_beton(copy).extra["path"]


def test_an_unknown_column_is_an_error_that_names_the_nearest(copy: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'weigth_g'; did you mean 'weight_g'\? known: path, weight_g"):
        open_beton(copy).extra["weigth_g"]


# --- betons that are refused -----------------------------------------------------------------------------------------


def test_a_missing_beton_is_named_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no beton at .*none\.beton\n.*debeton write-betons --dataset"):
        open_beton(tmp_path / "none.beton")


@pytest.mark.parametrize("keep", [0, 1, 23, 1000, METADATA_START + 10, -1])
def test_a_truncated_beton_is_called_truncated(copy: Path, keep: int) -> None:
    data = copy.read_bytes()
    copy.write_bytes(data[:keep])
    message = refusal(copy)
    assert "is truncated" in message
    assert f"sidecar says {len(data)}" in message


def test_a_beton_that_grew_is_refused(copy: Path) -> None:
    with copy.open("ab") as file:
        file.write(b"\0")
    assert "longer than it was written" in refusal(copy)


def test_a_beton_without_its_sidecar_is_refused(copy: Path) -> None:
    sidecar_path(copy).unlink()
    assert "has no sidecar a.beton.json" in refusal(copy)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n" + bytes(3000), bytes(10_000)])
def test_a_foreign_file_is_refused_with_and_without_a_sidecar(copy: Path, data: bytes) -> None:
    copy.write_bytes(data)
    assert "truncated" in refusal(copy)
    edit_sidecar(copy, file_size=len(data))
    assert "is not a beton of this project" in refusal(copy)
    sidecar_path(copy).unlink()
    assert "no sidecar" in refusal(copy)


def test_the_sidecar_of_another_beton_is_refused(copy: Path, jpg_beton: Beton) -> None:
    shutil.copy(sidecar_path(jpg_beton.path), sidecar_path(copy))
    edit_sidecar(copy, file_size=copy.stat().st_size)  # even where the sizes agree by chance
    message = refusal(copy)
    assert "disagree" in message
    assert "not written together" in message


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_schema_version_is_refused(copy: Path, version: object) -> None:
    edit_sidecar(copy, schema_version=version)
    assert f"schema version {version}, this code reads 1 and 2" in refusal(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "{}", "\x00\x01"])
def test_a_sidecar_that_is_no_sidecar_is_refused(copy: Path, text: str) -> None:
    sidecar_path(copy).write_text(text)
    assert re.search(r"\.beton\.json.*write the beton again", refusal(copy))


@pytest.mark.parametrize(
    "changes",
    [{key: ...} for key in ("split", "spec", "checksum", "file_size")]
    + [{"spec": {"name": "x"}}, {"spec": {"colour": 1}}, {"spec": 3}, {"file_size": "many"}],
    ids=str,
)
def test_a_sidecar_with_missing_or_odd_parts_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    edit_sidecar(copy, **changes)
    assert re.search(r"\.beton\.json.*write the beton again", refusal(copy))


def test_an_ffcv_file_with_other_fields_is_refused(copy: Path) -> None:
    from ffcv.fields import IntField, NDArrayField
    from ffcv.writer import DatasetWriter

    class Pairs:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, k: int) -> tuple[np.ndarray, int]:
            return np.full(2, k, np.float32), int(k)

    fields = {"covariate": NDArrayField(dtype=np.dtype("float32"), shape=(2,)), "label": IntField()}
    DatasetWriter(str(copy), fields, num_workers=1).from_indexed_dataset(Pairs())
    edit_sidecar(copy, file_size=copy.stat().st_size)
    message = refusal(copy)
    assert "['covariate', 'label']" in message
    assert "['image', 'label', 'attribute', 'group', 'source', 'index']" in message


def rewrite_metadata(path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Edit the columns in the file and correct the sidecar's checksum, as a careful forger would."""
    metadata, allocations = read_tables(path)
    metadata = metadata.copy()
    change(metadata)
    with path.open("r+b") as file:
        file.seek(METADATA_START)
        file.write(metadata.tobytes())
    edit_sidecar(path, checksum=checksum(metadata, allocations))


def test_a_group_column_that_disagrees_is_refused(copy: Path) -> None:
    def change(metadata: np.ndarray) -> None:
        metadata["f3"][7] += 1

    rewrite_metadata(copy, change)
    assert "group column is not label * 3 + attribute" in refusal(copy)


def test_a_label_beyond_the_classes_is_refused(copy: Path) -> None:
    def change(metadata: np.ndarray) -> None:
        metadata["f1"][9] = 2

    rewrite_metadata(copy, change)
    with pytest.raises(DataError, match="label 2 of row 9 is out of range"):
        open_beton(copy)


def test_one_changed_label_is_noticed(copy: Path) -> None:
    before = sidecar_path(copy).read_text()

    def change(metadata: np.ndarray) -> None:
        metadata["f1"][0], metadata["f2"][0], metadata["f3"][0] = 1, 0, 3

    rewrite_metadata(copy, change)
    assert open_beton(copy).label[0] == 1
    sidecar_path(copy).write_text(before)
    assert "disagree" in refusal(copy)


def test_a_beton_without_rows_is_refused(copy: Path) -> None:
    page = 1 << 21
    copy.write_bytes(header_bytes(0, page, page) + bytes(page - METADATA_START))
    empty = np.zeros(0, METADATA)
    edit_sidecar(copy, file_size=page, checksum=checksum(empty, np.zeros(0, ffcv_format.ALLOCATION)))
    assert "holds no row" in refusal(copy)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.one_of(st.integers(0, 23), st.integers(0, TABLES_END)), st.integers(1, 255)),
        min_size=1,
        max_size=8,
        unique_by=lambda change: change[0],
    )
)
def test_damage_to_header_or_columns_is_refused_or_harmless(
    copy: Path, raw_beton: Beton, changes: list[tuple[int, int]]
) -> None:
    before = copy.read_bytes()
    with copy.open("r+b") as file:
        for position, difference in changes:
            file.seek(position)
            file.write(bytes([before[position] ^ difference]))
    try:
        beton = open_beton(copy)
    except DataError:
        return
    finally:
        copy.write_bytes(before)
    for name in ("label", "attribute", "group", "source", "heights", "widths", "modes", "offsets", "sizes"):
        np.testing.assert_array_equal(getattr(beton, name), getattr(raw_beton, name))


# --- the format ------------------------------------------------------------------------------------------------------


def test_our_types_of_the_format_equal_ffcvs_own(raw_beton: Beton) -> None:
    from ffcv import types
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.reader import Reader

    assert types.HeaderType == ffcv_format.HEADER
    assert types.FieldDescType == ffcv_format.FIELD
    assert ffcv_format.ALLOCATION == types.ALLOC_TABLE_TYPE
    assert ffcv_format.VERSION == types.CURRENT_VERSION
    handlers = {"image": RGBImageField(), **{name: IntField() for name in ffcv_format.COLUMNS}}
    assert types.get_metadata_type(list(handlers.values())) == ffcv_format.METADATA
    for name, handler in handlers.items():
        assert types.TYPE_ID_HANDLER[ffcv_format.FIELDS[name][0]] is type(handler)
        assert not handler.to_binary().any()  # no arguments to store
    assert IMAGE_MODES == {"jpg": ffcv_format.JPG, "raw": ffcv_format.RAW}
    reader = Reader(str(raw_beton.path))
    assert reader.field_names == list(handlers)
    metadata, allocations = read_tables(raw_beton.path)
    np.testing.assert_array_equal(reader.metadata, metadata)
    np.testing.assert_array_equal(reader.alloc_table, allocations)


def test_a_sidecar_gives_the_spec_back(tmp_path: Path, make_rows: MakeRows, photo: Callable[..., np.ndarray]) -> None:
    spec = DatasetSpec(
        "s",
        ("a", "b"),
        ("x", "y"),
        ((0,), (0, 1)),
        (3,),
        (0.1, 0.2, 0.3),
        (1.0, 0.5, 0.25),
        "mean_per_class",
        "letter",
        "axis",
        {"hue": ("red", "green"), "tone": ("dark",)},
        {"hue x axis": ((0,), (0, 1))},
        {"a/left": (0, 1)},
        (Factor("axis", ("x", "y"), (0, 1), 0.95),),
    )
    columns = {"hue": [0, 1], "tone": [0, 0]}
    write_beton(tmp_path / "s.beton", make_rows([photo(0)] * 2, columns=columns), spec, "train")
    assert open_beton(tmp_path / "s.beton").spec == spec
