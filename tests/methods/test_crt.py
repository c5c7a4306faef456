"""Tests of classifier re-training, and of the gradient steps that fit a last layer on features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, run, stopped_and_resumed
from torch import nn

from debeton.data.spec import DatasetSpec
from debeton.methods.parts.gradient_head import Descent, FeatureRows, HeadChoice, descend, epoch_batches
from debeton.nets.checkpoint import load_checkpoint

SPEC = DatasetSpec("s", ("a", "b", "c"), ("x", "y"))


def feature_rows(n: int = 9) -> FeatureRows:
    generator = torch.Generator().manual_seed(0)
    label, attribute = torch.arange(n) % 3, torch.arange(n) // 3 % 2
    return FeatureRows(torch.randn(n, 4, generator=generator), label, 2 * label + attribute, SPEC)


def a_layer() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(4, 3)


# --- gradient steps ------------------------------------------------------------------------------


def loop_descent(layer: nn.Linear, rows: FeatureRows, weight: list[float], batches: list[list[int]], penalty: float):
    """Return weight and bias after SGD with rate 0.5 / (step + 1) and momentum 0.9: row by row, in float64."""
    w0 = np.c_[layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()]
    w, speed, x = w0.copy(), np.zeros_like(w0), np.c_[rows.x.double().numpy(), np.ones(len(rows.x))]
    for step, batch in enumerate(batches):
        gradient = 2 * penalty * (w - w0)
        for i in batch:
            e = np.exp(w @ x[i] - (w @ x[i]).max())
            gradient += weight[i] * np.outer(e / e.sum() - np.eye(3)[int(rows.label[i])], x[i]) / len(batch)
        speed = 0.9 * speed + gradient
        w = w - 0.5 / (step + 1) * speed
    return w


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_weighted_steps_are_those_of_a_loop_over_rows(penalty: float):
    layer, rows, weight = a_layer(), feature_rows(), [0.1, 2.0, 0.0, 1.0, 0.5, 3.0, 1.0, 0.2, 0.7]
    batches = [[0, 1, 5], [2, 2, 8, 4], list(range(9)), [7]]
    expected = loop_descent(layer, rows, weight, batches, penalty)
    options = Descent(lr=lambda step: 0.5 / (step + 1), momentum=0.9, penalty=penalty)
    steps = list(descend(layer, rows, torch.tensor(weight), map(torch.tensor, batches), options))
    assert steps == [1, 2, 3, 4]
    found = np.c_[layer.weight.detach().numpy(), layer.bias.detach().numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_best_offer_is_kept_the_first_of_equals_and_none_that_diverged():
    rows = feature_rows()
    right, wrong, broken = a_layer(), a_layer(), a_layer()
    with torch.no_grad():
        solved = torch.linalg.lstsq(torch.cat([rows.x, torch.ones(9, 1)], 1), 50 * torch.eye(3)[rows.label]).solution
        right.weight.copy_(solved[:4].T)
        right.bias.copy_(solved[4])
        wrong.weight.copy_(-right.weight)
        broken.weight.fill_(torch.nan)
    choice = HeadChoice("mean_class", rows)
    for step, (layer, name) in enumerate([(broken, "x"), (wrong, "y"), (right, "z"), (right, "again"), (broken, "x")]):
        choice.offer(layer, {"name": name}, step)
    assert choice.setting == {"name": "z", "step": 2}
    assert torch.equal(choice.best["weight"], right.weight)
    assert [line["name"] for line in choice.table] == ["x", "y", "z", "again"]
    predicted = right(rows.x).argmax(1)
    groups = [(predicted == rows.label)[rows.group == g].double().mean().item() for g in range(6)]
    assert choice.table[2]["worst_group_accuracy"] == pytest.approx(min(groups))
    newest = HeadChoice("last", None)
    newest.offer(right, {}, 1)
    newest.offer(wrong, {}, 2)
    assert torch.equal(newest.best["weight"], wrong.weight)
    assert newest.table == []


def test_an_epoch_takes_each_row_once_or_draws_groups_equally_often(paper_view):
    view = paper_view([0] * 90 + [1] * 10, [0] * 100)
    once = torch.cat(epoch_batches(view, 32, np.random.default_rng(0), torch.device("cpu")))
    assert once.sort().values.tolist() == list(range(100))
    drawn = [
        torch.cat(epoch_batches(view.resampled_by_class(), 32, np.random.default_rng(seed), torch.device("cpu")))
        for seed in range(100)
    ]
    share = float((torch.cat(drawn) >= 90).double().mean())
    assert abs(share - 0.5) < 5 * 0.5 / 100  # 10,000 draws


# --- runs ----------------------------------------------------------------------------------------

SMALL = ["--training.epochs", "1", "--training.batch_size", "32", "--training.augment", "none", "--crt.epochs", "3"]


@pytest.fixture
def crt_args(toy_args: list[str], write_toy, tmp_path: Path) -> list[str]:
    write_toy(tmp_path / "train.beton", 96, 0.8)
    return [*toy_args, "--data.train_path", str(tmp_path / "train.beton"), *SMALL]


def weights_of(outdir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder_of(outdir) / "checkpoints/checkpoint_best.pt")["state_dict"]


@pytest.mark.parametrize("method", ["crt", "crt_class", "crt_reweight"])
def test_only_the_last_layer_changes_and_the_notes_name_its_epoch(method: str, crt_args, tmp_path):
    assert run([*crt_args, "--training.method", method]) == 0
    folder = folder_of(tmp_path / "runs")
    base, refitted = (load_checkpoint(folder / f"checkpoints/phase_{p}.pt")["state_dict"] for p in ("train", "crt"))
    assert all(torch.equal(base[name], refitted[name]) for name in base if not name.startswith("fc."))
    assert not torch.equal(base["fc.weight"], refitted["fc.weight"])
    results = json.loads((folder / "results.json").read_text())
    notes = results["notes"]["crt"]
    assert notes["epoch"] in (1, 2, 3)
    assert notes["metrics"]["worst_group_accuracy"] == pytest.approx(results["val"]["worst_group_accuracy"])
    assert "chose the last layer" in results["val_uses"]


def test_a_stopped_run_ends_bit_equal(crt_args, tmp_path, monkeypatch):
    args = [*crt_args, "--training.method", "crt"]
    assert run([*args, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*args, "--training.outdir", tmp_path / "stopped"], monkeypatch, 2)
    one, two = (weights_of(tmp_path / name) for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--head.base", "dfr"], ["head.base is 'dfr' which fits a last layer itself"]),
        (["--head.base", "crt"], ["head.base is 'crt' itself"]),
        (["--head.base", "pretrained"], ["add --model.pretrained true"]),
        (["--head.checkpoint", "gone.pt"], ["no checkpoint at gone.pt"]),
        (["--training.lr_scheduler", "plateau"], ["training.lr_scheduler is 'plateau'"]),
        (["--model.arch", "squeezenet1_1"], ["the head of SqueezeNet"]),
    ],
    ids=["another head", "itself", "random weights", "no checkpoint", "plateau", "convolution"],
)
def test_wrong_use_is_said_before_training(crt_args, capsys, tmp_path, extra, words):
    assert run([*crt_args, "--training.method", "crt", *extra]) in (1, 2)
    error = capsys.readouterr().err
    assert all(word in error for word in words)
    assert not list((tmp_path / "runs").rglob("phase_train.pt"))
