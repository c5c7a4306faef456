"""Whole runs with networks of other libraries and with checkpoints of other programs."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.running import folder_of, run
from tests.tiny_networks import save_hf, save_open_clip

from debeton.commands import dispatch
from debeton.data.beton.reading import open_beton
from debeton.data.beton.writer import write_beton
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View
from debeton.nets.checkpoint import load_checkpoint
from debeton.nets.models import make_model
from debeton.nets.trained import load_trained
from debeton.nets.weight_files import find_weight_file
from debeton.report.pictures import worst_mistakes
from debeton.system.errors import UsageError, run_command
from debeton.tools.export import export
from debeton.tools.probe import probe_run

CPU = torch.device("cpu")


@pytest.fixture
def words(toy_args: list[str]) -> list[str]:
    """Settings of a run of one epoch on images that are enlarged from 16 to 32 pixels."""
    further = ["--training.decoder_train", "resized", "--training.decoder_val", "resized", "--training.augment", "none"]
    return [*toy_args, *further, "--resolution.val_res", "32", "--training.epochs", "1"]


@pytest.fixture
def timm_weights(tmp_path: Path) -> Path:
    """Weights of timm's test_resnet for 1,000 classes."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path / "resnet.safetensors")
    return tmp_path / "resnet.safetensors"


def assert_stands_apart(folder: Path, tmp_path: Path) -> None:
    """A finished run has pictures and probes, and its exported classifier is the same network."""
    assert probe_run(folder)["attribute"]["chance"] == 0.5
    assert worst_mistakes(folder, "test", CPU)[0].heat is not None
    image = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = load_trained(folder).model(image)
        torch.testing.assert_close(load_trained(export(folder, tmp_path / "exported")).model(image), expected)


def test_a_head_is_trained_on_a_frozen_body_of_timm_whose_weights_are_a_file(words, timm_weights, tmp_path, capsys):
    given = ["--model.arch", "timm:test_resnet", "--model.weights", timm_weights, "--model.transfer", "FIXED"]
    assert run([*words, *given]) == 0
    folder = folder_of(tmp_path / "runs")
    trained, original = load_trained(folder), timm.create_model("test_resnet", num_classes=0)
    weights = {n: v for n, v in trained.bare.state_dict().items() if not n.startswith("fc.")}
    original.load_state_dict(weights)
    fresh = load_checkpoint(folder / "checkpoints/checkpoint_best.pt")["model"]
    assert fresh["mean"] == list(original.pretrained_cfg["mean"])
    body = make_model("timm:test_resnet", 1000, weights=timm_weights).state_dict()
    assert all(torch.equal(value, body[name]) for name, value in weights.items())
    assert_stands_apart(folder, tmp_path)


def test_the_last_layer_of_a_folder_of_transformers_is_fitted_by_dfr(words, tmp_path):
    folder = save_hf(tmp_path / "dino", "dinov2")
    given = ["--model.arch", f"hf:{folder}", "--model.pretrained", "true", "--training.method", "dfr"]
    assert run([*words, *given, "--dfr.base", "pretrained", "--dfr.c_grid", "1", "--dfr.refits", "1"]) == 0
    done = folder_of(tmp_path / "runs")
    assert worst_mistakes(done, "test", CPU)[0].heat is not None
    (folder / "config.json").unlink()  # a checkpoint says by itself which network it holds
    trained = load_trained(done)
    features = make_model(f"hf:{folder}", 2, config=trained.network["config"]).state_dict()
    assert {n for n in features if not n.startswith("head.")} <= set(trained.bare.state_dict())


def test_all_of_an_image_tower_of_open_clip_is_trained_and_a_run_starts_from_its_experiment(words, tmp_path, capsys):
    config, weights = save_open_clip(tmp_path / "clip")
    arch = f"open_clip:{config}@{weights}"
    given = ["--model.arch", arch, "--model.pretrained", "true", "--model.transfer", "FULL"]
    assert run([*words, *given, "--training.exp_name", "first"]) == 0
    first = folder_of(tmp_path / "runs")
    assert_stands_apart(first, tmp_path)
    again = ["--model.arch", arch, "--model.checkpoint", first.parent, "--model.transfer", "FIXED"]
    assert run([*words, *again, "--training.exp_name", "second"]) == 0
    assert f"{first.parent} stands for its only run version_0" in capsys.readouterr().err


@pytest.mark.slow
def test_real_photos_go_through_a_network_of_timm(tmp_path):
    archive = Path(os.environ.get("DEBETON_DATA", Path(__file__).parents[3] / "shared/data")) / "in1k_256.zip"
    if not archive.exists():
        pytest.skip(f"needs 1,000 ImageNet photos, one a class, in {archive.name}; set DEBETON_DATA to their folder")
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.upper().endswith(".JPEG"))
        photos = [file.read(name) for name in names]
    label = np.arange(len(photos)) % 2
    spec = DatasetSpec("photos", ("even", "odd"), ("left", "right"), aligned=((0,), (1,)))
    rows = Rows(label, label, lambda k: photos[k], names)
    for split in ("train", "val", "test"):
        write_beton(tmp_path / f"photos_{split}.beton", rows, spec, split)
    given = {"data.dataset": "photos", "training.data_root": tmp_path, "training.outdir": tmp_path / "runs"}
    given |= {"model.arch": "timm:test_vit", "resolution.val_res": 64, "training.epochs": 1, "training.device": "cpu"}
    given |= {"training.selection": "average", "training.lr": 0.01, "training.batch_size": 100}
    assert run([word for key, value in given.items() for word in (f"--{key}", value)]) == 0
    folder = folder_of(tmp_path / "runs")
    results = json.loads((folder / "results.json").read_text())
    assert sum(results["test"]["group_count"].values()) == 1000
    probabilities = load_trained(folder).probabilities(View.whole(open_beton(tmp_path / "photos_test.beton")), CPU)
    assert (probabilities.argmax(1) == label).mean() == pytest.approx(results["test"]["accuracy"])


