"""Tests of automatic feature reweighting: its weights, its loss, its rows, and resumed runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.running import folder_of, run, stopped_and_resumed

from debeton.config import load
from debeton.methods.afr import row_weights, split_rows
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import UsageError
from debeton.train.run import open_run


@pytest.mark.parametrize("gamma", [0.0, 1.5, 20.0])
def test_the_weights_are_those_of_a_loop_over_rows(gamma: float):
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)) * 3
    label = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 0])
    weights = []
    for row, y in zip(logits.double().tolist(), label.tolist(), strict=True):
        p = math.exp(row[y]) / sum(map(math.exp, row))
        weights.append(math.exp(-gamma * p) / label.tolist().count(y))
    mean = sum(weights) / 10
    assert row_weights(logits, label, gamma).tolist() == pytest.approx([w / mean for w in weights], rel=1e-5)


def test_a_network_that_is_sure_of_every_row_gives_weights_that_balance_classes():
    logits, label = torch.tensor([[900.0, -900.0]] * 3 + [[-900.0, 900.0]]), torch.tensor([0, 0, 0, 1])
    for gamma in (0.0, 1e5):
        torch.testing.assert_close(row_weights(logits, label, gamma), torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0]))


@pytest.fixture
def afr_args(toy_args: list[str], write_toy, tmp_path: Path) -> list[str]:
    write_toy(tmp_path / "train.beton", 120, 0.8)
    small = ["--training.epochs", "1", "--training.batch_size", "32", "--afr.epochs", "20", "--afr.gamma", "1,4"]
    return [*toy_args, "--data.train_path", str(tmp_path / "train.beton"), *small, "--training.method", "afr"]


def test_the_features_learn_on_the_other_rows(afr_args):
    with open_run(load([], afr_args)) as opened:
        assert opened is not None
        learned, held = split_rows(opened)
        train = opened.views["train"]
    assert len(held) == 24
    assert sorted([*learned.rows, *held.rows]) == train.rows.tolist()
    with open_run(load([], [*afr_args, "--afr.held_out", "0.0"])) as opened:
        assert opened is not None
        with pytest.raises(UsageError, match=r"afr\.held_out is 0 of the 120 rows"):
            split_rows(opened)


def test_a_stopped_run_ends_bit_equal_with_what_validation_chose(afr_args, tmp_path, monkeypatch):
    assert run([*afr_args, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*afr_args, "--training.outdir", tmp_path / "stopped"], monkeypatch, 2)
    one, two = (folder_of(tmp_path / name) for name in ("whole", "stopped"))
    left, right = (load_checkpoint(f / "checkpoints/phase_afr.pt")["state_dict"] for f in (one, two))
    assert all(torch.equal(left[name], right[name]) for name in left)
    base = load_checkpoint(one / "checkpoints/phase_train.pt")["state_dict"]
    assert all(torch.equal(base[name], left[name]) for name in base if not name.startswith("fc."))
    results = json.loads((one / "results.json").read_text())
    notes = results["notes"]["afr"]
    assert [(line["gamma"], line["penalty"]) for line in notes["tuning"]] == [(1, 0), (1, 0.2), (4, 0), (4, 0.2)]
    best = max(line["worst_group_accuracy"] for line in notes["tuning"])
    assert best == pytest.approx(results["val"]["worst_group_accuracy"])
    assert notes["step"] in (10, 20)
    assert len(notes["weight_by_group"]) == 4


def test_several_settings_need_rows_that_choose(afr_args, capsys):
    assert run([*afr_args, "--training.selection", "last"]) == 2
    assert "afr.gamma and afr.penalty have 4 combinations" in capsys.readouterr().err
