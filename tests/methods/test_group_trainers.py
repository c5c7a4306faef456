"""Whole runs of the methods that train on given groups: interrupted ones end bit-equal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.running import folder_of, lines_of, run, stopped_and_resumed

from debeton.nets.checkpoint import load_checkpoint

METHODS: dict[str, dict[str, Any]] = {
    "irm": {"irm.anneal_steps": 4},
    "vrex": {"vrex.anneal_steps": 4},
    "coral": {"coral.within_class": "true"},
    "mmd": {"mmd.gammas": "0.01,0.1"},
    "lisa": {"lisa.mixing": "cutmix", "lisa.sampler": "balanced"},
    "pde": {"pde.warmup_epochs": 1, "pde.interval": 1, "pde.expansion": 0, "training.batch_size": 8},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_ends_bit_equal_and_logs_its_penalty(method, toy_args, write_toy, tmp_path: Path, monkeypatch):
    write_toy(tmp_path / "train.beton", 90, 0.8)
    settings = {
        "data.train_path": tmp_path / "train.beton",
        "training.method": method,
        "training.batch_size": 32,
        **METHODS[method],
    }
    words = [*toy_args, *(str(word) for key, value in settings.items() for word in (f"--{key}", value))]
    assert run([*words, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*words, "--training.outdir", tmp_path / "stopped"], monkeypatch, 5)
    whole, stopped = (folder_of(tmp_path / name) for name in ("whole", "stopped"))
    left, right = (load_checkpoint(f / "checkpoints" / "checkpoint_latest.pt") for f in (whole, stopped))
    assert left["objective"] == right["objective"]
    for name, value in left["state_dict"].items():
        assert torch.equal(value, right["state_dict"][name]), name
    logged = [[line.get("objective") for line in lines_of(f) if line["split"] == "train"] for f in (whole, stopped)]
    assert logged[0] == logged[1]
    if method in ("irm", "vrex", "coral", "mmd"):
        assert all(math.isfinite(line["penalty"]) and line["penalty"] != 0 for line in logged[0])
    if method == "pde":
        notes = json.loads((whole / "results.json").read_text())["notes"]["pde"]
        assert notes["warmup_rows"] < notes["rows_at_end"] == sum(notes["rows_at_end_by_group"].values()) == 90
