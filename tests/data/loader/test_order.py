"""order.py: every order rule is a pure function of (seed, epoch) and does what its name says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from debeton.data.loader.order import (
    ORDERS,
    QUASI_RANDOM_BLOCK,
    QUASI_RANDOM_WINDOW,
    effective_number,
    epoch_order,
    warning_of_few_classes,
)
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.system.errors import DataError, UsageError

PaperView = Callable[..., View]
SIZES = st.one_of(st.integers(1, 200), st.sampled_from([63, 64, 65, 4095, 4096, 4097, 9000]))


@pytest.fixture(scope="module")
def unbalanced(paper_view: PaperView) -> View:
    """Return a view of 300, 60, 7, 1 and 0 rows of groups 0 to 4, interleaved."""
    group = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [300, 60, 7, 1]))
    return paper_view(group // 3, group % 3)


def test_the_order_rules_are_these() -> None:
    assert ORDERS.names() == ["draws", "group_balanced", "quasi_random", "random", "sequential", "weighted"]


@settings(max_examples=80, deadline=None)
@given(n=SIZES, order=st.sampled_from(["sequential", "random", "quasi_random"]), seed=st.integers(0, 9))
def test_every_row_exactly_once(n: int, order: str, seed: int, paper_view: PaperView) -> None:
    positions = epoch_order(paper_view(np.zeros(n)), order, seed, epoch=seed)
    assert positions.dtype == np.int64
    np.testing.assert_array_equal(np.sort(positions), np.arange(n))


def test_sequential_gives_the_rows_as_the_view_lists_them(paper_view: PaperView) -> None:
    view = paper_view(np.zeros(20)).subset(np.array([9, 3, 17]))
    assert epoch_order(view, "sequential", 0, 5).tolist() == [0, 1, 2]
    assert view.rows.tolist() == [9, 3, 17]


@pytest.mark.parametrize("order", ["random", "quasi_random", "weighted", "group_balanced"])
def test_an_order_is_a_pure_function_of_seed_and_epoch(order: str, unbalanced: View) -> None:
    view = unbalanced.resampled_by_group()
    first = epoch_order(view, order, 1, 2)
    epoch_order(view, order, 1, 3)
    np.random.seed(0)
    np.testing.assert_array_equal(epoch_order(view, order, 1, 2), first)
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert np.mean(epoch_order(view, order, seed, epoch) == first) < 0.8
    assert len(first) == len(view)


def test_random_is_uniform_over_positions(paper_view: PaperView) -> None:
    view = paper_view(np.zeros(6))
    first = [int(epoch_order(view, "random", seed, 0)[0]) for seed in range(3000)]
    assert stats.chisquare(np.bincount(first, minlength=6)).pvalue > 0.001


def test_quasi_random_reads_whole_blocks_within_a_window(paper_view: PaperView) -> None:
    n = 3 * QUASI_RANDOM_BLOCK * QUASI_RANDOM_WINDOW
    view = paper_view(np.zeros(n))
    order = epoch_order(view, "quasi_random", 0, 0)
    window = QUASI_RANDOM_BLOCK * QUASI_RANDOM_WINDOW
    seen = []
    for start in range(0, n, window):
        rows = order[start : start + window]
        blocks, counts = np.unique(rows // QUASI_RANDOM_BLOCK, return_counts=True)
        assert len(blocks) == QUASI_RANDOM_WINDOW  # few places of the file at a time, each read in full
        assert set(counts) == {QUASI_RANDOM_BLOCK}
        assert np.mean(np.diff(rows) == 1) < 0.01  # and shuffled
        seen.append(set(blocks.tolist()))
    assert not seen[0] & seen[1]


def test_quasi_random_blocks_are_neighbours_in_the_file_not_in_the_view(paper_view: PaperView) -> None:
    n = 4 * QUASI_RANDOM_BLOCK * QUASI_RANDOM_WINDOW
    shuffled = np.random.default_rng(0).permutation(n)
    view = paper_view(np.zeros(n)).subset(shuffled)
    order = epoch_order(view, "quasi_random", 0, 0)[: QUASI_RANDOM_BLOCK * QUASI_RANDOM_WINDOW]
    assert len(np.unique(view.rows[order] // QUASI_RANDOM_BLOCK)) == QUASI_RANDOM_WINDOW


# --- batches of a few classes ----------------------------------------------------------------------------------


def spec_of(num_classes: int, num_attributes: int = 1) -> DatasetSpec:
    return DatasetSpec("many", tuple(map(str, range(num_classes))), tuple(map(str, range(num_attributes))))


def test_the_effective_number_of_classes_is_that_of_the_entropy() -> None:
    codes = np.array([0, 0, 1, 1, 2, 2, 2, 2, 9])  # the last batch is partial
    assert effective_number(codes, 4) == pytest.approx(math.exp((math.log(2) + 0) / 2))
    assert effective_number(codes[:2], 4) == pytest.approx(1)
    assert effective_number(np.arange(12), 6) == pytest.approx(6)


def test_a_quasi_random_order_of_rows_sorted_by_class_is_warned_of(paper_view: PaperView) -> None:
    label = np.repeat(np.arange(200), 60)
    view = replace(paper_view(label, spec=spec_of(200)), order="quasi_random")
    warning = warning_of_few_classes(view, 256, 0)
    assert warning is not None
    found, random = (float(part) for part in re.findall(r"(?:holds|order) (\d+\.\d)", warning))
    rows = view.label[epoch_order(view, "quasi_random", 0, 0)]
    assert found == pytest.approx(effective_number(rows, 256), abs=0.05)
    assert found < 0.8 * random
    assert "classes" in warning
    assert "--shuffle-seed 0" in warning
    assert "training.order random" in warning


@pytest.mark.parametrize("order", ["quasi_random", "sequential"])
def test_rows_in_a_random_sequence_give_no_warning(order: str, paper_view: PaperView) -> None:
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(200), 60))
    assert warning_of_few_classes(replace(paper_view(label, spec=spec_of(200)), order=order), 256, 0) is None


def test_a_random_order_and_a_shuffled_small_set_give_no_warning(paper_view: PaperView) -> None:
    label = np.repeat(np.arange(200), 60)
    view = paper_view(label, spec=spec_of(200))
    assert warning_of_few_classes(view, 256, 0) is None
    small = replace(view.subset(np.arange(4000)), order="quasi_random")  # one window: all rows are shuffled
    assert all(warning_of_few_classes(small, 16, seed) is None for seed in range(4))


def test_a_sequential_order_of_sorted_groups_is_warned_of(paper_view: PaperView) -> None:
    label, attribute = np.tile([0, 1], 600), np.repeat([0, 1, 2], 400)  # classes are mixed, attributes are not
    view = replace(paper_view(label, attribute, spec=spec_of(2, 3)), order="sequential")
    warning = warning_of_few_classes(view, 50, 0)
    assert warning is not None
    assert "holds 2.0 groups" in warning
    assert warning_of_few_classes(replace(view, order="group_balanced"), 50, 0) is None


# --- weighted --------------------------------------------------------------------------------------------------


def test_weighted_frequencies_lie_within_binomial_bounds(paper_view: PaperView) -> None:
    weights = np.array([0.0, 1, 2, 3, 4, 0.5, 0, 7])
    view = replace(paper_view(np.zeros(8)), weights=weights)
    draws = np.concatenate([epoch_order(view, "weighted", 0, epoch) for epoch in range(5000)])
    counts = np.bincount(draws, minlength=8)
    p = weights / weights.sum()
    assert (np.abs(counts - len(draws) * p) <= 4.5 * np.sqrt(len(draws) * p * (1 - p))).all()
    assert counts[[0, 6]].tolist() == [0, 0]


def test_resampling_by_group_draws_every_present_group_equally_often(unbalanced: View) -> None:
    view = unbalanced.resampled_by_group()
    draws = np.concatenate([epoch_order(view, "weighted", 0, epoch) for epoch in range(100)])
    counts = np.bincount(view.group[view.rows[draws]], minlength=6)
    n = len(draws)
    assert counts[4:].tolist() == [0, 0]
    assert (np.abs(counts[:4] - n / 4) <= 4.5 * math.sqrt(n * 3 / 16)).all()


def test_weighted_without_weights_gives_one_sentence(paper_view: PaperView) -> None:
    with pytest.raises(DataError, match="view 'train' has no sampling weights; the order 'weighted' needs them"):
        epoch_order(paper_view([0, 1]), "weighted", 0, 0)


# --- group balanced --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 25), min_size=6, max_size=6).filter(any), seed=st.integers(0, 99))
def test_every_aligned_window_holds_each_present_group_once(sizes: list[int], seed: int, paper_view: PaperView) -> None:
    group = np.random.default_rng(seed).permutation(np.repeat(np.arange(6), sizes))
    view = paper_view(group // 3, group % 3)
    order = epoch_order(view, "group_balanced", seed, 0)
    drawn = view.group[view.rows[order]]
    present = [g for g in range(6) if sizes[g]]
    assert len(order) == len(view)
    for start in range(0, len(order) - len(present) + 1, len(present)):
        assert sorted(drawn[start : start + len(present)].tolist()) == present
    tail = drawn[len(order) // len(present) * len(present) :]
    assert len(set(tail.tolist())) == len(tail)
    used = np.bincount(order, minlength=len(view))
    for g in present:
        uses = used[group == g]
        assert uses.max() - uses.min() <= 1


def test_each_pass_through_a_small_group_is_shuffled_anew(unbalanced: View) -> None:
    order = epoch_order(unbalanced, "group_balanced", 0, 0)
    members = np.flatnonzero(unbalanced.group == 1)
    drawn = order[np.isin(order, members)][: len(members)]
    other = epoch_order(unbalanced, "group_balanced", 0, 1)
    rare = order[unbalanced.group[order] == 2].reshape(-1)[: 7 * 13].reshape(13, 7)
    assert sorted(drawn.tolist()) == members.tolist()  # 60 rows in 92 rounds: all come before any comes again
    assert np.mean(drawn == members) < 0.2
    assert np.mean(drawn == other[np.isin(other, members)][: len(members)]) < 0.2
    assert (np.sort(rare, axis=1) == np.flatnonzero(unbalanced.group == 2)).all()
    assert len({tuple(row) for row in rare.tolist()}) >= 12


def test_the_order_of_groups_within_a_window_varies(unbalanced: View) -> None:
    drawn = unbalanced.group[epoch_order(unbalanced, "group_balanced", 0, 0)]
    first = np.bincount(drawn[: len(drawn) // 4 * 4 : 4], minlength=4)
    assert stats.chisquare(first).pvalue > 0.001


def test_an_unknown_order_names_the_nearest(paper_view: PaperView) -> None:
    with pytest.raises(UsageError, match="unknown order 'quasirandom'; did you mean 'quasi_random'"):
        epoch_order(paper_view([0]), "quasirandom", 0, 0)


def test_rows_of_unknown_group_are_one_more_group_of_a_batch() -> None:
    codes = np.array([-1, 0, 1, 2] * 8)
    assert effective_number(codes, 4) == pytest.approx(4)
    assert effective_number(codes, 4) == effective_number(codes + 1, 4)
