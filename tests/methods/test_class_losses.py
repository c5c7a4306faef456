"""Tests of focal, balanced_softmax and logit_adjust: losses against a float64 loop, and limits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.methods.focal import Focal
from debeton.methods.parts.adjusted_cross_entropy import AdjustedCrossEntropy, log_priors
from debeton.train.objective import CrossEntropy, Objective, Precision

COUNTS = np.array([90, 10, 1])
LABEL = [0, 1, 2, 1, 0, 0, 2]


def batch_of(image: Tensor, label: list[int], share: float = 1.0) -> Batch:
    code = torch.tensor(label, dtype=torch.int64)
    zeros = torch.zeros_like(code)
    return Batch(image, torch.arange(len(code)), code, zeros, code, zeros, share)


def a_row_of_focal(z: list[float], y: int) -> float:
    p = np.exp(z) / np.exp(z).sum()
    return float((1 - p[y]) ** 1.5 * -np.log(p[y]))


def a_row_of_balanced_softmax(z: list[float], y: int) -> float:
    weighted = [n * np.exp(v) for n, v in zip(COUNTS, z, strict=True)]
    return float(-np.log(weighted[y] / sum(weighted)))


def a_row_of_logit_adjust(z: list[float], y: int) -> float:
    weighted = [(n / 101) ** 0.7 * np.exp(v) for n, v in zip(COUNTS, z, strict=True)]
    return float(-np.log(weighted[y] / sum(weighted)))


LOSSES: dict[str, tuple[Callable[[], Objective], Callable[[list[float], int], float]]] = {
    "focal": (lambda: Focal(1.5), a_row_of_focal),
    "balanced_softmax": (lambda: AdjustedCrossEntropy(log_priors(COUNTS)), a_row_of_balanced_softmax),
    "logit_adjust": (lambda: AdjustedCrossEntropy(log_priors(COUNTS, 0.7)), a_row_of_logit_adjust),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_has_the_loss_and_the_gradient_of_a_float64_loop_over_rows(name: str):
    make, row = LOSSES[name]
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = make()(nn.Identity(), batch_of(logits, LABEL))
    output.loss.backward()
    z = logits.detach().double().numpy()

    def loss(values: np.ndarray) -> float:
        return sum(row(list(v), y) for v, y in zip(values, LABEL, strict=True)) / 7

    assert output.loss.item() == pytest.approx(loss(z), rel=1e-5)
    assert output.logits is not None
    assert torch.equal(output.logits, logits)  # it is evaluated by the network's own logits
    expected = np.zeros_like(z)
    for i, c in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[i, c] = 1e-6
        expected[i, c] = (loss(z + step) - loss(z - step)) / 2e-6
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_with_unequal_parts_have_the_gradient_of_one(name: str):
    make, _ = LOSSES[name]
    image, precision = (
        torch.randn(7, 3, generator=torch.Generator().manual_seed(1)),
        Precision("fp32", torch.device("cpu")),
    )
    bias = torch.zeros(3, requires_grad=True)
    make().backward(lambda x: x + bias, batch_of(image, LABEL), precision)  # type: ignore[arg-type]
    assert bias.grad is not None
    whole, bias.grad = bias.grad, None
    for rank, rows in ((0, 4), (1, 3)):
        part = batch_of(image[rank::2], LABEL[rank::2], rows * 2 / 7)
        make().backward(lambda x: x + bias, part, precision)  # type: ignore[arg-type]
    torch.testing.assert_close(bias.grad / 2, whole)


@pytest.mark.parametrize(
    "objective",
    [Focal(0.0, 0.1), AdjustedCrossEntropy(log_priors(COUNTS, 0.0), 0.1)],
    ids=["focal", "adjusted"],
)
def test_with_neutral_settings_a_loss_is_plain_cross_entropy_smoothing_included(objective: Objective):
    batch = batch_of(torch.randn(7, 3, generator=torch.Generator().manual_seed(2)), LABEL)
    torch.testing.assert_close(objective(nn.Identity(), batch).loss, CrossEntropy(0.1)(nn.Identity(), batch).loss)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 2.0])
def test_the_focal_gradient_is_finite_where_the_network_is_sure(gamma: float):
    logits = torch.tensor([[200.0, 0.0], [50.0, 0.0], [0.0, 200.0], [3.0, 0.0]], requires_grad=True)
    loss = Focal(gamma)(nn.Identity(), batch_of(logits, [0, 0, 0, 0])).loss
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    torch.testing.assert_close(logits.grad[2], torch.tensor([-0.25, 0.25]))  # a wrong row has the full gradient
    assert logits.grad[0].abs().max() < 1e-30
    p = 1 / (1 + np.exp(-3.0))
    expected = (1 - p) ** gamma * (gamma * p * np.log(p) - (1 - p)) / 4
    assert logits.grad[3, 0].item() == pytest.approx(expected, rel=1e-4)


def test_priors_take_a_class_without_rows_out_of_the_softmax():
    counts = np.array([30, 0, 10])
    np.testing.assert_allclose(log_priors(counts).numpy(), [np.log(0.75), -np.inf, np.log(0.25)])
    assert log_priors(counts, 0.0).tolist() == [0, 0, 0]
    logits = torch.tensor([[1.0, 5.0, 0.0]], requires_grad=True)
    AdjustedCrossEntropy(log_priors(counts))(nn.Identity(), batch_of(logits, [2])).loss.backward()
    p = 3 * np.e / (3 * np.e + 1)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[p, 0, -p]], rtol=1e-5)
