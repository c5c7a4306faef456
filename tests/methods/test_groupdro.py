"""Tests of GroupDRO: one step in closed form, 500 steps against a float64 reference, two processes, and settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from debeton.config import load
from debeton.data.beton.reading import open_beton
from debeton.data.loader.batch import Batch
from debeton.methods import METHODS, groupdro
from debeton.methods.groupdro import GroupDRO, GroupDROOptions, GroupdroSettings
from debeton.methods.parts.group_weights import exponentiated_step, greedy_weights
from debeton.nets.checkpoint import load_checkpoint
from debeton.system.errors import UsageError
from debeton.train.evaluation import evaluate
from debeton.train.finish import finish
from debeton.train.objective import StepOutput
from debeton.train.run import open_run
from debeton.train.stop import Preempted, StopRequest

ROOT = Path(__file__).parents[2]
COUNTS = np.array([500, 0, 80, 300, 7, 113])  # group 1 does not exist
NAMES = ("a", "b", "c", "d", "e", "f")


def batch_of(logits: torch.Tensor, label: Any, group: Any, share: float = 1.0) -> Batch:
    """Return a batch whose images are the logits, for a model that is the identity."""
    label, group = torch.as_tensor(label), torch.as_tensor(group)
    zeros = torch.zeros(len(label), dtype=torch.int64)
    return Batch(logits, torch.arange(len(label)), label, zeros, group, zeros, share)


def random_batch(rng: np.random.Generator, size: int = 16) -> Batch:
    logits = torch.from_numpy(rng.normal(0, 2, (size, 2)).astype(np.float32))
    group = rng.choice(len(COUNTS), size, p=COUNTS / COUNTS.sum())
    return batch_of(logits, rng.integers(0, 2, size), group)


def step(objective: GroupDRO, batch: Batch) -> StepOutput:
    return objective(torch.nn.Identity(), batch)


# --- closed forms ----------------------------------------------------------------------------------------------


def test_one_step_moves_the_weights_and_weights_the_losses():
    logits = torch.tensor([[2.0, -1.0], [0.0, 1.0], [1.0, 1.0], [-2.0, 0.5]], requires_grad=True)
    label, group = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 2, 3])
    objective = GroupDRO(np.array([10, 5, 5, 20]), NAMES[:4], GroupDROOptions(step_size=0.5))
    output = step(objective, batch_of(logits, label, group))
    output.loss.backward()

    p = torch.softmax(logits.detach().double(), 1).numpy()
    loss = -np.log(p[np.arange(4), label])
    group_loss = np.array([loss[:2].mean(), 0.0, loss[2], loss[3]])  # group 1 is absent: 0
    q = 0.25 * np.exp(0.5 * group_loss)
    q /= q.sum()
    np.testing.assert_allclose(objective.q, q, rtol=1e-6)
    assert output.loss.item() == pytest.approx(float(q @ group_loss), rel=1e-6)
    weight = np.array([q[0] / 2, q[0] / 2, q[2], q[3]])
    np.testing.assert_allclose(logits.grad, weight[:, None] * (p - np.eye(2)[label]), rtol=1e-5, atol=1e-7)
    assert objective.absent.tolist() == [0, 1, 0, 0]


def test_the_weights_start_uniform_over_the_groups_that_exist():
    assert GroupDRO(COUNTS, NAMES, GroupDROOptions()).q.tolist() == pytest.approx([0.2, 0, 0.2, 0.2, 0.2, 0.2])


def test_a_step_of_the_weights_is_a_softmax_that_no_loss_overflows():
    q = torch.tensor([0.5, 0.5, 0.0])
    torch.testing.assert_close(exponentiated_step(q, torch.tensor([1e4, 0.0, 1e6]), 1.0), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(exponentiated_step(q, torch.tensor([1.0, 2.0, 9.0]), 0.0), q)


def test_the_adjustment_is_in_the_weights_and_not_in_the_loss():
    rng = np.random.default_rng(0)
    batch = random_batch(rng)
    plain, adjusted = (
        GroupDRO(COUNTS, NAMES, GroupDROOptions(step_size=1.0, generalization_adjustment=(c,))) for c in (0.0, 3.0)
    )
    step(plain, batch)
    output = step(adjusted, batch)
    bonus = np.where(COUNTS > 0, np.exp(3 / np.sqrt(np.maximum(COUNTS, 1))), 0)
    expected = plain.q.numpy() * bonus
    np.testing.assert_allclose(adjusted.q, expected / expected.sum(), rtol=1e-5)
    losses = torch.nn.functional.cross_entropy(batch.image, batch.label, reduction="none")
    means = [float(losses[batch.group == g].mean()) if (batch.group == g).any() else 0.0 for g in range(6)]
    assert float(output.loss) == pytest.approx(float(adjusted.q.numpy() @ means), rel=1e-5)
    np.testing.assert_allclose(adjusted.moving_loss, means, rtol=1e-5)


def test_cvar_over_groups_fills_alpha_from_the_highest_loss_down():
    loss, share = torch.tensor([0.1, 0.9, 0.5, 0.7]), torch.tensor([0.6, 0.1, 0.2, 0.1])
    torch.testing.assert_close(greedy_weights(loss, share, 0.25, 0.0), torch.tensor([0.0, 0.4, 0.2, 0.4]))
    torch.testing.assert_close(greedy_weights(loss, share, 0.05, 0.0), torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(greedy_weights(loss, share, 1.0, 0.0), share)  # all rows: plain training
    mixed = 0.3 * share + 0.7 * torch.tensor([0.0, 0.4, 0.2, 0.4])
    torch.testing.assert_close(greedy_weights(loss, share, 0.25, 0.3), mixed)


def test_not_robust_is_the_plain_mean_of_the_losses():
    batch = random_batch(np.random.default_rng(0))
    objective = GroupDRO(COUNTS, NAMES, GroupDROOptions(robust=False), label_smoothing=0.1)
    expected = torch.nn.functional.cross_entropy(batch.image, batch.label, label_smoothing=0.1)
    torch.testing.assert_close(step(objective, batch).loss, expected)
    assert objective.q.tolist() == pytest.approx([0.2, 0, 0.2, 0.2, 0.2, 0.2])
    assert objective.seen.any()


# --- against a reference ---------------------------------------------------------------------------------------


class Reference:
    """A reference of the rules of kohpangwei/group_DRO: row by row and group by group, in float64."""

    def __init__(self, counts: np.ndarray, options: GroupDROOptions):
        self.groups = [g for g in range(len(counts)) if counts[g]]
        self.n = {g: float(counts[g]) for g in self.groups}
        self.o = options
        self.q = dict.fromkeys(self.groups, 1 / len(self.groups))
        values = list(options.generalization_adjustment)
        values = values * len(self.groups) if len(values) == 1 else values
        self.adjustment = {g: c / self.n[g] ** 0.5 for g, c in zip(self.groups, values, strict=True)}
        self.moving: dict[int, float] = {}
        self.absent = dict.fromkeys(self.groups, 0)

    def step(self, loss: np.ndarray, group: np.ndarray) -> float:
        mean = {}
        for g in self.groups:
            rows = [float(v) for v, k in zip(loss, group, strict=True) if k == g]
            mean[g] = sum(rows) / len(rows) if rows else 0.0
            self.absent[g] += not rows
            if rows:
                old = self.moving.get(g, mean[g])
                self.moving[g] = (1 - self.o.gamma) * old + self.o.gamma * mean[g]
        if self.o.btl:
            self._greedy()
        elif self.o.robust:
            adjusted = {g: mean[g] + self.adjustment[g] for g in self.groups}
            scale = sum(adjusted.values()) if self.o.normalize_loss else 1.0
            q = {g: self.q[g] * np.exp(self.o.step_size * adjusted[g] / scale) for g in self.groups}
            self.q = {g: v / sum(q.values()) for g, v in q.items()}
        return float(np.mean(loss)) if not self.o.robust else sum(self.q[g] * mean[g] for g in self.groups)

    def _greedy(self) -> None:
        total = sum(self.n.values())
        left = 1.0
        for g in sorted(self.groups, key=lambda g: -(self.moving.get(g, 0.0) + self.adjustment[g])):
            share = self.n[g] / total
            part = min(share / self.o.alpha, left)
            left -= part
            minimum = self.o.minimum_variational_weight
            self.q[g] = minimum * share + (1 - minimum) * part


OPTIONS = {
    "plain": GroupDROOptions(),
    "fast": GroupDROOptions(step_size=0.3),
    "adjusted": GroupDROOptions(generalization_adjustment=(2.0,), gamma=0.3),
    "adjusted by group": GroupDROOptions(generalization_adjustment=(0.0, 1.0, 0.5, 3.0, 2.0), step_size=0.1),
    "normalised": GroupDROOptions(normalize_loss=True, step_size=0.2, generalization_adjustment=(1.0,)),
    "btl": GroupDROOptions(btl=True, alpha=0.2),
    "btl mixed": GroupDROOptions(
        btl=True, alpha=0.45, minimum_variational_weight=0.15, gamma=0.5, generalization_adjustment=(1.0,)
    ),
    "not robust": GroupDROOptions(robust=False, gamma=1.0),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_500_steps_agree_with_a_float64_reference(name: str):
    rng, reference = np.random.default_rng(3), Reference(COUNTS, OPTIONS[name])
    objective = GroupDRO(COUNTS, NAMES, OPTIONS[name])
    for _ in range(500):
        batch = random_batch(rng)
        logits = batch.image.double()
        loss = torch.nn.functional.cross_entropy(logits, batch.label, reduction="none").numpy()
        expected = reference.step(loss, batch.group.numpy())
        assert float(step(objective, batch).loss) == pytest.approx(expected, rel=2e-4)
    summary = objective.summary()
    existing = [name for name, n in zip(NAMES, COUNTS, strict=True) if n]
    assert list(summary["q"]) == list(summary["loss"]) == list(summary["absent_share"]) == existing
    np.testing.assert_allclose(list(summary["q"].values()), list(reference.q.values()), rtol=2e-4, atol=1e-9)
    moving = [reference.moving[g] for g in reference.groups]
    np.testing.assert_allclose(list(summary["loss"].values()), moving, rtol=1e-4)
    np.testing.assert_allclose(list(summary["absent_share"].values()), np.array(list(reference.absent.values())) / 500)
    assert sum(summary["q"].values()) == pytest.approx(1, abs=1e-5)


def test_normalised_losses_that_are_all_zero_leave_the_weights_as_they_are():
    objective = GroupDRO(COUNTS, NAMES, GroupDROOptions(normalize_loss=True, step_size=0.5))
    certain = torch.tensor([[200.0, 0.0], [0.0, 200.0]])  # in float32 the cross-entropy is exactly 0
    before = objective.q.clone()
    output = step(objective, batch_of(certain, [0, 1], [0, 2]))
    assert output.loss.item() == 0
    torch.testing.assert_close(objective.q, before)
    step(objective, batch_of(-certain, [0, 1], [0, 2]))  # and a later step moves them again
    assert objective.q.isfinite().all()
    assert objective.q[0] > before[0]


def test_the_summary_shows_which_groups_are_missing_from_batches_and_what_is_added():
    objective = GroupDRO(COUNTS, NAMES, GroupDROOptions(generalization_adjustment=(2.0,)))
    for group in ([0, 2], [0, 3], [0, 3], [0, 2]):
        step(objective, batch_of(torch.zeros(2, 2), [0, 1], group))
    summary = objective.summary()
    assert summary["absent_share"] == {"a": 0, "c": 0.5, "d": 0.5, "e": 1, "f": 1}
    assert summary["loss"]["e"] is None
    assert summary["adjustment"]["e"] == pytest.approx(2 / 7**0.5)
    assert summary["q"]["a"] > summary["q"]["c"] > summary["q"]["f"]  # absence loses weight, as published
    assert json.loads(json.dumps(summary)) == summary


# --- settings --------------------------------------------------------------------------------------------------


def test_a_list_of_adjustments_is_one_for_each_group_that_exists():
    with pytest.raises(UsageError, match=r"has 4 values for 5 groups with rows; .* in this order: a; c; d; e; f"):
        GroupDRO(COUNTS, NAMES, GroupDROOptions(generalization_adjustment=(1.0,) * 4))
    objective = GroupDRO(COUNTS, NAMES, GroupDROOptions(generalization_adjustment=(5, 4, 3, 2, 1)))
    expected = np.array([5, 0, 4, 3, 2, 1]) / np.sqrt(np.maximum(COUNTS, 1))
    np.testing.assert_allclose(objective.adjustment, expected, rtol=1e-6)


def test_lists_are_read_from_text_and_yaml_and_negative_or_empty_ones_refused(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("groupdro:\n  generalization_adjustment: [1, 2.5]\n")
    from_file, from_text = load([file]), load([], ["--groupdro.generalization_adjustment", "1, 2.5"])
    assert from_file.section(GroupdroSettings).generalization_adjustment == (1.0, 2.5)
    assert from_file.identity_hash() == from_text.identity_hash()
    assert load([]).section(GroupdroSettings).generalization_adjustment == (0.0,)
    for bad in ("1,-2", "", "1,x"):
        with pytest.raises(UsageError, match="expected numbers from 0 separated by commas"):
            load([], ["--groupdro.generalization_adjustment", bad])


def test_btl_with_no_share_of_rows_is_refused():
    with pytest.raises(UsageError, match=r"groupdro\.alpha is 0"):
        GroupDRO(COUNTS, NAMES, GroupDROOptions(btl=True, alpha=0.0))


# --- runs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(toy_args: list[str], tmp_path: Path) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return train(name, *overrides): the latest checkpoint and training lines of a new or resumed run."""
    torch.set_num_threads(1)

    def run_named(name: str, *overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        own = [
            "--training.method",
            "groupdro",
            "--training.outdir",
            str(tmp_path / name),
            "--training.num_workers",
            "1",
        ]
        with open_run(load([], [*toy_args, *own, *overrides])) as run:
            assert run is not None
            finish(run, METHODS.get("groupdro").run(run))
            lines = [json.loads(line) for line in run.log.path.read_text().splitlines()]
            state = load_checkpoint(run.folder / "checkpoints" / "checkpoint_latest.pt", torch.device("cpu"))
        return state, [line for line in lines if line["split"] == "train"]

    return run_named


@pytest.mark.parametrize(
    "settings",
    [(), ("--groupdro.btl", "true"), ("--groupdro.automatic_adjustment", "true")],
    ids=["plain", "btl", "automatic"],
)
@pytest.mark.parametrize("stop_at", [8, 11])  # 8 steps an epoch: at its end, and within the second
def test_an_interrupted_run_ends_bit_equal(train, monkeypatch, settings: tuple[str, ...], stop_at: int):
    whole, lines = train("whole", *settings)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", lambda self, step, every, device: 15 if step == stop_at else 0)
        with pytest.raises(Preempted):
            train("stopped", *settings)
    resumed, resumed_lines = train("stopped", *settings)
    for part in ("state_dict", "objective"):
        assert whole[part].keys() == resumed[part].keys()
        for key, value in whole[part].items():
            same = (
                torch.equal(value, resumed[part][key])
                if isinstance(value, torch.Tensor)
                else value == resumed[part][key]
            )
            assert same, (part, key)
    assert [line["objective"] for line in lines] == [line["objective"] for line in resumed_lines]
    assert set(lines[-1]["objective"]["q"]) == {"left, dark", "left, light", "right, dark", "right, light"}


def test_automatic_adjustments_are_validation_minus_training_losses(train, toy_betons, monkeypatch):
    seen = []
    validation_losses = groupdro.validation_losses

    def recording(run, view, model):
        measure = validation_losses(run, view, model)

        def recorded(precision):
            modes = [module.training for module in model.modules()]
            losses = measure(precision)
            assert modes == [module.training for module in model.modules()]
            metrics = evaluate(run, model, "val").metrics  # a second way to the same losses, weighted by their rows
            seen.append((losses, metrics))
            return losses

        return recorded

    monkeypatch.setattr(groupdro, "validation_losses", recording)
    settings = ("--groupdro.automatic_adjustment", "true", "--training.epochs", "3", "--model.bn_mode", "eval")
    _, lines = train("automatic", *settings)
    assert len(seen) == 2  # before the second and the third epoch
    for (losses, metrics), line, later in zip(seen, lines, lines[1:], strict=False):
        rows = np.array(list(metrics["group_count"].values()))
        assert float((losses.numpy() * rows).sum() / rows.sum()) == pytest.approx(metrics["loss"], rel=1e-5)
        gap = losses.numpy() - np.array(list(line["objective"]["loss"].values()))
        np.testing.assert_allclose(list(later["objective"]["adjustment"].values()), gap, rtol=1e-4, atol=1e-6)
    assert "adjustment" not in lines[0]["objective"]


def test_automatic_adjustments_need_validation_rows_of_every_group(toy_args, toy_betons, tmp_path):
    indices = tmp_path / "indices.json"
    args = [*toy_args, "--training.method", "groupdro", "--groupdro.automatic_adjustment", "true"]
    group = open_beton(toy_betons / "toy_val.beton").group
    indices.write_text(json.dumps({"val_indices": np.flatnonzero(group != 2).tolist()}))
    with open_run(load([], [*args, "--data.custom_indices_path", str(indices)])) as run:
        with pytest.raises(UsageError, match=r"validation rows of every group, and 1 have none \(right, dark\)"):
            METHODS.get("groupdro").run(run)
    with open_run(load([], [*args, "--training.outdir", str(tmp_path / "none")])) as run:
        del run.views["val"]
        with pytest.raises(UsageError, match="there is no validation split; give one"):
            METHODS.get("groupdro").run(run)


# --- several processes -----------------------------------------------------------------------------------------

STEPS = """
import sys
import numpy as np, torch
from debeton.system import distributed
from debeton.data.loader.batch import (Batch)
from debeton.methods.cvar import CVaR
from debeton.methods.groupdro import GroupDRO, GroupDROOptions, GroupdroSettings
from debeton.methods.parts.weighted_cross_entropy import WeightedCrossEntropy
from debeton.train.objective import Precision

COUNTS, CPU = np.array([500, 0, 80, 300, 7, 113]), torch.device("cpu")

def objectives():
    names = "abcdef"
    yield "plain", GroupDRO(COUNTS, names, GroupDROOptions(step_size=0.2, generalization_adjustment=(1.0,)))
    yield "btl", GroupDRO(COUNTS, names, GroupDROOptions(btl=True, alpha=0.3))
    yield "not robust", GroupDRO(COUNTS, names, GroupDROOptions(robust=False))
    yield "cvar", CVaR(0.3)
    yield "reweight", WeightedCrossEntropy(torch.tensor([0.2, 0, 1, 0.5, 3, 1]), "group")

def train():
    found = {}
    for name, objective in objectives():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        forward = distributed.parallel(model, CPU)
        rng = np.random.default_rng(1)
        for size in [16] * 20 + [13, 3] * 5:
            image = torch.from_numpy(rng.normal(0, 2, (size, 3)).astype(np.float32))
            label, group = rng.integers(0, 2, size), rng.choice(6, size, p=COUNTS / COUNTS.sum())
            mine = np.arange(size)[distributed.rank() :: distributed.world_size()]
            label, group = torch.from_numpy(label[mine]), torch.from_numpy(group[mine])
            share = len(mine) * distributed.world_size() / size
            batch = Batch(image[mine], torch.from_numpy(mine), label, group, group, group, share)
            model.zero_grad()
            objective.backward(forward, batch, Precision("fp32", CPU))
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.3 * p.grad
        found[name] = {**model.state_dict(), **objective.state_dict()}
    return found
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the states after 30 steps, by objective: of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("gloo")
    ending = """
with distributed.process_group("gloo", CPU):
    torch.save(train(), f"{sys.argv[1]}/{distributed.rank()}.pt")
"""
    script = folder / "steps.py"
    script.write_text(STEPS + ending)
    names: dict[str, Any] = {}
    exec(compile(STEPS, "steps", "exec"), names)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return names["train"](), [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["plain", "btl", "not robust", "cvar", "reweight"])
def test_two_processes_take_the_steps_of_one(both, name: str):
    one, (first, second) = both
    for key, value in one[name].items():
        torch.testing.assert_close(first[name][key], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(first[name][key], second[name][key]), key
