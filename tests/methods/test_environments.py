"""Tests of irm and vrex: steps against loops over rows in float64, batches that lack rows, annealing, and messages."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from tests.two_ranks import loss_of_two
from torch.nn import functional

from debeton.config import load
from debeton.data.loader.batch import Batch
from debeton.methods.irm import InvariantRisk
from debeton.methods.method import one_phase
from debeton.methods.parts.environments import announce_environments, halves, row_weights
from debeton.methods.parts.logits import scale_gradient
from debeton.methods.parts.penalty import warn_of_annealing
from debeton.methods.vrex import RiskExtrapolation
from debeton.system import distributed
from debeton.train.objective import Precision
from debeton.train.run import open_run

IDENTITY = torch.nn.Identity()
SMOOTHING = 0.1


def batch_of(logits: torch.Tensor, label: torch.Tensor, environment: torch.Tensor) -> Batch:
    return Batch(logits, torch.arange(len(label)), label, environment, 9 * label + environment, torch.zeros_like(label))


def random_batch(seed: int, rows: int = 17, environments: int = 4) -> Batch:
    """A batch of three classes; the last environment has no row and the one before it has one."""
    rng = np.random.default_rng(seed)
    environment = rng.integers(0, environments - 2, rows)
    environment[5] = environments - 2
    logits = torch.from_numpy(rng.normal(0, 2, (rows, 3))).float().requires_grad_()
    return batch_of(logits, torch.from_numpy(rng.integers(0, 3, rows)), torch.from_numpy(environment))


def risks(logits: torch.Tensor, batch: Batch, scale: torch.Tensor) -> dict[int, list[torch.Tensor]]:
    """The loss of each row by environment, in the sequence of the batch, of float64 logits times a scale."""
    found: dict[int, list[torch.Tensor]] = {}
    for z, y, e in zip(logits, batch.label, batch.attribute.tolist(), strict=True):
        found.setdefault(e, []).append(functional.cross_entropy(z * scale, y, label_smoothing=SMOOTHING))
    return found


def irm_of_rows(logits: torch.Tensor, batch: Batch, weight: float) -> torch.Tensor:
    """IRMv1 by a gradient of a gradient, with the two halves 0, 2, ... and 1, 3, ... of each environment."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    terms = []
    for losses in risks(logits, batch, scale).values():
        parts = [losses[0::2], losses[1::2]]
        gradients = [
            torch.autograd.grad(torch.stack(part).mean(), scale, create_graph=True)[0] if part else torch.zeros(())
            for part in parts
        ]
        terms.append(torch.stack(losses).mean() + weight * gradients[0] * gradients[1])
    return torch.stack(terms).mean()


def vrex_of_rows(logits: torch.Tensor, batch: Batch, weight: float) -> torch.Tensor:
    one = torch.ones((), dtype=torch.float64)
    risk = torch.stack([torch.stack(losses).mean() for losses in risks(logits, batch, one).values()])
    return risk.mean() + weight * risk.var(correction=0)


OBJECTIVES = {"irm": (InvariantRisk, irm_of_rows), "vrex": (RiskExtrapolation, vrex_of_rows)}


@pytest.mark.parametrize("weight", [0.0, 7.0], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_is_that_of_a_loop_over_rows(name: str, weight: float):
    kind, reference = OBJECTIVES[name]
    for seed in range(5):
        batch = random_batch(seed)
        loss = kind(4, weight, label_smoothing=SMOOTHING)(IDENTITY, batch).loss
        exact = batch.image.detach().double().requires_grad_()
        expected = reference(exact, batch, weight)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        (gradient,) = torch.autograd.grad(loss, batch.image)
        (expected_gradient,) = torch.autograd.grad(expected, exact)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-6)


