"""Columns are read back as they were given, take little room, and are read one at a time."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from debeton.data.beton import columns as module
from debeton.data.beton.columns import Columns, as_column, values_at, write_columns
from debeton.system.errors import DataError

Stored = Callable[..., Columns]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Return stored(name=values, ...): columns that were written and opened."""

    def run(**given: Any) -> Columns:
        path = tmp_path / "a.beton.columns.npz"
        write_columns(path, {name: as_column(values) for name, values in given.items()}, "c0ffee")
        return Columns(path, len(next(iter(given.values()))), "c0ffee")

    return run


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.one_of(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=20),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
        st.lists(st.integers(-2, 300), min_size=1, max_size=20),
        st.lists(st.floats(), min_size=1, max_size=20),
        st.lists(st.booleans(), min_size=1, max_size=20),
    )
)
def test_any_column_comes_back(stored: Stored, values: list[Any]) -> None:
    found = stored(x=values)["x"]
    assert list(map(repr, found.tolist())) == list(map(repr, values))  # NaN is like NaN
    kinds = {int: np.int64, float: np.float64, bool: np.bool_}
    assert found.dtype == kinds.get(type(values[0]), np.dtypes.StringDType())


@pytest.mark.parametrize(
    ("low", "high", "nbytes"),
    [(0, 1, 1), (-1, 127, 1), (0, 255, 1), (-1, 128, 2), (0, 65_535, 2), (0, 65_536, 4), (-5, 2**31, 8), (0, 2**63, 8)],
)
def test_integers_take_the_fewest_bytes_that_hold_them(tmp_path: Path, low: int, high: int, nbytes: int) -> None:
    values = np.full(10_000, low, np.uint64 if high >= 2**63 else np.int64)
    values[7] = high
    path = tmp_path / "c.npz"
    write_columns(path, {"x": as_column(values)}, "")
    assert nbytes * 10_000 < path.stat().st_size < nbytes * 10_000 + 1000
    np.testing.assert_array_equal(Columns(path, 10_000, "")["x"], values)


def test_one_long_text_costs_its_own_length_only(tmp_path: Path) -> None:
    texts = ["a"] * 10_000 + ["b" * 100_000]
    write_columns(tmp_path / "c.npz", {"x": as_column(texts)}, "")
    assert (tmp_path / "c.npz").stat().st_size < 160_000
    assert Columns(tmp_path / "c.npz", 10_001, "")["x"].tolist() == texts


def test_the_same_columns_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, now in (("a", 1e9), ("b", 1.5e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_columns(tmp_path / name, {"x": np.arange(5), "y": ["p", "q"]}, "1")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_column_is_read_when_it_is_asked_for_and_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = stored(path=["a", "b"], weight=[1, 2], smiling=[0, 1])
    read: list[str] = []
    real = Columns.read_member
    monkeypatch.setattr(Columns, "read_member", lambda self, name: read.append(name) or real(self, name))
    assert sorted(columns) == ["path", "smiling", "weight"]
    assert ("weight" in columns, "wait" in columns, len(columns), read) == (True, False, 3, [])
    for _ in range(2):
        assert columns["weight"].tolist() == [1, 2]
    assert read == ["weight"]


def test_a_missing_column_is_named_with_the_nearest_or_takes_the_default(stored: Stored) -> None:
    columns = stored(Smiling=[0], Male=[1])
    with pytest.raises(DataError, match=r"no column 'smiling'; did you mean 'Smiling'\? known: Male, Smiling"):
        columns["smiling"]
    assert columns.get("smiling") is None
    assert columns.get("Smiling").tolist() == [0]


def test_columns_travel_to_another_process(stored: Stored) -> None:
    assert pickle.loads(pickle.dumps(stored(x=[3, 4])))["x"].tolist() == [3, 4]


def test_a_column_of_python_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.array([print, None], object))
    with pytest.raises(DataError, match=r"c\.npz is damaged \(an array of Python objects is no column\)"):
        Columns(tmp_path / "c.npz", 2, "")["x"]


@pytest.mark.parametrize("values", [[None, "a"], ["a", 1], [1, "a"], [b"a"], [[1], [2]], [[1], [2, 3]], [{}]])
def test_a_column_of_neither_text_nor_numbers_is_refused(values: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"text, or every value a number|inhomogeneous"):
        as_column(values)


def test_values_at_works_for_text_and_for_numbers() -> None:
    rows = np.array([2, 0])
    assert values_at(["a", "b", "c"], rows) == ["c", "a"]
    assert list(values_at(np.array([1, 2, 3]), rows)) == [3, 1]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=3), keep=st.floats(0, 1)
)
@example(changes=[(1068, 1)], keep=1.0)  # the first member would begin before the file
def test_damage_raises_one_sentence_or_is_harmless(tmp_path: Path, changes: list[tuple[int, int]], keep: float) -> None:
    path = tmp_path / "a.beton.columns.npz"
    given = {"name": [f"r{i}" for i in range(9)], "size": list(range(9))}
    write_columns(path, {name: as_column(values) for name, values in given.items()}, "12345678")
    data = bytearray(path.read_bytes())
    for position, difference in changes:
        data[position % len(data)] ^= difference
    path.write_bytes(data if keep > 0.3 else data[: int(3 * keep * len(data))])
    try:
        columns = Columns(path, 9, "12345678")
        read = {name: columns[name].tolist() for name in given}
    except DataError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert read == given


def test_the_members_are_named_so_that_numpy_reads_them(tmp_path: Path) -> None:
    write_columns(tmp_path / "c.npz", {"x": np.arange(3), "path": ["a", "\u00e9", ""]}, "c0ffee")
    with np.load(tmp_path / "c.npz") as members:
        assert sorted(members.files) == ["#beton", "path#ends", "path#utf8", "x"]
        assert str(members[module.BETON_CHECKSUM]) == "c0ffee"
        assert members["path#utf8"].tobytes().decode() == "a\u00e9"
        assert members["path#ends"].tolist() == [1, 3, 3]
