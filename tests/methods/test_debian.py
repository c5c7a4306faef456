"""Tests of debian: sums and losses against a loop over classes, a step of both networks, resuming, two processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.running import assert_same_training, folder_of, lines_of, run, stopped_and_resumed
from torch import nn

from debeton.config import load
from debeton.data.loader.batch import Batch
from debeton.methods.debian import EPSILON, AlternateNetworks, class_sums, disadvantage, discovery_loss
from debeton.methods.parts.second_network import second_network
from debeton.nets.checkpoint import load_checkpoint
from debeton.train.objective import Precision
from debeton.train.run import open_run

t = torch.tensor


def sides_of_class(side: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    """Return the mean probabilities of a class's rows on either side, each row weighted by its position there."""
    positive = (side * probability).sum() / (side.sum() + EPSILON)
    return positive, ((1 - side) * probability).sum() / ((1 - side).sum() + EPSILON)


def reference(side: np.ndarray, probability: np.ndarray, label: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
    """Return the discoverer's loss and the disadvantage of each row, class after class in float64."""
    losses, worse = [], side.copy()
    for k in np.unique(label):
        of_class = label == k
        s = side[of_class]
        positive, negative = sides_of_class(s, probability[of_class])
        unbalanced = -np.log(EPSILON + 1 - abs(s.mean() - (1 - s).mean()))
        losses.append(-np.log(EPSILON + abs(positive - negative)) + penalty * unbalanced)
        if negative < positive:
            worse[of_class] = 1 - s
    return float(np.mean(losses)), worse


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_loss_and_disadvantage_are_those_of_a_loop_over_classes(rows, classes, seed, penalty):
    rng = np.random.default_rng(seed)
    side, probability, label = rng.random(rows), rng.random(rows), rng.integers(classes, size=rows)
    loss, worse = reference(side, probability, label, penalty)
    sums = class_sums(t(side), t(probability), t(label), classes)
    torch.testing.assert_close(discovery_loss(sums, penalty), t(loss, dtype=torch.float64))
    torch.testing.assert_close(disadvantage(t(side), sums, t(label)), t(worse))


def test_the_discoverer_gains_by_separating_rows_that_the_model_serves_unequally():
    probability, label = t([0.9, 0.9, 0.2, 0.2]), t([0, 0, 0, 0])

    def loss(side: list[float], penalty: float = 1.0) -> float:
        return float(discovery_loss(class_sums(t(side), probability, label, 1), penalty))

    assert loss([1, 1, 0, 0]) == pytest.approx(-np.log(0.7), abs=1e-4)
    assert loss([1, 1, 0, 0]) == pytest.approx(loss([0, 0, 1, 1]))
    assert loss([1, 0, 1, 0]) > 5  # equal on both sides
    assert loss([1, 0.01, 0.01, 0.01], penalty=4.0) > loss([1, 0.01, 0.01, 0.01], penalty=0.0) + 1  # unbalanced


@pytest.fixture
def step_of_two(paper_view):
    """Return a function of the weights' scale that makes an objective, the model, and a batch of 8 rows."""
    view = paper_view([0, 1, 0, 1, 0, 1, 0, 0], [0, 1, 1, 0, 0, 1, 2, 2])

    class Further:
        def __len__(self):
            return 1

    def make(freeze_bn: bool = False):
        torch.manual_seed(0)
        row = torch.arange(8)
        columns = {name: torch.from_numpy(getattr(view, name)) for name in ("label", "attribute", "group")}
        batch = Batch(image=torch.randn(8, 3), row=row, source=torch.zeros_like(row), **columns)
        model, discoverer = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2))
        objective = AlternateNetworks(discoverer, view, Further(), penalty=2.0, freeze_bn=freeze_bn)  # type: ignore[arg-type]
        objective.further.take = lambda: batch  # type: ignore[method-assign]
        model.train()
        objective.train()
        return objective, model, batch

    return make


