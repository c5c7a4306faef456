"""Lists of names in one text: every name can be written, and what cannot be read is one sentence."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from debeton.config import load
from debeton.data.spec import parse_aligned
from debeton.system.errors import UsageError
from debeton.system.name_lists import join_names, parse_names, quote

NAMES = st.lists(st.text(st.sampled_from('ab ,:="\\\n\té'), max_size=6), min_size=1, max_size=5)


@given(NAMES)
def test_names_of_any_letters_survive_a_list(names):
    assert parse_names(join_names(names)) == tuple(names)


@given(st.lists(st.text(st.sampled_from('ab ,"é'), max_size=6), min_size=1, max_size=5))
def test_a_list_is_a_line_of_a_csv_file(names):
    assert next(csv.reader([join_names(names)])) == names


@given(st.lists(st.text(st.sampled_from('ab ,:="'), max_size=5), min_size=2, max_size=4, unique=True), st.data())
def test_aligned_pairs_of_any_names_are_read_as_they_are_written(names, data):
    attributes = tuple(data.draw(st.permutations(names)))
    pairs = list(zip(names, attributes))
    text = ",".join(f"{quote(label)}:{quote(attribute)}" for label, attribute in pairs)
    codes = parse_aligned(text, tuple(names), attributes)
    assert codes == tuple((code,) for code in range(len(names)))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat,dog", ("cat", "dog")),
        (" cat , dog ", ("cat", "dog")),
        ('"salt, pepper",sugar', ("salt, pepper", "sugar")),
        ('5" disk, 3" disk', ('5" disk', '3" disk')),
        ('"say ""hi""", " b "', ('say "hi"', " b ")),
        ("", ()),
        ("a,,b", ("a", "", "b")),
    ],
)
def test_lists_are_read_as_people_write_them(text, names):
    assert parse_names(text) == names


@pytest.mark.parametrize(("text", "message"), [('"a,b', "is not closed"), ('a,"b"c', "'c' follows the closing quote")])
def test_a_broken_quote_is_one_sentence(text, message):
    with pytest.raises(UsageError, match=message):
        parse_names(text)


def test_colons_in_names_need_quotes_only_where_they_can_be_read_in_two_ways():
    assert parse_aligned("x:y:b,z:c", ("x:y", "z"), ("b", "c")) == ((0,), (1,))
    with pytest.raises(UsageError, match="can be read as class a, attribute b:c or class a:b, attribute c"):
        parse_aligned("a:b:c", ("a", "a:b"), ("c", "b:c"))
    assert parse_aligned('"a:b":c,a:"b:c"', ("a", "a:b"), ("c", "b:c")) == ((1,), (0,))


def test_unknown_names_are_shown_with_known_names_as_they_are_to_be_typed():
    known = ("salt, pepper", "sugar"), ("x",)
    with pytest.raises(
        UsageError, match=r"""'salt' is no pair, .* the classes are "salt, pepper", sugar, .*; a name"""
    ):
        parse_aligned("salt, pepper:x", *known)
    with pytest.raises(UsageError, match=r"""unknown class 'salt'.* known: "salt, pepper", sugar; a name with a sep"""):
        parse_aligned("salt:x", *known)


def test_quotes_reach_the_setting_from_the_command_line_and_from_yaml(tmp_path):
    text = '"salt, pepper":"a:b",sugar:c'
    (tmp_path / "a.yaml").write_text(f"data:\n  aligned: '{text}'\n")
    assert load([tmp_path / "a.yaml"]).data.aligned == text
    assert load([], ["--data.aligned", text]).data.aligned == load([], [f"--data.aligned={text}"]).data.aligned == text
