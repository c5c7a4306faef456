"""The diffusion model: trained from a beton, resumed, sampled into an image set, and used for training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.generate.sets import command, images_of, kept_of
from tests.running import ROOT, folder_of, lines_of, run
from tests.toy import TOY_SPEC, toy_rows

from debeton.config import load
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.raw.synthetic_images import read_synthetic_rows
from debeton.generate.generators.generator import folder_hash
from debeton.methods import train
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.run import open_run
from debeton.train.stop import Preempted, StopRequest

SMALL = [
    "--training.method",
    "cdpm",
    "--training.selection",
    "last",
    "--cdpm.widths",
    "16,32",
    "--cdpm.layers",
    "1",
    "--cdpm.attention",
    "0",
    "--cdpm.steps",
    "100",
    "--training.optimizer",
    "adamw",
    "--training.augment",
    "none",
    "--cdpm.prediction",
    "v",
    "--training.num_workers",
    "1",
    "--training.batch_size",
    "64",
]


@pytest.fixture(scope="module")
def betons(tmp_path_factory) -> Path:
    """Write the toy data set at 8 x 8 pixels, which a network learns in seconds."""
    folder = tmp_path_factory.mktemp("small_toy")
    for seed, (split, n, share) in enumerate((("train", 512, 0.9), ("val", 64, 0.5), ("test", 64, 0.5))):
        rows = toy_rows(n, share, seed, size=8)
        write_beton(folder / f"toy_{split}.beton", rows, TOY_SPEC, split, WriteOptions(mode="raw"))
    return folder


@pytest.fixture
def small_args(betons, toy_args) -> list[str]:
    return [*toy_args, "--training.data_root", str(betons)]


@pytest.fixture(scope="module")
def trained(betons, tmp_path_factory) -> Path:
    """Train a model of the four cells of the toy data set, and return its run folder."""
    outdir = tmp_path_factory.mktemp("cdpm")
    args = ["--data.dataset", "toy", "--training.data_root", betons, "--training.outdir", outdir, *SMALL]
    args += ["--training.decoder_train", "simple", "--logging.tensorboard", "false", "--training.device", "cpu"]
    args += ["--training.epochs", "9", "--training.lr", "5e-3", "--training.ema", "0.9", "--cdpm.condition", "group"]
    assert run(args) == 0
    return folder_of(outdir)


def test_a_model_that_draws_nan_gives_an_error_and_no_image(trained, betons, tmp_path, capsys):
    model = shutil.copytree(trained / "cdpm", tmp_path / "cdpm")
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"].fill_(float("nan"))
    save_file(weights, file, {"format": "pt"})
    conditions = json.loads((model / "conditions.json").read_text())
    del conditions["sha256"]  # else it would say that the file is not what was written
    (model / "conditions.json").write_text(json.dumps(conditions))
    words = ("--like", betons / "toy_train.beton", "--generator", "cdpm", "--model", model, "--per-cell", 1)
    assert command(*words, "--device", "cpu", "--steps", 2, "--out", tmp_path / "set") == 1
    message = f"4 of 4 images of {model} have pixels that are NaN; it ran in fp32 (torch.float32), so its weights are"
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "set").rglob("*.png"))


def test_a_run_reports_losses_and_no_accuracy(trained):
    lines = lines_of(trained)
    assert [(x["phase"], x["split"]) for x in lines] == [("cdpm", "train")] * 9
    losses = [x["objective"]["loss"] for x in lines]
    assert losses[0] > 1.5 * losses[-1]
    assert set(lines[0]["objective"]["loss_by_group"]) == set(lines[0]["metrics"]["group_accuracy"])
    assert lines[0]["metrics"]["accuracy"] is None
    results = json.loads((trained / "results.json").read_text())
    assert (results["method"], results["val"], results["test"], results["other_tests"]) == ("cdpm", None, None, {})
    assert results["selected_epoch"] == 9
    assert (trained / "cdpm" / "model_index.json").is_file()


def test_a_report_may_have_a_diffusion_model_beside_a_classifier(trained, small_args, tmp_path):
    assert run([*small_args, "--training.epochs", "1"]) == 0
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/report.py"), trained, tmp_path / "runs", "--out", tmp_path / "report"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").is_file()


def test_an_interrupted_training_ends_bit_equal(small_args, tmp_path, monkeypatch):
    weights = []
    for stop_at in (None, 3, 10):
        args = [*small_args, *SMALL, "--training.outdir", tmp_path / str(stop_at)]
        if stop_at is not None:
            agreed = StopRequest.agreed
            monkeypatch.setattr(StopRequest, "agreed", lambda self, at, *rest, s=stop_at: 15 if at == s else 0)
            with open_run(load([], [str(a) for a in args])) as opened, pytest.raises(Preempted):
                train(opened)
            monkeypatch.setattr(StopRequest, "agreed", agreed)
        assert run(args) == 0
        checkpoints = folder_of(tmp_path / str(stop_at)) / "checkpoints"
        weights.append(load_checkpoint(checkpoints / "phase_cdpm.pt")["state_dict"])
    assert all(torch.equal(weights[0][key], other[key]) for other in weights[1:] for key in weights[0])


def generate(trained: Path, betons: Path, out: Path, *words) -> int:
    like = ("--like", betons / "toy_train.beton", "--generator", "cdpm", "--model", trained, "--device", "cpu")
    return command(*like, "--out", out, "--filter", "none", "--batch-size", 16, *words)


@pytest.fixture(scope="module")
def image_folder(trained, betons, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    assert generate(trained, betons, folder, "--per-cell", 40) == 0
    return folder


def test_images_show_the_requested_attribute(image_folder):
    kept = kept_of(image_folder)
    assert len(kept) == 4 * 40
    brightness: dict[str, list[float]] = {"dark": [], "light": []}
    for path in kept:
        brightness[path.split("/")[1]].append(float(np.asarray(Image.open(image_folder / path)).mean()))
    dark, light = np.array(brightness["dark"]), np.array(brightness["light"])
    middle = (dark.mean() + light.mean()) / 2
    assert light.mean() - dark.mean() > 20  # 60 in the rows it was trained on
    assert ((dark < middle).mean() + (light > middle).mean()) / 2 > 0.8
    settings = json.loads((image_folder / "generator.json").read_text())
    assert (settings["sampler"], settings["steps"], settings["guidance_w"]) == ("dpm++", 20, 1.0)


def test_shards_and_batches_of_any_size_make_the_same_set(trained, betons, tmp_path):
    assert generate(trained, betons, tmp_path / "whole", "--per-cell", 3) == 0
    for shard in ("2/2", "1/2"):
        assert generate(trained, betons, tmp_path / "parts", "--per-cell", 3, "--shard", shard) == 0
    a, b = kept_of(tmp_path / "whole"), kept_of(tmp_path / "parts")
    assert {k: v[:2] for k, v in a.items()} == {k: v[:2] for k, v in b.items()}
    for path in images_of(tmp_path / "whole"):
        one, other = (np.asarray(Image.open(tmp_path / name / path), int) for name in ("whole", "parts"))
        assert np.abs(one - other).max() <= 1  # batches of another size: a rounding


def test_ffr_trains_on_a_beton_with_its_images(image_folder, betons, small_args, tmp_path):
    """Synthetic rows are written to one beton with the real rows, and the first phase trains on them."""
    written = subprocess.run(
        [
            sys.executable,
            str(ROOT / "writers/write_betons.py"),
            "--like",
            betons / "toy_train.beton",
            "--synthetic",
            image_folder,
            "--mode",
            "raw",
            "--out",
            tmp_path,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert written.returncode == 0, written.stderr
    both = tmp_path / "toy_both.beton"
    merged = subprocess.run(
        [
            sys.executable,
            str(ROOT / "writers/write_betons.py"),
            "--merge",
            betons / "toy_train.beton",
            tmp_path / "toy_synthetic.beton",
            "--out",
            both,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert merged.returncode == 0, merged.stderr
    args = [*small_args, "--data.train_path", both, "--training.method", "ffr", "--synthetic.per_cell", "30"]
    assert run([*args, "--training.epochs", "1"]) == 0
    results = json.loads((folder_of(tmp_path / "runs") / "results.json").read_text())
    assert results["notes"]["first_phase"]["rows"] == 120


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--steps", 200), 2, "200 sampling steps are more than the 100 that the model was trained with"),
        (("--steps", 0), 2, "--steps 0 makes nothing"),
        (("--model", "/nowhere"), 2, "no diffusion model of ours in /nowhere"),
        (("--blind",), 2, "it knows left, dark"),
    ],
)
def test_wrong_use_gives_an_error_of_one_line(trained, betons, tmp_path, capsys, words, status, message):
    assert generate(trained, betons, tmp_path / "set", "--per-cell", 1, *words) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_wrong_settings_give_a_clear_error(small_args, capsys):
    args = [*small_args, *SMALL]
    assert run([*args, "--cdpm.widths", "16,x"]) == 2
    assert "cdpm.widths is '16,x'" in capsys.readouterr().err
    assert run([*args, "--cdpm.widths", "8,8,8,8,8"]) == 2
    assert "5 levels halve an image 4 times, and 8 x 8 pixels are no multiple of 16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--training.method", "dfr", "--dfr.base", "cdpm"], "dfr.base is 'cdpm', which trains no classifier"),
        (["--synthetic.mode", "ffr"], "synthetic.mode ffr trains a classifier first, and cdpm trains none"),
    ],
)
def test_cdpm_in_place_of_a_classifier_is_refused_before_training(
    image_folder, small_args, tmp_path, capsys, words, message
):
    write_beton(
        tmp_path / "made.beton",
        read_synthetic_rows(image_folder, TOY_SPEC),
        TOY_SPEC,
        "train",
        WriteOptions(mode="raw"),
    )
    assert run([*small_args, *SMALL, "--data.synthetic_path", tmp_path / "made.beton", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))


def test_two_trainings_of_one_network_have_different_revisions(tmp_path):
    """The files differ only near their end; sizes, and the list of shapes at the beginning, are the same."""
    for name in "ab":
        (tmp_path / name).mkdir()
        content = bytes(4_000_000) + name.encode() * 70_000
        (tmp_path / name / "model.safetensors").write_bytes(content)
    assert folder_hash(tmp_path / "a") != folder_hash(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes((tmp_path / "a" / "model.safetensors").read_bytes())
    assert folder_hash(tmp_path / "a") == folder_hash(tmp_path / "b")
