"""Tests of lff: a step in closed form, 300 steps against a float64 reference, resuming, and two processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.running import assert_same_training, folder_of, run, stopped_and_resumed
from torch import nn

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.methods.lff import LearningFromFailure, amplified_cross_entropy, rows_of_all_processes
from debeton.methods.parts.relative_difficulty import LossAverages, relative_difficulty
from debeton.nets.checkpoint import load_checkpoint
from debeton.system import distributed

SPEC = DatasetSpec("toy", ("a", "b", "c"), ("x", "y", "z"), aligned=((0,), (1,), (2,)))
t = torch.tensor


@pytest.fixture(scope="session")
def paper_view(paper_view) -> Callable[..., View]:
    """Return paper_view(label, attribute, spec) with this file's own spec."""

    def make(label: list[int], attribute: list[int], spec: DatasetSpec = SPEC) -> View:
        return paper_view(label, attribute, spec)

    return make


def batch_of(view: View, rows: list[int], image: torch.Tensor, share: float = 1.0) -> Batch:
    row = t(rows)
    columns = {name: torch.from_numpy(getattr(view, name))[row] for name in ("label", "attribute", "group")}
    return Batch(image=image, row=row, source=torch.zeros_like(row), share=share, **columns)


# --- closed forms --------------------------------------------------------------------------------


def test_the_amplified_gradient_is_q_times_that_of_the_generalised_cross_entropy():
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    label, q = t([0, 1, 2, 1, 0]), 0.7
    (ours,) = torch.autograd.grad(amplified_cross_entropy(logits, label, q).sum(), logits)
    p = logits.softmax(1).gather(1, label[:, None])
    (theirs,) = torch.autograd.grad(((1 - p**q) / q).sum(), logits)
    torch.testing.assert_close(ours, q * theirs)
    loss = amplified_cross_entropy(logits, label, q)
    torch.testing.assert_close(loss, q * p.flatten() ** q * -p.flatten().log())


def test_with_q_1_the_amplified_gradient_is_that_of_minus_the_probability():
    logits, label = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), t([0, 1, 2, 1])
    (ours,) = torch.autograd.grad(amplified_cross_entropy(logits, label, 1.0).sum(), logits)
    (theirs,) = torch.autograd.grad(-logits.softmax(1).gather(1, label[:, None]).sum(), logits)
    torch.testing.assert_close(ours, theirs)


def test_relative_difficulty_is_the_biased_network_s_share_of_the_loss():
    weight = relative_difficulty(t([3.0, 0.0, 1.0, 0.0]), t([1.0, 2.0, 1.0, 0.0]))
    torch.testing.assert_close(weight, t([0.75, 0.0, 0.5, 0.0]))


def test_the_first_loss_of_a_row_is_taken_as_it_is_and_the_next_averaged(paper_view):
    averages = LossAverages(paper_view([0, 0, 1], [0, 0, 1]), alpha=0.7)
    averages.update(t([1]), t([[2.0], [4.0]]))
    averages.update(t([1, 2]), t([[1.0, 5.0], [0.0, 6.0]]))
    torch.testing.assert_close(averages.ema, t([[0.0, 0.7 * 2 + 0.3 * 1, 5.0], [0.0, 0.7 * 4, 6.0]]))
    assert averages.seen.tolist() == [False, True, True]


def test_a_first_loss_of_zero_counts_as_seen(paper_view):
    averages = LossAverages(paper_view([0], [0]), alpha=0.7)
    for loss in (0.0, 1.0):
        averages.update(t([0]), torch.full((2, 1), loss))
    torch.testing.assert_close(averages.ema, torch.full((2, 1), 0.3))


def test_a_row_that_a_batch_holds_several_times_counts_once_with_its_mean_loss(paper_view):
    averages = LossAverages(paper_view([0, 1], [0, 1]), alpha=0.5)
    averages.update(t([1, 0, 1]), t([[1.0, 7.0, 3.0], [0.0, 8.0, 1.0]]))
    torch.testing.assert_close(averages.ema, t([[7.0, 2.0], [8.0, 0.5]]))
    averages.update(t([1, 1]), t([[4.0, 4.0], [1.0, 1.0]]))
    torch.testing.assert_close(averages.ema[:, 1], t([3.0, 0.75]))


