"""row_lists.py: index files as bias-transfer writes them, and pseudo-groups matched by path."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.row_lists import (
    by_clusters_of,
    grouped_by_values,
    pseudo_grouped,
    read_index_lists,
    read_marks,
    select_rows,
)
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

SPEC = DatasetSpec("birds", ("land", "water"), ("forest", "sea"), aligned=((0,), (1,)))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    path = tmp_path_factory.mktemp("birds") / "birds_train.beton"
    pixels = np.zeros((4, 4, 3), np.uint8)
    names = [f"class_{i % 3}/{i}.jpg" for i in range(12)]
    rows = Rows(np.arange(12) % 2, np.arange(12) // 6, lambda i: pixels, names)
    write_beton(path, rows, SPEC, "train", WriteOptions(mode="raw"))
    return View.whole(open_beton(path))


def save(path: Path, lists: dict) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps({key: np.asarray(values).tolist() for key, values in lists.items()}))
    elif path.suffix == ".npz":
        np.savez(path, **lists)
    else:
        torch.save(lists, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".json"])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list])
def test_index_lists_are_read_from_every_kind_of_file(tmp_path: Path, suffix: str, kind: Callable) -> None:
    lists = {"train_indices": kind([4, 2, 9]), "test_indices": kind([0])}
    found = read_index_lists(save(tmp_path / f"x{suffix}", lists))
    assert {split: rows.tolist() for split, rows in found.items()} == {"train": [4, 2, 9], "test": [0]}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "intc"])
@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_index_lists_of_every_whole_number_type_are_read(tmp_path: Path, suffix: str, dtype: str) -> None:
    lists = {"train_indices": np.array([4, 2, 9], dtype), "test_indices": np.array([0], dtype)}
    found = read_index_lists(save(tmp_path / f"x{suffix}", lists))
    assert {split: rows.tolist() for split, rows in found.items()} == {"train": [4, 2, 9], "test": [0]}
    assert found["train"].dtype == np.int64


def test_a_view_is_cut_to_its_list_in_the_lists_order(view: View) -> None:
    chosen = select_rows({"train": view, "test": view}, {"train": np.array([7, 1, 4])}, Path("x.pt"))
    assert chosen["train"].rows.tolist() == [7, 1, 4]
    assert len(chosen["test"]) == 12


@pytest.mark.parametrize(
    ("rows", "words"),
    [([3, 12], "has 12, and .* has rows 0 to 11; 1 numbers"), ([-1], "has -1"), ([2, 5, 2], "row 2 more than once")],
)
def test_numbers_that_are_no_rows_are_refused(view: View, rows: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        select_rows({"train": view}, {"train": np.array(rows)}, Path("x.pt"))


def test_a_split_that_is_not_there_is_named(view: View) -> None:
    with pytest.raises(UsageError, match=r"x\.pt has tset_indices, but there is no split 'tset'; did you mean 'test'"):
        select_rows({"train": view, "test": view}, {"tset": np.array([1])}, Path("x.pt"))


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"train_indices": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"train_indices": Evil()}))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(DataError, match="cannot be read as index lists") as found:
            read_index_lists(tmp_path / name)
        assert "weights_only" not in str(found.value)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"indices": [1]}, "expected train_indices"),
        ({"train_indices": [[1]]}, r"\[1, 1\]; expected a list"),
        ({"train_indices": [0.5]}, "float64"),
        ([1, 2], "holds list; expected a table of keys and values"),
    ],
)
def test_files_of_another_content_are_refused(tmp_path: Path, content: object, words: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        read_index_lists(tmp_path / "x.json")
    with pytest.raises(UsageError, match="there is no file"):
        read_index_lists(tmp_path / "nope.pt")


# --- pseudo-groups -----------------------------------------------------------------------------------------------


def metadata(path: Path, key: str = "path", column: str = "ddb", rows: int = 12, reverse: bool = False) -> Path:
    lines = [f"{i},class_{i % 3}/{i}.jpg,{int(i % 5 == 0)}" for i in range(rows)]
    path.write_text("\n".join([f"img_id,{key},{column}", *(lines[::-1] if reverse else lines)]))
    return path


@pytest.mark.parametrize("key", ["path", "img_filename", "filename"])
@pytest.mark.parametrize("reverse", [False, True])
def test_pseudo_groups_are_matched_by_path_and_not_by_position(
    view: View, tmp_path: Path, key: str, reverse: bool
) -> None:
    found = pseudo_grouped(view, metadata(tmp_path / "x.csv", key, reverse=reverse), "ddb")
    assert found.attribute.tolist() == [int(i % 5 == 0) for i in range(12)]
    assert found.group.tolist() == [2 * (i % 2) + int(i % 5 == 0) for i in range(12)]
    assert found.spec.group_names == ("land, aligned", "land, conflicting", "water, aligned", "water, conflicting")
    assert found.spec.aligned == ((0,), (0,))


def test_pseudo_groups_leave_the_true_groups_to_be_counted(view: View, tmp_path: Path) -> None:
    found = pseudo_grouped(view, metadata(tmp_path / "x.csv"), "ddb")
    assert found.real_counts().tolist() == view.group_counts().tolist() == [3, 3, 3, 3]


def test_a_part_of_a_view_needs_only_its_own_rows(view: View, tmp_path: Path) -> None:
    part = view.subset(np.arange(5))
    assert pseudo_grouped(part, metadata(tmp_path / "x.csv", rows=5), "ddb").group_counts().sum() == 5
    with pytest.raises(DataError, match=r"lacks 7 of the 12 rows of 'train', the first is class_2/5\.jpg"):
        pseudo_grouped(view, metadata(tmp_path / "x.csv", rows=5), "ddb")


def test_wrong_pseudo_group_files_give_one_sentence(view: View, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'ddb'; did you mean 'dbb'"):
        pseudo_grouped(view, metadata(tmp_path / "x.csv", column="dbb"), "ddb")
    metadata(tmp_path / "y.csv")
    (tmp_path / "y.csv").write_text((tmp_path / "y.csv").read_text().replace("0.jpg,1", "0.jpg,2", 1))
    with pytest.raises(DataError, match=r"class_0/0\.jpg: ddb is '2'; expected 0 or 1"):
        pseudo_grouped(view, tmp_path / "y.csv", "ddb", "bias")
    with pytest.raises(DataError, match=r"class_0/0\.jpg: ddb is '2'; expected 0 or 1"):
        read_marks(tmp_path / "y.csv", view, "ddb")
    (tmp_path / "z.csv").write_text("path,ddb\nclass_0/0.jpg,1\nclass_0/0.jpg,1\n")
    with pytest.raises(DataError, match=r"line 3: class_0/0\.jpg is listed twice"):
        pseudo_grouped(view, tmp_path / "z.csv", "ddb")
    with pytest.raises(UsageError, match="there is no file"):
        pseudo_grouped(view, tmp_path / "nope.csv", "ddb")
    other = metadata(tmp_path / "more.csv", rows=13)
    with pytest.raises(DataError, match=r"names 1 rows that .* does not have, the first is class_0/12\.jpg"):
        pseudo_grouped(view, other, "ddb")
    lines = [line + (",split" if k == 0 else f",{2 * (k == 13)}") for k, line in enumerate(other.read_text().split())]
    other.write_text("\n".join(lines))  # with a column 'split', rows of the test split are skipped
    assert pseudo_grouped(view, other, "ddb").group_counts().sum() == 12


def clusters(path: Path, values: Sequence[str]) -> Path:
    """A table of one value for each of the 12 rows, the last row first."""
    lines = [f"class_{i % 3}/{i}.jpg,{value}" for i, value in enumerate(values)]
    path.write_text("\n".join(["path,cluster", *lines[::-1]]))
    return path


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "2", "2", "7"] * 3, ("cluster 2", "cluster 7", "cluster 10")),
        (["2.0", "10.0", "", "7.0"] * 3, ("cluster 2", "cluster 7", "cluster 10")),
        (["sea", "sky", "sky", "forest"] * 3, ("forest", "sea", "sky")),
        (["10", "b", "2", "-1"] * 3, ("10", "2", "b")),
        (["1", "1", "1", "unknown"] * 3, ("cluster 1",)),
    ],
    ids=["numbers", "as pandas writes them", "names", "mixed", "one value"],
)
def test_any_values_are_groups_with_their_names(view: View, tmp_path: Path, values: list[str], names: tuple[str, ...]):
    found = pseudo_grouped(view, clusters(tmp_path / "x.csv", values), "cluster", "cluster")
    assert found.spec.attributes == names
    for i, value in enumerate(values):
        code = found.attribute[i]
        number = value.removesuffix(".0")
        expected = number if value and value not in ("-1", "unknown") else None
        assert (None if code < 0 else names[code].removeprefix("cluster ")) == expected
    assert found.spec.aligned == ()
    assert found.true_groups is view


def test_groups_of_clusters_without_a_row_do_not_exist(view: View, tmp_path: Path):
    found = pseudo_grouped(view, clusters(tmp_path / "x.csv", ["0", "2", "1", "2"] * 3), "cluster")
    assert found.counts_by_name() == {"land, cluster 0": 3, "land, cluster 1": 3, "water, cluster 2": 6}


def test_two_clusters_are_marks_unless_the_user_says_clusters(view: View, tmp_path: Path):
    path = clusters(tmp_path / "x.csv", ["0", "1", "1", "-1"] * 3)
    assert pseudo_grouped(view, path, "cluster").spec.attributes == ("aligned", "conflicting")
    assert pseudo_grouped(view, path, "cluster").attribute.tolist() == [0, 1, 1, -1] * 3
    assert pseudo_grouped(view, path, "cluster", "cluster").spec.attributes == ("cluster 0", "cluster 1")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["0.25", "0.5", "1", "0"] * 3, "cluster has 0.25, which is no whole number"),
        (["", "-1", "nan", "?"] * 3, "cluster is known for none of the 12 rows of 'train'"),
        ([f"row {i}" for i in range(12)], "has 12 values for the 12 rows"),
    ],
    ids=["scores", "all unknown", "a name a row"],
)
def test_columns_that_are_no_groups_are_refused(view: View, tmp_path: Path, values: list[str], words: str):
    with pytest.raises(DataError, match=words):
        pseudo_grouped(view, clusters(tmp_path / "x.csv", values), "cluster")


def test_rows_without_one_of_the_clusters_keep_the_names_of_the_others(paper_view, tmp_path):
    spec = DatasetSpec("toy", ("a", "b"), ("x", "y"))
    train, val = paper_view([0, 0, 0, 1, 1, 1], [0] * 6, spec), paper_view([0, 1], [0] * 2, spec)
    grouped = grouped_by_values(train, ["0", "1", "2", "0", "0", "1"], tmp_path / "groups.csv", "group", "cluster")
    same = by_clusters_of(val, ["2", "0"], grouped)  # no row of cluster 1
    assert same.spec.attributes == grouped.spec.attributes == ("group 0", "group 1", "group 2")
    assert same.attribute[val.rows].tolist() == [2, 0]
    assert same.group[val.rows].tolist() == [2, 3]
