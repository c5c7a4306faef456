"""Tests of views whose rows have attributes that are not known: counts, tasks, refusals, and the known rows alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.order import epoch_order
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.row_lists import by_marks
from debeton.data.views.splits import ViewOptions, open_views
from debeton.data.views.subsets import balanced, biased, sample_groups, scale_split
from debeton.data.views.synthetic_modes import Amount, biased_like_real, budget, usb
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

PETS = DatasetSpec("pets", ("cat", "dog"), ("in", "out"), aligned=((0,), (1,)))
LABEL, ATTRIBUTE = [0, 0, 0, 1, 1, 1], [0, 1, -1, -1, -1, 1]


@pytest.fixture
def view(paper_view: Callable[..., View]) -> View:
    return paper_view(LABEL, ATTRIBUTE, spec=PETS)


def test_an_unknown_attribute_is_in_no_group_and_neither_aligned_nor_conflicting(view: View) -> None:
    assert view.group.tolist() == [0, 1, -1, -1, -1, 3]
    assert view.group_counts().tolist() == view.real_counts().tolist() == [1, 1, 0, 1]
    assert view.strata.tolist() == [0, 1, 4, 5, 5, 3]
    assert list(view.counts_by_name().items())[4:] == [("cat, attribute unknown", 1), ("dog, attribute unknown", 2)]
    aligned, conflicting = PETS.bias_of(view.label, view.attribute) or ()
    assert aligned.tolist() == [True, False, False, False, False, True]
    assert conflicting.tolist() == [False, True, False, False, False, False]
    assert (PETS.is_aligned(view.label, view.attribute) == aligned).all()


def test_regrouping_by_source_keeps_an_unknown_attribute_and_marks_make_groups_of_all_rows(view: View) -> None:
    assert view.split_by_source().group.tolist() == [0, 2, -1, -1, -1, 6]
    assert by_marks(view, np.arange(6) % 2 == 1).group_counts().tolist() == [2, 1, 1, 2]


def test_a_column_with_unknown_values_is_an_attribute_but_no_label(paper_view: Callable[..., View]) -> None:
    spec = DatasetSpec("pets", ("cat", "dog"), ("in", "out"), columns={"hue": ("red", "green")})
    view = paper_view(LABEL, ATTRIBUTE, spec=spec, hue=np.array([1, -1, 0, 1, -1, 0]))
    assert view.with_task(attribute="hue").group.tolist() == [1, -1, 0, 3, -1, 2]
    assert view.with_task(attribute="attribute,hue").group.tolist() == [1, -1, -1, -1, -1, 6]
    with pytest.raises(DataError, match="2 of 6 rows have no hue, the first is row 1; every row needs a label"):
        view.with_task(label="hue")
    with pytest.raises(DataError, match="3 of 6 rows have no attribute, the first is row 2"):
        view.with_task(label="attribute", attribute="label")


@pytest.mark.parametrize(
    ("act", "begin"),
    [
        (lambda view: view.resampled_by_group(), "drawing groups equally often"),
        (lambda view: epoch_order(view, "group_balanced", 0, 0), "the order 'group_balanced'"),
        (lambda view: balanced(view, "group", 0), "cutting 'train' to equal groups"),
        (lambda view: biased(view, 0.9, 0), "data.bias_rate"),
        (lambda view: scale_split(view, 0.9, 1, 4, 0), "data.bias_rule scale"),
        (lambda view: usb(view, view, Amount()), "synthetic.mode usb"),
        (lambda view: budget(view, view, Amount()), "the number of synthetic images"),
        (lambda view: biased_like_real(view, view, Amount(1)), "synthetic images with the bias of the real ones"),
    ],
)
def test_what_needs_every_attribute_is_refused_with_the_number_of_rows(
    act: Callable[[View], Any], begin: str, view: View
) -> None:
    with pytest.raises(UsageError) as error:
        act(view)
    assert str(error.value).startswith(begin)
    assert "needs the attribute of every row, and 3 of 6 rows of 'train' (paper.beton) have none" in str(error.value)
    assert "(erm, jtt, lff, eiil, ...)" in str(error.value)
    assert "--data.known_attributes_only true" in str(error.value)


def test_what_needs_no_attribute_works_with_unknown_ones(view: View) -> None:
    assert balanced(view, "class", 0).label.tolist() == LABEL
    assert view.resampled_by_class().weights == pytest.approx([1 / 3] * 6)
    assert sample_groups(view, {4: 5, 5: 1}, 0, "x").group_counts().sum() == 0
    assert len(sample_groups(view, {4: 5, 5: 1}, 0, "x")) == 2


def write(path: Path, attribute: list[int], split: str) -> Path:
    n = len(attribute)
    image = np.zeros((4, 4, 3), np.uint8)
    rows = Rows(np.arange(n) % 2, np.array(attribute), lambda i: image, [f"{split}{i}" for i in range(n)])
    write_beton(path, rows, PETS, split, WriteOptions(mode="raw"))
    return path


def test_the_known_attributes_alone_cut_train_val_and_target_and_leave_tests_whole(tmp_path: Path) -> None:
    cells = [0, -1, 1, 1, -1, 0]
    paths = {split: write(tmp_path / f"{split}.beton", cells, split) for split in ("train", "val", "target", "test")}
    sizes = {split: len(view) for split, view in open_views(paths, ViewOptions(known_attributes_only=True)).items()}
    assert sizes == {"train": 4, "val": 4, "target": 4, "test": 6}
    assert {len(view) for view in open_views(paths).values()} == {6}


def test_the_known_attributes_alone_are_refused_where_there_are_none(tmp_path: Path) -> None:
    paths = {"train": write(tmp_path / "train.beton", [-1] * 4, "train")}
    with pytest.raises(UsageError, match=r"leaves no row of 'train': none of its 4 rows .* has a known attribute"):
        open_views(paths, ViewOptions(known_attributes_only=True))


# --- known in part (groups.known) ------------------------------------------------------------------


@pytest.fixture
def half_synthetic(paper_view) -> View:
    """Return 60 rows, of which every third is synthetic, and one real row's attribute is not known."""
    label, attribute = np.arange(60) % 2, np.arange(60) % 2
    attribute[4] = -1
    return paper_view(label, attribute, source=(np.arange(60) % 3 == 2).astype(int))


