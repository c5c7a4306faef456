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


@pytest.fixture(scope="module")
def both(toy_betons, write_toy, tmp_path_factory):
    """Results of the same command in one process and in two."""
    folder = tmp_path_factory.mktemp("ddp")
    write_toy(folder / "odd.beton", 509, 0.9)  # 509 = 7 * 64 + 61: an uneven last batch
    settings = {"data.dataset": "toy", "training.data_root": toy_betons, "data.train_path": folder / "odd.beton",
                "model.arch": "small_resnet", "training.epochs": 2, "training.batch_size": 64, "training.lr": 0.05,
                "training.lr_scheduler": "cosine", "training.decoder_train": "simple", "training.decoder_val": "simple",
                "training.augment": "pad_crop:2", "training.device": "cpu", "logging.tensorboard": "false",
                # Batch statistics are per process by design; frozen ones make the two runs comparable.
                "model.bn_mode": "eval", "training.method": "resample"}  # fmt: skip
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert run([*args, "--training.outdir", folder / "one"]) == 0
    run_in_two_processes([*args, "--training.outdir", folder / "two"])
    return results_of(folder / "one"), results_of(folder / "two")


def test_two_processes_train_the_same_network(both):
    (_, _, one), (_, _, two) = both
    left, right = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt")["state_dict"] for f in (one, two))
    assert_same_training(left, right, "small_resnet")


def test_two_processes_count_every_row_once(both):
    (one, _, _), (two, _, _) = both
    for split, rows in (("val", 128), ("test", 256)):
        assert sum(two[split]["group_count"].values()) == rows
        assert two[split]["group_count"] == one[split]["group_count"]


def test_two_processes_report_the_metrics_of_one(both):
    (one, one_lines, _), (two, two_lines, _) = both
    for split in ("val", "test"):
        assert without_noise(one[split])["group_accuracy"] == pytest.approx(two[split]["group_accuracy"], abs=0.02)
        assert one[split]["accuracy"] == pytest.approx(two[split]["accuracy"], abs=0.01)
        assert one[split]["loss"] == pytest.approx(two[split]["loss"], abs=1e-3)
    assert len(one_lines) == len(two_lines) == 4
    for a, b in zip(one_lines, two_lines, strict=True):
        assert a["metrics"]["group_count"] == b["metrics"]["group_count"]
        assert a["metrics"]["loss"] == pytest.approx(b["metrics"]["loss"], abs=1e-3)


def test_two_processes_predict_the_rows_in_the_same_order(both):
    (_, _, one), (_, _, two) = both
    left, right = (load_checkpoint(f / "results.pt")["results"]["results_standard"] for f in (one, two))
    assert left["gts"].equal(right["gts"])
    assert (left["preds"] == right["preds"]).double().mean() > 0.99
