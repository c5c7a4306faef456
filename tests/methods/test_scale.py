"""Tests of scale: gradients mixed as published by group, one optimizer for all parts, resuming, two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.methods.mixing_reference import PHI, assert_mixes, gradients, mixed
from tests.running import ROOT, assert_same_training, folder_of, lines_of, run
from tests.toy import TOY_SPEC, toy_rows
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import load
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.batch import Batch
from debeton.data.loader.order import epoch_order
from debeton.methods import METHODS
from debeton.methods.parts.mixing import MAPPINGS, make_mixer
from debeton.methods.parts.mixing_layout import kernels_per_group, layout_of
from debeton.methods.scale import MixedGradients, swapped_head
from debeton.nets.checkpoint import load_checkpoint
from debeton.nets.models import make_model, named_head
from debeton.system.errors import DataError
from debeton.train.finish import finish
from debeton.train.objective import CrossEntropy, Precision
from debeton.train.optim import make_optimizer
from debeton.train.run import open_run
from debeton.train.stop import Preempted, StopRequest

ARCHITECTURES = ("resnet18", "resnet50", "efficientnet_b0", "vgg11", "vit_b_16")
CPU = torch.device("cpu")


# --- groups and mixing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "group_size", "kernels"),
    [
        ((64, 64, 3, 3), 64, 64),  # one filter
        ((128, 64, 1, 1), 16, 16),
        ((64, 3, 7, 7), 64, 3),  # the stem: a group an output filter, whatever the size
        ((64, 3, 7, 7), 1, 3),
        ((5, 7, 3, 3), 64, 35),  # fewer kernels than a group
        ((5, 7, 3, 3), 8, 8),  # 35 = 4 x 8 + 3: the last group is shorter
        ((64,), 64, 64),
        ((10, 512), 1, 5120),
        ((64, 64, 3, 3), 0, 4096),
        ((), 64, 1),
    ],
)
def test_parameter_groups_are_those_of_the_sheet(shape, group_size, kernels):
    assert kernels_per_group(shape, group_size) == kernels


def _shapes(arch: str) -> list[tuple[int, ...]]:
    """Return the shape of every parameter; large ones have fewer output channels, so that the reference is quick."""
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in make_model(arch, 2).parameters()]
    cut = [(max(1, min(s[0], 300_000 // (np.prod(s[1:], dtype=int) or 1))), *s[1:]) for s in shapes]
    return list(dict.fromkeys(cut))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_mixing_equals_the_reference_for_every_tensor_of_a_network(arch):
    shapes = _shapes(arch)
    sizes, mappings = (64, 1, 0, 100), MAPPINGS.names()
    pairs = [(sizes[(k + shift) % 4], mapping) for shift in (0, 2) for k, mapping in enumerate(mappings)]
    for i, (group_size, mapping) in enumerate(pairs):
        train, target = gradients(shapes, seed=i, channels_last=i % 2 == 0)
        assert_mixes(make_mixer(target, group_size, mapping, 1.0), train, target, group_size, mapping)


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    shapes=st.lists(
        st.one_of(
            st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3)),
            st.tuples(st.integers(1, 70)),
            st.tuples(st.integers(1, 20), st.integers(1, 20)),
            st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 4)),
        ),
        min_size=1,
        max_size=4,
    ),
    group_size=st.integers(0, 130),
    mapping=st.sampled_from(sorted(PHI)),
    scale=st.sampled_from([1.0, 0.5]),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_mixing_equals_the_reference_whatever_the_shapes(shapes, group_size, mapping, scale, channels_last, seed):
    train, target = gradients(shapes, seed, channels_last=channels_last)
    if seed % 3 == 0:
        train[0].zero_()
    if seed % 5 == 0:
        target[-1].zero_()
    if mapping == "step":  # a cosine of 0 but for a rounding may go either way
        train, target = ([x + 0.5 * abs(x) for x in side] for side in (train, target))
    assert_mixes(make_mixer(target, group_size, mapping, scale), train, target, group_size, mapping, scale)


def test_tensors_of_one_group_that_several_threads_share_are_mixed_as_one():
    shapes = [(64, 300, 3, 3), (90, 5000), (7,)]
    for channels_last in (False, True):
        train, target = gradients(shapes, seed=1, channels_last=channels_last)
        assert_mixes(make_mixer(target, 0, "identity", 0.5), train, target, 0, "identity", 0.5)


def test_a_zero_gradient_changes_nothing_and_a_nan_stays_one():
    train, target = gradients([(8, 16, 3, 3), (16,)], seed=0, channels_last=True)
    before = [x.clone() for x in target]
    assert (make_mixer(target, 4, "identity", 1.0)([torch.zeros_like(x) for x in train], target) == 0).all()
    for x, y in zip(before, target, strict=True):
        assert torch.equal(x, y)
    train[0][3, 5, 1, 1] = float("nan")
    make_mixer(target, 16, "linear", 1.0)(train, target)
    assert target[0].isnan().flatten(1).all(1).tolist() == [k == 3 for k in range(8)]  # its group, and no other


def test_gradients_of_another_layout_are_refused():
    with pytest.raises(ValueError, match=r"gradient of shape \[4, 5, 3, 3\] and strides"):
        layout_of(torch.zeros(5, 4, 3, 3).transpose(0, 1))


TRITON = """
import sys, torch
sys.path[:0] = sys.argv[1:3]
from debeton.methods.parts.mixing import (MAPPINGS)
from debeton.methods.parts.mixing_layout import (kernels_per_group, layout_of)
from debeton.methods.parts.mixing_cuda import CudaMixer
from tests.methods.mixing_reference import assert_mixes, gradients
shapes = [(8, 3, 3, 3), (10, 64, 3, 3), (64,), (10, 52), (30, 1, 3, 3), (32, 16, 1, 1), (7, 5, 3, 3)]
for i, (group_size, mapping) in enumerate(zip((64, 1, 0, 7, 1000), ("linear", "relu", "identity", "step", "linear"))):
    train, target = gradients(shapes, i, channels_last=i % 2 == 0)
    train[3].zero_()
    groups = [kernels_per_group(s, group_size) for s in shapes]
    mixer = CudaMixer([layout_of(x) for x in target], groups, MAPPINGS.get(mapping), 0.5, torch.device("cpu"))
    assert_mixes(mixer, train, target, group_size, mapping, 0.5)
