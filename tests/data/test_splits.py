"""splits.py: which beton a split is read from, and how the training rows are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from debeton.data.spec import DatasetSpec, Rows
from debeton.data.splits import find_betons, open_views, with_normalisation
from debeton.data.writer import WriteOptions, write_beton
from debeton.errors import DataError, UsageError

MakeRows = Callable[..., Rows]
ABSENT = {"train": "", "val": "", "test": ""}
SPEC = DatasetSpec("ab", ("a", "b"), ("x", "y"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_rows: MakeRows) -> Path:
    """ab_train.beton (60 rows), ab_test.beton (10), sub/other.beton (7), and one with other class names."""
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
        f"  write it with: python writers/write_betons.py --dataset celeba --raw DIR --out {tmp_path}"
    )


def test_a_given_path_must_exist(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no beton for ab/val at .*/nope\.beton"):
        find_betons("ab", root, {**ABSENT, "val": "nope.beton"})


# --- views -----------------------------------------------------------------------------------------------------


def views_of(
    root: Path, given: dict[str, str], *, val_fraction: float = 0.0, mini: float = -1.0, seed: int = 0
) -> dict:
    return open_views(find_betons("ab", root, given), val_fraction=val_fraction, mini=mini, seed=seed)


def test_views_are_called_by_their_split_and_hold_all_rows(root: Path) -> None:
    views = views_of(root, {**ABSENT, "val": "sub/other.beton"})
    assert {name: (view.name, len(view)) for name, view in views.items()} == {
        "train": ("train", 60), "val": ("val", 7), "test": ("test", 10),
    }  # fmt: skip


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
    assert len(rows) == max(1, round(mini * 60))
    gaps = np.diff(rows)
    assert (gaps >= 1).all()
    assert len(rows) < 2 or gaps.max() - gaps.min() <= 1
    assert rows[0] == 0
    assert len(rows) < 2 or rows[-1] == 59


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
