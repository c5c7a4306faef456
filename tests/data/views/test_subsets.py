"""subsets.py: the count tables of From Fake to Real, SCALE's split, folds and balance in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from debeton.data.spec import DatasetSpec
from debeton.data.views.subsets import balanced, biased, conflicting_to_keep, fold, mini, sample_groups, scale_split
from debeton.data.views.view import View
from debeton.system.errors import UsageError

PaperView = Callable[..., View]

FACES = DatasetSpec("faces", ("serious", "smiling"), ("female", "male"), aligned=((1,), (0,)))
# 4 classes, 4 backgrounds, 8 of the 16 cells; the first background of a class is the usual one.
PAIRS = ((0, 1), (1, 0), (2, 3), (3, 2))
ANIMALS = DatasetSpec(
    "animals",
    ("landbird", "waterbird", "small_dog", "big_dog"),
    ("land", "water", "indoors", "outdoors"),
    aligned=tuple((pair[0],) for pair in PAIRS),
    missing=tuple(4 * k + a for k in range(4) for a in range(4) if a not in PAIRS[k]),
)


def cells_view(paper_view: PaperView, spec: DatasetSpec, counts: list[int], seed: int = 0) -> View:
    """Return a view of counts[g] rows of each group g, shuffled."""
    group = np.random.default_rng(seed).permutation(np.repeat(np.arange(spec.num_groups), counts))
    return paper_view(group // len(spec.attributes), group % len(spec.attributes), spec)


def animals(majority: int, minority: int) -> list[int]:
    counts = np.zeros((4, 4), int)
    for label, (usual, other) in enumerate(PAIRS):
        counts[label, usual], counts[label, other] = majority, minority
    return counts.reshape(-1).tolist()


# Table A.5's rows: (rate, training cells, validation cells), in the order (class, attribute).
CELEBA_HQ = [
    (0.9, [592, 5335, 7797, 866], [73, 666, 989, 109]),
    (0.95, [281, 5335, 7797, 411], [36, 666, 989, 53]),
    (0.97, [166, 5335, 7797, 242], [21, 666, 989, 31]),
    (0.99, [54, 5335, 7797, 79], [10, 666, 989, 10]),
    (0.999, [6, 5335, 7797, 8], [10, 666, 989, 10]),
]
UTKFACE = [
    (0.9, [103, 934, 5731, 636], [13, 119, 724, 80]),
    (0.95, [50, 934, 5731, 302], [10, 119, 724, 39]),
    (0.97, [29, 934, 5731, 178], [10, 119, 724, 23]),
    (0.99, [10, 934, 5731, 58], [10, 119, 724, 10]),
    (0.999, [1, 934, 5731, 6], [10, 119, 724, 10]),
]
SPUCO = [
    (rate, animals(10000, train), animals(500, val))
    for rate, train, val in ((0.95, 500, 25), (0.97, 310, 16), (0.99, 102, 10), (0.999, 11, 10))
]


@pytest.mark.parametrize(
    ("spec", "table"), [(FACES, CELEBA_HQ), (FACES, UTKFACE), (ANIMALS, SPUCO)], ids=["celeba_hq", "utkface", "spuco"]
)
def test_bias_rates_give_the_published_counts(paper_view: PaperView, spec: DatasetSpec, table: list) -> None:
    train, val = (cells_view(paper_view, spec, table[0][k]) for k in (1, 2))
    for rate, train_counts, val_counts in table:
        assert biased(train, rate, seed=0).group_counts().tolist() == train_counts, rate
        assert biased(val, rate, seed=0, min_conflicting=10).group_counts().tolist() == val_counts, rate


def test_a_set_that_is_more_biased_than_asked_stays_whole(paper_view: PaperView) -> None:
    view = cells_view(paper_view, ANIMALS, animals(10000, 500))
    assert len(biased(view, 0.9, seed=0)) == 42000


@settings(max_examples=200, deadline=None)
@given(aligned=st.integers(0, 20000), conflicting=st.integers(0, 5000), rate=st.floats(0.5, 1.0))
def test_the_aligned_share_is_the_least_that_does_not_exceed_the_rate(
    aligned: int, conflicting: int, rate: float
) -> None:
    kept = conflicting_to_keep(aligned, conflicting, rate)
    exact = aligned * (1 - rate) / rate
    assert 0 <= kept <= conflicting
    assert kept == conflicting or exact - 1e-6 <= kept < exact + 1 + 1e-6


def test_higher_rates_keep_a_subset_and_only_the_data_seed_changes_it(paper_view: PaperView) -> None:
    view = cells_view(paper_view, FACES, [300, 900, 900, 300])
    rows = {rate: set(biased(view, rate, seed=3).rows) for rate in (0.8, 0.9, 0.99)}
    assert rows[0.99] < rows[0.9] < rows[0.8] < set(view.rows)
    assert set(biased(view, 0.9, seed=4).rows) != rows[0.9]
    assert (np.diff(biased(view, 0.9, seed=3).rows) > 0).all()


def test_several_conflicting_groups_keep_their_proportions(paper_view: PaperView) -> None:
    spec = DatasetSpec("digits", ("a", "b"), ("x", "y", "z"), aligned=((0,), (1,)))
    view = cells_view(paper_view, spec, [900, 400, 200, 100, 900, 50])
    # 900 aligned at .9 leave 100 conflicting: 2:1 in class a, 2:1 in class b.
    assert biased(view, 0.9, seed=0).group_counts().tolist() == [900, 67, 33, 67, 900, 33]
    assert biased(view, 1.0, seed=0).group_counts().tolist() == [900, 0, 0, 0, 900, 0]


def test_a_bias_rate_needs_to_know_what_is_aligned(paper_view: PaperView) -> None:
    view = cells_view(paper_view, DatasetSpec("plain", ("a", "b"), ("x", "y")), [5, 5, 5, 5])
    with pytest.raises(UsageError, match=r"--data\.aligned 'a:x,\.\.\.'"):
        biased(view, 0.9, seed=0)
    for rate in (0.0, -0.5, 1.5):
        with pytest.raises(UsageError, match=f"data.bias_rate is {rate}"):
            biased(cells_view(paper_view, FACES, [5] * 4), rate, seed=0)


# --- balance, mini, folds ----------------------------------------------------------------------------------------


def test_balance_by_group_and_by_class_cuts_to_the_smallest(paper_view: PaperView) -> None:
    view = cells_view(paper_view, FACES, [20, 7, 30, 11])
    assert balanced(view, "group", seed=0).group_counts().tolist() == [7, 7, 7, 7]
    by_class = balanced(view, "class", seed=0)
    assert np.bincount(by_class.label[by_class.rows]).tolist() == [27, 27]
    assert by_class.group_counts()[:2].tolist() == [20, 7]


def test_balance_leaves_out_groups_that_do_not_exist(paper_view: PaperView) -> None:
    view = cells_view(paper_view, ANIMALS, animals(50, 8))
    assert balanced(view, "group", seed=0).group_counts().tolist() == animals(8, 8)


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 25), min_size=4, max_size=4).filter(lambda c: sum(c) > 12), folds=st.integers(2, 6)
)
def test_folds_are_disjoint_complete_and_even_in_every_group(
    paper_view: PaperView, counts: list[int], folds: int
) -> None:
    view = cells_view(paper_view, FACES, counts)
    parts = [fold(view, folds, k, seed=1) for k in range(folds)]
    assert sorted(np.concatenate([val.rows for _, val in parts])) == list(range(sum(counts)))
    sizes = np.array([val.group_counts() for _, val in parts])
    assert (sizes.max(0) - sizes.min(0)).max() <= 1
    assert sizes.sum(1).max() - sizes.sum(1).min() <= 1
    for rest, val in parts:
        assert not set(rest.rows) & set(val.rows)
        assert len(rest) + len(val) == len(view)


@pytest.mark.parametrize(("folds", "index"), [(1, 0), (3, 3), (3, -1)])
def test_a_fold_that_does_not_exist_is_a_usage_error(paper_view: PaperView, folds: int, index: int) -> None:
    with pytest.raises(UsageError, match=f"data.fold is {index} of data.folds {folds}"):
        fold(cells_view(paper_view, FACES, [5] * 4), folds, index, seed=0)


@pytest.mark.parametrize(("fraction", "rows"), [(0.05, [0, 20, 40, 60, 80]), (0.03, [0, 33, 67]), (0.001, [0])])
def test_a_mini_view_has_the_rows_of_the_published_code(
    paper_view: PaperView, fraction: float, rows: list[int]
) -> None:
    view = cells_view(paper_view, FACES, [25] * 4)
    assert mini(view, fraction).rows.tolist() == rows


@given(n=st.integers(2, 400), fraction=st.floats(0.001, 0.999))
def test_a_mini_view_steps_by_rows_over_kept_rows(paper_view: PaperView, n: int, fraction: float) -> None:
    view = cells_view(paper_view, FACES, [n, 0, 0, 0])
    kept = max(1, int(n * fraction))
    rows = mini(view, fraction).rows
    assert len(rows) == kept
    assert np.abs(rows - np.arange(kept) * n / kept).max() <= 0.5 + 1e-9


def test_a_smaller_sample_of_a_group_is_a_part_of_a_larger_one(paper_view: PaperView) -> None:
    view = cells_view(paper_view, FACES, [30] * 4)
    small, large = (set(sample_groups(view, dict.fromkeys(range(4), n), 5, "x").rows) for n in (4, 9))
    assert small < large
    assert sample_groups(view, {0: 3, 2: 1}, 5, "x").group_counts().tolist() == [3, 0, 1, 0]


# --- SCALE -------------------------------------------------------------------------------------------------------


INVERSE = DatasetSpec("celeba", ("Female", "Male"), ("not blond", "blond"), aligned=((1,), (0,)))


@pytest.mark.parametrize(("strength", "minority"), [(1.0, 0), (0.95, 526)])
def test_scale_takes_a_balanced_target_and_ten_thousand_of_each_majority_group(
    paper_view: PaperView, strength: float, minority: int
) -> None:
    # CelebA's training split: (female, not blond), (female, blond), (male, not blond), (male, blond).
    view = cells_view(paper_view, INVERSE, [71629, 22880, 66874, 1387])
    train, target = scale_split(view, strength, 10000, 500, seed=0)
    assert target.group_counts().tolist() == [125] * 4
    assert train.group_counts().tolist() == [minority, 10000, 10000, minority]
    assert not set(train.rows) & set(target.rows)
    larger = scale_split(view, strength, 10000, 1000, seed=0)[1]
    assert set(target.rows) < set(larger.rows)


def test_scale_names_the_group_that_is_too_small(paper_view: PaperView) -> None:
    view = cells_view(paper_view, INVERSE, [500, 500, 500, 20])
    with pytest.raises(UsageError, match=r"5 rows of 'Male, blond' for training and 25 for the target .* has 20"):
        scale_split(view, 0.95, 100, 100, seed=0)
    with pytest.raises(UsageError, match=r"data\.target_size is 101; 4 groups share it equally"):
        scale_split(view, 0.95, 100, 101, seed=0)