# --- checkpoints of other programs ------------------------------------------------------------------


def wrapped(weights: dict[str, torch.Tensor], kind: str) -> dict[str, object]:
    """A state dict as other programs store it."""
    if kind == "plain":
        return dict(weights)
    if kind == "lightning":
        return {"epoch": 3, "state_dict": {f"model.{n}": v for n, v in weights.items()}, "optimizer_states": []}
    if kind == "compiled":
        return {"model": {f"module._orig_mod.{n}": v for n, v in weights.items()}, "lr": 0.1}
    body = {f"backbone.{n}": v for n, v in weights.items() if not n.startswith("fc.")}
    return {"net": body | {n: v for n, v in weights.items() if n.startswith("fc.")}}


@pytest.mark.parametrize("kind", ["plain", "lightning", "compiled", "backbone"])
def test_a_checkpoint_of_another_program_gives_the_same_network(kind, tmp_path):
    torch.manual_seed(0)
    original = make_model("small_resnet", 3).eval()
    torch.save(wrapped(original.state_dict(), kind), tmp_path / "other.pth")
    trained = load_trained(tmp_path / "other.pth", arch="small_resnet", classes=["a", "b", "c"])
    assert trained.classes == ("a", "b", "c")
    image = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(trained.model(image), original(image))


def test_a_run_starts_from_a_checkpoint_of_another_program(words, tmp_path, capsys):
    torch.manual_seed(5)
    original = make_model("small_resnet", 2).state_dict()
    torch.save({"state_dict": {f"module.{n}": v for n, v in original.items()}}, tmp_path / "other.pt")
    given = ["--model.checkpoint", tmp_path / "other.pt", "--training.lr", "0"]
    assert run([*words, *given]) == 0
    after = load_checkpoint(folder_of(tmp_path / "runs") / "checkpoints/checkpoint_latest.pt")["state_dict"]
    assert torch.equal(after["stages.0.conv1.weight"], original["stages.0.conv1.weight"])
    torch.save(make_model("small_resnet", 7).state_dict(), tmp_path / "seven.pt")
    torch.save({f"layer{k}.weight": torch.zeros(2) for k in range(9)}, tmp_path / "stranger.pt")
    torch.save(make_model("small_resnet", 2), tmp_path / "module.pt")
    capsys.readouterr()
    for name, message in (
        ("seven.pt", "2 of another shape: fc.weight [7, 128] instead of [2, 128]"),
        ("stranger.pt", "9 not in the network: layer0.weight"),
        ("module.pt", "save the network's state_dict"),
    ):
        assert run([*words, "--model.checkpoint", tmp_path / name]) == 1
        error = capsys.readouterr().err
        assert message in error.splitlines()[-1]
        assert error.count("error: ") == 1
    assert run([*words, "--model.checkpoint", tmp_path / "seven.pt", "--model.transfer", "FULL", "--dry-run"]) == 0


def test_a_folder_means_its_last_finished_run_and_an_unclear_one_is_an_error(tmp_path):
    for name, finished in (("a/version_0", True), ("a/version_2", True), ("a/version_10", False)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints/checkpoint_best.pt").touch()
        if finished:
            (tmp_path / name / "results.json").touch()
    best = tmp_path / "a/version_2/checkpoints/checkpoint_best.pt"
    assert find_weight_file(tmp_path / "a") == best
    assert find_weight_file(best.parent) == find_weight_file(best.parents[1]) == find_weight_file(best) == best
    for name in ("b/version_0", "b/version_1"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints/checkpoint_best.pt").touch()
    with pytest.raises(UsageError, match="holds 2 unfinished runs"):
        find_weight_file(tmp_path / "b")
    with pytest.raises(UsageError, match=r"holds 5 runs.*version_0"):
        find_weight_file(tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(FileNotFoundError, match="a run folder has checkpoints/checkpoint_best"):
        find_weight_file(tmp_path / "c")


# --- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "side", "words_of_error"),
    [
        ("vit_b_16", "32", ["32 x 32 pixels", "224 x 224 pixels", "--resolution.val_res"]),
        ("timm:test_vit", "40", ["40 x 40 pixels", "160"]),
    ],
)
def test_a_size_that_a_transformer_does_not_take_is_a_sentence_before_training(
    arch, side, words_of_error, words, tmp_path, capsys
):
    assert run([*words, "--model.arch", arch, "--resolution.val_res", side]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert all(word in error for word in words_of_error)
    assert not list((tmp_path / "runs").rglob("results.jsonl"))


def test_the_names_of_other_libraries_are_listed(capsys):
    assert run_command(lambda: dispatch.main(["list", "models"])) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("timm:NAME", "open_clip:NAME@WEIGHTS", "hf:FOLDER"))
    assert run_command(lambda: dispatch.main(["list", "timm"])) == 0
    assert "timm:resnet50\n" in capsys.readouterr().out


def test_published_weights_classify_imagenet_by_name():
    trained = load_trained(None, arch="efficientnet_lite0", pretrained=True)
    assert (len(trained.classes), trained.classes[0], trained.inputs["resolution"]) == (1000, "tench", 224)
    assert len(set(trained.classes)) == 1000
    json.dumps(trained.inputs)
    with pytest.raises(UsageError, match="tell 1000 classes apart"):
        load_trained(None, arch="efficientnet_lite0", pretrained=True, classes=["a", "b"])
