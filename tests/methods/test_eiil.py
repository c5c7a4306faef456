"""Tests of eiil: the gradient against automatic differentiation, the assignments, and a whole run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.running import folder_of, lines_of, run
from torch.nn import functional

from debeton.methods.finders.eiil import ENVIRONMENTS, infer_environments, violation
from debeton.methods.parts.logits import scale_gradient
from debeton.system.errors import DataError

t = torch.tensor


@given(st.integers(1, 20), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_the_gradient_of_the_scale_is_that_of_automatic_differentiation(rows, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    label = torch.randint(classes, (rows,), generator=generator)
    scale = torch.ones(rows, dtype=torch.float64, requires_grad=True)
    (theirs,) = torch.autograd.grad(functional.cross_entropy(logits * scale[:, None], label, reduction="sum"), scale)
    torch.testing.assert_close(scale_gradient(logits, label), theirs)


def test_the_violation_is_half_the_sum_of_squared_mean_gradients_of_both_environments_by_class():
    q, gradient = t([0.25, 0.5, 0.75]), t([4.0, -2.0, 8.0])
    assignment, label = (q / (1 - q)).log(), t([0, 0, 2])
    # class 0: means (0.25 * 4 - 0.5 * 2) / 2 = 0 and (0.75 * 4 - 0.5 * 2) / 2 = 1; class 2: 6 and 2; class 1 has no row
    value = violation(assignment, gradient, label, t([2.0, 1.0, 1.0]))
    assert float(value) == pytest.approx((0 + 1 + 36 + 4) / 2)


def test_environments_end_as_the_signs_of_the_gradients():
    rng = np.random.default_rng(0)
    gradient, label = rng.normal(-0.2, 1, 200), rng.integers(3, size=200)
    conflicting = infer_environments(t(gradient), t(label), steps=4000, step_size=0.01, seed=1)
    assert conflicting.tolist() == (gradient > 0).tolist()


def test_other_seeds_start_elsewhere_and_the_same_seed_ends_the_same():
    rng = np.random.default_rng(0)
    gradient, label = t(rng.normal(0, 1, 200)), t(rng.integers(2, size=200))
    short = [infer_environments(gradient, label, steps=1, step_size=1e-3, seed=seed).tolist() for seed in (1, 1, 2)]
    assert short[0] == short[1] != short[2]


def test_gradients_of_a_network_that_diverged_give_no_environments():
    label, gradient = torch.arange(8) % 2, torch.linspace(-1, 1, 8) * 1e30
    with pytest.raises(DataError, match=r"gradients of the rows reach 1e\+30, .*phase 'identify' diverged: train"):
        infer_environments(gradient, label, steps=3, step_size=0.01, seed=0)


def test_a_class_whose_rows_are_all_on_one_side_is_one_environment():
    conflicting = infer_environments(t([-1.0, -2.0, -0.5, 3.0]), t([0, 0, 0, 1]), steps=4000, step_size=0.01, seed=0)
    assert conflicting.tolist() in (
        [False] * 3 + [True],
        [True] * 3 + [True],
    )  # an environment without rows has no mean


@pytest.fixture(scope="module")
def finished(toy_betons, write_toy, tmp_path_factory) -> Path:
    """Return a finished run on 256 rows, 90 % of them bias-aligned."""
    train = tmp_path_factory.mktemp("train") / "train.beton"
    write_toy(train, 256, 0.9)
    outdir = tmp_path_factory.mktemp("eiil")
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "data.train_path": train,
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 32,
        "training.lr": 0.05,
        "training.lr_scheduler": "constant",
        "training.eval_epochs": 2,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.method": "eiil",
        "eiil.lr": 0.01,
        "eiil.steps": 2000,
        "eiil.step_size": 0.01,
        "training.outdir": outdir,
    }
    assert run([str(word) for key, value in settings.items() for word in (f"--{key}", value)]) == 0
    return folder_of(outdir)


def test_a_run_writes_its_environments_by_path_and_reports_their_recall(finished):
    with (finished / ENVIRONMENTS).open() as file:
        records = list(csv.DictReader(file))
    marked = sum(record["environment"] == "1" for record in records)
    notes = json.loads((finished / "results.json").read_text())["notes"]["eiil"]
    assert len(records) == notes["rows"] == 256
    assert 0 < marked == notes["conflicting_rows"] < 256
    aligned = {"left": "dark", "right": "light"}
    conflicting = [r for r in records if r["attribute"] != aligned[r["label"]]]
    assert notes["recall"] == pytest.approx(np.mean([r["environment"] == "1" for r in conflicting]))


def test_the_last_phase_is_groupdro_over_classes_and_environments(finished):
    lines = [line for line in lines_of(finished) if line["split"] == "train" and line["phase"] == "train"]
    assert len(lines) == 2
    q = lines[-1]["objective"]["q"]
    assert sum(q.values()) == pytest.approx(1)
    assert {name.rpartition(", ")[2] for name in q} == {"aligned", "conflicting"}
