"""The reader of JSON files: a value as it was written, or one sentence that names file, line and key."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from debeton.system.errors import DataError
from debeton.system.json_files import parse_json, read_json, read_json_lines
from debeton.system.json_shapes import ListOf, Table, Within, or_null

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="ascii", min_codepoint=32)), inner),
)  # fmt: skip


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_value_or_one_sentence(content):
    sentence = ""
    try:
        parse_json(content, "x.json", object, remedy="write it again")
    except DataError as error:
        sentence = str(error)
    assert not sentence or re.fullmatch(r"x\.json.*write it again", sentence)


@given(PLAIN)
def test_whatever_json_holds_is_read_as_it_was_written(value):
    if value is not None:
        assert parse_json(json.dumps(value).encode(), "x.json", object, remedy="") == value


SHAPE = Table(
    keys={"rate": Within(float, 0, 1), "rows": ListOf(Within(int, 0))},
    may={"name": or_null(str), "inner": Table(others=int)},
    others=None,
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "x.json is empty (0 bytes)"),
        ('{"rate": 2, "rows": []}', "x.json: rate is 2; expected a fraction in [0, 1]"),
        ('{"rate": "0.5", "rows": []}', "x.json: rate is '0.5'; expected a fraction in [0, 1]"),
        ('{"rate": true, "rows": []}', "x.json: rate is True; expected a fraction in [0, 1]"),
        ('{"rate": NaN, "rows": []}', "x.json: rate is nan; expected a finite number or null"),
        ('{"rate": 1e999, "rows": []}', "x.json: rate is inf; expected a finite number or null"),
        ('{"rate": 1}', "x.json lacks 'rows'"),
        ('{"rate": 1, "rows": [3, -1]}', "x.json: rows[1] is -1; expected a whole number of 0 or more"),
        ('{"rate": 1, "rows": {}}', "x.json: rows is a table of keys and values; expected a list"),
        ('{"rate": 1, "rows": [1], "name": 3}', "x.json: name is 3; expected text or null"),
        ('{"rate": 1, "rows": [], "inner": {"a, b": 0.5}}', "x.json: inner['a, b'] is 0.5; expected a whole number"),
        (
            '{"rate": 1, "rows": [], "rat": 1}',
            "x.json has the unknown key 'rat'; did you mean 'rate'? known: rate, rows",
        ),
        ('{"rate": 1, "rate": 0, "rows": []}', "x.json gives the key 'rate' twice"),
        (
            '{"rate": 1, "rows": [123456789012345678901234567890]}',
            "x.json: rows is a whole number of more than 64",
        ),
        (
            '{"rate": 1, "rows": [], "name": "\\ud800"}',
            "x.json: the text '\\ud800' at name holds a letter",
        ),
        ("[]", "x.json holds list; expected a table of keys and values"),
        ('{"rate": 1, "rows": [], "a\\nb": 1}', "x.json has the unknown key 'a\\nb'; known: rate, rows"),
        ('{"a\\nb": 1, "a\\nb": 0}', "x.json gives the key 'a\\nb' twice"),
    ],
)
def test_a_fault_is_named_with_its_key_and_what_was_expected(text, sentence):
    with pytest.raises(DataError) as error:
        parse_json(text.encode(), "x.json", SHAPE, remedy="write it again")
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith("it is cut short or was edited by hand: write it again")


def test_a_line_is_named_and_a_last_line_that_a_kill_cut_is_left_out(tmp_path):
    path, cut = tmp_path / "x.jsonl", []
    path.write_bytes(b'{"a": 1}\n\n{"a": "\xe2\x80\xa8"}\n{"a": 3')
    assert list(read_json_lines(path, remedy="", cut=cut.append)) == [(1, {"a": 1}), (3, {"a": "\u2028"})]
    assert cut == [4]
    path.write_bytes(b'{"a": 1}\n{"a": 2\n{"a": 3}\n')
    with pytest.raises(DataError, match=r"x\.jsonl, line 2 is not JSON.*: remove it$"):
        list(read_json_lines(path, remedy="remove it"))
    path.write_bytes(b'{"a": 1}\n{"b": 2}')  # the last line is whole, and wrong
    with pytest.raises(DataError, match=r"x\.jsonl, line 2 lacks 'a'"):
        list(read_json_lines(path, Table(keys={"a": int}), remedy=""))


def test_what_is_no_regular_file_is_not_read(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a regular file, and is not read"):
        read_json(tmp_path, remedy="")
    with pytest.raises(DataError, match="/dev/zero is a device, not a regular file"):
        read_json(Path("/dev/zero"), remedy="")
