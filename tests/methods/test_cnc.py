"""Tests of Correct-n-Contrast: its loss and gradient against loops over rows, its pairs, and resumed runs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.running import folder_of, lines_of, run, stopped_and_resumed
from torch import nn

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.methods.cnc import (
    CorrectNContrast,
    attributes_follow_classes,
    contrastive_loss,
    pair_masks,
    warn_without_pairs,
)
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import UsageError
from debeton.train.micro_batches import InParts, MicroBatches
from debeton.train.objective import Precision

t = torch.tensor


def loop_loss(features: list[list[float]], label: list[int], attribute: list[int], temperature: float) -> float:
    """The supervised contrastive loss over all anchors, one row after the other, in Python's float64."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b)) / math.hypot(*a) / math.hypot(*b)

    losses, rows = [], range(len(label))
    for i in rows:
        positives = [j for j in rows if label[j] == label[i] and attribute[j] != attribute[i]]
        negatives = [j for j in rows if label[j] != label[i] and attribute[j] == attribute[i]]
        if positives and negatives:
            share = {j: math.exp(cosine(features[i], features[j]) / temperature) for j in [*positives, *negatives]}
            losses.append(sum(-math.log(share[j] / sum(share.values())) for j in positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


def rows_of(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return features, *torch.randint(3, (2, n), generator=generator)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_loss_is_that_of_a_loop_over_anchors_and_pairs(temperature: float):
    for n in (2, 7, 24):
        features, label, attribute = rows_of(n, n)
        loss, _ = contrastive_loss(features, *pair_masks(label, attribute), temperature)
        expected = loop_loss(features.tolist(), label.tolist(), attribute.tolist(), temperature)
        assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_finite_differences_of_the_loop():
    features, label, attribute = rows_of(8)
    features.requires_grad_()
    contrastive_loss(features, *pair_masks(label, attribute), 0.5)[0].backward()
    assert features.grad is not None
    for i, d in ((0, 1), (3, 4), (7, 0)):
        moved = []
        for step in (1e-6, -1e-6):
            values = features.tolist()
            values[i][d] += step
            moved.append(loop_loss(values, label.tolist(), attribute.tolist(), 0.5))
        assert float(features.grad[i, d]) == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("label", "attribute"),
    [([0, 0, 0], [0, 1, 0]), ([0, 1, 0], [0, 0, 0]), ([0, 1], [0, 1]), ([], [])],
    ids=["one class", "one attribute", "aligned alone", "no row"],
)
def test_a_batch_without_anchors_has_loss_0_and_a_gradient_of_0(label: list[int], attribute: list[int]):
    features = torch.randn(len(label), 4, requires_grad=True)
    masks = pair_masks(t(label, dtype=torch.int64), t(attribute, dtype=torch.int64))
    loss, anchors = contrastive_loss(features, *masks, 0.05)
    loss.backward()
    assert (float(loss.detach()), int(anchors)) == (0.0, 0)
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_marks_of_a_first_network_pair_an_aligned_row_with_conflicting_rows_of_other_classes():
    spec = DatasetSpec("s", ("a", "b"), ("aligned", "conflicting"), aligned=((0,), (0,)))
    assert attributes_follow_classes(spec)
    assert not attributes_follow_classes(DatasetSpec("s", ("a", "b"), ("x", "y"), aligned=((0,), (1,))))
    assert not attributes_follow_classes(DatasetSpec("s", ("a", "b"), ("x", "y")))
    label, mark = t([0, 0, 1, 1]), t([0, 1, 0, 1])
    predicted = torch.where(mark == 0, label, 1 - label)  # conflicting: the first network took the other class
    for ours, theirs in zip(pair_masks(label, mark, follows_class=True), pair_masks(label, predicted), strict=True):
        assert torch.equal(ours, theirs)


def batch_of(n: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    label, attribute = torch.randint(2, (2, n), generator=generator)
    return Batch(image, torch.arange(n), label, attribute, 2 * label + attribute, torch.zeros_like(label))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()


def test_one_step_weighs_both_losses_over_features_and_logits():
    model, batch = network(), batch_of(12)
    objective = CorrectNContrast(model[2], 0.3, 0.2, label_smoothing=0.1)
    loss = objective(model, batch).loss
    features = model[:2](batch.image)
    contrast = loop_loss(features.tolist(), batch.label.tolist(), batch.attribute.tolist(), 0.2)
    entropy = nn.functional.cross_entropy(model[2](features), batch.label, label_smoothing=0.1)
    assert float(loss) == pytest.approx(0.3 * contrast + 0.7 * float(entropy), rel=1e-6)
    summary = objective.summary()
    assert summary["contrastive_loss"] == pytest.approx(contrast, rel=1e-6)
    cells = list(zip(batch.label.tolist(), batch.attribute.tolist()))
    anchors = [c for c in cells if (c[0], 1 - c[1]) in cells and (1 - c[0], c[1]) in cells]
    assert summary["anchor_share"] == len(anchors) / 12
    assert 0 < len(anchors) < 12
    assert objective.sums.tolist() == [0.0] * 4


def test_accumulated_gradients_are_those_of_the_whole_batch():
    gradients = []
    for parts in (None, MicroBatches(5)):
        model = network()
        objective = CorrectNContrast(model[2], 0.6, 0.3)
        objective.micro = parts
        called = model if parts is None else InParts(model, parts)
        objective.backward(called, batch_of(12), Precision("fp32", torch.device("cpu")))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    assert gradients[0].norm() > 0


def test_the_share_of_two_processes_adds_up_to_the_step_of_one(monkeypatch):
    """Two halves of a batch, with what the other process would give: their gradients average to the whole's."""
    from debeton.system import distributed

    batch, whole = batch_of(11), network()
    CorrectNContrast(whole[2], 0.6, 0.3).backward(whole, batch, Precision("fp32", torch.device("cpu")))
    total = [torch.zeros_like(p) for p in whole.parameters()]
    of_all = {2: torch.stack([batch.label, batch.attribute], 1), 5: whole[:2](batch.image).detach().float()}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather_rows", lambda values, share: of_all[values.shape[1]].clone())
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        own = slice(rank, None, 2)
        columns = {name: getattr(batch, name)[own] for name in ("row", "label", "attribute", "group", "source")}
        part = Batch(image=batch.image[own], share=len(columns["row"]) * 2 / 11, **columns)
        model = copy.deepcopy(whole)
        model.zero_grad()
        CorrectNContrast(model[2], 0.6, 0.3).backward(model, part, Precision("fp32", torch.device("cpu")))
        for sum_, p in zip(total, model.parameters(), strict=True):
            assert p.grad is not None
            sum_ += p.grad / 2
    for sum_, p in zip(total, whole.parameters(), strict=True):
        torch.testing.assert_close(sum_, p.grad, rtol=1e-5, atol=1e-7)


def test_a_temperature_of_0_is_refused_and_rows_without_pairs_are_said(paper_view, caplog):
    with pytest.raises(UsageError, match=r"cnc\.temperature is 0"):
        CorrectNContrast(nn.Linear(2, 2), 0.5, 0.0)
    warn_without_pairs(paper_view([0, 0, 1], [0, 1, 0]), follows_class=False)
    assert not caplog.records
    warn_without_pairs(paper_view([0, 0, 1, 1], [0, 0, 1, 1]), follows_class=False)
    assert "cnc goes on as erm" in caplog.text


def test_a_stopped_run_ends_bit_equal(toy_args, write_toy, tmp_path, monkeypatch):
    write_toy(tmp_path / "train.beton", 96, 0.8)
    small = ["--data.train_path", tmp_path / "train.beton", "--training.batch_size", "32"]
    args = [*toy_args, "--training.method", "cnc", *small]
    assert run([*args, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*args, "--training.outdir", tmp_path / "stopped"], monkeypatch, 5)
    one, two = (folder_of(tmp_path / name) for name in ("whole", "stopped"))
    left, right = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt") for f in (one, two))
    assert all(torch.equal(left["state_dict"][name], right["state_dict"][name]) for name in left["state_dict"])
    objectives = [[line.get("objective") for line in lines_of(f) if line["split"] == "train"] for f in (one, two)]
    assert objectives[0] == objectives[1]
    assert objectives[0][0]["anchor_share"] > 0.9
