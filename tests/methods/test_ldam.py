"""Tests of ldam: margins, a step against a float64 loop, cosines of a network, gradient parts, and a resumed run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import folder_of, run, stopped_and_resumed
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.methods.ldam import MarginCrossEntropy, class_margins
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.micro_batches import InParts, MicroBatches
from debeton.train.objective import CrossEntropy, Precision

COUNTS, LABEL = np.array([90, 10, 1]), [0, 1, 2, 1, 0, 0, 2]


def batch_of(image: Tensor, label: list[int], share: float = 1.0) -> Batch:
    code = torch.tensor(label, dtype=torch.int64)
    zeros = torch.zeros_like(code)
    return Batch(image, torch.arange(len(code)), code, zeros, code, zeros, share)


def loss_of_a_loop(z: np.ndarray, label: list[int], scale: float) -> float:
    raw, total = [1 / n**0.25 for n in COUNTS], 0.0
    for row, y in zip(z, label, strict=True):
        moved = [scale * (v - (0.5 * raw[y] / max(raw) if c == y else 0)) for c, v in enumerate(row)]
        total -= float(np.log(np.exp(moved[y]) / np.exp(moved).sum()))
    return total / len(label)


def network() -> tuple[nn.Sequential, nn.Linear]:
    torch.manual_seed(0)
    head = nn.Linear(5, 3).double()
    return nn.Sequential(nn.Linear(4, 5).double(), nn.Tanh(), head), head


def test_margins_are_inverse_fourth_roots_and_0_without_rows():
    np.testing.assert_allclose(class_margins(np.array([81, 0, 1]), 0.6).numpy(), [0.2, 0, 0.6])


def test_a_step_on_logits_has_the_loss_and_the_gradient_of_a_float64_loop_over_rows():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = MarginCrossEntropy(class_margins(COUNTS, 0.5), 5.0)(nn.Identity(), batch_of(logits, LABEL))
    output.loss.backward()
    z = logits.detach().double().numpy()
    assert output.loss.item() == pytest.approx(loss_of_a_loop(z, LABEL, 5.0), rel=1e-5)
    assert output.logits is logits  # it is evaluated by the network's own logits
    expected = np.zeros_like(z)
    for i, c in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[i, c] = 1e-6
        expected[i, c] = (loss_of_a_loop(z + step, LABEL, 5.0) - loss_of_a_loop(z - step, LABEL, 5.0)) / 2e-6
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_with_a_head_the_loss_is_that_of_cosines_and_the_head_gives_their_order():
    model, head = network()
    objective = MarginCrossEntropy(class_margins(COUNTS, 0.5), 30.0, head)
    image = torch.randn(7, 4, dtype=torch.float64)
    output = objective(model, batch_of(image, LABEL))
    features = model[:2](image)
    with torch.no_grad():
        cosines = nn.functional.cosine_similarity(features[:, None], head.weight, dim=2)
    assert output.loss.item() == pytest.approx(loss_of_a_loop(cosines.numpy(), LABEL, 30.0), rel=1e-5)
    assert output.logits is not None
    assert torch.equal(output.logits.argsort(1), cosines.argsort(1))
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert head.bias.tolist() == [0, 0, 0]
    output.loss.backward()
    assert head.weight.grad is not None
    along = (head.weight.grad * head.weight).sum(1)  # a cosine does not change with the length
    torch.testing.assert_close(along, torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    model.eval()
    model(image)
    assert len(objective.lengths) == 1  # evaluations leave nothing behind


def test_accumulated_parts_have_the_gradient_of_the_whole_batch():
    image, gradients = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), []
    for micro in (None, MicroBatches(3)):
        model, head = network()
        objective = MarginCrossEntropy(class_margins(COUNTS, 0.5), 8.0, head)
        for _ in range(2):  # the second step begins where the first one's backward pass left its parts
            model.zero_grad()
            objective(model if micro is None else InParts(model, micro), batch_of(image, LABEL)).loss.backward()
        gradients.append([model[0].weight.grad, head.weight.grad])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-9)


def test_two_processes_with_unequal_parts_have_the_gradient_of_one():
    image, precision = torch.randn(7, 4, dtype=torch.float64), Precision("fp32", torch.device("cpu"))
    gradients = []
    for parts in ([slice(None)], [slice(0, None, 2), slice(1, None, 2)]):
        model, head = network()
        objective = MarginCrossEntropy(class_margins(COUNTS, 0.5), 8.0, head)
        for part in parts:
            own = batch_of(image[part], LABEL[part], len(LABEL[part]) * len(parts) / 7)
            objective.backward(model, own, precision)
        gradients.append(model[0].weight.grad / len(parts))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def test_without_margins_a_scale_of_1_is_plain_cross_entropy_smoothing_included():
    batch = batch_of(torch.randn(7, 3, generator=torch.Generator().manual_seed(2)), LABEL)
    ours = MarginCrossEntropy(torch.zeros(3), 1.0, label_smoothing=0.1)(nn.Identity(), batch)
    torch.testing.assert_close(ours.loss, CrossEntropy(0.1)(nn.Identity(), batch).loss)


def test_a_run_stopped_in_the_middle_of_an_epoch_ends_bit_equal(toy_args, write_toy, tmp_path: Path, monkeypatch):
    write_toy(tmp_path / "train.beton", 96, 0.9)
    own = ["--training.method", "ldam", "--training.batch_size", 32, "--data.train_path", tmp_path / "train.beton"]
    assert run([*toy_args, *own, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*toy_args, *own, "--training.outdir", tmp_path / "stopped"], monkeypatch, 5)
    left, right = (
        load_checkpoint(folder_of(tmp_path / name) / "checkpoints/checkpoint_latest.pt")["state_dict"]
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    head = [value for value in left.values() if value.shape == (2,)][-1]
    assert head.tolist() == [0, 0]  # the biases


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ldam.scale", "0"], "ldam.scale is 0"),
        (
            ["--model.arch", "squeezenet1_1", "--dry-run"],
            "the head of SqueezeNet is a Conv2d, and ldam divides by the length",
        ),
    ],
    ids=["scale", "head"],
)
def test_a_scale_of_0_and_a_head_without_features_are_refused(words: list[str], said: str, toy_args, capsys):
    assert run([*toy_args, "--training.method", "ldam", *words]) == 2
    assert said in capsys.readouterr().err
