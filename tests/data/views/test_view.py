"""view.py and spec.py: rows, groups and counts, and held-out shares that are exact in every group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from debeton.data.beton.reading import Beton
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.system.errors import DataError

PaperView = Callable[..., View]


@pytest.fixture(scope="module")
def grouped(paper_view: PaperView) -> View:
    """Return a view of 40, 11, 3, 1 and 25 rows of groups 0 to 4, shuffled."""
    group = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [40, 11, 3, 1, 25]))
    return paper_view(group // 3, group % 3)


# --- spec ------------------------------------------------------------------------------------------------------


def test_a_group_is_label_times_attributes_plus_attribute(spec: DatasetSpec) -> None:
    label, attribute = np.array([0, 0, 1, 1]), np.array([0, 2, 0, 1])
    assert spec.group(label, attribute).tolist() == [0, 2, 3, 4]
    assert (spec.num_classes, spec.num_groups) == (2, 6)
    assert spec.group_names == ("cat, left", "cat, right", "cat, top", "dog, left", "dog, right", "dog, top")
    assert DatasetSpec("plain", ("a", "b")).group_names == ("a", "b")


def test_alignment_follows_the_table(spec: DatasetSpec) -> None:
    aligned = spec.is_aligned(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2]))
    assert aligned is not None
    assert aligned.tolist() == [True, False, False, True, True]
    assert DatasetSpec("plain", ("a", "b")).is_aligned(np.array([0]), np.array([0])) is None


@pytest.mark.parametrize(
    ("label", "attribute", "words"),
    [
        ([0, 2, 9], [0, 0, 0], r"pets: label 2 of row 1 .* 2 labels \(0 to 1\) and 2 such rows"),
        ([0, 1], [0, -2], r"pets: attribute -2 of row 1 .* 3 attributes \(0 to 2, or -1 for not known\) and 1 such"),
    ],
)
def test_a_code_out_of_range_is_named(label: list[int], attribute: list[int], words: str, spec: DatasetSpec) -> None:
    with pytest.raises(DataError, match=words):
        spec.group(np.array(label), np.array(attribute))


def test_an_alignment_for_too_few_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="aligned names 1 of 2 classes"):
        DatasetSpec("x", ("a", "b"), ("s", "t"), aligned=((0,),))


# --- view ------------------------------------------------------------------------------------------------------


def test_the_whole_view_is_the_beton(raw_beton: Beton, group_sizes: tuple[int, ...]) -> None:
    view = View.whole(raw_beton)
    assert (view.name, len(view), view.order) == ("train", 70, "random")
    assert View.whole(raw_beton, "val").name == "val"
    np.testing.assert_array_equal(view.rows, np.arange(70))
    assert view.group_counts().tolist() == [*group_sizes, 0]
    assert list(view.counts_by_name().values()) == list(group_sizes)  # (dog, top) does not exist
    assert view.counts_by_name() == raw_beton.sidecar["group_counts"]


def test_a_subset_takes_positions_of_the_view_with_their_weights(grouped: View) -> None:
    view = grouped.resampled_by_group().subset(np.arange(10, 30), "middle")
    inner = view.subset(np.array([3, 3, 0]))
    assert (view.name, inner.name) == ("middle", "middle")
    assert inner.rows.tolist() == [13, 13, 10]
    assert view.weights is not None
    assert inner.weights is not None
    np.testing.assert_array_equal(inner.weights, view.weights[[3, 3, 0]])
    mask = view.group[view.rows] == 0
    assert len(view.subset(mask)) == mask.sum() == view.group_counts()[0]
    assert len(view) == 20


def test_an_empty_subset_is_one_sentence(grouped: View) -> None:
    with pytest.raises(DataError, match=r"view 'rare' of paper\.beton is empty; no row was selected out of 80"):
        grouped.subset(np.zeros(80, bool), "rare")


def test_resampling_gives_every_present_group_the_same_total_weight(grouped: View) -> None:
    view = grouped.resampled_by_group()
    assert view.order == "weighted"
    assert view.weights is not None
    totals = np.bincount(view.group[view.rows], weights=view.weights, minlength=6)
    np.testing.assert_allclose(totals, [1, 1, 1, 1, 1, 0], rtol=1e-12)
    np.testing.assert_array_equal(view.rows, grouped.rows)
    assert grouped.weights is None


# --- held-out rows ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=6, max_size=6).filter(lambda n: max(n) >= 20),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_hold_out_is_fair_in_every_group_disjoint_and_complete(
    sizes: list[int], fraction: float, seed: int, paper_view: PaperView
) -> None:
    group = np.random.default_rng(seed).permutation(np.repeat(np.arange(6), sizes))
    view = paper_view(group // 3, group % 3)
    rest, held = view.hold_out(fraction, seed, "val")
    counts, fair = held.group_counts(), fraction * np.array(sizes)
    assert (np.abs(counts - fair) <= 1 + 1e-6).all()
    assert (rest.group_counts() + counts).tolist() == sizes
    assert ((rest.group_counts() > 0) == (np.array(sizes) > 0)).all()
    assert sorted([*rest.rows, *held.rows]) == list(range(len(view)))
    assert (np.diff(held.rows) > 0).all()
    assert (np.diff(rest.rows) > 0).all()
    assert (rest.name, held.name) == ("train", "val")


def test_hold_out_depends_on_seed_and_name_alone(grouped: View) -> None:
    _, first = grouped.hold_out(0.3, 1, "val")
    np.random.seed(3)
    np.testing.assert_array_equal(grouped.hold_out(0.3, 1, "val")[1].rows, first.rows)
    for seed, name in ((2, "val"), (1, "proxy")):
        other = grouped.hold_out(0.3, seed, name)[1]
        assert len(other) == len(first)
        assert set(other.rows) != set(first.rows)


def test_hold_out_picks_every_row_equally_often(paper_view: PaperView) -> None:
    view = paper_view(np.zeros(20))
    counts = sum(np.bincount(view.hold_out(0.25, seed, "val")[1].rows, minlength=20) for seed in range(800))
    assert (np.abs(counts - 200) <= 4.5 * np.sqrt(800 * 0.25 * 0.75)).all()


def test_resampling_by_class_gives_every_present_class_the_same_total_weight(paper_view: PaperView) -> None:
    spec = DatasetSpec("three", ("a", "b", "c"), ("s", "t"))
    view = paper_view([0] * 30 + [2] * 7, [0, 1] * 18 + [0], spec=spec).resampled_by_class()
    assert view.order == "weighted"
    assert view.weights is not None
    totals = np.bincount(view.label[view.rows], weights=view.weights, minlength=3)
    np.testing.assert_allclose(totals, [1, 0, 1], rtol=1e-12)


# --- groups by source ------------------------------------------------------------------------------------------


def test_splitting_by_source_doubles_the_attributes_and_keeps_the_rest(grouped: View, paper_view: PaperView) -> None:
    source = np.random.default_rng(1).integers(0, 2, len(grouped))
    whole = paper_view(grouped.label, grouped.attribute, source=source)
    view = whole.subset(np.arange(5, 60)).split_by_source()
    assert view.spec.attributes[:4] == ("left (real)", "left (synthetic)", "right (real)", "right (synthetic)")
    np.testing.assert_array_equal(view.attribute, 2 * whole.attribute + source)
    np.testing.assert_array_equal(view.group, view.spec.group(whole.label, view.attribute))
    np.testing.assert_array_equal(view.group // 2, whole.group)
    aligned = view.spec.is_aligned(view.label, view.attribute)
    before = whole.spec.is_aligned(whole.label, whole.attribute)
    assert aligned is not None
    assert before is not None
    np.testing.assert_array_equal(aligned, before)
    assert view.true_groups is not None
    assert view.true_groups.spec == whole.spec
    np.testing.assert_array_equal(view.real_counts(), whole.subset(np.arange(5, 60)).real_counts())


def test_a_group_by_source_without_a_row_in_the_view_does_not_exist(paper_view: PaperView) -> None:
    # (cat, left) is real only, (cat, right) both, (dog, left) synthetic only; the last row is not in the view
    view = paper_view([0, 0, 0, 1, 1], [0, 1, 1, 0, 1], source=[0, 0, 1, 1, 0]).subset(np.arange(4)).split_by_source()
    assert view.counts_by_name() == {
        "cat, left (real)": 1,
        "cat, right (real)": 1,
        "cat, right (synthetic)": 1,
        "dog, left (synthetic)": 1,
    }
    assert set(view.spec.missing) == set(range(12)) - {0, 2, 3, 7}


def test_splitting_a_set_without_pairs_or_attributes_gives_two_groups_a_class(paper_view: PaperView) -> None:
    view = paper_view([0, 1, 1], spec=DatasetSpec("plain", ("a", "b")), source=[0, 0, 1]).split_by_source()
    assert view.spec.group_names == ("a, any (real)", "a, any (synthetic)", "b, any (real)", "b, any (synthetic)")
    assert view.spec.aligned == ()