print("mixed")
"""


@pytest.mark.slow
def test_the_gpu_kernels_in_tritons_interpreter_equal_the_reference():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", TRITON, str(ROOT / "src"), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
    )
    assert done.stdout.strip() == "mixed", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("group_size", [1, 64, 0])
def test_mixing_on_a_gpu_equals_the_reference(group_size):
    for mapping in MAPPINGS.names():
        train, target = gradients(_shapes("resnet18"), seed=3, channels_last=True)
        train, target = ([x.cuda() for x in side] for side in (train, target))
        assert_mixes(make_mixer(target, group_size, mapping, 1.0), train, target, group_size, mapping)


# --- the objective ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    """A network of two convolutions and a head. The reference has a copy in float64."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.fc = nn.Linear(8, classes)

    def features(self, image: Tensor) -> Tensor:
        return functional.relu(self.body(functional.relu(self.stem(image)))).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.features(image))


def batch_of(seed: int, rows: int = 12, classes: int = 3) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (rows,), generator=rng)
    image = torch.randn(rows, 3, 9, 9, generator=rng) + label[:, None, None, None] * 0.3
    zeros = torch.zeros_like(label)
    return Batch(image, torch.arange(rows), label, zeros, zeros, zeros)


class Targets:
    """A substitute for the target loader: batch k of an endless list."""

    def __init__(self, steps: int, first_seed: int = 1000):
        self.steps, self.first_seed = steps, first_seed

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, start: int):
        return (batch_of(self.first_seed + epoch * self.steps + k) for k in range(start, self.steps))


def objective_of(model: nn.Module, targets: Any, **settings: Any) -> MixedGradients:
    chosen = {"group_size": 4, "mapping": "linear", "combine": "sum", "label_smoothing": 0.0, **settings}
    return MixedGradients(model, targets, **chosen)


