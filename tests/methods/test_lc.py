"""Tests of lc: priors, partners and steps against loops in float64, draws, gradient parts, and whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import assert_same_training, folder_of, lines_of, run, stopped_and_resumed
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.methods.lc import LcSettings, LogitCorrection, minority_partners
from debeton.methods.parts.class_priors import ClassPriors
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.micro_batches import InParts, MicroBatches

SPEC = DatasetSpec("toy", ("a", "b", "c"), ("x", "y", "z"), aligned=((0,), (1,), (2,)))


def batch_of(view: View, rows: list[int], image: Tensor) -> Batch:
    row = torch.tensor(rows)
    columns = {name: torch.from_numpy(getattr(view, name))[row] for name in ("label", "attribute", "group")}
    return Batch(image=image, row=row, source=torch.zeros_like(row), **columns)


# --- priors --------------------------------------------------------------------------------------


class Averages:
    """The moving averages of the priors, row by row or batch by batch, in float64."""

    def __init__(self, alpha: float, *, by_batch: bool):
        self.alpha, self.by_batch, self.mean = alpha, by_batch, {}

    def update(self, labels: list[int], predictions: list[int], p: list[float]) -> None:
        values: dict[tuple[int, int], list[float]] = {}
        for y, a, value in zip(labels, predictions, p, strict=True):
            values.setdefault((y, a), []).append(value)
        for cell, own in values.items():
            for value in [float(np.mean(own))] if self.by_batch else own:
                old = self.mean.get(cell)
                self.mean[cell] = value if old is None else self.alpha * old + (1 - self.alpha) * value

    def of(self, predicted: int) -> np.ndarray:
        column = np.array([self.mean.get((y, predicted), 0.0) for y in range(3)])
        return column / column.sum()


@pytest.mark.parametrize("by_batch", [False, True], ids=["rows", "batches"])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_priors_are_the_moving_averages_of_a_loop(alpha: float, by_batch: bool):
    rng = np.random.default_rng(0)
    priors, reference = ClassPriors(3, alpha, by_batch=by_batch), Averages(alpha, by_batch=by_batch)
    for size in (1, 9, 30, 2, 17):
        label, predicted, p = rng.integers(0, 3, size), rng.integers(0, 2, size), rng.random(size)
        priors.update(*map(torch.from_numpy, (label, predicted, p.astype(np.float32))))
        reference.update(label.tolist(), predicted.tolist(), p.tolist())
    expected = [[reference.mean.get((y, a), 0.0) for a in range(3)] for y in range(3)]
    np.testing.assert_allclose(priors.mean.numpy(), expected, rtol=1e-5)
    assert priors.seen.tolist() == [[True, True, False]] * 3
    np.testing.assert_allclose(priors.of(torch.tensor([1, 0])).numpy(), [reference.of(1), reference.of(0)], rtol=1e-5)
    assert priors.diagonal().tolist()[2] == 0  # class 2 was never predicted


# --- Group MixUp ---------------------------------------------------------------------------------


def test_a_partner_is_a_minority_row_of_the_class_or_else_any_row_of_it():
    label = torch.tensor([0, 0, 0, 1, 1, 2])
    minority = torch.tensor([False, True, True, False, False, True])
    rng, chosen = np.random.default_rng(0), np.zeros((6, 6))
    for _ in range(600):
        chosen[np.arange(6), minority_partners(label, minority, torch.from_numpy(rng.random(6))).numpy()] += 1
    candidates = [[1, 2], [1, 2], [1, 2], [3, 4], [3, 4], [5]]
    for row, own in enumerate(candidates):
        assert np.flatnonzero(chosen[row]).tolist() == own
        assert chosen[row, own].min() > 0.4 * 600 / len(own)
    ends = minority_partners(label, minority, torch.full((6,), math.nextafter(1, 0), dtype=torch.float64))
    assert ends.tolist() == [2, 2, 2, 4, 4, 5]
    assert minority_partners(label[:0], minority[:0], torch.zeros(0, dtype=torch.float64)).tolist() == []


def test_the_own_share_of_a_row_falls_with_the_ramp_and_is_saved_with_the_step(paper_view):
    view = paper_view([0, 1], [0, 1], SPEC)
    settings = LcSettings(mixup=0.4, rampup=2.0)
    objective = LogitCorrection(nn.Linear(2, 3), view, settings, seed=3, steps_per_epoch=10)
    for step in range(0, 40, 3):
        objective.step = step
        tau = 0.4 * math.exp(-5 * (1 - min(step / 20, 1)) ** 2)
        assert 1 - 2 * tau <= objective.draw(2)[0] <= 1 - tau
    again = LogitCorrection(nn.Linear(2, 3), view, settings, seed=3, steps_per_epoch=10)
    again.load_state_dict(objective.state_dict())
    assert again.step == 39
    assert again.draw(5)[0] == objective.draw(5)[0]
    assert torch.equal(again.draw(5)[1], objective.draw(5)[1])
    assert LogitCorrection(nn.Linear(2, 3), view, LcSettings(mixup=0.0)).draw(2)[0] == 1


# --- steps ---------------------------------------------------------------------------------------


class Reference:
    """The method for linear networks without bias, in loops over rows and float64."""

    def __init__(self, biased: np.ndarray, model: np.ndarray, settings: LcSettings):
        self.biased, self.model, self.settings = biased.astype(np.float64), model.astype(np.float64), settings
        self.averages = Averages(settings.ema, by_batch=settings.average == "batches")

    def step(self, label: list[int], image: np.ndarray, lam: float, u: np.ndarray) -> None:
        n, rate = len(label), 0.3
        scores = image @ self.biased.T
        predicted = scores.argmax(1)
        biased_gradient, gradient = np.zeros_like(self.biased), np.zeros_like(self.model)
        warm = []
        for i, y in enumerate(label):
            p, heated = (np.exp(s) / np.exp(s).sum() for s in (scores[i], scores[i] / self.settings.temperature))
            warm.append(float(heated[y]))
            biased_gradient += np.outer(self.settings.q * p[y] ** self.settings.q * (p - np.eye(3)[y]), image[i]) / n
        self.averages.update(label, predicted.tolist(), warm)
        prior = [self.averages.of(a) for a in predicted]
        for i, y in enumerate(label):
            of_class = [j for j in range(n) if label[j] == y]
            pool = [j for j in of_class if predicted[j] != y] or of_class
            j = pool[int(u[i] * len(pool))]
            x, mixed = (lam * v[i] + (1 - lam) * v[j] for v in (image, prior))
            moved = self.model @ x + np.log(mixed + 1e-4)
            gradient += np.outer(np.exp(moved) / np.exp(moved).sum() - np.eye(3)[y], x) / n
        self.biased -= rate * self.settings.biased_weight * biased_gradient
        self.model -= rate * gradient


@pytest.mark.parametrize("average", ["rows", "batches"])
def test_40_random_steps_agree_with_a_float64_reference(paper_view, average: str):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 40)
    view = paper_view(label, rng.integers(0, 3, 40), SPEC)
    images = rng.normal(size=(40, 4)) + np.eye(3, 4)[label]
    model, biased = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    settings = LcSettings(q=0.6, biased_weight=0.5, temperature=2.0, ema=0.9, average=average, mixup=0.3)
    reference = Reference(biased.weight.detach().numpy(), model.weight.detach().numpy(), settings)
    objective = LogitCorrection(biased, view, settings)
    optimizer = torch.optim.SGD(nn.ModuleList([model, objective]).parameters(), lr=0.3)
    for _ in range(40):
        rows = rng.permutation(40)[: int(rng.integers(1, 9))].tolist()
        noisy = (images[rows] + rng.normal(scale=0.3, size=(len(rows), 4))).astype(np.float32)
        lam, u = objective.draw(len(rows))
        optimizer.zero_grad()
        objective(model, batch_of(view, rows, torch.from_numpy(noisy))).loss.backward()
        optimizer.step()
        reference.step(label[rows].tolist(), noisy.astype(np.float64), lam, u.numpy())
    expected = [[reference.averages.mean.get((y, a), 0.0) for a in range(3)] for y in range(3)]
    np.testing.assert_allclose(objective.priors.mean.numpy(), expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(biased.weight.detach().numpy(), reference.biased, atol=2e-5)
    np.testing.assert_allclose(model.weight.detach().numpy(), reference.model, atol=2e-5)


def test_accumulated_parts_have_the_gradient_of_the_whole_batch(paper_view):
    rng = np.random.default_rng(1)
    view = paper_view(rng.integers(0, 3, 12), rng.integers(0, 3, 12), SPEC)
    image, gradients = torch.randn(12, 4, dtype=torch.float64), []
    for micro in (None, MicroBatches(5)):
        torch.manual_seed(0)
        model, biased = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
        objective = LogitCorrection(biased, view, LcSettings())
        objective.micro = micro
        called = model if micro is None else InParts(model, micro)
        objective(called, batch_of(view, list(range(12)), image)).loss.backward()
        gradients.append((model.weight.grad, biased.weight.grad))
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-8)


def test_a_summary_has_the_minority_share_of_each_group_since_the_last_one(paper_view):
    view = paper_view([0, 0, 1, 2], [0, 1, 1, 2], SPEC)
    biased = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        biased.weight.copy_(torch.eye(3))
    objective = LogitCorrection(biased, view, LcSettings())
    objective(nn.Linear(3, 3), batch_of(view, [0, 1, 2, 3], torch.eye(3)[[0, 1, 1, 2]] * 4))
    summary = objective.summary()
    json.dumps(summary)
    shares = {name: share for name, share in summary["minority_by_group"].items() if share is not None}
    assert shares == {"a, x": 0, "a, y": 1, "b, y": 0, "c, z": 0}
    sure = math.exp(4) / (math.exp(4) + 2)  # of a row's own class; the row (a, y) has the probability (1 - sure) / 2
    assert summary["prior_of_own_class"]["b"] == pytest.approx(sure / (sure + (1 - sure) / 2), rel=1e-5)
    assert summary["prior_of_own_class"]["c"] == 1
    assert set(objective.summary()["minority_by_group"].values()) == {None}


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture
def lc_args(toy_args, write_toy, tmp_path: Path) -> list[str]:
    write_toy(tmp_path / "train.beton", 93, 0.9)  # 93 = 2 * 32 + 29: an uneven last batch
    own = {"training.method": "lc", "training.batch_size": 32, "data.train_path": tmp_path / "train.beton"}
    return [*toy_args, *(str(word) for key, value in own.items() for word in (f"--{key}", value))]


def latest(outdir: Path) -> dict:
    return load_checkpoint(folder_of(outdir) / "checkpoints/checkpoint_latest.pt")


def test_a_run_stopped_in_the_middle_of_an_epoch_ends_bit_equal(lc_args, tmp_path, monkeypatch):
    args = [*lc_args, "--lc.rampup", "1"]
    assert run([*args, "--training.outdir", tmp_path / "whole"]) == 0
    stopped_and_resumed([*args, "--training.outdir", tmp_path / "stopped"], monkeypatch, 5)
    whole, stopped = latest(tmp_path / "whole"), latest(tmp_path / "stopped")
    for part in ("state_dict", "objective"):
        assert whole[part].keys() == stopped[part].keys()
        for name, value in whole[part].items():
            same = (
                torch.equal(value, stopped[part][name]) if isinstance(value, Tensor) else value == stopped[part][name]
            )
            assert same, name
    assert whole["objective"]["_extra_state"] == 6
    assert (
        lines_of(folder_of(tmp_path / "whole"))[-1]["metrics"]
        == lines_of(folder_of(tmp_path / "stopped"))[-1]["metrics"]
    )


def test_two_processes_train_both_networks_and_keep_the_priors_of_one(lc_args, two_processes, tmp_path):
    # Without mixing: each process draws pairs among its own rows.
    args = [*lc_args, "--model.bn_mode", "eval", "--lc.mixup", "0", "--training.lr", "0.02"]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    left, right = latest(tmp_path / "one"), latest(tmp_path / "two")
    assert_same_training(left["state_dict"], right["state_dict"], "small_resnet")
    for name, value in left["objective"].items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, right["objective"][name], rtol=0.01, atol=1e-3, msg=name)


def test_a_temperature_of_0_is_refused(toy_args, capsys):
    assert run([*toy_args, "--training.method", "lc", "--lc.temperature", "0"]) == 2
    assert "lc.temperature is 0" in capsys.readouterr().err