def test_a_step_gives_each_network_the_gradient_of_its_own_loss(step_of_two):
    objective, model, batch = step_of_two()
    cpu = torch.device("cpu")
    output = objective.backward(model, batch, Precision("fp32", cpu))
    ours = [p.grad.clone() for p in (*model.parameters(), *objective.discoverer.parameters())]

    objective, model, batch = step_of_two()
    discoverer, row, label = objective.discoverer, torch.arange(8), batch.label
    side = discoverer.eval()(batch.image)[row, label].sigmoid()
    logits = model(batch.image)
    probability = logits.softmax(1)[row, label]
    worse = t(reference(*(v.detach().double().numpy() for v in (side, probability)), label.numpy(), 2.0)[1]).float()
    loss = ((1 + worse) * nn.functional.cross_entropy(logits, label, reduction="none")).mean()
    discoverer.train()
    theirs = list(torch.autograd.grad(loss, list(model.parameters())))
    probability = model.eval()(batch.image).softmax(1)[row, label].detach()
    side = discoverer(batch.image)[row, label].sigmoid()
    loss_of_discoverer = discovery_loss(class_sums(side, probability, label, 2), 2.0).float()
    theirs += torch.autograd.grad(loss_of_discoverer, list(discoverer.parameters()))
    torch.testing.assert_close(output.loss, loss.detach())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_batch_norm_moves_in_the_network_that_learns_and_the_modes_are_left_as_they_were(step_of_two):
    objective, model, batch = step_of_two()
    objective.backward(model, batch, Precision("fp32", torch.device("cpu")))
    assert model.training
    assert objective.discoverer.training
    assert model[1].num_batches_tracked == objective.discoverer[1].num_batches_tracked == 1
    objective, model, batch = step_of_two(freeze_bn=True)
    objective.backward(model, batch, Precision("fp32", torch.device("cpu")))
    assert objective.discoverer[1].num_batches_tracked == 0


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debian_args(toy_betons, write_toy, tmp_path_factory) -> list[str]:
    train = tmp_path_factory.mktemp("train") / "train.beton"
    write_toy(train, 256, 0.9)
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "data.train_path": train,
        "model.arch": "small_resnet",
        "training.epochs": 2,
        "training.batch_size": 32,
        "training.optimizer": "adam",
        "training.lr": 0.001,
        "training.lr_scheduler": "constant",
        "training.eval_epochs": 2,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.method": "debian",
    }
    return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


def test_a_run_stopped_in_the_middle_of_an_epoch_ends_equal(debian_args, tmp_path, monkeypatch):
    assert run([*debian_args, "--training.outdir", tmp_path / "whole"]) == 0
    args = [*debian_args, "--training.outdir", tmp_path / "stopped"]
    stopped_and_resumed(args, monkeypatch, 11)  # of epoch 2, step 3
    whole, stopped = (load_final(tmp_path / name) for name in ("whole", "stopped"))
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(value, stopped["state_dict"][name], rtol=0, atol=0, msg=name)
    discoverer = {n: v for n, v in whole["objective"].items() if n.startswith("discoverer.")}
    assert discoverer.keys() == {f"discoverer.{name}" for name in whole["state_dict"]}
    assert all(torch.equal(v, stopped["objective"][n]) for n, v in discoverer.items())
    (*_, last) = (line for line in lines_of(folder_of(tmp_path / "stopped")) if line["split"] == "train")
    assert 0 <= last["objective"]["weight_aligned"] <= 1


def load_final(outdir: Path) -> dict:
    return load_checkpoint(folder_of(outdir) / "checkpoints/checkpoint_latest.pt")


def test_two_processes_take_the_step_of_one_in_both_networks(debian_args, two_processes, tmp_path):
    # One step: where both sides of a class are served alike, a rounding turns the discoverer's gradient round.
    args = [*debian_args, "--model.bn_mode", "eval", "--training.optimizer", "sgd", "--training.lr", "0.005"]
    args += ["--training.batch_size", "256", "--training.epochs", "1", "--training.momentum", "0"]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    one, two = (load_final(tmp_path / name) for name in ("one", "two"))
    assert one["step"] == two["step"] == 1
    assert_same_training(one["state_dict"], two["state_dict"], "small_resnet")
    fresh = weights_before_training(debian_args, tmp_path)
    for name, before in fresh.items():
        left, right = (content["objective"][f"discoverer.{name}"] for content in (one, two))
        moved = (left - before).norm()
        assert (left - right).norm() <= 0.01 * moved + 1e-6, name
    assert any((one["objective"][f"discoverer.{name}"] - before).norm() > 1e-3 for name, before in fresh.items())


def weights_before_training(args: list[str], tmp_path: Path) -> dict[str, torch.Tensor]:
    """Return the discoverer's parameters as `debian` draws them: after the model's, with the same seed."""
    with open_run(load([], [*args, "--training.outdir", str(tmp_path / "fresh")])) as opened:
        opened.network()
        return {name: p.detach().clone() for name, p in second_network(opened).named_parameters()}