class Published:
    """A reference of SCALE's step (B.2 of the sheet) in float64: own momentum, weight decay after mixing, any rate."""

    def __init__(self, model: Net, train_head: nn.Linear, momentum: float, wd: float, group_size: int, mapping: str):
        self.parts = {name: p.detach().double().clone() for name, p in model.named_parameters()}
        self.parts |= {f"train.{name}": p.detach().double().clone() for name, p in train_head.named_parameters()}
        self.velocity: dict[str, Tensor] = {}
        self.momentum, self.wd, self.group_size, self.mapping = momentum, wd, group_size, mapping

    def gradients(self, batch: Batch, head: str) -> dict[str, Tensor]:
        parts = {name: p.clone().requires_grad_() for name, p in self.parts.items()}
        x = functional.conv2d(batch.image.double(), parts["stem.weight"], parts["stem.bias"]).relu()
        x = functional.conv2d(x, parts["body.weight"], parts["body.bias"]).relu().mean((2, 3))
        logits = x @ parts[f"{head}weight"].T + parts[f"{head}bias"]
        functional.cross_entropy(logits, batch.label).backward()
        return {name: p.grad for name, p in parts.items() if p.grad is not None}

    def step(self, train: Batch, target: Batch, lr: float) -> float:
        of_train, of_target = self.gradients(train, "train."), self.gradients(target, "fc.")
        cosines = []
        for name in self.parts:
            if name.startswith("train."):
                d = of_train[name]
            elif name.startswith("fc."):
                d = of_target[name]
            else:
                value, cosine = mixed(of_train[name], of_target[name], self.group_size, self.mapping)
                d = torch.from_numpy(value)
                cosines += [cosine] if d.ndim > 2 else []
            d = d + self.wd * self.parts[name]
            self.velocity[name] = d if name not in self.velocity else self.momentum * self.velocity[name] + d
            self.parts[name] = self.parts[name] - lr * self.velocity[name]
        return float(np.mean(cosines))