@pytest.mark.parametrize(("share", "known"), [(0.0, 0), (0.25, 10), (0.5, 20), (1.0, 39)], ids=str)
def test_a_share_of_the_real_rows_stays_known(half_synthetic, share, known):
    view = half_synthetic.known_in_part(share, 0)
    real = view.beton.source == 0
    assert view.knows_attribute[real].sum() == known  # 39 real rows are known: round(0.25 * 39), round(0.5 * 39)
    assert view.knows_attribute[~real].all()
    assert (view.attribute[view.knows_attribute] == half_synthetic.attribute[view.knows_attribute]).all()
    assert view.rows.tolist() == half_synthetic.rows.tolist()


def test_the_seed_alone_draws_the_known_rows_whatever_the_order(half_synthetic):
    first, again, other = (half_synthetic.known_in_part(0.5, seed) for seed in (0, 0, 1))
    assert first.attribute.tolist() == again.attribute.tolist() != other.attribute.tolist()
    turned = half_synthetic.subset(np.arange(60)[::-1]).known_in_part(0.5, 0)
    assert turned.attribute.tolist() == first.attribute.tolist()


def test_hidden_rows_keep_their_true_groups_for_measuring(half_synthetic):
    view = half_synthetic.known_in_part(0.0, 0)
    assert view.true_groups is half_synthetic
    assert not view.is_regrouped
    assert view.real_counts().tolist() == half_synthetic.real_counts().tolist()
    assert half_synthetic.knows_attribute.sum() == 59  # nothing is hidden in place


def test_a_method_that_needs_hidden_attributes_names_finders_and_the_known_rows(half_synthetic):
    with pytest.raises(UsageError) as error:
        half_synthetic.known_in_part(0.5, 0).require_attributes("groupdro")
    words = ("20 of 60 rows", "as groups.known is below 1", "probe, knn and ssa", "--data.known_attributes_only true")
    assert all(word in str(error.value) for word in words)
    assert "--data.pseudo_groups" not in str(error.value)  # it contradicts groups.known
