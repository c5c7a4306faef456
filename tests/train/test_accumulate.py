"""Gradient accumulation: the step of the large batch, whatever the objective does with the rows of a batch."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.running import folder_of, run, stopped_and_resumed
from torch import nn

from debeton.data.loader.batch import Batch
from debeton.methods.cvar import CVaR
from debeton.methods.groupdro import GroupDRO, GroupDROOptions
from debeton.methods.mixup import Mixup
from debeton.nets.checkpoint import load_checkpoint
from debeton.system import distributed
from debeton.train.micro_batches import InParts, MicroBatches, micro_batches
from debeton.train.objective import CrossEntropy, Objective, Precision

ROWS = 22


def a_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(ROWS, 3, 8, 8, generator=generator, dtype=torch.float64)
    label, attribute = torch.randint(2, (2, ROWS), generator=generator)
    return Batch(image, torch.arange(ROWS), label, attribute, 2 * label + attribute, torch.zeros_like(label))


def network(norm: nn.Module, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(6 * 36, 2))
    return nn.Sequential(*layers).double()


def objectives() -> dict[str, Objective]:
    counts = torch.tensor([9, 2, 4, 7]).numpy()
    weights = torch.tensor([0.3, 2.5], dtype=torch.float32)
    return {
        "cross_entropy": CrossEntropy(0.1),
        "class_weights": CrossEntropy(0.1, weights),
        "groupdro": GroupDRO(counts, list("abcd"), GroupDROOptions(step_size=0.7)),
        "mixup": Mixup(0.4, seed=3),
        "cvar": CVaR(0.3),
    }


def gradient(objective: Objective, model: nn.Module, micro: MicroBatches | None) -> torch.Tensor:
    model = copy.deepcopy(model).train()
    called = model if micro is None else InParts(model, micro)
    objective = copy.deepcopy(objective)
    objective.micro = micro
    torch.manual_seed(5)
    objective.backward(called, a_batch(), Precision("fp32", torch.device("cpu")))
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", sorted(objectives()))
def test_the_gradient_is_that_of_the_large_batch(name):
    """The loss is float32 in each objective, so the gradients of float64 networks agree to its rounding."""
    objective, model = objectives()[name], network(nn.GroupNorm(2, 6))
    whole, parts = (gradient(objective, model, micro) for micro in (None, MicroBatches(5)))
    assert float(whole.norm()) > 0
    assert float((whole - parts).norm() / whole.norm()) < 1e-7


def test_a_frozen_batch_norm_keeps_the_step_of_the_large_batch():
    model = network(nn.BatchNorm2d(6))

    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def train(self, mode: bool = True):
            super().train(mode)
            self.model[1].eval()
            return self

        def forward(self, image):
            return self.model(image)

    whole, parts = (gradient(CrossEntropy(), Frozen(), micro) for micro in (None, MicroBatches(7)))
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_counts_each_part_once_and_the_second_pass_changes_nothing(momentum):
    """The running statistics are those of forward passes over the parts, one after the other, to the bit."""
    model = network(nn.BatchNorm2d(6, momentum=momentum)).train()
    reference, micro = copy.deepcopy(model), MicroBatches(5)
    InParts(model, micro)(a_batch().image).sum().backward()
    for start, stop in micro.bounds(ROWS):
        reference(a_batch().image[start:stop])
    for name, value in reference.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert model[1].momentum == momentum
    assert int(model[1].num_batches_tracked) == len(micro.bounds(ROWS)) == 5


def test_dropout_draws_the_same_in_both_passes():
    """Dropout in float64: the gradient is that of one graph over the parts with the same draws."""
    model, micro = network(nn.GroupNorm(2, 6), dropout=0.5).train(), MicroBatches(5)
    reference = copy.deepcopy(model)
    torch.manual_seed(7)
    InParts(model, micro)(a_batch().image).square().sum().backward()
    torch.manual_seed(7)
    image = a_batch().image
    torch.cat([reference(image[a:b]) for a, b in micro.bounds(ROWS)]).square().sum().backward()
    for own, other in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-12, atol=1e-14)


def test_parts_have_equal_rows_and_a_single_last_row_joins_the_part_before():
    assert MicroBatches(5).bounds(15) == [(0, 5), (5, 10), (10, 15)]
    assert MicroBatches(5).bounds(16) == [(0, 5), (5, 10), (10, 16)]
    assert MicroBatches(5).bounds(17) == [(0, 5), (5, 10), (10, 15), (15, 17)]
    assert MicroBatches(5).bounds(3) == [(0, 3)]
    assert MicroBatches(1, least_rows=1).smallest(4) == 1
    assert micro_batches(64, 3, 2) == MicroBatches(22, 2)
    assert micro_batches(64, 1, 2) is None


@pytest.mark.parametrize("rows", [3, 16, 22])
def test_several_processes_take_the_rows_of_the_same_parts(monkeypatch, rows):
    """Row i of process r is row i P + r of the batch, as in one process."""
    seen: dict[int, list[list[int]]] = {}
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: 3)
        monkeypatch.setattr(distributed, "max_over_processes", lambda _: torch.tensor(rows))
        calls = seen.setdefault(rank, [])

        def network(x: torch.Tensor, calls: list[list[int]] = calls) -> torch.Tensor:
            calls.append(x.flatten().tolist())
            return x

        with torch.no_grad():
            MicroBatches(5).call(network, torch.arange(rank, rows, 3)[:, None])  # type: ignore[arg-type]
    together = [sorted(row for own in part for row in own) for part in zip(*seen.values(), strict=True)]
    assert together == [list(range(*bounds)) for bounds in MicroBatches(5).bounds(rows)]


# --- whole runs ----------------------------------------------------------------------------------

FAST = ["--training.epochs", 1, "--training.selection", "last", "--training.batch_size", 128]


@pytest.mark.parametrize("method", ["lff", "debian", "scale"])
def test_methods_with_two_networks_or_two_batches_train_as_with_the_large_batch(toy_args, toy_betons, tmp_path, method):
    weights = {}
    data = ["--data.target_path", toy_betons / "toy_val.beton"] if method == "scale" else []
    for parts in (1, 3):
        words = ["--training.method", method, "--model.bn_mode", "eval", "--training.accumulate", parts, *data]
        assert run([*toy_args, *FAST, *words, "--training.outdir", tmp_path / str(parts)]) == 0
        folder = folder_of(tmp_path / str(parts))
        weights[parts] = load_checkpoint(folder / "checkpoints" / "checkpoint_latest.pt")["state_dict"]
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[3][name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert any(not torch.equal(weights[3][name], value) for name, value in weights[1].items())


def test_a_stopped_run_resumes_to_the_bit_and_batch_norm_is_warned_of(toy_args, tmp_path, monkeypatch, capsys):
    words = [*toy_args, *FAST, "--training.accumulate", 4, "--training.ema", 0.9, "--training.clip_grad", 0.5]
    weights = []
    for name, step in (("whole", 0), ("stopped", 2)):
        args = [*words, "--training.outdir", tmp_path / name]
        if step:
            stopped_and_resumed(args, monkeypatch, step)
        else:
            assert run(args) == 0
            error = capsys.readouterr().err
            assert error.count("9 batch-norm layers use the rows of a part (32), not of a step (128)") == 1
        weights.append(load_checkpoint(folder_of(tmp_path / name) / "checkpoints" / "checkpoint_best.pt")["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_parts_of_one_row_are_refused_where_batch_norm_trains(toy_args, capsys):
    words = [*toy_args, "--model.arch", "small_convnet", "--training.batch_size", 16, "--training.accumulate"]
    assert run([*words, 16]) == 2
    assert "needs more than one value per channel" in capsys.readouterr().err
    assert run([*words, 17]) == 2
    assert "expected at most one part for each row" in capsys.readouterr().err
