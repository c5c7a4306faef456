"""Tests of the models behind probe, knn and ssa: against closed forms, scikit-learn and loops in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.methods.parts import attribute_models
from debeton.methods.parts.attribute_models import KnownFeatures, LinearProbe, NearestRows, deal_folds, fit_probe
from debeton.methods.parts.spread_attribute import SpreadAttribute, accepted_rows, attribute_as_label
from debeton.train.objective import Precision

CPU = torch.device("cpu")


def planted(n: int = 240, seed: int = 0) -> KnownFeatures:
    """Three attributes, told by their own coordinates; the label goes with the attribute and is easier to see."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    attribute = np.where(rng.random(n) < 0.9, label, rng.integers(0, 3, n))
    x = rng.normal(0, 1, (n, 8))
    x[np.arange(n), attribute] += 2.5
    x[np.arange(n), 4 + label] += 6
    return KnownFeatures(x.astype(np.float32), attribute, label * 3 + attribute)


# --- probe -----------------------------------------------------------------------------------------


def test_the_probe_is_where_the_gradient_of_the_group_weighted_loss_vanishes():
    known, c = planted(), 0.3
    weight, bias, unconverged = fit_probe(known, c)
    assert not unconverged
    x = known.x.astype(np.float64)
    scaled = (x - x.mean(0)) / x.std(0)
    logits = x @ weight.T + bias
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    groups, counts = np.unique(known.group, return_counts=True)
    row_weight = len(x) / (len(groups) * counts[np.searchsorted(groups, known.group)])
    error = row_weight[:, None] * (probability - np.eye(3)[known.attribute])
    gradient = c * error.T @ scaled + weight * x.std(0)
    assert np.abs(gradient).max() < 2e-3 * np.abs(c * error.T @ scaled).max() + 2e-3
    assert np.abs(error.sum(0)).max() < 1e-2


def test_two_attributes_have_the_probabilities_of_the_log_odds():
    known = planted()
    two = known.attribute < 2
    known = KnownFeatures(known.x[two], known.attribute[two], known.group[two])
    model = LinearProbe(known.attribute, 8, (1.0,))
    model.learn(known, 0)
    code, share = model.tell(torch.from_numpy(known.x))
    odds = known.x @ (model.weight[1] - model.weight[0]).numpy() + float(model.bias[1] - model.bias[0])
    assert code.tolist() == (odds > 0).astype(int).tolist()
    assert share == pytest.approx(1 / (1 + np.exp(-np.abs(odds))), abs=1e-9)


def test_the_probe_tells_the_attribute_of_rows_in_which_the_label_says_another():
    model = LinearProbe(planted().attribute, 8, (0.01, 0.1, 1.0))
    notes = model.learn(planted(), 0)
    other = planted(600, 1)
    code, _ = model.tell(torch.from_numpy(other.x))
    conflicting = other.group // 3 != other.attribute
    assert (code == other.attribute)[conflicting].mean() > 0.75  # by the label alone: 0
    assert notes["mean_group_accuracy"] > 0.7
    assert notes["c"] in (0.01, 0.1, 1.0)


def test_every_fold_leaves_each_attribute_a_row_even_a_single_one():
    known = KnownFeatures(np.zeros((11, 1), np.float32), np.array([0] * 6 + [1] * 4 + [2]), np.array([0] * 6 + [1] * 5))
    fold = deal_folds(known, 0)
    assert fold[10] == -1
    assert all({0, 1, 2} <= set(known.attribute[fold != number]) for number in range(5))
    assert sorted(np.bincount(fold[fold >= 0], minlength=5)) in ([1, 1, 2, 2, 2], [1, 1, 1, 2, 3], [0, 2, 2, 2, 2])


# --- knn -------------------------------------------------------------------------------------------


def test_the_nearest_rows_are_those_of_scikit_learn_and_of_any_piece_size(monkeypatch):
    known, other = planted(), planted(100, 1)
    model = NearestRows(known.attribute, 8, 7)
    model.learn(known, 0)
    code, share = model.tell(torch.from_numpy(other.x))
    peer = KNeighborsClassifier(7, metric="cosine").fit(known.x, known.attribute).predict_proba(other.x)
    assert share == pytest.approx(peer.max(1), abs=1e-9)
    clear = np.sort(peer, 1)[:, -1] > np.sort(peer, 1)[:, -2]
    assert clear.sum() > 80
    assert code[clear].tolist() == peer.argmax(1)[clear].tolist()
    monkeypatch.setattr(attribute_models, "SIMILARITIES", 240 * 3)
    turned = model.tell(torch.from_numpy(other.x[::-1].copy()))
    assert turned[0][::-1].tolist() == code.tolist()