def test_the_gradient_for_a_factor_is_that_of_autograd():
    batch, scale = random_batch(3), torch.ones(17, 1, requires_grad=True)
    losses = functional.cross_entropy(batch.image * scale, batch.label, reduction="none", label_smoothing=SMOOTHING)
    (expected,) = torch.autograd.grad(losses.sum(), scale)
    torch.testing.assert_close(scale_gradient(batch.image, batch.label, SMOOTHING), expected[:, 0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_one_environment_vrex_is_plain_training_and_irm_has_its_penalty(name: str):
    batch = random_batch(0)
    alone = batch_of(batch.image, batch.label, torch.full_like(batch.label, 2))
    loss = OBJECTIVES[name][0](4, 5.0)(IDENTITY, alone).loss
    plain = functional.cross_entropy(batch.image, batch.label)
    gradient = scale_gradient(batch.image, batch.label)
    penalty = {"irm": gradient[0::2].mean() * gradient[1::2].mean(), "vrex": 0.0}[name]
    torch.testing.assert_close(loss, plain + 5 * penalty)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_weight_is_1_until_the_annealing_ends_and_rescaling_divides_by_it(name: str):
    kind, batch = OBJECTIVES[name][0], random_batch(1)
    annealed, rescaled = kind(4, 50.0, 2), kind(4, 50.0, rescale=True)
    one, full = (kind(4, weight)(IDENTITY, batch).loss.item() for weight in (1.0, 50.0))
    assert [annealed(IDENTITY, batch).loss.item() for _ in range(4)] == pytest.approx([one, one, full, full])
    assert rescaled(IDENTITY, batch).loss.item() == pytest.approx(full / 50)
    resumed = kind(4, 50.0, 2)
    resumed(IDENTITY, batch)
    resumed.load_state_dict(annealed.state_dict())
    assert resumed(IDENTITY, batch).loss.item() == pytest.approx(full)
    mean = annealed.summary()["penalty"]
    assert resumed.summary()["penalty"] == pytest.approx(mean)
    assert mean * 49 == pytest.approx(full - one, rel=1e-3)
    assert annealed.summary() == {"penalty": 0.0}


def test_row_weights_give_each_environment_its_weight_in_a_plain_mean():
    code, count = torch.tensor([0, 0, 0, 2]), torch.tensor([3.0, 0.0, 1.0])
    weight = row_weights(torch.tensor([0.25, 0.5, 0.75]), count, code)
    torch.testing.assert_close(weight, torch.tensor([1, 1, 1, 9]) / 3)
    assert float(weight.mean()) == pytest.approx(0.25 + 0.75)


def test_halves_alternate_within_an_environment_in_the_sequence_of_the_whole_batch(monkeypatch):
    code = torch.tensor([1, 0, 1, 1, 0, 0, 1, 2, 0])
    expected = torch.tensor([0, 0, 1, 0, 1, 0, 1, 0, 1])
    assert halves(code, 3, 1.0).tolist() == expected.tolist()
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather_rows", lambda values, share: code)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        assert halves(code[rank::2], 3, 1.0).tolist() == expected[rank::2].tolist()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_take_the_step_of_one(name: str, monkeypatch):
    kind, batch = OBJECTIVES[name][0], random_batch(2)
    one = kind(4, 7.0)(IDENTITY, batch).loss
    (expected,) = torch.autograd.grad(one, batch.image)
    total, gradient = loss_of_two(monkeypatch, lambda own: kind(4, 7.0)(IDENTITY, own).loss, batch)
    assert total == pytest.approx(one.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_float32_under_bf16(name: str):
    torch.manual_seed(0)
    model, batch = torch.nn.Linear(3, 3), random_batch(0)
    precision = Precision("bf16", torch.device("cpu"))
    output = OBJECTIVES[name][0](4, 3.0).backward(model, batch, precision)
    assert output.loss.dtype == torch.float32
    assert output.logits.dtype == torch.bfloat16
    assert model.weight.grad.isfinite().all()


def test_one_environment_and_an_annealing_that_never_ends_are_warned_of(paper_view, toy_args, caplog):
    with caplog.at_level(logging.INFO):
        assert announce_environments(paper_view([0, 1, 0, 1], [0, 2, 2, 2]), "vrex") == 3
        assert "vrex: 2 environments with rows (left 1; top 3)" in caplog.text
        assert "compares nothing" not in caplog.text
        announce_environments(paper_view([0, 1], [2, 2]), "vrex")
        assert "has one with rows (top 2): its penalty compares nothing" in caplog.text
    with open_run(load([], toy_args)) as run, caplog.at_level(logging.WARNING):
        assert run is not None
        warn_of_annealing("irm", 15, one_phase(run))
        assert "irm.anneal_steps" not in caplog.text
        warn_of_annealing("irm", 16, one_phase(run))  # 512 rows in batches of 64, two epochs
    assert "keeps the weight 1: training has 16 steps, and irm.anneal_steps is 16" in caplog.text