def test_averages_are_divided_by_the_largest_of_all_rows_of_the_class_after_the_update(paper_view):
    averages = LossAverages(paper_view([0, 0, 1, 1, 1], [0] * 5), alpha=0.5)
    averages.update(t([0, 1, 2, 3]), t([[4.0, 1.0, 2.0, 6.0], [1.0, 1.0, 8.0, 2.0]]))
    averages.update(t([0]), t([[0.0], [3.0]]))  # the largest of class 0 falls to 2 and rises to 2
    torch.testing.assert_close(averages.normalised(t([1, 0, 2])), t([[0.5, 1.0, 2 / 6], [0.5, 1.0, 1.0]]))


def test_a_class_of_zero_losses_gives_no_nan(paper_view):
    averages = LossAverages(paper_view([0, 1], [0, 0]), alpha=0.7)
    averages.update(t([0, 1]), t([[0.0, 1.0], [0.0, 0.0]]))
    assert averages.normalised(t([0, 1])).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_rows_outside_the_view_do_not_enter_the_largest(paper_view):
    view = paper_view([0, 0, 1], [0] * 3).subset(np.array([2, 1, 1]))
    assert LossAverages(view, 0.7).by_class[:2].tolist() == [[1], [2]]


def test_one_step_is_the_sum_of_both_means_and_its_weights_have_no_gradient(paper_view):
    view = paper_view([0, 1, 2, 0], [0, 1, 1, 0])
    model, biased = nn.Linear(2, 3), nn.Linear(2, 3)
    objective = LearningFromFailure(biased, view, q=0.7, alpha=0.7)
    image, label = torch.randn(3, 2), t([0, 1, 2])
    output = objective(model, batch_of(view, [0, 1, 2], image))
    # Each row is alone in its class so far: both averages over their largest are 1, and W is 1/2.
    loss_b, loss_d = (nn.functional.cross_entropy(net(image), label, reduction="none") for net in (biased, model))
    p = torch.exp(-loss_b.detach())
    torch.testing.assert_close(output.loss, (0.7 * p**0.7 * loss_b).mean() + 0.5 * loss_d.mean())
    torch.testing.assert_close(output.logits, model(image))
    ours = torch.autograd.grad(output.loss, [model.weight, biased.weight])
    theirs = torch.autograd.grad((0.7 * p**0.7 * loss_b).mean() + 0.5 * loss_d.mean(), [model.weight, biased.weight])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


# --- an independent account ----------------------------------------------------------------------


class Reference:
    """A reference in float64 of two linear networks, one row at a time: no tensors, autograd or scatter."""

    def __init__(self, w_b: np.ndarray, w_d: np.ndarray, label: np.ndarray, lr: float):
        self.w = [w_b.astype(np.float64), w_d.astype(np.float64)]
        self.label, self.lr = label, lr
        self.ema: list[dict[int, float]] = [{}, {}]

    def step(self, rows: list[int], images: np.ndarray) -> list[float]:
        scores = [images @ w.T for w in self.w]
        p = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in scores]
        for i, row in enumerate(rows):
            for k in (0, 1):
                loss = -np.log(p[k][i, self.label[row]])
                old = self.ema[k].get(row)
                self.ema[k][row] = loss if old is None else 0.7 * old + 0.3 * loss
        weights, gradient = [], [np.zeros_like(w) for w in self.w]
        for i, row in enumerate(rows):
            y = self.label[row]
            b, d = (ema[row] / max(v for r, v in ema.items() if self.label[r] == y) for ema in self.ema)
            weights.append(b / (b + d + 1e-8))
            onehot = np.eye(len(scores[0][0]))[y]
            factors = 0.7 * p[0][i, y] ** 0.7, weights[-1]
            for k in (0, 1):
                gradient[k] += np.outer(factors[k] * (p[k][i] - onehot), images[i]) / len(rows)
        for k in (0, 1):
            self.w[k] -= self.lr * gradient[k]
        return weights


