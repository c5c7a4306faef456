"""transfer.py and feature_loader.py: FIXED and FULL from a source, on images and on features, and what is refused."""

from __future__ import annotations

import argparse
import json
import pickle

import numpy as np
import pytest
import torch
from tests.running import folder_of, lines_of, run
from torch import nn

from debeton.config import load
from debeton.data.loader.options import LoaderOptions
from debeton.nets.checkpoint import copy_weights, load_checkpoint, save_checkpoint
from debeton.nets.models import make_model, named_head
from debeton.nets.transfer import hold_body, read_source, transferred
from debeton.nets.weight_fitting import load_weights
from debeton.system.errors import DataError
from debeton.train.feature_loader import reason_against_cache
from debeton.train.results import ResultLog
from debeton.train.run_views import prepare_views

SMALL = [
    "--training.decoder_train",
    "simple",
    "--training.decoder_val",
    "simple",
    "--training.augment",
    "flip",
    "--model.arch",
    "small_convnet",
    "--training.batch_size",
    "50",
    "--training.lr",
    "0.05",
    "--training.lr_scheduler",
    "cosine",
]


@pytest.fixture(scope="module")
def data(toy_betons):
    return ["--data.dataset", "toy", "--training.data_root", str(toy_betons)]


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    """The best checkpoint of a source run whose inputs are normalised in a way of its own."""
    outdir = tmp_path_factory.mktemp("source")
    settings = ["--training.epochs", "2", "--training.outdir", str(outdir), "--model.normalisation", "none"]
    assert run([*data, *SMALL, *settings]) == 0
    return folder_of(outdir) / "checkpoints" / "checkpoint_best.pt"


@pytest.fixture(scope="module")
def fixed_args(data, source):
    return [
        *data,
        *SMALL,
        "--model.transfer",
        "FIXED",
        "--model.checkpoint",
        str(source),
        "--training.epochs",
        "3",
        "--spurious.spurious_type",
        "square",
    ]


@pytest.fixture(scope="module")
def fixed(fixed_args, tmp_path_factory):
    """Folders of the same FIXED run on features and on images."""
    folders = {}
    for cache in ("on", "off"):
        outdir = tmp_path_factory.mktemp(f"fixed_{cache}")
        assert run([*fixed_args, "--training.outdir", outdir, "--model.cache", cache]) == 0
        folders[cache] = folder_of(outdir)
    return folders


def weights(folder):
    return load_checkpoint(folder / "checkpoints" / "checkpoint_latest.pt")["state_dict"]


# --- FIXED -------------------------------------------------------------------------------------


def test_fixed_moves_the_head_and_nothing_else_on_features_and_on_images(fixed, source):
    before = load_checkpoint(source)["state_dict"]
    for folder in fixed.values():
        after = weights(folder)
        assert after.keys() == before.keys()
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed == {"fc.weight", "fc.bias"}


