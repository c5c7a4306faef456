"""Tests of coral and mmd: distances against loops over rows in float64, features through hooks, and messages."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests.two_ranks import loss_of_two
from torch import nn
from torch.nn import functional

from debeton.config import load
from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.methods import METHODS
from debeton.methods.coral import Coral
from debeton.methods.mmd import GAMMAS, MaximumMeanDiscrepancy
from debeton.methods.parts.feature_matching import FeatureMatching
from debeton.methods.parts.shown_features import features_beside_logits
from debeton.system.errors import UsageError
from debeton.train.features import feature_vectors
from debeton.train.micro_batches import InParts, MicroBatches
from debeton.train.objective import Precision
from debeton.train.run import open_run

SPEC = DatasetSpec("toy", ("a", "b", "c"), ("x", "y", "z", "w"))
CPU = torch.device("cpu")
FEATURES = 5


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, FEATURES), nn.Tanh(), nn.Linear(FEATURES, 3))


def random_batch(seed: int, rows: int = 13) -> Batch:
    """A batch in which environment w has no row and z has one."""
    rng = np.random.default_rng(seed)
    attribute = rng.integers(0, 2, rows)
    attribute[7] = 2
    label, attribute = torch.from_numpy(rng.integers(0, 3, rows)), torch.from_numpy(attribute)
    image = torch.from_numpy(rng.normal(0, 1, (rows, 4))).float()
    return Batch(image, torch.arange(rows), label, attribute, 4 * label + attribute, torch.zeros_like(label))


def covariance_distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | None:
    if min(len(left), len(right)) < 2:
        return None
    return (torch.cov(left.T) - torch.cov(right.T)).square().sum() / (4 * FEATURES**2)


def discrepancy(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    def mean_kernel(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        distances = [(a - b).square().sum() for a in p for b in q]
        return torch.exp(-torch.stack(distances) * torch.tensor(GAMMAS)[:, None]).sum(0).mean()

    return mean_kernel(left, left) + mean_kernel(right, right) - 2 * mean_kernel(left, right)


OBJECTIVES = {"coral": (Coral, covariance_distance), "mmd": (MaximumMeanDiscrepancy, discrepancy)}


def loss_of_rows(name: str, model: nn.Module, batch: Batch, weight: float, within_class: bool) -> torch.Tensor:
    """The loss by a loop over pairs of environments, in the number format of the model."""
    features = model[1](model[0](batch.image.double()))
    distances = []
    for label in range(3) if within_class else [None]:
        chosen = torch.ones(len(batch), dtype=torch.bool) if label is None else batch.label == label
        of = [features[chosen & (batch.attribute == e)] for e in range(4)]
        pairs = [(i, j) for i in range(4) for j in range(i) if len(of[i]) and len(of[j])]
        distances += [OBJECTIVES[name][1](of[i], of[j]) for i, j in pairs]
    found = [d for d in distances if d is not None]
    return functional.cross_entropy(model[2](features), batch.label) + weight * torch.stack(found).mean()


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()]).double()


def step(objective: FeatureMatching, model: nn.Module, batch: Batch, called: nn.Module | None = None) -> float:
    """Take a backward pass; return the loss."""
    model.zero_grad()
    return float(objective.backward(called or model, batch, Precision("fp32", CPU)).loss)


@pytest.mark.parametrize("within_class", [False, True], ids=["over_classes", "within_class"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_is_that_of_a_loop_over_pairs_of_environments(name: str, within_class: bool):
    for seed in range(2):
        model, batch = network(seed), random_batch(seed)
        exact = copy.deepcopy(model).double()
        expected = loss_of_rows(name, exact, batch, 20.0, within_class)
        expected.backward()
        loss = step(OBJECTIVES[name][0](model, SPEC, 20.0, within_class=within_class), model, batch)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(gradients(model), gradients(exact), rtol=1e-3, atol=1e-5)


def test_the_distance_of_two_known_sets_is_its_closed_form():
    """Two environments of two rows each, in one dimension: variances 2 and 8, and kernel values by hand."""
    x = torch.tensor([[-1.0], [1.0], [-2.0], [2.0]])
    code = torch.tensor([0, 0, 1, 1])
    batch, spec = Batch(x, *[code] * 5), DatasetSpec("two", ("a", "b"), ("x", "y"))
    model = nn.Sequential(nn.Identity(), nn.Linear(1, 2))

    def distance(objective: FeatureMatching) -> float:
        objective.backward(model, batch, Precision("fp32", CPU))
        return float(objective.summary()["penalty"])

    assert distance(Coral(model, spec, 1.0)) == pytest.approx((8 - 2) ** 2 / 4)
    k = {d: math.exp(-0.5 * d) for d in (0, 1, 4, 9, 16)}  # by squared distance, with gamma 1/2
    within = (k[0] + k[4]) / 2 + (k[0] + k[16]) / 2
    expected = within - 2 * (k[1] + k[9]) / 2
    assert distance(MaximumMeanDiscrepancy(model, spec, 1.0, gammas=(0.5,))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_of_one_environment_is_plain_training(name: str):
    model, batch = network(), random_batch(0)
    alone = Batch(batch.image, batch.row, batch.label, torch.ones_like(batch.label), batch.group, batch.source)
    loss = step(OBJECTIVES[name][0](model, SPEC, 20.0, label_smoothing=0.2), model, alone)
    own = gradients(model)
    model.zero_grad()
    plain = functional.cross_entropy(model(batch.image), batch.label, label_smoothing=0.2)
    plain.backward()
    assert loss == pytest.approx(plain.item())
    torch.testing.assert_close(own, gradients(model))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_take_the_step_of_one(name: str, monkeypatch):
    model, batch = network(), random_batch(4)
    batch.image.requires_grad_()

    def loss(own: Batch) -> torch.Tensor:
        with features_beside_logits(model):
            return OBJECTIVES[name][0](model, SPEC, 20.0)(model, own).loss

    one = loss(batch)
    (expected,) = torch.autograd.grad(one, batch.image)
    total, gradient = loss_of_two(monkeypatch, loss, batch)
    assert total == pytest.approx(one.item(), rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_accumulated_parts_give_the_gradient_of_the_batch_and_leave_no_hook(name: str):
    model, batch = network(), random_batch(1)
    objective = OBJECTIVES[name][0](model, SPEC, 20.0)
    step(objective, model, batch)
    whole = gradients(model)
    step(objective, model, batch, InParts(model, MicroBatches(5)))
    torch.testing.assert_close(gradients(model), whole, rtol=1e-4, atol=1e-6)
    assert model(batch.image).shape == (len(batch), 3)


def test_features_stand_behind_the_logits_and_those_of_a_convolutional_head_are_averaged():
    class SqueezeNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.head(image).relu().mean((2, 3))

    model, image = SqueezeNet(), torch.randn(3, 4, 5, 5)
    with features_beside_logits(model):
        output = model(image)
    torch.testing.assert_close(output, torch.cat([model(image), image.mean((2, 3))], 1))
    assert feature_vectors(image[:, :, 0, 0].bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", OBJECTIVES)
def test_distances_are_float32_under_bf16(name: str):
    model, batch = network(), random_batch(2)
    objective = OBJECTIVES[name][0](model, SPEC, 20.0)
    exact = step(objective, model, batch)
    output = objective.backward(model, batch, Precision("bf16", CPU))
    assert output.loss.dtype == torch.float32
    assert float(output.loss) == pytest.approx(exact, rel=0.05)
    state = objective.state_dict()
    resumed = OBJECTIVES[name][0](model, SPEC, 20.0)
    resumed.load_state_dict(state)
    assert resumed.summary() == objective.summary()
    assert objective.summary() == {"penalty": 0.0}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_frozen_body_is_refused(name: str, toy_args):
    words = ["--model.arch", "efficientnet_lite0", "--model.pretrained", "true", "--model.transfer", "FIXED"]
    with open_run(load([], [*toy_args, *words, "--training.method", name])) as opened:
        assert opened is not None
        with pytest.raises(UsageError, match=f"{name} moves the features, and model.transfer FIXED keeps them"):
            METHODS.get(name).check(opened)
