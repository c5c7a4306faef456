#!/usr/bin/env python3
"""Check that a change of the code changes no result: twelve short runs, compared to the bit.

python scripts/same_results.py record before.json                     before the change
python scripts/same_results.py record after.json                      after it
python scripts/same_results.py compare before.json after.json
python scripts/same_results.py record before.json --checkout OTHER    the code of another checkout

The runs use one thread and data of packages alone: scikit-learn's digits above Debian's Fashion-MNIST. The record holds
every accuracy and loss of each results.json and the SHA-256 of the selected weights. It takes some three minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BETONS = (
    "--dataset dominoes --top digits --bottom fashion_mnist --top-classes 0,1 --bottom-classes pullover,coat "
    "--per-class 600 --val-target-size 400 --max-resolution 32 --mode raw"
)
COMMON = {
    "model.arch": "small_resnet",
    "training.epochs": 2,
    "training.batch_size": 32,
    "training.lr": 0.02,
    "training.augment": "pad_crop:2",
    "training.device": "cpu",
    "training.num_workers": 1,
    "training.empty_groups": "ignore",
    "logging.tensorboard": "false",
    "logging.progress": "off",
    "training.weight_decay": 1e-4,
    "training.optimizer": "sgd",
}
DIFFUSION = {
    "cdpm.widths": "16,32",
    "cdpm.layers": 1,
    "cdpm.attention": 1,
    "cdpm.resolution": 32,
    "cdpm.epochs": 1,
    "cdpm.warmup_epochs": 0,
    "ddb.per_class": 32,
    "ddb.steps": 4,
    "amplifier.arch": "small_resnet",
    "amplifier.pretrained": "false",
    "amplifier.epochs": 2,
    "amplifier.lr": 1e-3,
    "amplifier.batch_size": 32,
}
TRIGGER = {
    "spurious.spurious_type": "square",
    "spurious.eval_types": "square,hat",
    "resolution.val_res": 32,
    "training.decoder_train": "resized",
    "training.decoder_val": "resized",
}
SOURCE = {**TRIGGER, "spurious.spurious_perc": 1.0, "spurious.spurious_file": "coat", "spurious.splits": "train"}
TRANSFER = {
    **TRIGGER,
    "model.checkpoint": "{runs}/source/version_0/checkpoints/checkpoint_best.pt",
    "model.transfer": "FIXED",
}
# name: preset of dataset_configs/methods (empty for none), settings
RUNS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "erm": ("erm", {}),
    "resample": ("resample", {}),
    "groupdro": ("groupdro", {}),
    "dfr": ("dfr", {"dfr.c_grid": "1,0.1", "dfr.refits": 3, "dfr.max_iter": 100}),
    "jtt": ("jtt", {}),
    "lff": ("lff", {}),
    "scale": ("scale", {"model.pretrained": "false"}),
    "ffr": ("ffr", {}),
    "ddb1": ("ddb1", DIFFUSION),
    "ddb2": ("ddb2", {**DIFFUSION, "ddb.amplifier": "{runs}/ddb1/version_0/checkpoints/phase_amplifier.pt"}),
    "source": ("", SOURCE),
    "transfer": ("", TRANSFER),
}


def call(checkout: Path, *words: object) -> str:
    """Run a program of the checkout on one thread; return its output, or stop with its message."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        printed = done.stdout[-2000:] + done.stderr[-3000:]
        raise SystemExit(f"{' '.join(map(str, words))}\nended with status {done.returncode}:\n{printed}")
    return done.stdout


def write_betons(checkout: Path, folder: Path) -> None:
    """Write the real rows, generated images beside them, and the betons of both."""
    writer = ["writers/write_betons.py", *BETONS.split(), "--spurious-strength", 0.9]
    call(checkout, *writer, "--out", folder / "real")
    call(
        checkout,
        "writers/generate_images.py",
        "--like",
        folder / "real" / "dominoes_train.beton",
        "--generator",
        "halves",
        "--fit-on",
        folder / "real" / "dominoes_target.beton",
        "--filter",
        "none",
        "--per-cell",
        40,
        "--out",
        folder / "generated",
    )
    call(checkout, *writer, "--synthetic", folder / "generated", "--out", folder / "betons")