def test_a_head_trained_on_features_is_the_one_trained_on_images(fixed):
    on, off = (weights(fixed[cache]) for cache in ("on", "off"))
    # Other sums of the same numbers: batches of another size go through the body.
    torch.testing.assert_close(on["fc.weight"], off["fc.weight"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(on["fc.bias"], off["fc.bias"], rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(*(lines_of(fixed[cache]) for cache in ("on", "off")), strict=True):
        assert mine["metrics"]["loss"] == pytest.approx(theirs["metrics"]["loss"], rel=1e-4)


def test_every_form_is_measured_the_same_on_features_and_on_images(fixed):
    on, off = (load_checkpoint(fixed[cache] / "results.pt")["results"] for cache in ("on", "off"))
    assert list(on) == list(off) == ["results_standard", "results_clean", "results_spurious"]
    for form in on:
        assert (on[form]["preds"] == off[form]["preds"]).double().mean() > 0.99
    assert not torch.equal(on["results_spurious"]["preds"], on["results_clean"]["preds"])


def test_no_epoch_on_features_takes_a_pass_of_the_body(fixed_args, tmp_path, monkeypatch):
    from debeton.nets.networks import SmallConvNet

    passes, forward = [], SmallConvNet.forward
    monkeypatch.setattr(SmallConvNet, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    args = [*fixed_args, "--training.outdir", tmp_path, "--training.epochs", 20, "--training.selection", "last"]
    assert run(args) == 0
    # Two black images that check the size. Then training rows and their mirror images, validation once for the epochs
    # and once with the trigger, and tests with it.
    assert sum(passes) == 2 + 2 * 512 + 128 + 2 * 128 + 2 * 256
    passes.clear()
    assert run([*args, "--training.weight_decay", 0.01]) == 0
    assert passes == [2]  # another head on the same body finds its features on disk; only the size is checked


def test_training_on_features_resumes_bit_equal(fixed, fixed_args, tmp_path, monkeypatch):
    write, calls = ResultLog.write, []

    class Killed(BaseException):
        pass

    def die_in_the_second_epoch(self, **line):
        calls.append(line)
        if len(calls) == 4:
            raise Killed
        write(self, **line)

    monkeypatch.setattr(ResultLog, "write", die_in_the_second_epoch)
    args = [*fixed_args, "--training.outdir", tmp_path, "--model.cache", "on"]
    with pytest.raises(Killed):
        run(args)
    monkeypatch.setattr(ResultLog, "write", write)
    assert run(args) == 0
    resumed, whole = weights(folder_of(tmp_path)), weights(fixed["on"])
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert lines_of(folder_of(tmp_path)) == lines_of(fixed["on"])


def test_two_processes_train_the_head_of_one_on_features(fixed, fixed_args, two_processes, tmp_path):
    two_processes([*fixed_args, "--training.outdir", tmp_path, "--model.cache", "on"])
    both, alone = weights(folder_of(tmp_path)), weights(fixed["on"])
    for name in ("fc.weight", "fc.bias"):
        torch.testing.assert_close(both[name], alone[name], rtol=1e-3, atol=1e-5)
    forms = [load_checkpoint(f / "results.pt")["results"] for f in (folder_of(tmp_path), fixed["on"])]
    for form in forms[0]:
        assert torch.equal(forms[0][form]["gts"], forms[1][form]["gts"])
        assert (forms[0][form]["preds"] == forms[1][form]["preds"]).double().mean() > 0.99


def test_batch_norm_moves_under_fixed_only_where_it_is_asked_for(fixed_args, source, tmp_path):
    args = [*fixed_args, "--training.outdir", tmp_path, "--training.epochs", 1]
    assert run([*args, "--model.bn_mode", "train"]) == 0
    before, after = load_checkpoint(source)["state_dict"], weights(folder_of(tmp_path))
    changed = {name.rpartition(".")[2] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert torch.equal(after["features.0.weight"], before["features.0.weight"])


@pytest.mark.parametrize("method", ["resample", "groupdro", "reweight", "cvar", "jtt"])
def test_methods_cross_with_fixed(fixed_args, tmp_path, method):
    settings = ["--training.method", method, "--training.epochs", "1", "--jtt.epochs", "1"]
    found = {}
    for cache in ("auto", "off"):
        assert run([*fixed_args, *settings, "--training.outdir", tmp_path / cache, "--model.cache", cache]) == 0
        found[cache] = weights(folder_of(tmp_path / cache))["fc.weight"]
    torch.testing.assert_close(found["auto"], found["off"], rtol=1e-3, atol=1e-5)


def test_a_head_that_dfr_fits_on_a_fixed_body_is_measured_as_a_whole(fixed_args, tmp_path):
    settings = [
        "--training.method",
        "dfr",
        "--training.epochs",
        "1",
        "--dfr.normalise_features",
        "true",
        "--dfr.refits",
        "2",
    ]
    found = {}
    for cache in ("on", "off"):
        assert run([*fixed_args, *settings, "--training.outdir", tmp_path / cache, "--model.cache", cache]) == 0
        found[cache] = load_checkpoint(folder_of(tmp_path / cache) / "results.pt")["results"]
    for form in found["on"]:
        assert (found["on"][form]["preds"] == found["off"][form]["preds"]).double().mean() > 0.99


def test_mixup_trains_on_images_under_fixed(fixed_args, tmp_path):
    assert (
        run([*fixed_args, "--training.method", "mixup", "--training.epochs", "1", "--training.outdir", tmp_path]) == 0
    )
    assert not (tmp_path / "features").exists()


# --- FULL and the body -------------------------------------------------------------------------


def test_full_starts_from_the_sources_body_and_moves_all_of_it(data, source, tmp_path):
    args = [*data, *SMALL, "--model.transfer", "FULL", "--model.checkpoint", source, "--training.outdir", tmp_path]
    assert run([*args, "--training.epochs", 1, "--training.lr", 1e-3, "--training.weight_decay", 0]) == 0
    before, after = load_checkpoint(source)["state_dict"], weights(folder_of(tmp_path))
    body, head = before["features.0.weight"], before["fc.weight"]
    assert 0 < (after["features.0.weight"] - body).norm() < 0.05 * body.norm()
    assert (after["fc.weight"] - head).norm() > 0.5 * head.norm()  # a new one, not the source's


def test_the_sources_normalisation_is_taken_over_and_others_can_be_asked_for(data, source):
    args = [*data, *SMALL, "--model.transfer", "FULL", "--model.checkpoint", str(source)]
    for choice, mean in (("auto", 0.0), ("source", 0.0), ("dataset", 0.5), ("none", 0.0)):
        spec = prepare_views(load([], [*args, "--model.normalisation", choice]))["test"].spec
        assert spec.mean == (mean,) * 3, choice


@pytest.mark.parametrize(
    "arch",
    [
        "alexnet",
        "vgg11_bn",
        "densenet121",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "convnext_tiny",
        "vit_b_16",
        "resnet18",
        "wide_resnet50_2",
        "resnext50_32x4d",
        "shufflenet_v2_x1_0",
        "mnasnet1_0",
        "squeezenet1_1",
        "googlenet",
    ],
)
def test_every_family_gets_a_new_head_and_keeps_its_body(arch, tmp_path):
    with torch.device("meta"):  # shapes and names, without the weights
        source = make_model(arch, 1000)
        names = {name: value.shape for name, value in source.state_dict().items()}
    head = named_head(source)[0]
    model = _transferred_on_meta(arch, tmp_path)
    for name, value in model.state_dict().items():
        expected = names[name] if name.rpartition(".")[0] != head else (7, *names[name][1:])
        assert value.shape == expected, name
    trainable = {name.rpartition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
    assert trainable == {head}
    hold_body(model)
    assert {name for name, module in model.named_modules() if module.training} == {head}
    with torch.device("meta"):
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 7)


def _transferred_on_meta(arch, tmp_path):
    from debeton.nets import transfer

    path = tmp_path / "c.pt"
    description = {"arch": arch, "num_classes": 1000, "mean": [0.5] * 3, "std": [0.25] * 3}
    save_checkpoint(path, {"model": description, "state_dict": {}})
    config = load([], ["--model.arch", arch, "--model.transfer", "FIXED", "--model.checkpoint", str(path)])
    keep = transfer.load_weights
    transfer.load_weights = lambda *arguments: None  # nothing to load on the meta device
    try:
        with torch.device("meta"):
            return transferred(config, 7)
    finally:
        transfer.load_weights = keep


# --- checkpoints of the published code ---------------------------------------------------------


class TransferNetwork(nn.Module):
    """A transferred network by the rules of the published code.

    The body is the sequence of the network's children but the last. Maps that are not 1 x 1 yet are averaged.
    """

    def __init__(self, network, num_classes):
        super().__init__()
        self.backbone = nn.Sequential(*list(network.children())[:-1])
        self.fc = nn.Linear(named_head(network)[1].in_features, num_classes)

    def forward(self, x):
        features = self.backbone(x)
        return self.fc(features.mean((2, 3)) if features.ndim == 4 else features)


def published_checkpoint(path, arch, stage, network):
    """Write a checkpoint of the published code."""
    metadata = {
        "training_args": argparse.Namespace(lr=0.5),
        "epoch": np.int64(15),
        "val_metrics": {"acc": np.float32(70.1), "class_acc": np.arange(3, dtype=np.float32)},
        "model_building_args": {
            "model_stage": stage,
            "params": {"arch": arch, "num_classes": 9, "pretrained": False},
        },
    }
    torch.save({"state_dict": network.state_dict(), "run_metadata": metadata}, path)
    return path


@pytest.mark.parametrize("stage", ["source", "transfer"])
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "mnasnet1_0", "shufflenet_v2_x1_0"])
def test_checkpoints_of_the_published_code_predict_the_same_here(arch, stage, tmp_path):
    torch.manual_seed(0)
    network = make_model(arch, 9).eval()
    theirs = network if stage == "source" else TransferNetwork(network, 9).eval()
    path = published_checkpoint(tmp_path / "checkpoint_latest.pt", arch, stage, theirs)
    found = read_source(path)
    assert (found.arch, found.num_classes, found.mean) == (arch, 9, (0.485, 0.456, 0.406))
    rebuilt = make_model(found.arch, found.num_classes).eval()
    load_weights(rebuilt, found.weights, path, arch)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(image), theirs(image))


def test_a_densenet_that_the_published_code_transferred_is_refused(tmp_path):
    torch.manual_seed(0)
    network = make_model("densenet121", 9).eval()
    theirs, image = TransferNetwork(network, 9).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs.fc.load_state_dict(network.classifier.state_dict())
        assert (theirs(image) - network(image)).abs().max() > 1e-3  # the same weights, and another function
    path = published_checkpoint(tmp_path / "checkpoint_latest.pt", "densenet121", "transfer", theirs)
    with pytest.raises(DataError, match=r"densenet121 .* has no ReLU before the pooling, .* its source network"):
        read_source(path)
    read_source(published_checkpoint(path, "densenet121", "source", network))


def test_weights_without_the_version_of_their_modules_are_loaded():
    torch.manual_seed(0)
    source, target = (make_model("mnasnet0_5", 5).eval() for _ in range(2))
    copy_weights(target, {name: value.clone() for name, value in source.state_dict().items()})
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(source(image), target(image))


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--model.arch", "resnet18"], ["holds a small_convnet, and model.arch is", "set --model.arch small_convnet"]),
        (["--model.checkpoint", ""], ["model.transfer FIXED needs a source", "--model.transfer NONE"]),
        (["--training.method", "scale"], ["scale mixes the gradients of the body", "use FULL"]),
        (["--model.blurpool", "true"], ["trained with model.blurpool False", "set --model.blurpool"]),
        (["--model.cache", "on", "--training.augment", "pad_crop:2"], ["model.cache is on, but", "pad_crop:2"]),
        (["--model.cache", "on", "--training.decoder_train", "random_resized_crop"], ["another part of an image"]),
    ],
)
def test_wrong_use_is_one_sentence(fixed_args, tmp_path, capsys, extra, words):
    assert run([*fixed_args, *extra, "--training.outdir", tmp_path]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert "Traceback" not in error


class Malicious:
    def __reduce__(self):
        return (open, ("/nonexistent/proof", "w"))


def test_files_that_are_no_source_are_one_sentence_and_run_no_code(fixed_args, source, tmp_path, capsys):
    whole = source.read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "malicious.pt").write_bytes(pickle.dumps(Malicious()))
    torch.save({"state_dict": {}, "model": Malicious()}, tmp_path / "hidden.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    other = load_checkpoint(source)
    save_checkpoint(tmp_path / "shapes.pt", {**other, "state_dict": {"fc.weight": torch.zeros(3)}})
    for name, words in (
        ("truncated.pt", "truncated.pt is damaged: the list of its parts is not what was written there"),
        ("malicious.pt", "cannot be read as a checkpoint"),
        ("hidden.pt", "cannot be read as a checkpoint"),
        ("other.pt", "is no checkpoint of a run"),
        ("shapes.pt", "does not hold the weights of small_convnet"),
        ("missing.pt", "no checkpoint at"),
    ):
        args = [*fixed_args, "--model.checkpoint", tmp_path / name, "--training.outdir", tmp_path / "runs"]
        assert run(args) == 1, name
        error = capsys.readouterr().err
        assert words in error, error
        assert "Traceback" not in error


def test_what_keeps_a_head_from_training_on_features_is_named():
    network, options = make_model("small_convnet", 2), LoaderOptions("simple", "flip")
    assert reason_against_cache(network, options, prog_resizing=False, ema=None, tta=False) == ""
    assert "prog_resizing" in reason_against_cache(network, options, prog_resizing=True, ema=None, tta=False)
    assert "training.tta" in reason_against_cache(network, options, prog_resizing=False, ema=None, tta=True)
    assert "training.ema" in reason_against_cache(network, options, prog_resizing=False, ema=0.9, tta=False)
    assert "cutout:4" in reason_against_cache(
        network, LoaderOptions("simple", "flip,cutout:4"), prog_resizing=False, ema=None, tta=False
    )
    assert "SqueezeNet" in reason_against_cache(
        make_model("squeezenet1_1", 2), options, prog_resizing=False, ema=None, tta=False
    )


def test_the_results_say_what_was_transferred(fixed, source):
    results = json.loads((fixed["on"] / "results.json").read_text())
    assert results["source"] == {
        "checkpoint": str(source),
        "dataset": "toy",
        "seed": 0,
        "trigger": "none",
        "trigger_classes": "",
        "trigger_rate": 0.0,
    }
    assert set(results["triggers"]["test"]) == {"square"}
