"""Two gloo processes under torchrun give the metrics of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.running import assert_same_training, run, run_in_two_processes

from debeton.checkpoint import load_checkpoint


def results_of(outdir: Path) -> tuple[dict, list[dict], Path]:
    (config,) = outdir.rglob("config.yaml")
    lines = [json.loads(line) for line in (config.parent / "results.jsonl").read_text().splitlines()]
    return json.loads((config.parent / "results.json").read_text()), lines, config.parent


def without_noise(metrics: dict) -> dict:
    return {k: v for k, v in metrics.items() if k not in ("loss", "worst_group")}


def test_two_processes_train_count_measure_and_predict_as_one(toy_betons, write_toy, tmp_path):
    """One test, as two processes under torchrun take most of a minute to start and end."""
    write_toy(tmp_path / "odd.beton", 509, 0.9)  # 509 = 7 * 64 + 61: an uneven last batch
    settings = {"data.dataset": "toy", "training.data_root": toy_betons, "data.train_path": tmp_path / "odd.beton",
                "model.arch": "small_resnet", "training.epochs": 2, "training.batch_size": 64, "training.lr": 0.05,
                "training.lr_scheduler": "cosine", "training.decoder_train": "simple", "training.decoder_val": "simple",
                "training.augment": "pad_crop:2", "training.device": "cpu", "logging.tensorboard": "false",
                # Batch statistics are per process by design; frozen ones make the two runs comparable.
                "model.bn_mode": "eval", "training.method": "resample"}  # fmt: skip
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    run_in_two_processes([*args, "--training.outdir", tmp_path / "two"])
    (one, one_lines, one_folder), (two, two_lines, two_folder) = (
        results_of(tmp_path / name) for name in ("one", "two")
    )

    left, right = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt")["state_dict"]
                   for f in (one_folder, two_folder))  # fmt: skip
    assert_same_training(left, right, "small_resnet")

    for split, rows in (("val", 128), ("test", 256)):
        assert sum(two[split]["group_count"].values()) == rows
        assert two[split]["group_count"] == one[split]["group_count"]
        assert without_noise(one[split])["group_accuracy"] == pytest.approx(two[split]["group_accuracy"], abs=0.02)
        assert one[split]["accuracy"] == pytest.approx(two[split]["accuracy"], abs=0.01)
        assert one[split]["loss"] == pytest.approx(two[split]["loss"], abs=1e-3)
    assert len(one_lines) == len(two_lines) == 4
    for a, b in zip(one_lines, two_lines, strict=True):
        assert a["metrics"]["group_count"] == b["metrics"]["group_count"]
        assert a["metrics"]["loss"] == pytest.approx(b["metrics"]["loss"], abs=1e-3)

    left, right = (load_checkpoint(f / "results.pt")["results"]["results_standard"] for f in (one_folder, two_folder))
    assert left["gts"].equal(right["gts"])
    assert (left["preds"] == right["preds"]).double().mean() > 0.99