@pytest.mark.parametrize(("mapping", "group_size"), [("linear", 4), ("relu", 1), ("identity", 64), ("step", 0)])
def test_training_follows_the_published_update_with_a_schedule_for_every_part(mapping, group_size):
    torch.manual_seed(0)
    model, steps = Net().to(memory_format=torch.channels_last), 20
    objective = objective_of(model, Targets(steps), mapping=mapping, group_size=group_size)
    optimizer = make_optimizer(nn.ModuleList([model, objective]), "sgd", lr=0.1, weight_decay=1e-2, momentum=0.9)
    reference = Published(model, objective.train_head, 0.9, 1e-2, group_size, mapping)
    precision, cosines = Precision("fp32", CPU), []
    for step in range(steps):
        lr = 0.1 * (1 + np.cos(np.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        objective.backward(model, batch_of(step), precision)
        optimizer.step()
        cosines.append(reference.step(batch_of(step), batch_of(1000 + step), lr))
    for name, expected in reference.parts.items():
        head = dict(objective.train_head.named_parameters(prefix="train"))
        value = head[name] if name in head else model.get_parameter(name)
        torch.testing.assert_close(value.double(), expected, rtol=2e-4, atol=2e-5, msg=name)
    summary = objective.summary()["cosine"]
    assert summary["mean"] == pytest.approx(np.mean(cosines), abs=1e-4)
    assert set(summary) == {"mean", "stem.weight", "body.weight"}


def test_with_mapping_step_and_identical_batches_the_update_is_that_of_the_doubled_gradient():
    torch.manual_seed(1)
    model = Net()
    targets = Targets(1)
    objective = objective_of(model, targets, mapping="step")
    with torch.no_grad():
        objective.train_head.weight.copy_(model.fc.weight)
        objective.train_head.bias.copy_(model.fc.bias)
    batch, precision = batch_of(1000), Precision("fp32", CPU)
    CrossEntropy().backward(model, batch, precision)
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    output = objective.backward(model, batch, precision)
    for name, p in model.named_parameters():
        factor = 1 if name.startswith("fc") else 2
        torch.testing.assert_close(p.grad, factor * plain[name], rtol=1e-5, atol=1e-8, msg=name)
    torch.testing.assert_close(objective.train_head.weight.grad, plain["fc.weight"], rtol=1e-5, atol=1e-8)
    assert objective.summary()["cosine"]["mean"] == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(output.loss, 2 * functional.cross_entropy(model(batch.image), batch.label))


def test_the_mean_halves_the_extractors_gradient_and_not_the_heads():
    gradients_of = {}
    for combine in ("sum", "mean"):
        torch.manual_seed(2)
        model = Net()
        objective_of(model, Targets(1), combine=combine).backward(model, batch_of(0), Precision("fp32", CPU))
        gradients_of[combine] = {name: p.grad for name, p in model.named_parameters()}
    for name, value in gradients_of["sum"].items():
        torch.testing.assert_close(gradients_of["mean"][name], value * (1 if name.startswith("fc") else 0.5))


def test_heads_see_their_own_batch_and_the_model_keeps_its_own():
    torch.manual_seed(3)
    model = Net()
    own = model.fc
    objective = objective_of(model, Targets(1))
    assert not torch.equal(objective.train_head.weight, own.weight)
    objective.backward(model, batch_of(0), Precision("fp32", CPU))
    assert model.fc is own
    with torch.no_grad():
        features = [model.features(batch_of(seed).image) for seed in (0, 1000)]
    for head, x, batch in ((objective.train_head, features[0], batch_of(0)), (own, features[1], batch_of(1000))):
        grad = head.weight.grad.clone()
        head.zero_grad()
        functional.cross_entropy(head(x), batch.label).backward()
        torch.testing.assert_close(grad, head.weight.grad)
    with pytest.raises(RuntimeError, match="inside"), swapped_head(model, "fc", nn.Identity()):
        raise RuntimeError("inside")
    assert model.fc is own


@pytest.mark.parametrize("arch", ["squeezenet1_1", "vgg11", "mobilenet_v3_small"])
def test_any_torchvision_network_has_two_heads(arch):
    torch.manual_seed(0)
    model = make_model(arch, 3)
    for p in model.parameters():
        p.requires_grad_(p.numel() < 10**6)  # VGG's first linear layer takes seconds
    head = named_head(model)[0]
    objective = objective_of(model, Targets(1))
    rng = torch.Generator().manual_seed(0)
    label = torch.tensor([0, 1, 2, 0])
    batch = Batch(torch.randn(4, 3, 64, 64, generator=rng), *[label] * 5)
    objective.target.take = lambda: batch  # type: ignore[method-assign]
    output = objective.backward(model, batch, Precision("fp32", CPU))
    assert output.logits.shape == (4, 3)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not any(name.startswith(f"{head}.") for name in objective.names)
    assert set(objective.summary()["cosine"]) - {"mean"} <= {name for name, _ in model.named_parameters()}


# --- draws -----------------------------------------------------------------------------------------------------


def test_target_batches_are_drawn_anew_without_repeats_and_by_seed_and_epoch_alone(paper_view: Callable[..., Any]):
    view = paper_view([0, 1] * 20).subset(np.arange(30)).in_draws(400, 8)
    assert view.epoch_size == 3200
    order = epoch_order(view, view.order, seed=0, epoch=0)
    draws = order.reshape(400, 8)
    assert all(len(set(draw)) == 8 for draw in draws.tolist())
    counts = Counter(order.tolist())
    assert set(counts) == set(range(30))
    p = 8 / 30
    assert max(abs(n - 400 * p) for n in counts.values()) < 5 * np.sqrt(400 * p * (1 - p))
    np.testing.assert_array_equal(order, epoch_order(view, view.order, seed=0, epoch=0))
    assert (order != epoch_order(view, view.order, seed=0, epoch=1)).any()
    with pytest.raises(DataError, match="view 'train' holds 30 rows, fewer than a batch of 31 drawn without repeats"):
        view.in_draws(1, 31)


# --- runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def betons(tmp_path_factory) -> Path:
    """The toy set with no conflicting training row, and a target split of 96 balanced ones."""
    folder = tmp_path_factory.mktemp("scale")
    splits = (("train", 512, 1.0), ("target", 96, 0.5), ("val", 128, 0.5), ("test", 256, 0.5))
    for seed, (split, n, share) in enumerate(splits):
        rows = toy_rows(n, share, seed + 20)
        write_beton(folder / f"toy_{split}.beton", rows, TOY_SPEC, split, WriteOptions(mode="raw"))
    return folder


@pytest.fixture
def scale_args(betons, toy_args) -> list[str]:
    args = [*toy_args, "--training.data_root", str(betons), "--training.method", "scale", "--scale.group_size", "16"]
    return [*args, "--training.num_workers", "1", "--training.selection", "minority"]


def test_scale_learns_a_task_that_erm_cannot_and_reports_the_cosines(scale_args, tmp_path):
    conflicting = {}
    for method in ("erm", "erm_target", "scale"):
        args = [
            *scale_args,
            "--training.method",
            method,
            "--training.epochs",
            "6",
            "--training.outdir",
            tmp_path / method,
        ]
        assert run(args) == 0
        folder = folder_of(tmp_path / method)
        results = json.loads((folder / "results.json").read_text())
        conflicting[method] = results["test"]["bias_conflicting_accuracy"]
    assert conflicting["erm"] < 0.35
    assert conflicting["scale"] > conflicting["erm"] + 0.2
    assert conflicting["erm_target"] > conflicting["erm"] + 0.1
    cosines = [line["objective"]["cosine"] for line in lines_of(folder) if line["split"] == "train"]
    assert len(cosines) == 6
    assert all(-1 <= c <= 1 for epoch in cosines for c in epoch.values())
    assert "stem.0.weight" in cosines[0]
    assert not any("bn" in name or "bias" in name or "fc" in name for name in cosines[0])


def test_erm_target_looks_at_the_target_rows_alone(scale_args, tmp_path):
    assert run([*scale_args, "--training.method", "erm_target", "--training.epochs", "1"]) == 0
    (line,) = [x for x in lines_of(folder_of(tmp_path / "runs")) if x["split"] == "train"]
    assert sum(line["metrics"]["group_count"].values()) == 96
    assert line["step"] == 2  # 96 rows in batches of 64


@pytest.mark.parametrize("method", ["scale", "erm_target"])
def test_a_missing_target_split_is_named_with_the_ways_to_get_one(method, toy_args, capsys):
    assert run([*toy_args, "--training.method", method]) == 2
    error = capsys.readouterr().err
    assert "target split, but there is no such split" in error
    assert "--data.target_path" in error


def test_batches_larger_than_the_target_set_shrink_with_a_note(scale_args, capsys):
    assert run([*scale_args, "--training.epochs", "1", "--training.batch_size", "128"]) == 0
    assert "the target split has 96 rows, so its batches have no more" in capsys.readouterr().err


def test_an_interrupted_run_ends_bit_equal(scale_args, tmp_path, monkeypatch):
    def train(name: str) -> dict[str, Any]:
        with open_run(load([], [*scale_args, "--training.outdir", str(tmp_path / name)])) as opened:
            assert opened is not None
            finish(opened, METHODS.get("scale").run(opened))
            return load_checkpoint(opened.folder / "checkpoints/checkpoint_latest.pt")

    whole = train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", lambda self, step, every, device: 15 if step == 11 else 0)
        with pytest.raises(Preempted):
            train("stopped")
    resumed = train("stopped")
    assert whole["step"] == resumed["step"] == 16
    for part in ("state_dict", "objective"):
        for key, value in whole[part].items():
            assert torch.equal(value, resumed[part][key]) if isinstance(value, Tensor) else value == resumed[part][key]
    states = [[x.get("objective") for x in lines_of(folder_of(tmp_path / n))] for n in ("whole", "stopped")]
    assert states[0] == states[1]


def test_two_processes_mix_the_gradients_of_one(scale_args, two_processes, tmp_path):
    args = [*scale_args, "--model.bn_mode", "eval", "--training.epochs", "1", "--training.batch_size", "60"]
    assert run([*args, "--training.outdir", tmp_path / "one"]) == 0
    two_processes([*args, "--training.outdir", tmp_path / "two"])
    one, two = (folder_of(tmp_path / name) for name in ("one", "two"))
    left, right = (load_checkpoint(f / "checkpoints/checkpoint_latest.pt") for f in (one, two))
    assert_same_training(left["state_dict"], right["state_dict"], "small_resnet")
    torch.testing.assert_close(
        left["objective"]["train_head.weight"], right["objective"]["train_head.weight"], rtol=0.01, atol=1e-3
    )
    cosines = [lines_of(f)[0]["objective"]["cosine"] for f in (one, two)]
    assert cosines[0] == pytest.approx(cosines[1], abs=0.01)
