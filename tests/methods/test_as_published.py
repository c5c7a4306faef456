"""Many steps of whole methods against loops in float64, written row by row from papers and codes.

group DRO, LfF, SCALE and DDB's weights have such loops in their own files. Here are those of DebiAN and EIIL.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.methods.debian import AlternateNetworks
from debeton.methods.finders.eiil import infer_environments
from debeton.system.seed import make_rng
from debeton.train.objective import Precision

STEPS, ROWS, CLASSES = 100, 24, 3


def debian_weights(side: torch.Tensor, probability: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return DebiAN's weight of each row, class after class."""
    weight = torch.empty_like(side)
    for k in range(CLASSES):
        rows = [i for i in range(len(label)) if label[i] == k]
        served = [
            sum(s[i] * probability[i] for i in rows) / (sum(s[i] for i in rows) + 1e-6) if rows else 0.0
            for s in (side, 1 - side)
        ]
        for i in rows:
            weight[i] = 1 + (1 - side[i] if served[1] < served[0] else side[i])
    return weight


def debian_discovery(side: torch.Tensor, probability: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the discoverer's loss with a penalty of 1, a mean over classes, and its smallest quantity."""
    losses, quantities = [], []
    for k in sorted(set(label.tolist())):
        s, p = side[label == k], probability[label == k]
        on_one, on_other = (s * p).sum() / (s.sum() + 1e-6), ((1 - s) * p).sum() / ((1 - s).sum() + 1e-6)
        unequal = -torch.log(1e-6 + (on_one - on_other).abs())
        quantities += [float(x) for x in ((on_one - on_other).detach().abs(), s.detach().mean(), 1 - s.detach().mean())]
        losses.append(unequal - torch.log(1e-6 + 1 - (s.mean() - (1 - s).mean()).abs()))
    return torch.stack(losses).mean(), min(quantities)


def test_100_steps_of_debian_agree_with_a_float64_loop_over_rows_and_classes(paper_view):
    spec = DatasetSpec("pets", ("cat", "dog", "bird"), ("left", "right"))
    view = paper_view([k % CLASSES for k in range(ROWS)], [k % 2 for k in range(ROWS)], spec)
    torch.manual_seed(1)
    model, discoverer = (nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, CLASSES)) for _ in range(2))
    images = torch.randn(ROWS, 5)
    columns = {name: torch.from_numpy(getattr(view, name)) for name in ("label", "attribute", "group")}

    def batch_of(rows: torch.Tensor) -> Batch:
        chosen = {name: column[rows] for name, column in columns.items()}
        return Batch(image=images[rows], row=rows, source=torch.zeros_like(rows), share=1.0, **chosen)

    class Further:
        def __len__(self) -> int:
            return STEPS

    objective = AlternateNetworks(discoverer, view, Further(), penalty=1.0)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([*model.parameters(), *discoverer.parameters()], 0.02, momentum=0.9)
    draws, compared = np.random.default_rng(0), 0
    for _ in range(STEPS):
        first, second = (torch.from_numpy(draws.choice(ROWS, 12, replace=False)) for _ in range(2))
        further = batch_of(second)
        objective.further.take = lambda further=further: further  # type: ignore[method-assign, misc]
        optimizer.zero_grad()
        # Copied in every step: near equal sides, the discoverer's gradient would multiply the rounding of float32.
        own_model, own_discoverer = (copy.deepcopy(network).double() for network in (model, discoverer))
        output = objective.backward(model, batch_of(first), Precision("fp32", torch.device("cpu")))

        label, rows = columns["label"][first], torch.arange(12)
        logits = own_model(images[first].double())
        with torch.no_grad():
            side = own_discoverer(images[first].double())[rows, label].sigmoid()
            weight = debian_weights(side, logits.softmax(1)[rows, label], label)
        loss = (weight * functional.cross_entropy(logits, label, reduction="none")).mean()
        loss.backward()
        label = columns["label"][second]
        with torch.no_grad():
            probability = own_model(images[second].double()).softmax(1)[rows, label]
        side = own_discoverer(images[second].double())[rows, label].sigmoid()
        discovery, smallest = debian_discovery(side, probability, label)
        discovery.backward()
        assert float(output.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
        # Float32 has seven digits. Few are left where both sides are served alike, or where one side is nearly empty.
        for network, own, digits in ((model, own_model, 1e-5), (discoverer, own_discoverer, 1e-5 / smallest)):
            ours, expected = (
                torch.cat([p.grad.double().ravel() for p in each.parameters()]) for each in (network, own)
            )
            assert (ours - expected).norm() < digits * expected.norm()
        compared += smallest > 1e-3
        optimizer.step()
    assert compared > 0.7 * STEPS


def test_300_steps_of_eiil_agree_with_adam_written_out_row_by_row():
    rng, steps, step_size = np.random.default_rng(4), 300, 0.01
    gradient, label = rng.normal(0.1, 1, 60), rng.integers(CLASSES, size=60)
    w = make_rng(7, "environments").standard_normal(60)
    mean, square = np.zeros(60), np.zeros(60)
    for step in range(1, steps + 1):
        q = 1 / (1 + np.exp(-w))
        slope = np.empty(60)
        for k in range(CLASSES):
            rows = np.flatnonzero(label == k)
            in_one = np.mean([q[i] * gradient[i] for i in rows])
            in_other = np.mean([(1 - q[i]) * gradient[i] for i in rows])
            for i in rows:  # the derivative of (in_one^2 + in_other^2) / 2 for w_i
                slope[i] = (in_one - in_other) * gradient[i] * q[i] * (1 - q[i]) / len(rows)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        w += step_size * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    assert np.abs(w).min() > 1e-3  # no row is undecided
    in_one, expected = w > 0, np.empty(60, bool)
    for k in range(CLASSES):
        rows = label == k
        larger = gradient[rows & in_one].mean() >= gradient[rows & ~in_one].mean()
        expected[rows] = in_one[rows] == larger
    found = infer_environments(
        torch.from_numpy(gradient), torch.from_numpy(label), steps=steps, step_size=step_size, seed=7
    )
    assert found.tolist() == expected.tolist()