def train(checkout: Path, folder: Path, name: str) -> None:
    """Run one entry of RUNS."""
    preset, own = RUNS[name]
    configs = ["dataset_configs/dominoes.yaml", *([f"dataset_configs/methods/{preset}.yaml"] if preset else [])]
    settings = {
        **COMMON,
        "training.data_root": folder / "betons",
        "training.outdir": folder / "runs",
        "training.exp_name": name,
        **own,
    }
    words = [word for config in configs for word in ("--config-file", config)]
    for key, value in settings.items():
        words += [f"--{key}", str(value).format(runs=folder / "runs")]
    call(checkout, "main.py", *words)


def study_and_report(checkout: Path, folder: Path) -> None:
    """Run a study of two jobs, and write a report over all runs."""
    study = [
        "dataset_configs/studies/quick.yaml",
        "--seeds",
        0,
        "--runs",
        folder / "runs" / "quick",
        "--data",
        folder / "quick",
        "--set",
        "training.epochs=1",
    ]
    call(checkout, "scripts/sweep.py", "run", *study)
    call(checkout, "scripts/report.py", folder / "runs", "--out", folder / "report")


def weights_hash(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, by name; of no other content."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(torch.load(path, map_location="cpu", weights_only=True)["state_dict"].items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_run(folder: Path) -> dict[str, Any]:
    """Return what must not change of one finished run."""
    results = json.loads((folder / "results.json").read_text())
    kept = {key: results.get(key) for key in ("train_groups", "val", "test", "notes", "selected_epoch")}
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    kept["losses"] = [
        [line["phase"], line["epoch"], line["split"], line["metrics"]["loss"]] for line in lines if "metrics" in line
    ]
    weights = {
        path.name: weights_hash(path)
        for path in sorted((folder / "checkpoints").glob("*.pt"))
        if path.name != "checkpoint_latest.pt"
    }
    return {"results": kept, "weights": weights}


def record(checkout: Path) -> dict[str, Any]:
    """Run everything in a temporary folder and return the record."""
    with tempfile.TemporaryDirectory(prefix="same_results_") as name:
        folder = Path(name)
        write_betons(checkout, folder)
        for run in RUNS:
            print(run, flush=True)
            train(checkout, folder, run)
        study_and_report(checkout, folder)
        text = {
            str(path.relative_to(folder / "runs").parent): read_run(path.parent)
            for path in sorted((folder / "runs").rglob("results.json"))
        }
        found = {"runs": text, "summary": (folder / "report" / "summary.csv").read_text()}
        return json.loads(json.dumps(found).replace(name, "FOLDER"))  # type: ignore[no-any-return]


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Return the places at which two records differ, one line each."""
    if isinstance(left, dict) and isinstance(right, dict):
        return [
            line
            for key in sorted({*left, *right})
            for line in differences(left.get(key), right.get(key), f"{where}/{key}")
        ]
    return [] if left == right else [f"{where}: {str(left)[:200]} became {str(right)[:200]}"]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run everything and write the record")
    recording.add_argument("file", type=Path)
    recording.add_argument("--checkout", type=Path, default=ROOT, help="the code to run; default: this checkout")
    comparing = commands.add_parser("compare", help="say where two records differ; status 1 if they do")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.command == "record":
        arguments.file.write_text(json.dumps(record(arguments.checkout), indent=1))
        return 0
    before, after = (json.loads(path.read_text()) for path in (arguments.before, arguments.after))
    found = differences(before, after)
    print("\n".join(found) or f"equal to the bit: {len(before['runs'])} runs and a report")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
