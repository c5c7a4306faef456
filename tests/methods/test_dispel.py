"""Tests of DISPEL: its mixtures against a loop over rows, its grid, and a run against DFR."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, run, stopped_and_resumed

from debeton.data.spec import DatasetSpec
from debeton.methods.dispel import class_balanced, mixed
from debeton.methods.parts.logistic_head import FeatureSet
from debeton.nets.checkpoint import load_checkpoint

SPEC = DatasetSpec("s", ("a", "b"), ("x", "y"), aligned=((0,), (1,)))


def test_a_mixture_is_of_its_class_and_has_the_group_of_its_balanced_row():
    rng = np.random.default_rng(0)
    label = np.array([0, 0, 1, 1])
    balanced = FeatureSet(rng.normal(size=(4, 3)).astype(np.float32), label, np.arange(4), SPEC)
    x, labels = rng.normal(size=(60, 3)).astype(np.float32), rng.integers(0, 2, 60)
    for s, alpha in ((0.7, 1.0), (0.7, 0.5), (1.0, 1.0), (0.9, 0.0)):
        found = mixed(balanced, x, labels, s, alpha, np.random.default_rng(1))
        for i in range(60):
            g = found.group[i]
            if g < 0:
                np.testing.assert_array_equal(found.x[i], x[i])
            else:
                assert label[g] == labels[i] == found.label[i]
                np.testing.assert_allclose(found.x[i], s * balanced.x[g] + (1 - s) * x[i], rtol=1e-5, atol=1e-6)
        share = (found.group >= 0).mean()
        assert share == alpha or (alpha == 0.5 and abs(share - 0.5) < 5 * 0.5 / np.sqrt(60))
    assert len(set(mixed(balanced, x, labels, 0.7, 1.0, np.random.default_rng(1)).group)) == 4


def test_rows_to_mix_with_have_classes_of_equal_size():
    label = np.repeat([0, 1, 2], [30, 5, 12])
    once = class_balanced(label, 3, None, np.random.default_rng(0))
    assert np.bincount(label[once]).tolist() == [5, 5, 5]
    assert len(set(once)) == 15
    assert np.bincount(label[class_balanced(label, 3, 100, np.random.default_rng(0))]).tolist() == [33, 33, 33]
    assert np.bincount(label[class_balanced(label[label < 2], 3, None, np.random.default_rng(0))]).tolist() == [5, 5]


@pytest.fixture
def dispel_args(toy_args: list[str], write_toy, tmp_path: Path) -> list[str]:
    write_toy(tmp_path / "train.beton", 96, 0.8)
    grid = ["--dfr.c_grid", "0.3,0.1", "--dfr.refits", "2", "--training.epochs", "1", "--training.batch_size", "32"]
    return [*toy_args, "--data.train_path", str(tmp_path / "train.beton"), *grid, "--training.method", "dispel"]


def test_a_stopped_run_ends_bit_equal_with_the_best_of_the_grid(dispel_args, tmp_path, monkeypatch):
    args = [*dispel_args, "--dispel.s", "1,0.7", "--dispel.alpha", "1,0.5"]
    assert run([*args, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*args, "--training.outdir", tmp_path / "stopped"], monkeypatch, 2)
    one, two = (folder_of(tmp_path / name) for name in ("whole", "stopped"))
    left, right = (load_checkpoint(f / "checkpoints/phase_dispel.pt")["state_dict"] for f in (one, two))
    assert all(torch.equal(left[name], right[name]) for name in left)
    notes = json.loads((one / "results.json").read_text())["notes"]["dispel"]
    assert [(line["alpha"], line["s"]) for line in notes["tuning"][::2]] == [(1, 1), (1, 0.7), (0.5, 1), (0.5, 0.7)]
    best = max(notes["tuning"], key=lambda line: (line["worst_group_accuracy"], line["mean_group_accuracy"]))
    assert all(notes[key] == best[key] for key in ("alpha", "s", "c"))


def test_a_share_above_1_is_refused(dispel_args, capsys):
    assert run([*dispel_args, "--dispel.s", "1.5"]) == 2
    assert "dispel.s has the value 1.5; expected shares between 0 and 1" in capsys.readouterr().err
