"""Cost of the training loop beside a bare one of PyTorch, with the same network, batches, precision and optimizer."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks import register_benchmark
from benchmarks.methods import SPEC
from benchmarks.timing import Result, interleave
from debeton.system.errors import UsageError

if TYPE_CHECKING:
    import torch

    from debeton.data.loader.batch import Batch

HELD_BATCHES = 4  # batches on the device; the steps use them in turn


@dataclass(frozen=True)
class Size:
    """A network and its training data: images of side x side pixels, in `steps` batches a round."""

    arch: str
    side: int
    batch: int
    steps: int


ON_CPU = {
    "resnet18": Size("resnet18", 64, 32, 12),
    "resnet50": Size("resnet50", 64, 32, 6),
    "small": Size("small_resnet", 32, 64, 60),
}
ON_GPU = {
    "resnet18": Size("resnet18", 224, 256, 60),
    "resnet50": Size("resnet50", 224, 256, 40),
    "small": Size("small_resnet", 32, 512, 200),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark.py loop`."""
    parser.add_argument("--only", default=",".join(ON_CPU), help="networks, separated by commas; default: %(default)s")
    parser.add_argument("--steps", type=int, help="steps of a round; default: steps for some seconds")
    parser.add_argument("--batch-size", type=int, help="default: 32 or 64 on a CPU, 256 or 512 on a GPU")


@register_benchmark("loop", "ms a step of the training loop against a bare PyTorch loop", add_arguments)
def run(arguments: argparse.Namespace) -> Result:
    """Measure both loops on the same batches, which lie on the device.

    They train with SGD, in fp32 on a CPU and in bf16 on a GPU. The loop's step has in addition: the schedule of the
    learning rate, the training metrics by group, and the check of the loss.
    """
    from debeton.system.distributed import pick_device

    for name in ("steps", "batch_size"):
        if (value := getattr(arguments, name)) is not None and value < 2:
            raise UsageError(f"--{name.replace('_', '-')} {value} is too few; use 2 or more")
    device = pick_device("auto")
    sizes = ON_GPU if device.type == "cuda" else ON_CPU
    networks = [name.strip() for name in arguments.only.split(",")]
    if unknown := sorted(set(networks) - set(sizes)):
        raise UsageError(f"--only names the network '{unknown[0]}'; known: {', '.join(sizes)}")
    contenders: dict[str, Callable[[], float]] = {}
    shapes = {}
    for name in networks:
        size = sizes[name]
        size = Size(size.arch, size.side, arguments.batch_size or size.batch, arguments.steps or size.steps)
        contenders |= _contenders(name, size, device)
        shapes[name] = f"{size.batch} x {size.side} px, {size.steps} steps"
    values = interleave(contenders, arguments.rounds)
    return Result(
        benchmark="loop",
        values=values,
        units=dict.fromkeys(values, "ms a step"),
        ratios={f"overhead_{name}": (f"{name}, the loop", f"{name}, bare") for name in networks},
        settings={"precision": "bf16" if device.type == "cuda" else "fp32", **shapes},
    )


def _contenders(name: str, size: Size, device: torch.device) -> dict[str, Callable[[], float]]:
    """Return the two measurements of a network, by row name."""
    batches = _batches(size, device)
    return {f"{name}, the loop": _loop(size, device, batches), f"{name}, bare": _bare(size, device, batches)}


def _batches(size: Size, device: torch.device) -> list[Batch]:
    """Return HELD_BATCHES random batches on the device."""
    import torch

    from debeton.data.loader.batch import Batch

    batches = []
    for k in range(HELD_BATCHES):
        generator = torch.Generator().manual_seed(k)
        image = torch.randn(size.batch, 3, size.side, size.side, generator=generator)
        label, attribute = torch.randint(2, (2, size.batch), generator=generator).to(device)
        image = image.to(device).to(memory_format=torch.channels_last)
        row = torch.arange(size.batch, device=device)
        batches.append(Batch(image, row, label, attribute, 2 * label + attribute, torch.zeros_like(label)))
    return batches


class _HeldLoader:
    """The part of a loader that `fit` needs, with batches that lie on the device."""

    def __init__(self, batches: list[Batch], steps: int):
        self.batches, self.steps = batches, steps
        self.batch_size, self.seed = len(batches[0].label), 0
        self.view = SimpleNamespace(spec=SPEC, beton=SimpleNamespace(path="held"), order="random")

    @contextmanager
    def epoch(self, epoch: int, start: int = 0) -> Iterator[_HeldEpoch]:
        yield _HeldEpoch(self.batches, self.steps)


class _HeldEpoch:
    """The batches of one epoch, in turn."""

    waited = 0.0

    def __init__(self, batches: list[Batch], steps: int):
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return (self.batches[k % len(self.batches)] for k in range(self.steps))


def _make_network(size: Size, device: torch.device) -> tuple[Any, Any, Any]:
    """Return a network in its memory format, its optimizer, and the precision."""

    from debeton.nets.models import make_model, place_network
    from debeton.system.seed import seed_everything
    from debeton.train.objective import Precision
    from debeton.train.optim import make_optimizer

    seed_everything(0)
    model = place_network(make_model(size.arch, 2), device, channels_last=True)
    precision = Precision("bf16" if device.type == "cuda" else "fp32", device)
    return model, make_optimizer(model, "sgd", lr=1e-3, weight_decay=1e-4), precision


def _loop(size: Size, device: torch.device, batches: list[Batch]) -> Callable[[], float]:
    """Return a measurement: milliseconds a step of the training loop."""
    from debeton.train.loop import FitOptions, TrainState, train_epochs
    from debeton.train.metrics import GroupMeter
    from debeton.train.objective import CrossEntropy

    model, optimizer, precision = _make_network(size, device)
    meter = GroupMeter(SPEC.num_groups, SPEC.num_classes, device)
    state = TrainState(model, CrossEntropy().to(device), optimizer, precision, meter)
    loader: Any = _HeldLoader(batches, size.steps)

    def measure() -> float:
        start = time.perf_counter()
        train_epochs(state, loader, FitOptions(epochs=state.epoch + 1, lr=lambda step: 1e-3))
        _finish(device)
        return 1000 * (time.perf_counter() - start) / size.steps

    return measure


def _bare(size: Size, device: torch.device, batches: list[Batch]) -> Callable[[], float]:
    """Return a measurement: milliseconds a step of a bare loop."""
    from torch.nn import functional

    model, optimizer, precision = _make_network(size, device)
    model.train()

    def measure() -> float:
        start = time.perf_counter()
        for k in range(size.steps):
            batch = batches[k % len(batches)]
            optimizer.zero_grad(set_to_none=True)
            with precision.autocast():
                loss = functional.cross_entropy(model(batch.image).float(), batch.label)
            loss.backward()
            optimizer.step()
        _finish(device)
        return 1000 * (time.perf_counter() - start) / size.steps

    return measure


def _finish(device: torch.device) -> None:
    """Wait for the GPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
