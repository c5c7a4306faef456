"""Tests of held-out rows: every group, class and bias-conflicting share is fair, also where groups are tiny."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from debeton.data.spec import DatasetSpec
from debeton.data.views.dealing import held_counts
from debeton.data.views.subsets import fold
from debeton.data.views.view import View

TEN = DatasetSpec(
    "ten",
    tuple(f"digit {k}" for k in range(10)),
    tuple(f"colour {k}" for k in range(10)),
    aligned=tuple((k,) for k in range(10)),
)


def coloured(conflicting: int, aligned: int = 5970, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return label and attribute: `aligned` rows of each class with its colour, and rows of random other colours."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.repeat(np.arange(10), aligned), rng.integers(0, 10, conflicting)])
    other = (label[10 * aligned :] + rng.integers(1, 10, conflicting)) % 10
    return label, np.concatenate([label[: 10 * aligned], other])


def held_of(view: View, held: View) -> tuple[int, np.ndarray]:
    """Return the number of bias-conflicting rows held out, and the rows held out of each class."""
    bias = view.spec.bias_of(view.label[held.rows], view.attribute[held.rows])
    assert bias is not None
    return int(bias[1].sum()), np.bincount(view.label[held.rows], minlength=view.spec.num_classes)


@pytest.mark.parametrize(("fraction", "fair"), [(0.1, 30), (0.05, 15), (0.2, 60)])
def test_conflicting_rows_in_tiny_groups_are_held_out_in_the_sets_own_share(paper_view, fraction, fair) -> None:
    label, attribute = coloured(300)
    view = paper_view(label, attribute, spec=TEN)
    for seed in range(5):
        rest, held = view.hold_out(fraction, seed, "val")
        conflicting, of_class = held_of(view, held)
        assert conflicting == fair
        assert np.abs(of_class - fraction * np.bincount(label)).max() <= 1
        assert rest.group_counts().min(initial=9, where=view.group_counts() > 0) > 0


def test_two_conflicting_rows_a_class_give_their_tenth_although_each_class_alone_would_round_them_away(
    paper_view,
) -> None:
    label = np.repeat(np.arange(10), 1004)
    attribute = np.where(np.tile(np.arange(1004), 10) < 2, (label + 1) % 10, label)
    view = paper_view(label, attribute, spec=TEN)
    held = view.hold_out(0.1, 0, "val")[1]
    conflicting, of_class = held_of(view, held)
    assert conflicting == 2
    assert sorted(of_class) == [100] * 8 + [101] * 2


def test_tiny_groups_have_their_share_where_no_pair_is_called_aligned(paper_view) -> None:
    label, attribute = coloured(300)
    plain = DatasetSpec("plain", TEN.classes, TEN.attributes)
    view = paper_view(label, attribute, spec=plain)
    held = view.hold_out(0.1, 3, "val")[1]
    assert np.bincount(view.label[held.rows]).tolist() == np.rint(0.1 * np.bincount(label)).tolist()
    assert 20 <= (view.label[held.rows] != view.attribute[held.rows]).sum() <= 40


strata = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.one_of(st.integers(2, 12), st.integers(2, 3000))),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(strata=strata, fraction=st.floats(0.001, 0.5), seed=st.integers(0, 3))
def test_every_stratum_class_and_bias_is_within_a_row_of_fair(strata, fraction, seed) -> None:
    label, conflicting, sizes = (np.array(column) for column in zip(*strata, strict=True))
    counts = held_counts(sizes, label, conflicting, fraction, np.random.default_rng(seed))
    again = held_counts(sizes, label, conflicting, fraction, np.random.default_rng(seed))
    np.testing.assert_array_equal(counts, again)
    fair = fraction * sizes
    assert np.abs(counts - fair).max() < 1
    assert ((counts >= 0) & (counts < sizes)).all()
    of_class = np.bincount(label, counts)
    assert np.abs(of_class - np.bincount(label, fair)).max() < 1 + 1e-6
    assert abs(counts[conflicting].sum() - fair[conflicting].sum()) <= 0.5 + 1e-6
    if not conflicting.any():
        assert np.abs(of_class - np.bincount(label, fair)).max() <= 0.5 + 1e-6


def test_a_group_of_one_row_keeps_it() -> None:
    one = np.ones(4, np.int64)
    counts = held_counts(one, np.array([0, 0, 1, 1]), one == 0, 0.9, np.random.default_rng(0))
    assert counts.tolist() == [0, 0, 0, 0]


def test_equal_remainders_are_dealt_by_the_seed_and_not_to_the_first_groups() -> None:
    sizes, label = np.full(9, 3), np.zeros(9, np.int64)
    totals = sum(held_counts(sizes, label, sizes > 0, 0.1, np.random.default_rng(seed)) for seed in range(300))
    assert totals.sum() == 900
    assert totals.min() > 60
    assert totals.max() < 145


def test_folds_share_the_conflicting_rows_of_tiny_groups(paper_view) -> None:
    label, attribute = coloured(300, aligned=300)
    view = paper_view(label, attribute, spec=TEN)
    held = [held_of(view, fold(view, 10, index, 0)[1]) for index in range(10)]
    assert sum(conflicting for conflicting, _ in held) == 300
    assert [25 <= conflicting <= 35 for conflicting, _ in held] == [True] * 10


def test_rows_of_unknown_attribute_have_their_share_of_held_out_rows_and_of_each_fold(paper_view) -> None:
    label, attribute = coloured(300, aligned=400)
    attribute[::3] = -1
    view = paper_view(label, attribute, spec=TEN)
    unknown = np.bincount(label[attribute < 0])
    for held, share in ((view.hold_out(0.1, 0, "val")[1], 0.1), (fold(view, 5, 2, 0)[1], 0.2)):
        rows = held.rows[~held.knows_attribute]
        assert np.abs(np.bincount(view.label[rows]) - share * unknown).max() <= 1
