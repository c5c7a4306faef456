"""Warnings before the first epoch: betons that a run does not use, and batches of a few classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import run
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import PhaseSettings
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.loader import make_loader
from debeton.data.spec import Rows
from debeton.data.views.view import View
from debeton.library import fit
from debeton.train.schedule_checks import warn_of_schedule


def sorted_by_class(rows: Rows) -> Rows:
    """Return the rows in the sequence of their labels."""
    order = np.argsort(rows.label, kind="stable")
    names = [rows.names[row] for row in order]
    return Rows(rows.label[order], rows.attribute[order], lambda row: rows.image(int(order[row])), names)


@pytest.mark.parametrize(("shuffle_seed", "warns"), [(None, True), (3, False)])
def test_training_in_file_order_warns_once_unless_the_file_is_shuffled(tmp_path, caplog, shuffle_seed, warns):
    path = tmp_path / "toy_train.beton"
    rows = sorted_by_class(toy_rows(512, 0.9, 0))
    write_beton(path, rows, TOY_SPEC, "train", WriteOptions(mode="raw", shuffle_seed=shuffle_seed))
    view = View(**{**vars(View.whole(open_beton(path))), "order": "sequential"})
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 2))
    caplog.set_level("WARNING", logger="debeton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("debeton.train.loop.logger.propagate", True)
        fit(network, make_loader(view, 64), epochs=2, lr=0.01)
    warned = [record.message for record in caplog.records if "in the order 'sequential'" in record.message]
    assert len(warned) == warns
    assert all("holds 1.0 classes" in text and "--shuffle-seed 0" in text for text in warned)


def test_a_run_says_once_which_betons_it_does_not_use(toy_args, toy_betons: Path, tmp_path, capsys):
    root = tmp_path / "betons"
    shutil.copytree(toy_betons, root)
    write_beton(root / "toy_id_val.beton", toy_rows(8, 0.5, 5), TOY_SPEC, "id_val", WriteOptions(mode="raw"))
    args = [*toy_args, "--training.data_root", str(root), "--training.epochs", "1"]
    assert run(args) == 0
    error = capsys.readouterr().err
    assert error.count("does not use toy_id_val.beton of ") == 1
    assert "(known: train, val, test, target, synthetic and test_NAME)" in error


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lr_scheduler": "cyclic"}, "the peak of the learning rate would be at epoch 5"),
        ({"lr_scheduler": "multisteplr", "lr_milestones": (1, 2, 30)}, "the drops at 2, 30 never come"),
        ({"patience": 2}, "with 2 evaluations, training.patience 2 never ends it"),
        ({"lr_scheduler": "plateau"}, "the learning rate never drops (training.lr_patience 5)"),
        ({"lr_scheduler": "plateau", "lr_patience": 1, "patience": 1}, "training.patience 1 ends it before"),
        ({"warmup_epochs": 2.0, "patience": 1, "lr_milestones": (30,)}, ""),
    ],
)
def test_settings_beyond_a_short_phase_are_warned_of(monkeypatch, caplog, settings, text):
    caplog.set_level("WARNING", logger="debeton")
    monkeypatch.setattr("debeton.train.schedule_checks.logger.propagate", True)
    warn_of_schedule(PhaseSettings(epochs=2, **settings), "identify", selects=True, only_head=False)
    messages = [record.message for record in caplog.records]
    assert len(messages) == bool(text)
    assert all(
        message.startswith("warning: phase 'identify' has 2 epochs: ") and text in message for message in messages
    )


def test_a_warm_up_longer_than_training_is_warned_of_once_before_it(toy_args, capsys):
    words = ["--training.warmup_epochs", 4, "--training.lr_patience", 2, "--training.batch_size", "512"]
    assert run([*toy_args, *words]) == 0
    error = capsys.readouterr().err
    text = "the warm-up of 4 epochs is longer, and the learning rate ends at 0.025 instead of 0.05"
    assert error.count(text) == 1
    assert error.index(text) < error.index("epoch 1/2")
    assert error.count("training.lr_patience 2 has no effect: it is of the schedule plateau") == 1