def test_300_random_steps_agree_with_a_float64_reference(paper_view):
    rng = np.random.default_rng(0)
    label, n = rng.integers(0, 3, 40), 40
    view = paper_view(label, rng.integers(0, 3, n))
    images = rng.normal(size=(n, 4)) + np.eye(3, 4)[label]
    model, biased = nn.Linear(4, 3, bias=False), nn.Linear(4, 3, bias=False)
    reference = Reference(biased.weight.detach().numpy(), model.weight.detach().numpy(), label, lr=0.3)
    objective = LearningFromFailure(biased, view)
    optimizer = torch.optim.SGD(nn.ModuleList([model, objective]).parameters(), lr=0.3)
    seen = {True: [], False: []}  # aligned -> weights
    for _ in range(300):
        rows = rng.permutation(n)[: int(rng.integers(1, 9))].tolist()
        noisy = images[rows] + rng.normal(scale=0.3, size=(len(rows), 4))
        optimizer.zero_grad()
        objective(model, batch_of(view, rows, torch.from_numpy(noisy).float())).loss.backward()
        optimizer.step()
        for row, weight in zip(rows, reference.step(rows, noisy), strict=True):
            seen[bool(view.label[row] == view.attribute[row])].append(weight)
    for k in (0, 1):
        expected = [reference.ema[k].get(row, 0.0) for row in range(n)]
        np.testing.assert_allclose(objective.averages.ema[k].numpy(), expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(biased.weight.detach().numpy(), reference.w[0], atol=2e-5)
    np.testing.assert_allclose(model.weight.detach().numpy(), reference.w[1], atol=2e-5)
    summary = objective.summary()
    assert summary["weight_aligned"] == pytest.approx(np.mean(seen[True]), rel=1e-5)
    assert summary["weight_conflicting"] == pytest.approx(np.mean(seen[False]), rel=1e-5)


# --- what it tells -------------------------------------------------------------------------------


def test_a_summary_has_the_mean_weights_since_the_last_one(paper_view):
    view = paper_view([0, 0, 1], [0, 1, 1])
    objective, model = LearningFromFailure(nn.Linear(2, 3), view), nn.Linear(2, 3)
    objective(model, batch_of(view, [0, 2], torch.randn(2, 2)))
    summary = objective.summary()
    json.dumps(summary)
    assert summary["weight_aligned"] == pytest.approx(0.5)
    assert summary["weight_conflicting"] is None
    assert summary["weight_by_group"]["a, x"] == pytest.approx(0.5)
    assert set(objective.summary()["weight_by_group"].values()) == {None}


def test_a_summary_has_the_data_sets_own_groups_and_no_aligned_weights_without_a_pairing(paper_view):
    view = paper_view([0, 0, 1], [0, 1, 1], DatasetSpec("plain", ("a", "b"), ("x", "y")))
    objective = LearningFromFailure(nn.Linear(2, 2), view.regrouped(np.zeros(3, np.int64), ["one"]))
    objective(nn.Linear(2, 2), batch_of(view, [0, 1], torch.randn(2, 2)))
    summary = objective.summary()
    assert list(summary) == ["weight_by_tenth", "weight_by_group"]
    assert [name for name, value in summary["weight_by_group"].items() if value is not None] == ["a, x", "a, y"]


def test_a_frozen_batch_norm_also_stays_frozen_in_the_biased_network(paper_view):
    view, biased = paper_view([0], [0]), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    for frozen in (True, False):
        objective = LearningFromFailure(biased, view, freeze_bn=frozen).train()
        assert [m.training for m in objective.biased] == [not frozen, True]


# --- several processes ---------------------------------------------------------------------------


@pytest.fixture
def _two_ranks(monkeypatch) -> None:
    """Act two processes one after the other: the second finds in a sum the first one's values."""
    state: dict[str, torch.Tensor] = {}

    def add(tensor: torch.Tensor) -> torch.Tensor:
        state["sum"] = state.get("sum", 0) + tensor
        return state["sum"]

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "sum_over_processes", add)


