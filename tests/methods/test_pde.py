"""Tests of pde: the rows of every epoch, their draws, and what a run says of them."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest

from debeton.config import load
from debeton.data.loader.loader import make_loader
from debeton.data.loader.order import epoch_order
from debeton.data.views.view import View
from debeton.methods import METHODS
from debeton.methods.pde import PdeSettings, describe_expansion, expanding_view
from debeton.system.errors import DataError
from debeton.train.run import open_run
from debeton.train.training import train_loader

SIZES = {(0, 0): 20, (0, 1): 3, (0, 2): 5, (1, 0): 4, (1, 1): 30}  # of the pets' groups; (1, 2) does not exist


@pytest.fixture(scope="session")
def pets(paper_view) -> View:
    pairs = [pair for pair, n in SIZES.items() for _ in range(n)]
    return paper_view([label for label, _ in pairs], [attribute for _, attribute in pairs])


def rows_of_epochs(view: View, epochs: int, seed: int = 0) -> list[np.ndarray]:
    return [view.rows[epoch_order(view, "random", seed, epoch)] for epoch in range(epochs)]


def test_the_warm_up_is_balanced_and_each_expansion_adds_its_rows_once(pets: View):
    view = expanding_view(pets, PdeSettings(warmup_epochs=2, interval=3, expansion=10), 20, seed=1)
    assert view.epoch_size == 15
    there = [view.in_epoch(epoch) for epoch in range(20)]
    assert [len(part) for part in there] == [15] * 2 + [25] * 3 + [35] * 3 + [45] * 3 + [55] * 3 + [62] * 6
    for before, after in itertools.pairwise(there):
        assert set(before) <= set(after)
    assert np.bincount(view.group[view.rows[there[0]]], minlength=6).tolist() == [3, 3, 3, 3, 3, 0]


def test_every_epoch_has_as_many_rows_as_the_warm_up_and_none_twice(pets: View):
    view = expanding_view(pets, PdeSettings(warmup_epochs=2, interval=1, expansion=10), 20, seed=1)
    epochs = rows_of_epochs(view, 40)
    assert {len(rows) for rows in epochs} == {len(np.unique(rows)) for rows in epochs} == {15}
    assert set(epochs[0]) == set(epochs[1]) == set(view.rows[view.in_epoch(0)])
    assert set(epochs[2]) <= set(view.rows[view.in_epoch(2)])
    counts = np.bincount(np.concatenate(epochs[8:]), minlength=62)  # all 62 rows take part: 15 of 62 an epoch
    assert counts.sum() == 32 * 15
    assert abs(counts - 32 * 15 / 62).max() <= 5 * np.sqrt(32 * 15 / 62)
    loader = make_loader(view, 4)
    assert len(loader) == 4
    assert [sorted(batch.rows.tolist()) for batch in loader.planned_batches(3)] == [
        sorted(rows.tolist()) for rows in np.split(rows_of_epochs(view, 4)[3], [4, 8, 12])
    ]


def test_data_seed_decides_the_draws_and_no_expansion_size_spreads_all_rows(pets: View):
    settings = PdeSettings(warmup_epochs=2, interval=3, expansion=None)
    view = expanding_view(pets, settings, 11, seed=1)  # expansions at 2, 5 and 8
    assert [len(view.in_epoch(epoch)) for epoch in (1, 2, 5, 8)] == [15, 31, 47, 62]
    assert np.array_equal(view.since, expanding_view(pets, settings, 11, seed=1).since)
    assert not np.array_equal(view.since, expanding_view(pets, settings, 11, seed=2).since)


def test_equal_groups_are_plain_training_from_the_first_epoch(paper_view):
    view = expanding_view(paper_view([0, 0, 1, 1], [0, 1, 0, 1]), PdeSettings(), 5, seed=0)
    assert view.epoch_size == 4
    assert sorted(rows_of_epochs(view, 1)[0].tolist()) == [0, 1, 2, 3]


def test_a_subset_of_a_growing_view_keeps_its_epochs_and_weights_draw_among_the_rows_there(pets: View):
    view = pets.growing(np.arange(62) // 20)
    assert view.subset(np.array([0, 25, 61])).since.tolist() == [0, 1, 3]
    weighted = view.resampled_by_group()
    drawn = [epoch_order(weighted, "weighted", 0, epoch) for epoch in range(4)]
    assert [len(part) for part in drawn] == [20] * 4
    assert all(part.max() < 20 * (epoch + 1) for epoch, part in enumerate(drawn))
    assert drawn[3].max() >= 40
    with pytest.raises(ValueError, match="62 epochs for 62 rows, 0 of them epoch 0"):
        pets.growing(np.ones(62, np.int64))
    with pytest.raises(DataError, match="an epoch of view 'train' holds 20 rows, fewer than one batch of 21"):
        make_loader(view, 21, tail="drop")


def test_rows_at_the_end_are_described_and_a_warm_up_without_end_is_warned_of(pets: View, caplog):
    view = expanding_view(pets, PdeSettings(warmup_epochs=2, interval=3, expansion=10), 20, seed=1)
    with caplog.at_level(logging.INFO):
        notes = describe_expansion(view, 4)
        assert "PDE: 15 rows in the warm-up, 25 of 62 in the last epoch" in caplog.text
        assert "adds no row" not in caplog.text
        assert describe_expansion(view, 2)["rows_at_end"] == 15
    assert "its first expansion is at epoch 3, and training.epochs is 2; so it is subg in epochs of 15" in caplog.text
    assert notes["warmup_rows"] == 15
    assert notes["rows_at_end"] == sum(notes["rows_at_end_by_group"].values()) == 25


def test_the_outline_has_epochs_of_the_warm_up(toy_args, write_toy, tmp_path):
    write_toy(tmp_path / "train.beton", 60, 0.8)
    words = ["--training.method", "pde", "--data.train_path", str(tmp_path / "train.beton")]
    with open_run(load([], [*toy_args, *words])) as opened:
        assert opened is not None
        (phase,) = METHODS.get("pde").phases(opened)
        smallest = int(opened.views["train"].group_counts().min())
        assert phase.rows_of_epoch == phase.batch_size == 4 * smallest
        assert train_loader(opened, phase.view).batch_size == 4 * smallest
