"""Tests of lisa: partners, a step against a loop over rows in float64, its draws, and batches without partners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.two_ranks import loss_of_two
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.methods.lisa import LisaOptions, SelectiveMixing, chosen_partners
from debeton.train.objective import Precision

IDENTITY = torch.nn.Identity()


def random_batch(seed: int, rows: int = 12) -> Batch:
    rng = np.random.default_rng(seed)
    label, attribute = (torch.from_numpy(rng.integers(0, 3, rows)) for _ in range(2))
    label[0], attribute[0] = 3, 3  # alone in its class and in its environment
    image = torch.from_numpy(rng.normal(0, 1, (rows, 4))).float().requires_grad_()
    return Batch(image, torch.arange(rows), label, attribute, 4 * label + attribute, torch.zeros_like(label))


@pytest.mark.parametrize("p_sel", [0.0, 1.0], ids=["within_environment", "within_class"])
def test_a_step_is_that_of_a_loop_over_rows(p_sel: float):
    batch, objective = random_batch(1), SelectiveMixing(LisaOptions(p_sel=p_sel), 3, 0.1)
    within_class, draws = objective.draw(12)
    assert within_class == (p_sel == 1)
    exact = batch.image.detach().double().requires_grad_()
    terms, unmixed = [], []
    for i, (u, lam) in enumerate(draws.T.tolist()):
        same, differs = (batch.label, batch.attribute)[:: 1 if within_class else -1]
        partners = [j for j in range(12) if same[j] == same[i] and differs[j] != differs[i]]
        if not partners:
            unmixed.append(i)
            terms.append(functional.cross_entropy(exact[i], batch.label[i], label_smoothing=0.1))
            continue
        j = partners[int(u * len(partners))]
        mixed = lam * exact[i] + (1 - lam) * exact[j]
        own, mate = (functional.cross_entropy(mixed, batch.label[k], label_smoothing=0.1) for k in (i, j))
        terms.append(lam * own + (1 - lam) * mate)
    assert 0 in unmixed
    assert len(unmixed) < 6
    expected = torch.stack(terms).mean()
    loss = objective(IDENTITY, batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = torch.autograd.grad(loss, batch.image)[0].double(), torch.autograd.grad(expected, exact)[0]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_each_eligible_partner_comes_up_equally_often():
    eligible = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0]], dtype=torch.bool)
    u, own = torch.linspace(0, 1, 1201)[:-1], torch.arange(4)
    found = [chosen_partners(eligible, torch.full((4,), float(value)), own) for value in u]
    counts = np.stack([np.bincount([int(partner[a]) for partner, _ in found], minlength=4) for a in range(4)])
    assert counts.tolist() == [[0, 600, 600, 0], [0, 1200, 0, 0], [400, 400, 0, 400], [0, 0, 1200, 0]]
    assert found[0][1].tolist() == [True, False, True, True]
    assert chosen_partners(eligible, torch.full((4,), 1.0), own)[0].tolist() == [2, 1, 3, 2]  # a rounding to 1
    assert chosen_partners(eligible[:0], torch.zeros(0), own[:0])[0].shape == (0,)
    assert chosen_partners(eligible[[2]], torch.zeros(1), own[[2]])[0].tolist() == [0]


def test_kinds_of_mixing_come_up_as_often_as_p_sel_says_and_weights_are_beta():
    objective, kinds, weights = SelectiveMixing(LisaOptions(alpha=2.0, p_sel=0.3), 0), [], []
    for objective.step in range(2000):
        within_class, draws = objective.draw(3)
        kinds.append(within_class)
        weights += draws[1].tolist()
    assert np.mean(kinds) == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 2000))
    assert np.mean(weights) == pytest.approx(0.5, abs=0.02)
    assert np.var(weights) == pytest.approx(1 / 20, abs=0.004)  # of Beta(2, 2)


def test_draws_are_functions_of_seed_and_step_and_resume():
    first, second = (SelectiveMixing(LisaOptions(), 1) for _ in range(2))
    batch = random_batch(0)
    first(IDENTITY, batch)
    assert not torch.equal(first.draw(8)[1], second.draw(8)[1])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.draw(8)[1], second.draw(8)[1])
    assert not torch.equal(first.draw(8)[1], SelectiveMixing(LisaOptions(), 2).draw(8)[1])


def test_a_box_of_the_partner_is_in_each_image_that_has_one():
    batch, options = random_batch(2), LisaOptions(p_sel=1.0, mixing="cutmix")
    image = torch.arange(12.0)[:, None, None, None].expand(12, 3, 8, 8).contiguous()
    batch = Batch(image, *(getattr(batch, name) for name in ("row", "label", "attribute", "group", "source")))
    objective = SelectiveMixing(options, 5)
    mixed, label_of_other, lam = objective.mix(batch)
    assert torch.equal(label_of_other, batch.label)
    boxed = 0
    for i in range(12):
        shown = set(mixed[i].unique().int().tolist())
        assert i in shown
        assert lam[i] == pytest.approx(float((mixed[i] == i).float().mean()))
        for j in shown - {i}:
            boxed += 1
            assert batch.label[i] == batch.label[j]
            assert batch.attribute[i] != batch.attribute[j]
    assert boxed > 5
    assert lam[0] == 1


@pytest.mark.parametrize("p_sel", [0.0, 1.0], ids=["within_environment", "within_class"])
def test_two_processes_take_the_step_of_one(p_sel: float, monkeypatch):
    batch, options = random_batch(3), LisaOptions(p_sel=p_sel)
    detached = replace(batch, image=batch.image.detach())
    loss = SelectiveMixing(options, 2)(IDENTITY, detached).loss
    total, _ = loss_of_two(monkeypatch, lambda own: SelectiveMixing(options, 2)(IDENTITY, own).loss, batch)
    assert total == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("p_sel", [0.0, 1.0], ids=["within_environment", "within_class"])
def test_a_batch_of_one_group_is_plain_training_in_float32(p_sel: float):
    batch, same = random_batch(0), torch.ones(12, dtype=torch.int64)
    batch = Batch(batch.image.detach(), batch.row, same, same, same, same)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    output = SelectiveMixing(LisaOptions(p_sel=p_sel), 0).backward(model, batch, Precision("bf16", torch.device("cpu")))
    assert output.loss.dtype == torch.float32
    assert float(output.loss) == pytest.approx(functional.cross_entropy(model(batch.image), same).item(), rel=0.02)
