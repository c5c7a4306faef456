"""The file format in ffcv_format.py equals FFCV's own."""

from __future__ import annotations

import ffcv.types
import numpy as np
import pytest
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.reader import Reader

from debeton.data.beton import ffcv_format
from debeton.data.beton.ffcv_format import (
    ALLOCATION,
    FIELD,
    FIELDS,
    HEADER,
    METADATA,
    METADATA_START,
    read_tables,
)


def test_types_and_codes_are_ffcvs():
    assert ffcv.types.HeaderType == HEADER
    assert ffcv.types.FieldDescType == FIELD
    assert ffcv.types.ALLOC_TABLE_TYPE == ALLOCATION
    assert ffcv.types.CURRENT_VERSION == ffcv_format.VERSION
    assert (IMAGE_MODES["jpg"], IMAGE_MODES["raw"]) == (ffcv_format.JPG, ffcv_format.RAW)
    handlers = {"image": RGBImageField(), **{name: IntField() for name in ffcv_format.COLUMNS}}
    assert ffcv.types.get_metadata_type(list(handlers.values())) == METADATA
    for name, handler in handlers.items():
        assert ffcv.types.TYPE_ID_HANDLER[FIELDS[name][0]] is type(handler)
        assert not any(handler.to_binary().tobytes())


def test_tables_are_those_that_ffcvs_reader_finds(toy_betons):
    reader = Reader(str(toy_betons / "toy_train.beton"))
    metadata, allocations = read_tables(toy_betons / "toy_train.beton")
    assert reader.field_names == list(FIELDS)
    assert np.array_equal(reader.metadata, metadata)
    assert np.array_equal(reader.alloc_table, allocations)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:50], "fewer than its header"),
        (lambda data: b"\x07" + data[1:], "format version 7"),
        (lambda data: data[: HEADER.itemsize + 1] + b"X" + data[HEADER.itemsize + 2 :], "it has the fields"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "rows do not fit"),
        (lambda data: data[:-8], "rows do not fit"),
        (lambda data: b"\xff" * METADATA_START, "format version"),
    ],
)
def test_a_file_in_another_format_is_refused_with_the_reason(toy_betons, tmp_path, damage, words):
    (tmp_path / "x.beton").write_bytes(damage((toy_betons / "toy_val.beton").read_bytes()))
    with pytest.raises(ValueError, match=words):
        read_tables(tmp_path / "x.beton")
