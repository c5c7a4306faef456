"""splits.py: the beton that a split is read from, and the steps that choose the training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.splits import ViewOptions, evaluated, find_betons, open_views, unused_betons, with_normalisation
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

MakeRows = Callable[..., Rows]
ABSENT = {"train": None, "val": None, "test": None}
SPEC = DatasetSpec("ab", ("a", "b"), ("x", "y"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_rows: MakeRows) -> Path:
    """Write ab_train.beton (60 rows), ab_test.beton (10), sub/other.beton (7), and one with other class names."""
    folder = tmp_path_factory.mktemp("betons")

    def write(name: str, n: int, spec: DatasetSpec) -> None:
        images = [np.full((2, 2, 3), k, np.uint8) for k in range(n)]
        rows = make_rows(images, attribute=np.arange(n) // 2 % 2)
        write_beton(folder / name, rows, spec, "train", WriteOptions(mode="raw"))

    write("ab_train.beton", 60, SPEC)
    write("ab_test.beton", 10, SPEC)
    write("sub/other.beton", 7, SPEC)
    write("classes.beton", 4, replace(SPEC, classes=("b", "a")))
    write("attributes.beton", 4, replace(SPEC, attributes=("x", "z")))
    return folder


# --- paths -----------------------------------------------------------------------------------------------------


def test_the_default_path_is_dataset_and_split_and_absent_splits_are_left_out(root: Path) -> None:
    assert find_betons("ab", root, ABSENT) == {"train": root / "ab_train.beton", "test": root / "ab_test.beton"}


def test_a_given_path_counts_from_the_root_unless_it_is_absolute(root: Path) -> None:
    relative = find_betons("ab", root, {**ABSENT, "val": "sub/other.beton"})
    absolute = find_betons("ab", Path("/nowhere"), {key: str(root / "sub/other.beton") for key in ("train", "val")})
    assert relative["val"] == absolute["val"] == absolute["train"] == root / "sub" / "other.beton"


def test_a_missing_training_beton_is_named_with_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        find_betons("celeba", tmp_path, ABSENT)
    assert str(error.value) == (
        f"no beton for celeba/train at {tmp_path}/celeba_train.beton\n"
        f"  write it with: debeton write-betons --dataset celeba --raw DIR --out {tmp_path}\n"
        "  or, if the images are your own: --dataset folder --name celeba"
    )


def test_a_given_path_must_exist(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no beton for ab/val at .*/nope\.beton"):
        find_betons("ab", root, {**ABSENT, "val": "nope.beton"})


def test_betons_of_a_split_that_training_does_not_know_are_named(tmp_path: Path, make_rows: MakeRows) -> None:
    images = [np.zeros((2, 2, 3), np.uint8)] * 4

    def write(dataset: str, split: str) -> Path:
        path = tmp_path / f"{dataset}_{split}.beton"
        write_beton(path, make_rows(images), replace(SPEC, name=dataset), split, WriteOptions(mode="raw"))
        return path

    for split in ("train", "test", "test_art", "synthetic"):
        write("ab", split)
    unused = [write("ab", split) for split in ("extra", "id_val")]
    by_setting = write("ab", "other")
    write("ab_cd", "train")  # of another set
    (tmp_path / "ab_cd_val.beton").touch()  # likewise, without a sidecar
    (tmp_path / "ab_loose.beton").touch()
    used = find_betons("ab", tmp_path, {**ABSENT, "val": "ab_other.beton"})
    assert used["val"] == by_setting
    assert unused_betons("ab", tmp_path, used) == [*unused, tmp_path / "ab_loose.beton"]


# --- views -----------------------------------------------------------------------------------------------------


def views_of(
    root: Path, given: dict[str, str | None], *, val_fraction: float = 0.0, mini: float | None = None, seed: int = 0
) -> dict:
    options = ViewOptions(val_fraction=val_fraction, mini_dataset=mini, seed=seed)
    return open_views(find_betons("ab", root, given), options)


def test_views_are_called_by_their_split_and_hold_all_rows(root: Path) -> None:
    views = views_of(root, {**ABSENT, "val": "sub/other.beton"})
    assert {name: (view.name, len(view)) for name, view in views.items()} == {
        "train": ("train", 60),
        "val": ("val", 7),
        "test": ("test", 10),
    }


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("classes.beton", r"the classes of 'val' are \['b', 'a'\], those of 'train' are \['a', 'b'\]"),
        ("attributes.beton", r"the attributes of 'val' are \['x', 'z'\], those of 'train' are \['x', 'y'\]"),
    ],
)
def test_splits_with_other_names_are_refused(root: Path, file: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        views_of(root, {**ABSENT, "val": file})
    assert str(root / file) in str(error.value)


def test_val_fraction_holds_out_of_training_where_there_is_no_validation_beton(root: Path) -> None:
    views = views_of(root, ABSENT, val_fraction=0.2, seed=4)
    assert views["val"].group_counts().tolist() == [3, 3, 3, 3]
    assert views["train"].group_counts().tolist() == [12, 12, 12, 12]
    assert not set(views["train"].rows) & set(views["val"].rows)
    again, other = (views_of(root, ABSENT, val_fraction=0.2, seed=seed) for seed in (4, 5))
    np.testing.assert_array_equal(again["val"].rows, views["val"].rows)
    assert set(other["val"].rows) != set(views["val"].rows)


def test_val_fraction_leaves_a_validation_beton_alone(root: Path) -> None:
    views = views_of(root, {**ABSENT, "val": "sub/other.beton"}, val_fraction=0.2)
    assert (len(views["train"]), len(views["val"])) == (60, 7)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mini=st.floats(0.001, 0.999))
def test_a_mini_data_set_is_evenly_spaced(root: Path, mini: float) -> None:
    rows = views_of(root, ABSENT, mini=mini)["train"].rows
    assert len(rows) == max(1, int(60 * mini))
    gaps = np.diff([*rows, 60])
    assert (gaps >= 1).all()
    assert gaps.max() - gaps.min() <= 1
    assert rows[0] == 0


def test_a_mini_data_set_cuts_training_only_and_after_the_hold_out(root: Path) -> None:
    views = views_of(root, ABSENT, mini=0.25, val_fraction=0.2)
    assert {name: len(view) for name, view in views.items()} == {"train": 12, "val": 12, "test": 10}
    assert len(views_of(root, ABSENT, mini=1.0)["train"]) == 60


@pytest.mark.parametrize("mini", [0.0, -0.5, 1.5, 2.0])
def test_a_mini_share_out_of_range_is_a_usage_error(root: Path, mini: float) -> None:
    with pytest.raises(UsageError, match=rf"data\.mini_dataset is {mini}; expected a share between 0 and 1"):
        views_of(root, ABSENT, mini=mini)


def test_other_statistics_reach_every_view_and_leave_the_beton_alone(root: Path) -> None:
    views = views_of(root, ABSENT)
    changed = with_normalisation(views, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert {view.spec.mean for view in changed.values()} == {(0.1, 0.2, 0.3)}
    assert {view.spec.std for view in changed.values()} == {(1.0, 2.0, 3.0)}
    assert views["train"].spec.mean == SPEC.mean


# --- columns, synthetic rows and the steps together ------------------------------------------------------------

FACES = DatasetSpec(
    "faces",
    ("serious", "smiling"),
    ("female", "male"),
    aligned=((1,), (0,)),
    label_name="Smiling",
    attribute_name="Male",
    columns={"Young": ("old", "young"), "Hair": ("dark", "grey", "blond")},
    tasks={"Young x Male": ((1,), (0,))},
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write faces_{train,val,test}.beton of 400, 80 and 60 rows in equal groups, and 60 synthetic rows in train."""
    folder = tmp_path_factory.mktemp("faces")
    pixels = np.zeros((4, 4, 3), np.uint8)
    for split, n, generated in (("train", 400, 60), ("val", 80, 0), ("test", 60, 0)):
        row = np.arange(n + generated)
        columns = {"Young": (row // 4 % 2).tolist(), "Hair": (row % 3).tolist()}
        names = [f"{i}.jpg" for i in row]
        rows = Rows(row % 2, row // 2 % 2, lambda i: pixels, names, columns, (row >= n).astype(np.int64))
        write_beton(folder / f"faces_{split}.beton", rows, FACES, split, WriteOptions(mode="raw"))
    return folder


def faces_views(folder: Path, **options: Any) -> dict[str, View]:
    return open_views(find_betons("faces", folder, ABSENT), ViewOptions(**options))


def test_one_beton_serves_other_labels_and_attributes(faces: Path) -> None:
    views = faces_views(faces, label="Young", attribute="Male")
    assert views["train"].spec.group_names == ("old, female", "old, male", "young, female", "young, male")
    assert views["train"].spec.aligned == ((1,), (0,))
    train = views["train"]
    assert train.label[train.rows].tolist() == [i // 4 % 2 for i in range(400)]
    assert train.group.tolist() == (2 * train.label + train.beton.attribute).tolist()
    inverse = faces_views(faces, label="Male", attribute="Smiling")["test"]
    assert inverse.spec.classes == ("female", "male")
    assert inverse.spec.aligned == ()
    assert inverse.label.tolist() == inverse.beton.attribute.tolist()


def test_a_product_of_columns_is_an_attribute(faces: Path) -> None:
    train = faces_views(faces, attribute="Male, Hair", aligned="serious:male + dark,smiling:female + blond")["train"]
    assert train.spec.attributes[:4] == ("female + dark", "female + grey", "female + blond", "male + dark")
    assert train.attribute.tolist() == [3 * (i // 2 % 2) + i % 3 for i in range(460)]
    assert train.spec.aligned == ((3,), (2,))


def test_an_unknown_column_is_named_with_the_nearest(faces: Path) -> None:
    with pytest.raises(UsageError, match=r"faces_train\.beton has no column 'Yuong'.*; did you mean 'Young'"):
        faces_views(faces, label="Yuong")


def test_synthetic_rows_train_only_where_they_are_asked_for(faces: Path) -> None:
    assert {name: len(view) for name, view in faces_views(faces).items()} == {"train": 400, "val": 80, "test": 60}
    asked = faces_views(faces, synthetic_mode="only", per_cell=11)
    assert asked["train"].group_counts().tolist() == [11] * 4
    assert (asked["train"].beton.source[asked["train"].rows] == 1).all()
    assert asked["train"].real_counts().tolist() == [0] * 4
    assert (len(asked["synthetic"]), len(asked["val"]), evaluated(asked)) == (60, 80, ["val", "test"])


def test_a_bias_rate_cuts_training_and_validation_and_never_the_test(faces: Path) -> None:
    views = faces_views(faces, bias_rate=0.9, synthetic_mode="usb")
    real, val, test = views["train"].real_counts(), views["val"].group_counts(), views["test"].group_counts()
    assert (real.tolist(), val.tolist(), test.tolist()) == ([12, 100, 100, 12], [10, 20, 20, 10], [15] * 4)
    assert views["train"].group_counts().tolist() == [27, 100, 100, 27]  # 15 synthetic ones in each cell


def test_scales_split_balances_every_other_split(faces: Path) -> None:
    views = faces_views(faces, bias_rate=0.8, bias_rule="scale", majority_size=60, target_size=40)
    assert views["target"].group_counts().tolist() == [10] * 4
    assert views["train"].group_counts().tolist() == [14, 60, 60, 14]  # int(60 * (1 - .8) / .8) = 14 in float64
    assert views["val"].group_counts().tolist() == [20] * 4
    assert evaluated(views) == ["val", "test"]


def test_a_fold_replaces_the_validation_beton(faces: Path) -> None:
    parts = [faces_views(faces, folds=4, fold=k) for k in range(4)]
    assert sorted(np.concatenate([views["val"].rows for views in parts])) == list(range(400))
    assert [len(views["train"]) for views in parts] == [300] * 4


def test_the_training_seed_changes_no_split(faces: Path) -> None:
    options = {"bias_rate": 0.9, "balance": "group", "val_fraction": 0.1}
    first, again, other = (faces_views(faces, seed=seed, **options)["train"].rows.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_mini_data_set_that_loses_a_group_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows(
        np.arange(40) % 2, np.zeros(40, np.int64), lambda i: np.full((4, 4, 3), i, np.uint8), list(map(str, range(40)))
    )
    write_beton(tmp_path / "ab_train.beton", rows, DatasetSpec("ab", ("cat", "dog"), ("in",)), "train")
    paths = {"train": tmp_path / "ab_train.beton"}
    with caplog.at_level("WARNING", "debeton"):
        assert open_views(paths, ViewOptions(mini_dataset=0.3))["train"].group_counts().min() > 0
        assert not caplog.text
        assert open_views(paths, ViewOptions(mini_dataset=0.5))["train"].group_counts().tolist() == [20, 0]
    assert "and no row of 1 groups ('dog', 20 rows); take another share" in caplog.text
