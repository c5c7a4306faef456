"""Two gloo processes give the metrics of one, and torchrun ends both when one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.running import ROOT, assert_same_training, folder_of, run

from debeton.nets.checkpoint import load_checkpoint


def results_of(outdir: Path) -> tuple[dict, list[dict], Path]:
    (config,) = outdir.rglob("config.yaml")
    lines = [json.loads(line) for line in (config.parent / "results.jsonl").read_text().splitlines()]
    return json.loads((config.parent / "results.json").read_text()), lines, config.parent


def without_noise(metrics: dict) -> dict:
    return {k: v for k, v in metrics.items() if k not in ("loss", "worst_group")}


def test_two_processes_train_count_measure_and_predict_as_one(toy_betons, write_toy, two_processes, tmp_path):
    write_toy(tmp_path / "odd.beton", 509, 0.9)  # 509 = 7 * 64 + 61: an uneven last batch
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "data.train_path": tmp_path / "odd.beton",
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 64,
        "training.lr": 0.02,
        "training.lr_scheduler": "cosine",
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "pad_crop:2",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.method": "resample",
    }
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    (one, one_lines, one_folder), (two, two_lines, two_folder) = (
        results_of(tmp_path / name) for name in ("one", "two")
    )

    left, right = (
        load_checkpoint(f / "checkpoints/checkpoint_latest.pt")["state_dict"] for f in (one_folder, two_folder)
    )
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


TINY = {
    "model.arch": "small_resnet",
    "training.epochs": 1,
    "training.batch_size": 32,
    "training.lr": 0.02,
    "training.decoder_train": "simple",
    "training.decoder_val": "simple",
    "training.augment": "none",
    "training.device": "cpu",
    "logging.tensorboard": "false",
    "training.selection": "last",
}
DIFFUSION = {
    "cdpm.epochs": 1,
    "cdpm.widths": "8,16",
    "cdpm.layers": 1,
    "cdpm.attention": 0,
    "cdpm.optimizer": "adamw",
    "cdpm.lr": 1e-3,
    "cdpm.batch_size": 32,
    "amplifier.arch": "small_resnet",
    "amplifier.pretrained": "false",
    "amplifier.epochs": 1,
    "ddb.per_class": 12,
    "ddb.steps": 2,
    "ddb.generation_batch": 6,
}
# Methods without a test of two processes of their own, and their settings.
METHODS = {
    "erm": {},
    "cvar": {"cvar.alpha": 0.4},
    "cnc": {},
    "dispel": {"dispel.s": "0.8", "dfr.c_grid": "0.3", "dfr.refits": 2},
    "self": {"self.rows": "20", "self.lr": "0.01"},
    "afr": {"afr.gamma": "4", "afr.penalty": "0.2"},
    "crt": {"crt.epochs": 2},
    "crt_reweight": {"crt.epochs": 2},
    "reweight": {},
    "reweight_class": {},
    "subg": {},
    "suby": {},
    "resample_class": {},
    "eiil": {"eiil.steps": 100},
    "erm_target": {},
    "mixup": {},
    "ldam": {},
    "irm": {"irm.anneal_steps": 2},
    "vrex": {"vrex.anneal_steps": 2},
    "coral": {"coral.weight": 50},
    "mmd": {},
    "lisa": {},
    "pde": {"training.epochs": 4, "pde.warmup_epochs": 1, "pde.interval": 2},
    "ddb1": DIFFUSION,
    "ddb2": DIFFUSION,
    "cdpm": {"cdpm.widths": "8,16", "cdpm.layers": 1, "cdpm.attention": 0},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_two_processes_is_the_method_in_one(method, toy_betons, write_toy, two_processes, tmp_path):
    write_toy(tmp_path / "train.beton", 128, 0.9)
    settings = {
        **TINY,
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "training.method": method,
        "data.train_path": tmp_path / "train.beton",
        **METHODS[method],
    }
    if method == "erm_target":
        settings["data.target_path"] = toy_betons / "toy_val.beton"
    args = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    one, one_lines, one_folder = results_of(tmp_path / "one")
    if "ddb.steps" in settings:  # a diffusion model's noise is each process's own, and so would its images be
        args += ["--ddb.images", str(one_folder / "synthetic")]
        one_lines = [line for line in one_lines if line["phase"] != "cdpm"]
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    two, two_lines, two_folder = results_of(tmp_path / "two")
    assert [(a["phase"], a["split"]) for a in one_lines] == [(b["phase"], b["split"]) for b in two_lines]
    for a, b in zip(one_lines, two_lines, strict=True):
        # Pairs of mixup are drawn in each process, as is that noise, and an amplifier's batch norm sees the process's
        # own half of a batch: other numbers of the same kind.
        tolerance = 0.03 if method in ("mixup", "cdpm") or a["phase"] == "amplifier" else 1e-3
        assert a["metrics"]["group_count"] == b["metrics"]["group_count"]
        assert loss_of(a) == pytest.approx(loss_of(b), rel=tolerance)
    if method == "cdpm":
        return
    assert one["test"]["accuracy"] == pytest.approx(two["test"]["accuracy"], abs=0.02)
    assert one["train_groups"] == two["train_groups"]
    if method != "mixup":
        left, right = (
            load_checkpoint(folder / "checkpoints/checkpoint_latest.pt")["state_dict"]
            for folder in (one_folder, two_folder)
        )
        assert_same_training(left, right, "small_resnet")


def loss_of(line: dict) -> float:
    """The loss of an evaluation, which a diffusion model keeps among what its objective does."""
    return float((line["metrics"] if line["metrics"]["loss"] is not None else line["objective"])["loss"])


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_job_with_a_message(toy_args, tmp_path):
    """torchrun ends the other; it does not wait for the half hour that a collective may take."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(ROOT / "main.py"),
        *toy_args,
        "--training.epochs",
        "1000",
    ]
    with (tmp_path / "said").open("w") as said:
        job = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
        until = time.monotonic() + 200
        while not (lines := list((tmp_path / "runs").rglob("results.jsonl"))) or not lines[0].read_text():
            assert job.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < until, "no epoch in 200 s"
            time.sleep(0.5)
        ranks = subprocess.run(
            ["pgrep", "-P", str(job.pid), "-f", "main.py"], capture_output=True, text=True, check=True
        )
        os.kill(int(ranks.stdout.split()[1]), signal.SIGKILL)
        assert job.wait(60) == 1
    text = (tmp_path / "said").read_text()
    assert "Signal 9 (SIGKILL)" in text
    assert "main.py FAILED" in text


def test_accumulated_gradients_and_class_weights_of_two_processes_are_those_of_one(
    toy_args, write_toy, two_processes, tmp_path
):
    """Train on batches of 50 in parts of 17, and on a last batch of 18."""
    write_toy(tmp_path / "odd.beton", 118, 0.8)  # 50, 50 and 18 rows
    words = ["--data.train_path", tmp_path / "odd.beton", "--training.batch_size", 50, "--training.accumulate", 3]
    words += ["--training.class_weights", "1,3", "--training.lr", 0.02, "--training.layer_decay", 0.8]
    args = [*toy_args, *words, "--training.epochs", 2]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    left, right = (
        load_checkpoint(folder_of(tmp_path / name) / "checkpoints/checkpoint_latest.pt")["state_dict"]
        for name in ("one", "two")
    )
    assert_same_training(left, right, "small_resnet")