@pytest.mark.usefixtures("_two_ranks")
@pytest.mark.parametrize("size", [8, 7, 3])
def test_every_process_sees_all_rows_in_the_order_of_one_process(monkeypatch, size):
    rows, values = list(range(2**24 + 1, 2**24 + 1 + size)), torch.randn(2, size)  # float32 cannot hold these rows
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        mine = t(rows[rank::2])
        batch = Batch(*[mine] * 6, share=len(mine) * 2 / size)
        row, gathered = rows_of_all_processes(batch, values[:, rank::2])
    assert row.tolist() == rows
    assert torch.equal(gathered, values)


# --- whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lff_args(toy_betons, write_toy, tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("train") / "train.beton"
    write_toy(path, 253, 0.9)  # 253 = 7 * 32 + 29: an uneven last batch
    settings = {
        "data.dataset": "toy",
        "training.data_root": toy_betons,
        "data.train_path": path,
        "model.arch": "small_resnet",
        "training.epochs": 3,
        "training.batch_size": 32,
        "training.optimizer": "adam",
        "training.lr": 0.001,
        "training.lr_scheduler": "constant",
        "training.eval_epochs": 3,
        "training.decoder_train": "simple",
        "training.decoder_val": "simple",
        "training.augment": "pad_crop:2",
        "training.device": "cpu",
        "logging.tensorboard": "false",
        "training.method": "lff",
    }
    return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


@pytest.fixture(scope="module")
def finished(lff_args, tmp_path_factory) -> Path:
    outdir = tmp_path_factory.mktemp("lff")
    assert run([*lff_args, "--training.outdir", outdir]) == 0
    return folder_of(outdir)


def train_lines(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def test_bias_conflicting_rows_come_to_weigh_more_than_aligned_ones(finished):
    last = train_lines(finished)[-1]["objective"]
    assert 0 < last["weight_aligned"] < last["weight_conflicting"] < 1


def test_both_networks_are_trained_from_weights_of_their_own(finished, lff_args):
    content = load_checkpoint(finished / "checkpoints/checkpoint_latest.pt")
    biased = {k.removeprefix("biased."): v for k, v in content["objective"].items() if k.startswith("biased.")}
    assert biased.keys() == content["state_dict"].keys()
    assert not torch.equal(next(iter(biased.values())), next(iter(content["state_dict"].values())))
    parameters = sum(len(group["params"]) for group in content["optimizer"]["param_groups"])
    assert len(content["optimizer"]["state"]) == parameters  # Adam has moments of all of them
    assert content["objective"]["averages.seen"].all()


def test_a_run_stopped_in_the_middle_of_an_epoch_ends_bit_equal(finished, lff_args, tmp_path, monkeypatch):
    args = [*lff_args, "--training.outdir", tmp_path]
    stopped_and_resumed(args, monkeypatch, 11)  # of epoch 2, step 3
    ours, theirs = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt") for f in (finished, folder_of(tmp_path)))
    for part in ("state_dict", "objective", "optimizer", "step"):
        assert same(ours[part], theirs[part]), part
    assert train_lines(finished) == train_lines(folder_of(tmp_path))


def test_label_smoothing_is_refused(toy_args, capsys):
    assert run([*toy_args, "--training.method", "lff", "--training.label_smoothing", "0.1"]) == 2
    assert "training.label_smoothing is 0.1" in capsys.readouterr().err


def test_two_processes_train_both_networks_and_keep_the_averages_of_one(lff_args, two_processes, tmp_path):
    # SGD: Adam's first steps are signs of gradients, which a rounding may flip.
    args = [*lff_args, "--model.bn_mode", "eval", "--training.epochs", "2", "--training.optimizer", "sgd"]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    one, two = (folder_of(tmp_path / name) for name in ("one", "two"))
    left, right = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt") for f in (one, two))
    assert_same_training(left["state_dict"], right["state_dict"], "small_resnet")
    for name, value in left["objective"].items():
        torch.testing.assert_close(value, right["objective"][name], rtol=0.01, atol=1e-3, msg=name)
    for a, b in zip(train_lines(one), train_lines(two), strict=True):
        assert a["objective"]["weight_by_group"] == pytest.approx(b["objective"]["weight_by_group"], abs=1e-3)
