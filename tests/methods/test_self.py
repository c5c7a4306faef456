"""Tests of SELF: its scores of rows, its draws, the rows that it fits, and resumed runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, run, stopped_and_resumed

from debeton.config import load
from debeton.methods.self import divergence, draws, highest
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.run import open_run


def test_the_divergence_is_that_of_a_loop_over_classes():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 6, 3, generator=generator) * 2
    for row, (a, b) in enumerate(zip(left.double().tolist(), right.double().tolist(), strict=True)):
        p, q = ([math.exp(z) / sum(map(math.exp, values)) for z in values] for values in (a, b))
        expected = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        assert float(divergence(left, right)[row]) == pytest.approx(expected, rel=1e-5)
    assert (divergence(left, left + 7) < 1e-5).all()  # logits that differ by a constant agree


def test_the_rows_of_highest_score_are_taken_and_the_first_of_equals():
    score = torch.tensor([0.1, 3.0, 0.5, 3.0, 0.5])
    assert highest(score, 3).tolist() == [1, 3, 2]
    assert highest(score, 9).tolist() == [1, 3, 2, 4, 0]


@pytest.fixture
def self_args(toy_args: list[str], write_toy, tmp_path: Path) -> list[str]:
    write_toy(tmp_path / "train.beton", 96, 0.8)
    small = ["--training.epochs", "1", "--training.batch_size", "32", "--self.steps", "20", "--self.rows", "8,1000"]
    rates = ["--self.lr", "0.01,0.1", "--training.method", "self"]
    return [*toy_args, "--data.train_path", str(tmp_path / "train.beton"), *small, *rates]


def test_each_step_draws_the_classes_of_the_rows_equally_often(self_args):
    positions, label = torch.tensor([5, 9, 7, 3]), np.array([1, 0, 1, 1])
    with open_run(load([], [*self_args, "--self.steps", "300"])) as opened:
        assert opened is not None
        found = torch.stack(draws(opened, positions, label))
    assert found.shape == (300, 32)
    share = float((found == 9).double().mean())
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(9600)


def test_a_stopped_run_ends_bit_equal_with_what_the_other_half_chose(self_args, tmp_path, monkeypatch):
    assert run([*self_args, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*self_args, "--training.outdir", tmp_path / "stopped"], monkeypatch, 5)
    one, two = (folder_of(tmp_path / name) for name in ("whole", "stopped"))
    left, right = (load_checkpoint(f / "checkpoints/phase_self.pt")["state_dict"] for f in (one, two))
    assert all(torch.equal(left[name], right[name]) for name in left)
    base = load_checkpoint(one / "checkpoints/phase_train.pt")["state_dict"]
    assert all(torch.equal(base[name], left[name]) for name in base if not name.startswith("fc."))
    results = json.loads((one / "results.json").read_text())
    notes = results["notes"]["self"]
    assert list(results["timing"]["phases"]) == ["early", "train", "self"]
    assert [(line["rows"], line["lr"]) for line in notes["tuning"]] == [(8, 0.01), (8, 0.1), (1000, 0.01), (1000, 0.1)]
    assert notes["rows"] in (8, 65, 64, 66)  # of 128 rows, a half of every group
    assert sum(notes["rows_by_group"].values()) == notes["rows"]
    assert results["val_uses"][-2:] == ["fitted the last layer", "chose the last layer"]


@pytest.mark.parametrize("kind", ["dropout", "error", "early_stop_error"])
def test_the_other_scores_train(kind: str, self_args, tmp_path):
    assert run([*self_args, "--self.disagreement", kind, "--self.lr", "0.1"]) == 0
    phases = json.loads((folder_of(tmp_path / "runs") / "results.json").read_text())["timing"]["phases"]
    assert ("early" in phases) == (kind == "early_stop_error")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--self.rows", "0"], "self.rows is [0]; expected numbers of rows from 1 on"),
        (["--self.disagreement", "dropout", "--self.dropout", "1"], "self.dropout is 1"),
        (["--training.selection", "last"], "self.rows and self.lr have 4 combinations"),
    ],
    ids=["no rows", "all dropped", "nothing chooses"],
)
def test_wrong_use_is_said_before_training(self_args, capsys, extra, words):
    assert run([*self_args, *extra]) == 2
    assert words in capsys.readouterr().err
