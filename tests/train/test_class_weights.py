"""Class weights in the cross-entropy: those of scikit-learn, in the loss of torch, by the methods that have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from tests.running import run
from torch import nn

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import load
from debeton.data.loader.batch import Batch
from debeton.methods.parts.cross_entropy import class_weights
from debeton.system import distributed
from debeton.system.errors import DataError, UsageError
from debeton.train.objective import CrossEntropy, Precision


class FakeRun:
    """A run that has a configuration alone."""

    def __init__(self, *words: str):
        self.config = load(overrides=words)


def a_batch(rows: slice = slice(None), share: float = 1.0) -> Batch:
    label = torch.tensor([0, 1, 1, 0, 1, 1, 1])[rows]
    zeros = torch.zeros_like(label)
    logits = torch.linspace(-1, 1, 14, dtype=torch.float64).sin().reshape(7, 2)[rows]
    return Batch(logits, torch.arange(len(label)), label, zeros, zeros, zeros, share)


def test_balanced_weights_are_scikit_learns(paper_view):
    label = [0] * 7 + [1] * 3
    weights = class_weights(FakeRun("--training.class_weights", "balanced"), paper_view(label))
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=np.array(label))
    torch.testing.assert_close(weights, torch.from_numpy(expected).float())


def test_a_list_has_one_weight_for_each_class_and_every_class_a_row(paper_view):
    given = class_weights(FakeRun("--training.class_weights", "0.5,3"), paper_view([0, 1]))
    assert given is not None
    assert given.tolist() == [0.5, 3.0]
    assert class_weights(FakeRun(), paper_view([0, 1])) is None
    with pytest.raises(UsageError, match=r"3 values for the 2 classes of pets; .* cat; dog"):
        class_weights(FakeRun("--training.class_weights", "1,2,3"), paper_view([0, 1]))
    with pytest.raises(DataError, match="have no row"):
        class_weights(FakeRun("--training.class_weights", "balanced"), paper_view([0, 0]))
    with pytest.raises(UsageError, match=r"training.class_weights is 'equal'; expected balanced, or numbers above 0"):
        load(overrides=["--training.class_weights", "equal"])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_torchs_weighted_mean(smoothing):
    weight, batch = torch.tensor([0.3, 2.0]), a_batch()
    loss = CrossEntropy(smoothing, weight)(nn.Identity(), batch).loss
    torch_loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)(batch.image.float(), batch.label)
    assert torch.equal(loss, torch_loss)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_two_processes_have_the_gradient_of_one(monkeypatch, smoothing):
    """DDP averages over the processes: the mean of their gradients is that of torch's loss on all rows."""
    weight, bias = torch.tensor([0.3, 2.0]), nn.Parameter(torch.zeros(2))
    whole = a_batch()
    nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)(whole.image.float() + bias, whole.label).backward()
    assert bias.grad is not None
    expected, bias.grad = bias.grad, None
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    sums = torch.tensor([7.0, float(weight[whole.label].sum())])
    monkeypatch.setattr(distributed, "sum_over_processes", lambda own: sums)
    for rank in range(2):
        part = a_batch(slice(rank, None, 2), (4, 3)[rank] * 2 / 7)
        CrossEntropy(smoothing, weight).backward(lambda x: x + bias, part, Precision("fp32", torch.device("cpu")))  # type: ignore[arg-type]
    torch.testing.assert_close(bias.grad / 2, expected)


@pytest.mark.parametrize("method", ["groupdro", "mixup", "reweight_class"])
def test_methods_without_class_weights_refuse_them(toy_args, capsys, method):
    words = ["--training.method", method, "--training.class_weights", "1,2", "--dry-run"]
    assert run([*toy_args, *words]) == 2
    error = capsys.readouterr().err
    assert f"{method} has no class weights in its loss" in error
    assert "(afr, crt, crt_class, crt_reweight, dfr, dispel, erm, erm_target, ffr, jtt, self, upweight)" in error


def test_dfr_refuses_them_where_its_base_method_does(toy_args, capsys):
    words = ["--training.method", "dfr", "--dfr.base", "groupdro", "--training.class_weights", "1,2", "--dry-run"]
    assert run([*toy_args, *words]) == 2
    assert "groupdro has no class weights in its loss" in capsys.readouterr().err


def test_the_weights_reach_the_training_of_both_phases_of_jtt(toy_args, capsys):
    words = ["--training.method", "jtt", "--training.class_weights", "1,3", "--training.epochs", 1]
    assert run([*toy_args, *words, "--training.batch_size", 256]) == 0
    assert capsys.readouterr().err.count("class weights in view 'train': left 1; right 3") == 2


def test_dfr_on_features_that_it_does_not_train_refuses_them(toy_args, capsys):
    words = ["--training.method", "dfr", "--training.class_weights", "balanced", "--dry-run"]
    for source in (["--dfr.checkpoint", "none.pt"], ["--dfr.base", "pretrained", "--model.pretrained", "true"]):
        assert run([*toy_args, *words, *source]) == 2
        assert "dfr trains no features here" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "said"), [("1,1e39", "1e+39, which is inf"), ("1,1e-50", "1e-50, which is 0")])
def test_weights_that_float32_cannot_hold_are_refused(toy_args, capsys, given, said):
    assert run([*toy_args, "--training.class_weights", given]) == 2
    assert f"training.class_weights holds {said} in float32" in capsys.readouterr().err
