"""Tests of CVaR-DRO and mixup: the loss of one step in closed form, its draws, and resumed runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from debeton.config import load
from debeton.data.loader.batch import Batch
from debeton.methods import METHODS
from debeton.methods.cvar import CVaR, cvar_weights
from debeton.methods.mixup import Mixup
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import UsageError
from debeton.train.finish import finish
from debeton.train.run import open_run
from debeton.train.stop import Preempted, StopRequest


def batch_of(image: torch.Tensor, label: torch.Tensor) -> Batch:
    zeros = torch.zeros_like(label)
    return Batch(image, torch.arange(len(label)), label, zeros, label, zeros)


# --- CVaR ------------------------------------------------------------------------------------------------------


def test_cvar_takes_the_largest_losses_and_a_part_of_the_next():
    loss = torch.tensor([0.3, 2.0, 0.1, 1.0, 0.7])
    torch.testing.assert_close(cvar_weights(loss, 0.5), torch.tensor([0, 1, 0, 1, 0.5]) / 2.5)
    torch.testing.assert_close(cvar_weights(loss, 0.4), torch.tensor([0, 1.0, 0, 1, 0]) / 2)
    torch.testing.assert_close(cvar_weights(loss, 0.01), torch.tensor([0, 1.0, 0, 0, 0]))  # less than a row: the worst
    torch.testing.assert_close(cvar_weights(loss, 1.0), torch.full((5,), 0.2))
    assert cvar_weights(torch.ones(4), 0.6).sum() == pytest.approx(1)  # ties


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.35, 0.5, 1.0])
def test_cvar_agrees_with_its_dual_over_random_batches(alpha: float):
    """Check CVaR against min over eta of eta + mean(max(loss - eta, 0)) / alpha, which a loss attains.

    Rockafellar & Uryasev 2000.
    """
    rng = np.random.default_rng(0)
    for size in rng.integers(2, 40, 50):
        logits = torch.from_numpy(rng.normal(0, 3, (size, 4))).float()
        label = torch.from_numpy(rng.integers(0, 4, size))
        loss = torch.nn.functional.cross_entropy(logits.double(), label, reduction="none").numpy()
        dual = min(eta + np.maximum(loss - eta, 0).mean() / alpha for eta in loss)
        assert float(CVaR(alpha)(torch.nn.Identity(), batch_of(logits, label)).loss) == pytest.approx(dual, rel=1e-5)


def test_one_cvar_step_has_the_gradient_of_the_chosen_rows_alone():
    logits = torch.tensor([[2.0, -1.0], [0.0, 1.0], [-3.0, 3.0], [1.0, 0.5]], requires_grad=True)
    label = torch.tensor([0, 0, 0, 0])
    CVaR(0.5)(torch.nn.Identity(), batch_of(logits, label)).loss.backward()
    p = torch.softmax(logits.detach(), 1)
    expected = (p - torch.tensor([1.0, 0.0])) * torch.tensor([0, 0.5, 0.5, 0])[:, None]  # rows 1 and 2 lose most
    torch.testing.assert_close(logits.grad, expected)


def test_cvar_of_all_rows_is_plain_training_and_of_none_is_refused():
    logits, label = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    expected = torch.nn.functional.cross_entropy(logits, label, label_smoothing=0.2)
    torch.testing.assert_close(CVaR(1.0, 0.2)(torch.nn.Identity(), batch_of(logits, label)).loss, expected)
    for alpha in (0.0, 1.5):
        with pytest.raises(UsageError, match=rf"cvar\.alpha is {alpha:g}; expected a share"):
            CVaR(alpha)


# --- mixup -----------------------------------------------------------------------------------------------------


def test_one_mixup_step_matches_the_closed_form():
    image = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    label, objective = torch.tensor([0, 1, 2, 1, 0]), Mixup(1.0, seed=4)
    lam, partner = objective.draw(5)
    before = image.clone()
    output = objective(torch.nn.Identity(), batch_of(image, label))
    mixed = lam * image.double() + (1 - lam) * image.double()[partner]
    target = torch.nn.functional.one_hot(label, 3).double()
    target = lam * target + (1 - lam) * target[partner]
    torch.testing.assert_close(output.logits.double(), mixed, rtol=1e-6, atol=1e-6)
    expected = -(target * torch.log_softmax(mixed, 1)).sum(1).mean()
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(image, before)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixing_weights_have_the_moments_of_a_folded_beta(alpha: float):
    objective, draws, partners = Mixup(alpha, seed=0), [], np.zeros((4, 4))
    for step in range(4000):
        objective.step = step
        lam, partner = objective.draw(4)
        draws.append(lam)
        partners[np.arange(4), partner.numpy()] += 1
    u = np.array(draws) - 0.5  # |Beta - 1/2|: its second moment is the variance of Beta(alpha, alpha)
    assert u.min() >= 0
    assert u.max() <= 0.5
    expected, spread = 1 / (4 * (2 * alpha + 1)), (u**2).std() / np.sqrt(len(u))
    assert abs((u**2).mean() - expected) <= 5 * spread
    assert (np.abs(partners - 1000) <= 5 * np.sqrt(4000 * 0.25 * 0.75)).all()


def test_mixup_draws_are_functions_of_seed_and_step_alone():
    first, second, other = Mixup(0.4, 1), Mixup(0.4, 1), Mixup(0.4, 2)
    np.random.seed(0)
    torch.manual_seed(0)
    assert first.draw(8)[0] == second.draw(8)[0] != other.draw(8)[0]
    assert torch.equal(first.draw(8)[1], second.draw(8)[1])
    image, label = torch.randn(8, 2), torch.arange(8) % 2
    first(torch.nn.Identity(), batch_of(image, label))
    assert first.draw(8)[0] != second.draw(8)[0]
    second.load_state_dict(first.state_dict())
    assert first.draw(8)[0] == second.draw(8)[0]


def test_mixup_of_strength_zero_is_plain_training():
    image, label = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    output = Mixup(0.0, 0, 0.1)(torch.nn.Identity(), batch_of(image, label))
    torch.testing.assert_close(output.logits, image)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(image, label, label_smoothing=0.1))


# --- runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cvar", "mixup"])
def test_a_run_finishes_and_an_interrupted_one_ends_bit_equal(method: str, toy_args, tmp_path: Path, monkeypatch):
    torch.set_num_threads(1)

    def train(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        own = ["--training.method", method, "--training.outdir", str(tmp_path / name), "--training.num_workers", "1"]
        with open_run(load([], [*toy_args, *own])) as run:
            assert run is not None
            results = finish(run, METHODS.get(method).run(run))
            return load_checkpoint(run.folder / "checkpoints/checkpoint_latest.pt", torch.device("cpu")), results

    whole, results = train("whole")
    assert results["test"]["worst_group_accuracy"] is not None
    json.dumps(results)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", lambda self, step, every, device: 15 if step == 11 else 0)
        with pytest.raises(Preempted):
            train("stopped")
    resumed, _ = train("stopped")
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    assert whole["objective"] == resumed["objective"]