def test_equal_votes_go_to_the_closer_rows():
    known = KnownFeatures(np.array([[1, 0], [0, 1]], np.float32), np.array([4, 2]), np.array([0, 1]))
    model = NearestRows(known.attribute, 2, 5)
    notes = model.learn(known, 0)
    code, share = model.tell(torch.tensor([[2.0, 1.0], [1.0, 3.0], [0.0, 0.0]]))
    assert code.tolist()[:2] == [4, 2]
    assert share.round(9).tolist() == [0.5, 0.5, 0.5]
    assert notes == {"k": 2, "mean_group_accuracy": 0.0}  # without itself each has the other alone


def test_no_known_row_votes_for_itself_when_the_votes_are_judged(monkeypatch):
    known = planted()
    model = NearestRows(known.attribute, 8, 1)
    whole = model.learn(known, 0)["mean_group_accuracy"]
    unit = known.x / np.linalg.norm(known.x, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    correct = known.attribute[similarity.argmax(1)] == known.attribute
    assert whole == pytest.approx(np.mean([correct[known.group == g].mean() for g in np.unique(known.group)]))
    monkeypatch.setattr(attribute_models, "SIMILARITIES", 240 * 7)
    assert model.learn(known, 0)["mean_group_accuracy"] == whole


# --- ssa -------------------------------------------------------------------------------------------


def by_loop(known: list[int], group: list[int], confidence: list[float], smallest: int, threshold: float) -> list[bool]:
    """The rule of SSA, group by group."""
    taken = [g == smallest and c >= threshold for g, c in zip(group, confidence)]
    limit = known[smallest] + sum(taken)
    for g in set(range(len(known))) - {smallest}:
        members = sorted((i for i in range(len(group)) if group[i] == g), key=lambda i: -confidence[i])
        for i in members[: max(0, limit - known[g])]:
            taken[i] = True
    return taken


@pytest.mark.parametrize("seed", range(5), ids=str)
def test_accepted_rows_fill_each_group_up_to_the_smallest(seed):
    rng = np.random.default_rng(seed)
    known, group = rng.integers(0, 5, 4).tolist(), rng.integers(0, 4, 40).tolist()
    confidence = rng.uniform(0.5, 1, 40).tolist()
    smallest = int(np.argmin(known))
    taken = accepted_rows(*map(torch.tensor, (known, group, confidence)), smallest, 0.7)
    assert taken.tolist() == by_loop(known, group, torch.tensor(confidence).tolist(), smallest, 0.7)
    totals = np.array(known) + np.bincount(np.array(group)[taken.numpy()], minlength=4)
    assert (totals[np.array(known) <= totals[smallest]] <= totals[smallest]).all()


def batch_of(image: Tensor, label: Tensor, attribute: Tensor, group: Tensor) -> Batch:
    rows = torch.arange(len(image))
    return Batch(image, rows, label, attribute, group, torch.zeros_like(rows))


def test_the_loss_is_that_of_known_rows_plus_that_of_accepted_ones(paper_view):
    torch.manual_seed(0)
    label, attribute = torch.randint(0, 3, (8,)), torch.randint(0, 2, (8,))
    own = batch_of(torch.randn(8, 5), label, attribute, label * 2 + attribute)
    rest = batch_of(torch.randn(20, 5), torch.full((20,), -1), torch.randint(0, 2, (20,)), torch.full((20,), -1))
    spec = attribute_as_label(paper_view([0, 1], [0, 2])).spec
    objective = SpreadAttribute(SimpleNamespace(view=SimpleNamespace(spec=spec)), np.array([9, 2, 9, 0, 5, 3]), 0.6)
    assert objective.smallest == 1  # of the groups that have rows
    objective.unlabelled.take = lambda: rest
    network = nn.Linear(5, 3)
    loss = objective.backward(network, own, Precision("fp32", CPU)).loss
    logits = network(rest.image).detach().double()
    confidence, told = logits.softmax(1).max(1)
    counts = torch.bincount(own.group, minlength=6).tolist()
    taken = by_loop(counts, (told * 2 + rest.attribute).tolist(), confidence.float().tolist(), 1, 0.6)
    assert any(taken)
    expected = functional.cross_entropy(network(own.image).detach().double(), label)
    expected += functional.cross_entropy(logits[taken], told[taken])
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert sum(objective.summary()["accepted_rows"].values()) == sum(taken)


def test_attribute_and_label_change_places(paper_view):
    spec = DatasetSpec("s", ("a", "b"), ("x", "y", "z"), missing=(1, 5))  # (a, y) and (b, z)
    view = attribute_as_label(paper_view([0, 1, 1], [2, 0, -1], spec))
    assert (view.label.tolist(), view.attribute.tolist(), view.group.tolist()) == ([2, 0, -1], [0, 1, 1], [4, 1, -1])
    assert (view.spec.classes, view.spec.attributes, view.spec.missing) == (("x", "y", "z"), ("a", "b"), (2, 5))
